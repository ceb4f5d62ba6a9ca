"""3,000 flips of single bits in each kind of stored or sent bytes: none is read as other values."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs
import numpy as np
import pytest

from flips import FLIPS, flips, refused
from fsd_core import run
from fsd_core.channel import RankIdentity, describe, explain
from fsd_core.channel.frames import KEY_BYTES, Frame, Kind, Stray, Unverified, pack, unpack
from fsd_core.channel.hybrid import _NOTICE as NOTICE
from fsd_core.channel.objects import HEAD_BYTES, DamagedBundle, bundle, entry, fetch, payload_tag
from fsd_core.client import history, rows, stage
from fsd_core.codec import CodecError, decode, encode
from fsd_core.common.sealed import Damaged, seal, unseal
from fsd_core.driver import Code
from fsd_core.errors import DamagedContent, InputError
from fsd_core.kernel import Block
from fsd_core.model import Model, radixnet
from fsd_core.partition import ExchangePlan, Partition, partition
from fsd_core.protocol.shard import LayerShard, ShardReader, build
from fsd_core.report import read_record
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store
from fsd_local import PROVIDER
from networks import some_inputs
from partition_models import sparse
from recording import Recording

RUN = "00ff00ff00ff00ff"
ME = RankIdentity(RUN, 7, 2, 5, 1e10, key=bytes(range(KEY_BYTES)))


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
def store(tmp_path: Path) -> Store:
    resources = PROVIDER.provisioner({"root": str(tmp_path)}).ensure("fsd", 1, 1)
    return Store(PROVIDER.objects(resources), Retry(time.time() + 600, Meter()))


def some_blocks() -> list[Block]:
    """Blocks that use every part of the layout: noise, saturation, a base, bitmaps and lists of live samples, nothing."""
    rng = np.random.default_rng(0)
    all_live = np.arange(40, dtype=np.int32)
    noise = rng.standard_normal((8, 41)).astype(np.float32)
    sparse = np.where(rng.random((8, 41)) < 0.3, noise, 0).astype(np.float32)
    saturated = np.zeros((30, 6), np.float32)
    saturated[:, 1:] = np.where(rng.random((30, 5)) < 0.9, 32, 0)
    few = np.array([3, 70, 500, 501, 9000], np.int32)
    some = np.flatnonzero(rng.random(80) < 0.5).astype(np.int32)
    half = rng.random((4, 1 + len(some))).astype(np.float32)
    empty = np.zeros((5, 1), np.float32)
    return [Block(noise, all_live, 40), Block(sparse, all_live, 40), Block(saturated, few, 10_000), Block(half, some, 80),
            Block(empty, np.zeros(0, np.int32), 40)]  # fmt: skip


def test_block() -> None:
    blocks = some_blocks()
    refused([encode(block) for block in blocks], lambda which, data: decode(data, blocks[which].rows, blocks[which].samples), CodecError)


def small_model() -> tuple[Model, Partition, ExchangePlan]:
    model = radixnet(1024, 3)
    parts = partition(model, 32, "block")
    return model, parts, ExchangePlan(model, parts)


def test_shard(pool: ThreadPoolExecutor) -> None:
    """What follows the last layer is never read."""
    model, parts, plan = small_model()

    def read(_: int, data: bytes) -> list[LayerShard]:
        return list(ShardReader("k", lambda key, start, end: data[start:end], pool, keep=False))

    refused([build(model, parts, plan, 1)], read, DamagedContent, longer=False)


def test_staged_input_and_output_slice(store: Store, pool: ThreadPoolExecutor) -> None:
    """Both are blocks, as the store gives them back."""
    model, parts, plan = small_model()
    pieces, (places,) = rows.inputs(some_inputs(model, 30), [30], model, parts, plan)
    content = stage.Content(store, pieces, pool)
    content.stage(lambda done, total: None)
    keys = [None if place is None else content.names[place] for place in places]
    sizes = [len(plan.inputs(rank)) for rank in range(5)]
    refused([store.get(key) for key in keys[:5] if key], lambda rank, data: decode(data, sizes[rank], 30), CodecError)


def test_manifest(store: Store, pool: ThreadPoolExecutor) -> None:
    """A damaged manifest counts as none: everything is uploaded again."""
    model, parts, plan = small_model()
    samples = some_inputs(model, 3)

    def puts() -> int:
        before = len(uploaded)
        stage.Content(recording, rows.inputs(samples, [3], model, parts, plan)[0], pool).stage(lambda done, total: None)
        return len(uploaded) - before

    uploaded: list[str] = []
    recording = Recording(store, uploaded)
    assert puts() == 33
    assert puts() == 0
    key = uploaded[-1]
    assert key.endswith("/manifest")
    good = store.get(key)
    for bad in (*flips(good, 20), good[:-1], good + b" ", b"", b"{}"):
        store.put(key, bad)
        assert puts() == 33
        assert store.get(key) == good


PAYLOADS = [(target, np.random.default_rng(target).bytes(200 * (target + 1))) for target in (0, 1, 4)]


@pytest.mark.parametrize("head_bytes", [HEAD_BYTES, 400], ids=["whole in its head", "rest by range"])
def test_bundle(head_bytes: int) -> None:
    """A target that reads the payload finds every flip."""

    def read(_: int, data: bytes) -> None:
        for target, payload in PAYLOADS:
            me = attrs.evolve(ME, rank=target)
            where = entry(data[:head_bytes], me, 3, ME.rank)
            assert fetch(Bytes(data), "k", data[:head_bytes], where, me, "what rank 2 sent") == payload

    refused([bundle(ME, 3, PAYLOADS)], read, DamagedBundle, longer=False)


class Bytes(Store):
    """One object, whatever the key."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def get(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        return self._data[start:end]


