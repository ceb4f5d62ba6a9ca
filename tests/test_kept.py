"""The kept partition of a run: later runs use it and replace a damaged one; an incomplete one is not kept, and no run fails for it."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from fsd_core import run
from fsd_core.cli import main
from fsd_core.partition import Partition, find_partition, partition
from fsd_core.partition.solver import Solver
from fsd_core.report import read_record
from partition_models import sparse

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mtkahypar") is None and os.environ.get("CI") != "true", reason="mtkahypar is not installed (extra: partition)"
)
MODEL = sparse([40, 40, 40], 0.1)
ANSWERS = "answer()"
DIES = "os.kill(os.getpid(), 9)"
DIES_LATER = "answer() if turn == 0 else os.kill(os.getpid(), 9)"
DIES_IN_ITS_ANSWER = "cut(); os.kill(os.getpid(), 9)"
HANGS = "time.sleep(600)"
PROGRAM = """
import io, os, sys, time
import numpy as np
from fsd_core.partition._mtkahypar import read, write
open({count!r}, "a").write("x")
for turn in range(100):
    ask = read(sys.stdin.buffer)
    if ask is None: break
    def answer(to=sys.stdout.buffer):
        write(to, blocks=np.arange(len(ask["weights"]), dtype=np.int32) % int(ask["workers"]))
    def cut():
        whole = io.BytesIO()
        answer(whole)
        sys.stdout.buffer.write(whole.getvalue()[:100])
        sys.stdout.buffer.flush()
    {does}
"""


@pytest.fixture
def solver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Callable[[], int]]:
    """Replaces the solver by a process that follows a script; the function it returns counts the processes started so far."""

    def become(does: str) -> Callable[[], int]:
        program, count = tmp_path / "solver.py", tmp_path / "count"
        program.write_text(PROGRAM.format(count=str(count), does=does))
        make = partial(Solver, [sys.executable, str(program)], 2 if does == HANGS else 60)
        monkeypatch.setattr("fsd_core.partition.hypergraph.Solver", lambda command: make())
        return lambda: count.stat().st_size if count.exists() else 0

    return become


def find(home: Path, workers: int = 4) -> tuple[Partition, str]:
    return find_partition("hypergraph", MODEL, workers, 0, home)


def files(home: Path) -> list[Path]:
    return sorted((home / "partitions").glob("*")) if (home / "partitions").exists() else []


def test_it_is_made_once(tmp_path: Path, solver: Callable[[str], Callable[[], int]], caplog: pytest.LogCaptureFixture) -> None:
    started = solver(ANSWERS)
    first, label = find(tmp_path)
    second, again = find(tmp_path)
    assert (label, again, first.digest == second.digest, started()) == ("hypergraph", "hypergraph", True, 2)
    assert not caplog.records


@pytest.mark.parametrize(
    ("does", "left", "warning"),
    [
        *((does, "hypergraph, completed by block", "are partitioned in blocks") for does in (DIES, DIES_IN_ITS_ANSWER, HANGS)),
        (DIES_LATER, "hypergraph, unfinished", "the last improvements are left out"),
    ],
)
def test_what_a_solver_that_died_left_is_used_and_named_and_not_kept(
    tmp_path: Path, solver: Callable[[str], Callable[[], int]], caplog: pytest.LogCaptureFixture, does: str, left: str, warning: str
) -> None:
    solver(does)
    parts, label = find(tmp_path)
    assert label == left
    assert parts.check(MODEL).workers == 4
    assert files(tmp_path) == []
    assert warning in caplog.text
    solver(ANSWERS)
    assert find(tmp_path)[1] == "hypergraph"
    assert len(files(tmp_path)) == 1


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[data.index(b"owner_1.npy") + 40] ^= 1
    file.write_bytes(data)


def other_model(file: Path) -> None:
    partition(sparse([30, 30], 0.2), 4, "block").save(file)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped": flip,
    "cut": lambda file: os.truncate(file, 500),
    "empty": lambda file: os.truncate(file, 0),
    "text": lambda file: file.write_text("mine"),
    "of another model": other_model,
    "of another number of workers": lambda file: partition(MODEL, 3, "block").save(file),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_copy_is_replaced(
    tmp_path: Path, solver: Callable[[str], Callable[[], int]], caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    started = solver(ANSWERS)
    good = find(tmp_path)[0].digest
    [file] = files(tmp_path)
    DAMAGES[damage](file)
    assert find(tmp_path)[0].digest == good
    assert str(file) in caplog.text
    assert "this run replaces it" in caplog.text
    assert started() == 4
    assert find(tmp_path)[0].digest == good
    assert started() == 4


def blocked_folder(home: Path, file: Path) -> None:
    (home / "partitions").write_text("a file where the folder should be")


def folder_in_its_place(home: Path, file: Path) -> None:
    file.mkdir(parents=True)
    (file / "conn.0").write_text("0 0 1\n")


def loop(home: Path, file: Path) -> None:
    file.parent.mkdir()
    file.symlink_to(file)


def read_only(home: Path, file: Path) -> None:
    file.parent.mkdir()
    file.parent.chmod(0o500)
    if os.access(file.parent, os.W_OK):
        pytest.skip("root may write everywhere")


def unreadable(home: Path, file: Path) -> None:
    file.parent.mkdir()
    file.write_text("another's")
    file.chmod(0)
    file.parent.chmod(0o500)
    if os.access(file, os.R_OK):
        pytest.skip("root may read everything")


@pytest.mark.parametrize("trouble", [blocked_folder, folder_in_its_place, loop, read_only, unreadable])
def test_where_nothing_can_be_kept_the_run_goes_on_with_a_warning(
    tmp_path: Path, solver: Callable[[str], Callable[[], int]], caplog: pytest.LogCaptureFixture, trouble: Callable[[Path, Path], None]
) -> None:
    solver(ANSWERS)
    good = find(tmp_path / "elsewhere")[0].digest
    [file] = files(tmp_path / "elsewhere")
    home = tmp_path / "home"
    home.mkdir()
    trouble(home, home / "partitions" / file.name)
    for _ in range(2):
        parts, label = find(home)
        assert (parts.digest, label) == (good, "hypergraph")
    assert caplog.text.count("the partition is not kept for later runs: ") == 2
    if trouble is folder_in_its_place:
        assert (home / "partitions" / file.name / "conn.0").exists()


def test_half_a_file_is_never_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, solver: Callable[[str], Callable[[], int]]) -> None:
    """The disk becomes full while the file is being written."""
    solver(ANSWERS)

    def full(file: object, **arrays: object) -> None:
        file.write(b"PK")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez_compressed", full)
        assert find(tmp_path)[1] == "hypergraph"
    assert files(tmp_path) == []


def test_result_and_command_say_what_the_partition_is(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    solver: Callable[[str], Callable[[], int]],
) -> None:
    solver(DIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FSD_HOME", str(tmp_path / "home"))
    result = run("radixnet:1024:2", "random:5", tensor_parallel=2, home=tmp_path / "home", settings={"root": str(tmp_path / "root")})
    assert result.partition == "hypergraph, completed by block"
    [record] = (tmp_path / "home" / "runs").glob("*.json")
    assert read_record(record)["partition"] == result.partition
    assert main(["partition", "radixnet:1024:2", "p.npz", "--workers", "2", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["method"] == result.partition
    assert caplog.text.count("are partitioned in blocks") == 2
    assert files(tmp_path / "home") == []
