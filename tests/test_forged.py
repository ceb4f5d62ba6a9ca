"""What somebody can do who can use the queues of a run and not read its store: nothing. The frame key is in the store alone, and goes."""

from __future__ import annotations

import base64
import importlib.util
import json
import logging
import sys
from contextlib import closing
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import scipy.sparse

import fsd_core.client.job
from fsd_core.channel import News, RankIdentity, describe
from fsd_core.channel.frames import KEY_BYTES, Frame, Kind, new_key, pack
from fsd_core.cli import main
from fsd_core.client.cleanup import Cleanup
from fsd_core.client.garbage import collect_garbage
from fsd_core.common.logs import masked
from fsd_core.common.sealed import unseal
from fsd_core.driver import Code, Message
from fsd_core.errors import RunFailed
from fsd_core.model import radixnet
from fsd_core.model.inputs import open_inputs
from fsd_core.model.serial import serial
from fsd_core.protocol.runconfig import RunConfig
from fsd_core.protocol.spawn import LaunchPayload
from fsd_core.storage.store import Store
from fsd_local import PROVIDER
from test_launch import CONFIG

ROOT = Path(__file__).resolve().parents[1]
KEY = new_key()
WORKERS, LAYERS = 3, 6


def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("forged", ROOT / "benchmarks" / "forged.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_of_2000_forged_messages_none_is_accepted() -> None:
    """The cases of benchmarks/forged.py, which gives a million."""
    forged = benchmark()
    *rows, control = forged.attack(200)
    assert len(rows) == 10
    assert [row for row in rows if not forged.right(row)] == []
    assert {row.messages for row in rows} == {200}
    assert sum(row.dropped for row in rows) > 1000
    assert control.accepted == control.messages > 100


# A run


def shown(key: bytes, data: bytes) -> bool:
    """Whether some bytes show the key, in one of the forms in which it may be written."""
    forms = (key, key.hex().encode(), key.hex().upper().encode(), base64.b64encode(key), base64.urlsafe_b64encode(key), repr(key).encode())
    return any(form.rstrip(b"=") in data for form in forms)


def showing(folder: Path) -> list[str]:
    """The files below a folder that show the key of the run."""
    return [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file() and shown(KEY, file.read_bytes())]


def attack(store: Store, config: str, root: Path) -> None:
    """Send each rank of a run what ends the run, or changes its answer, if a rank believes it. ``config``: the key of its configuration."""
    run = config.split("/")[0]
    (lease,) = (key for key in store.keys("slots/") if unseal(store.get(key), "a lease")["run"] == run)
    slot, epoch = (int(part) for part in lease.split("/")[1:])
    resources = PROVIDER.provisioner({"root": str(root)}).find("fsd")
    assert resources is not None
    abort = describe(RunFailed(Code.INVALID, "forged", rank=1))
    with closing(PROVIDER.messages(resources, slot)) as driver:
        for rank in range(WORKERS):
            lost = News(kind="lost", rank=rank, incarnation=0).pack()
            forged = [(Kind.ABORT, epoch, 0, abort), (Kind.NEWS, epoch, 0, lost), (Kind.PAYLOAD, epoch + 1, 0, b"of a newer run")]
            forged += [(Kind.PAYLOAD, epoch, step, b"wrong") for step in range(LAYERS)]
            for kind, at, step, body in forged:
                for source in (-1, (rank + 1) % WORKERS):
                    driver.publish([Message(rank, pack(Frame(kind, run, at, step, source, 0, 1, body), rank, bytes(KEY_BYTES)))])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with a home and an app. The key of its runs is `KEY`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FSD_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(fsd_core.client.job, "new_key", lambda: KEY)
    (tmp_path / "fsd.toml").write_text(f'workers = {WORKERS}\npartition = "block"\n[local]\nroot = "{tmp_path}/root"\n')
    return tmp_path


def test_an_attacked_run_has_the_right_answer_and_no_file_shows_its_key(
    here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the run's configuration holds the key: no launch, no object of a worker, no line, no record."""
    root, packed = here / "root", list[bytes]()
    pack_launch, put = LaunchPayload.pack, Store.put

    def noted(self: LaunchPayload) -> bytes:
        packed.append(pack_launch(self))
        return packed[-1]

    def attacked(self: Store, key: str, body: bytes) -> None:
        put(self, key, body)
        if key.endswith("/config"):  # before the workers start
            attack(self, key, root)

    monkeypatch.setattr(LaunchPayload, "pack", noted)
    monkeypatch.setattr(Store, "put", attacked)
    monkeypatch.setattr(Cleanup, "_remove_objects", lambda self, store: None)  # so that all that the run wrote is there
    words = ["--channel", "queue", "--json", "-vv", "--output", "out.npz"]
    code = main(["run", f"radixnet:1024:{LAYERS}", "random:20:0.4:1", *words])
    out, err = capfd.readouterr()
    assert code == 0, err
    answer = json.loads(out)
    assert answer["meter"]["frames_dropped"] > 0
    right = serial(radixnet(1024, LAYERS), open_inputs("random:20:0.4:1", 1024))
    assert np.allclose(scipy.sparse.load_npz("out.npz").toarray(), right.toarray(), rtol=1e-4, atol=1e-4)
    assert main(["logs", answer["run"]]) == 0
    logs = capfd.readouterr().out
    assert logs.count("drops a damaged or forged message") == WORKERS  # one line of each
    assert len(packed) == WORKERS
    assert not any(shown(KEY, data) for data in (out.encode(), err.encode(), logs.encode(), *packed))
    assert [Path(file).name for file in showing(here)] == ["config="]
    assert len([*root.rglob("record,/*")]) == WORKERS
    assert collect_garbage("local", settings={"root": str(root)}) > 0
    assert showing(here) == []


@pytest.mark.parametrize("more", [[], ["--faults", "kill=1@3", "--recovery", "off"]], ids=["answered", "failed"])
def test_the_key_goes_with_its_run(here: Path, capfd: pytest.CaptureFixture[str], more: list[str]) -> None:
    code = main(["run", f"radixnet:1024:{LAYERS}", "random:20:0.4:1", "--channel", "hybrid", *more])
    assert code == (3 if more else 0)
    assert main(["runs", "--json"]) == 0
    assert not shown(KEY, "".join(capfd.readouterr()).encode())
    assert showing(here) == []


def test_no_text_shows_a_key(caplog: pytest.LogCaptureFixture) -> None:
    key = bytes.fromhex(CONFIG.frame_key)
    me = CONFIG.member(1, 0, 9.0)
    assert me == RankIdentity(CONFIG.run, 1, 0, 2, 9.0, key=key)
    for text in (repr(CONFIG), str(me), masked(f"read {CONFIG.pack().decode()}")):
        assert not shown(key, text.encode())
    with pytest.raises(RunFailed) as caught:
        RunConfig.unpack(CONFIG.pack().replace(b'"hybrid"', b'"hybrid '))
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("fsd_core").debug("%r", CONFIG, exc_info=caught.value)
    assert not shown(key, caplog.text.encode())