def test_what_a_notice_points_to() -> None:
    """Flips in the object, and in the notice itself even without a frame around it."""
    data = bundle(ME, 3, PAYLOADS)
    payload = PAYLOADS[2][1]
    notice = NOTICE.pack(len(data) - len(payload), len(payload), payload_tag(ME, payload))
    begin = len(data) - len(payload)

    def read(data: bytes, notice: bytes) -> bytes:
        return fetch(Bytes(data), "k", b"", NOTICE.unpack(notice), ME, "it")

    refused([data[begin:]], lambda _, end: read(data[:begin] + end, notice), DamagedBundle, longer=False)
    for bad in flips(notice, 8 * len(notice)):
        with pytest.raises(DamagedBundle, match="damaged"):
            read(data, bad)


def some_frames() -> list[bytes]:
    notice = NOTICE.pack(1000, 2000, bytes(16))
    bodies = [(Kind.PAYLOAD, 1, 3, PAYLOADS[0][1]), (Kind.PAYLOAD, 0, 1, b""), (Kind.NOTICE, 0, 1, notice)]
    abort = describe(DamagedContent(Code.NOT_FOUND, "gone", "0f/content/3", rank=1, layer=2))
    return [pack(Frame(kind, RUN, 7, 3, 2, number, of, body), 4, ME.key) for kind, number, of, body in (*bodies, (Kind.ABORT, 0, 1, abort))]


def test_frame() -> None:
    refused(some_frames(), lambda _, data: unpack(data, 4, ME.key), (Stray, Unverified))


def test_frame_as_text() -> None:
    """For services that take only text: a flip in base64 gives no base64, a frame that is refused, or the same bytes."""
    good = some_frames()
    for number, data in enumerate(good):
        for bad in flips(base64.b64encode(data), FLIPS // len(good), number):
            try:
                assert unpack(base64.b64decode(bad, validate=True), 4, ME.key) == unpack(data, 4, ME.key)
            except (binascii.Error, Stray, Unverified):
                continue


def test_sealed_json() -> None:
    config = {"version": 1, "run": RUN, "channel": "queue", "shards": ["a", "b"], "inputs": [["c", "d"]], "faults": None, "started": 1.5}
    claim = {"nonce": "0f", "attempt": 0, "pid": 4711, "at": 1.5}
    record = {"rank": 0, "seconds": {"load": 0.25}, "meter": {"object_puts": 3}}
    refused(
        [seal(fields) for fields in (config, claim, record, {"run": RUN, "until": 1e9})],
        lambda _, data: unseal(data, "it"),
        Damaged,
    )


def test_error() -> None:
    """A damaged failure is reported as a damaged one."""
    error = DamagedContent(Code.NOT_FOUND, "gone", "0f/content/3", rank=1, layer=2)
    good = describe(error)
    reported = explain(good).reason
    assert isinstance(reported, DamagedContent)
    assert (reported.key, str(reported)) == (error.key, str(error))
    for bad in flips(good, FLIPS):
        assert explain(bad).message == "the run was aborted, and its reason cannot be read"


def test_kept_partition(tmp_path: Path) -> None:
    """A flip of a bit that no reader of the format uses may be accepted: then the partition is the same."""
    model = sparse([40, 40, 40], 0.1)
    made, file = partition(model, 4, "random"), tmp_path / "p.npz"
    made.save(file)
    good = file.read_bytes()
    found = 0
    for bad in (*flips(good, FLIPS), *(good[:length] for length in range(0, len(good), 10))):
        file.write_bytes(bad)
        try:
            digest = Partition.load(file, model).digest
        except InputError:
            found += 1
            continue
        assert digest == made.digest
    assert found > FLIPS / 2


def test_record(tmp_path: Path) -> None:
    """A run's record on disk: every flip gives one clear line."""
    result = run("radixnet:1024:3", "random:5", workers=1, partition="block", home=tmp_path, settings={"root": str(tmp_path / "root")})
    [file] = (tmp_path / "runs").glob("*.json")
    assert read_record(file)["run"] == result.run

    def read(_: int, data: bytes) -> None:
        file.write_bytes(data)
        read_record(file)

    refused([file.read_bytes()], read, InputError)


def test_log(tmp_path: Path) -> None:
    """The log of a run on disk, which has the lines of its workers."""
    lines = [[1e9 + number, "info", "fsd_core.x", f"line {number}"] for number in range(20)]
    history.keep(history.made("ab" * 8, 1e9, None, {0: lines}, model="m", provider="local", stand_in=None, workers=1), tmp_path)
    [file] = (tmp_path / "runs").iterdir()
    assert len(history.read_log("ab", tmp_path).lines[0]) == 20

    def read(_: int, data: bytes) -> None:
        file.write_bytes(data)
        history.read_log("ab", tmp_path)

    refused([file.read_bytes()], read, InputError)
