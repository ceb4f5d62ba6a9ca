"""Staged content: uploaded once, and again when its manifest is removed; a worker reports the key of what is gone or damaged."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import fsd_core.client.follow
from fsd_core import run
from fsd_core.channel import Aborted, explain
from fsd_core.client import rows, stage
from fsd_core.client.garbage import clean
from fsd_core.driver import Code
from fsd_core.errors import DamagedContent
from fsd_core.model import radixnet
from fsd_core.model.inputs import open_inputs
from fsd_core.partition import ExchangePlan, partition
from fsd_core.protocol.shard import ShardReader
from fsd_core.storage.keys import is_content, manifest
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store
from fsd_local import PROVIDER
from recording import Recording

MODEL = radixnet(1024, 6)
INPUTS = open_inputs("random:20:0.4:1", 1024)
PARTS = partition(MODEL, 2, "block")
BUILD = """
import hashlib
from fsd_core.model import radixnet
from fsd_core.partition import ExchangePlan, partition
from fsd_core.protocol.shard import build
model = radixnet(1024, 6)
parts = partition(model, 8, "random", 1)
plan = ExchangePlan(model, parts)
print(hashlib.sha256(b"".join(build(model, parts, plan, rank) for rank in range(8))).hexdigest())
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    resources = PROVIDER.provisioner({"root": str(tmp_path / "root")}).ensure("fsd", 1, 1)
    return Store(PROVIDER.objects(resources), Retry(time.time() + 600, Meter()))


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def staged(store: Store, pool: ThreadPoolExecutor, *, again: bool = False) -> list[str]:
    """Stage the shards; returns their keys."""
    content = stage.Content(store, rows.shards(MODEL, PARTS, ExchangePlan(MODEL, PARTS)), pool, again=again)
    content.stage(lambda done, total: None)
    return content.names


def test_content_whose_manifest_is_removed_is_staged_again_and_nothing_else(store: Store, pool: ThreadPoolExecutor) -> None:
    uploaded: list[str] = []
    recording = Recording(store, uploaded)
    keys = staged(recording, pool)
    everything = {*keys, manifest(keys[0])}
    assert set(uploaded) == everything
    good = [store.get(key) for key in keys]
    uploaded.clear()
    store.delete([keys[1]])
    staged(recording, pool)
    assert uploaded == [], "the manifest covers it"
    stage.forget(store, keys[1])
    assert staged(recording, pool) == keys
    assert set(uploaded) == everything
    uploaded.clear()
    assert staged(recording, pool, again=True) == keys
    assert set(uploaded) == everything
    assert [store.get(key) for key in keys] == good
    stage.forget(store, keys[0])
    stage.forget(store, keys[0])  # another client was faster


def test_clients_that_heal_at_once_do_not_disturb_each_other_nor_who_reads(store: Store, pool: ThreadPoolExecutor) -> None:
    keys = staged(store, pool)
    good = [store.get(key) for key in keys]
    over = threading.Event()
    healed = [0, 0]

    def heal(client: int) -> None:
        with ThreadPoolExecutor(2) as uploads:
            while not over.is_set():
                stage.forget(store, keys[client])
                staged(store, uploads)
                healed[client] += 1

    clients = [threading.Thread(target=heal, args=(number,)) for number in range(2)]
    for client in clients:
        client.start()
    try:
        while min(healed) < 5:
            for key in keys:
                assert len(list(ShardReader(key, store.get, pool, keep=False))) == 6
    finally:
        over.set()
        for client in clients:
            client.join()
    assert [store.get(key) for key in keys] == good
    assert store.find(manifest(keys[0])) is not None


