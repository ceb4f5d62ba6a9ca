"""The probe, in this process and in a new one."""

import json
import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import attrs
import pytest

from fsd_core.driver import ObjectDriver, Resources
from fsd_core.errors import InputError
from fsd_core.worker import probe
from fsd_local import PROVIDER


@pytest.fixture
def resources(tmp_path: Path) -> Resources:
    return PROVIDER.provisioner({"root": str(tmp_path)}).ensure("probed", 1, 1)


@pytest.fixture
def objects(resources: Resources) -> ObjectDriver:
    return PROVIDER.objects(resources)


def test_writes_that_it_started_and_ended(objects: ObjectDriver) -> None:
    began = time.time()
    assert probe.run({"key": "probe/x/1", "sleep_s": 0.05, "grow_mb": 1.5, "exit": None}, objects) == 0
    ended, started = objects.list("probe/x/1/").keys
    assert started.startswith("probe/x/1/started-")
    assert ended == started.replace("started", "ended")
    notes = [json.loads(objects.get(key)) for key in (started, ended)]
    assert [note["pid"] for note in notes] == [os.getpid()] * 2
    assert began - 1 <= notes[0]["time"] <= notes[1]["time"]
    probe.run({"key": "probe/x/1"}, objects)
    assert len(objects.list("probe/x/1/").keys) == 4  # a second run of the same launch has its own nonce


def test_grows(objects: ObjectDriver) -> None:
    tracemalloc.start()
    try:
        probe.run({"key": "probe/big", "grow_mb": 30.5}, objects)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak >= 30.5 * 2**20
    assert held < 2**20


def test_exits_instead_of_ending(objects: ObjectDriver, resources: Resources) -> None:
    code = (
        "import json, sys; from fsd_core.worker import probe; from fsd_core.driver import Resources; from fsd_local import PROVIDER\n"
        "probe.run({'key': 'probe/dead', 'exit': 7}, PROVIDER.objects(Resources(**json.loads(sys.argv[1]))))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, json.dumps(attrs.asdict(resources))], capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
    assert [key.partition("-")[0] for key in objects.list("probe/dead/").keys] == ["probe/dead/started"]


@pytest.mark.parametrize(
    "spec",
    [
        {}, {"key": None}, {"key": "probe/"}, {"key": "runs/x"}, {"key": "/probe/x"}, {"key": "probe/x y"}, {"key": "probe/x\n"},
        {"key": "probe/x", "sleep_s": -1}, {"key": "probe/x", "sleep_s": 901}, {"key": "probe/x", "sleep_s": "1"},
        {"key": "probe/x", "sleep_s": float("nan")}, {"key": "probe/x", "grow_mb": 1e9}, {"key": "probe/x", "grow_mb": True},
        {"key": "probe/x", "exit": 256}, {"key": "probe/x", "exit": 1.5}, {"key": "probe/x", "exit": True}, {"key": "probe/x", "run": "ls"},
    ],
)  # fmt: skip
def test_a_wrong_spec_is_refused(objects: ObjectDriver, spec: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"^probe: .+"):
        probe.run(spec, objects)
    assert not objects.list("").keys