def test_equal_content_has_equal_bytes() -> None:
    """Or a run that reads while another client writes the same content again would read a mixture."""
    runs = [
        subprocess.run([sys.executable, "-c", BUILD], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True)
        for seed in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout
    assert len(runs[0].stdout) == 65


def flipped(place: Callable[[int], int]) -> Callable[[Store, str], None]:
    def flip(store: Store, key: str) -> None:
        data = bytearray(store.get(key))
        data[place(len(data))] ^= 4
        store.put(key, bytes(data))

    return flip


def cut(store: Store, key: str) -> None:
    store.put(key, store.get(key)[:-50])


def gone(store: Store, key: str) -> None:
    store.delete([key])


@pytest.mark.parametrize(
    ("kind", "damage", "code", "layer", "message"),
    [
        ("shard", gone, Code.NOT_FOUND, None, "no longer exists"),
        ("shard", flipped(lambda size: 9), Code.INVALID, None, "the shard is damaged: its first 24 bytes"),
        ("shard", flipped(lambda size: 100), Code.INVALID, None, "the shard is damaged: the checksum of its head"),
        ("shard", flipped(lambda size: size - 50), Code.INVALID, 6, "the shard is damaged: the checksum of this layer"),
        ("shard", cut, Code.INVALID, 6, "the shard is damaged: "),
        ("input", gone, Code.NOT_FOUND, None, "no longer exists"),
        ("input", flipped(lambda size: size // 2), Code.INVALID, 1, "the staged input is damaged: "),
    ],
    ids=["shard gone", "shard's length", "shard's head", "shard's last layer", "shard cut", "input gone", "input flipped"],
)
def test_a_worker_reports_what_is_gone_or_damaged(
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    damage: Callable[[Store, str], None],
    code: Code,
    layer: int | None,
    message: str,
) -> None:
    """The error crosses processes as it is; the client stages the content again, and the answer is the same."""
    reported: list[Aborted] = []

    def recorded(data: bytes) -> Aborted:
        reported.append(explain(data))
        return reported[-1]

    def start() -> object:
        options = {"workers": 2, "channel": "queue", "partition": "block", "timeout": 60.0, "settings": {"root": str(tmp_path / "root")}}
        return run(MODEL, INPUTS, home=tmp_path / "home", **options).output  # type: ignore[arg-type]

    monkeypatch.setattr(fsd_core.client.follow, "explain", recorded)
    right = start()
    objects = [key for key in store.keys("") if is_content(key) and key.endswith("/1")]
    [key] = [key for key in objects if store.get(key).startswith(b"FSDshrd") == (kind == "shard")]
    damage(store, key)
    with pytest.warns(UserWarning, match="stages .* again"):
        assert (start() != right).nnz == 0  # type: ignore[attr-defined]
    reason = reported[0].reason
    assert isinstance(reason, DamagedContent)
    assert (reason.key, reason.code, reason.rank, reason.layer) == (key, code, 1, layer)
    assert message in reason.message


def test_clean_removes_manifests_first(store: Store, pool: ThreadPoolExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a removal that is interrupted leaves no manifest without its objects."""
    keys = staged(store, pool)
    (tmp_path / "home/runs").mkdir(parents=True)
    (tmp_path / "home/partitions").mkdir()
    asked: list[str] = []

    def cut_short(self: Store, keys: Sequence[str]) -> None:
        asked.extend(keys)
        raise KeyboardInterrupt

    options = {"settings": {"root": str(tmp_path / "root")}, "home": tmp_path / "home"}
    with monkeypatch.context() as patch:
        patch.setattr(Store, "delete", cut_short)
        with pytest.raises(KeyboardInterrupt):
            clean("local", keep_records=True, **options)  # type: ignore[arg-type]
    assert asked[0] == manifest(keys[0])
    assert sorted(asked) == sorted([*keys, manifest(keys[0])])
    assert clean("local", keep_records=True, **options) == 3  # type: ignore[arg-type]
    assert [folder.name for folder in (tmp_path / "home").iterdir()] == ["runs"]
    assert clean("local", **options) == 0  # type: ignore[arg-type]
    assert list((tmp_path / "home").iterdir()) == []
