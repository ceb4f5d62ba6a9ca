"""Machines that are no developer's laptop: no home, odd file systems, few descriptors, little memory, another locale.

Each is a run of the command in a new process, which works or ends with one line that says what to set.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from fsd_core import run
from fsd_core.common.home import expanded, home_folder
from fsd_core.driver import Code, Message
from fsd_core.errors import InputError
from fsd_core.model import radixnet, save
from fsd_core.model.inputs import open_inputs
from fsd_core.model.serial import serial
from fsd_local import PROVIDER

MODEL = radixnet(1024, 2)
# The system calls of a file system as exFAT, FUSE and SMB mounts have it: put in the way of every process of a run, functions too.
POOR = """
import os
def refused(*paths, **more): raise PermissionError(1, "Operation not permitted", *paths[:1])
for name in os.environ["POOR"].split(): setattr(os, name, refused)
"""
OTHER = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"]
COMMAND = [sys.executable, "-P", "-m", "fsd_core.cli", "run", "radixnet:1024:2", "random:6", "--tensor-parallel", "2"]
Fsd = Callable[..., tuple[int, str]]

other_user = pytest.mark.skipif(os.getuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv, to be another user")


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that everybody may read, with a model, inputs, and its answer."""
    folder = tmp_path_factory.mktemp("things")
    save(MODEL, folder / "model")
    inputs = open_inputs("random:6:0.4:1", 1024)
    sp.save_npz(folder / "x.npz", inputs)
    np.save(folder / "right.npy", serial(MODEL, inputs).toarray())
    (folder / "poor").mkdir()
    (folder / "poor" / "sitecustomize.py").write_text(POOR)
    return folder


@pytest.fixture
def fsd(things: Path, tmp_path: Path) -> Fsd:
    """Exit code and last line of standard error of a run, in the folder ``tmp_path / "here"``. A variable of None is not set."""
    here = tmp_path / "here"
    here.mkdir()

    def fsd(*words: str, before: Callable[[], None] | None = None, **variables: str | None) -> tuple[int, str]:
        told: Mapping[str, str | None] = {**os.environ, "FSD_HOME": str(tmp_path / "home"), **variables}
        arguments = ["run", f"{things}/model", f"{things}/x.npz", "--workers", "2", "--partition", "block", *words]
        done = subprocess.run(
            [sys.executable, "-P", "-m", "fsd_core.cli", *arguments],
            cwd=here,
            env={name: value for name, value in told.items() if value is not None},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=120,
            preexec_fn=before,
        )
        return done.returncode, (done.stderr.splitlines() or [""])[-1]

    return fsd


def right(things: Path, output: Path) -> bool:
    return np.allclose(sp.load_npz(output).toarray(), np.load(things / "right.npy"), rtol=1e-4, atol=1e-5)


def test_a_tilde_is_the_home_folder_in_every_path(fsd: Fsd, things: Path, tmp_path: Path) -> None:
    user = tmp_path / "user"
    shutil.copytree(things / "model", user / "model")
    shutil.copy(things / "x.npz", user)
    (user / "fsd.toml").write_text('output = "~/o.npz"\n[local]\nroot = "~/root"\n')
    (user / "truth").write_text("".join(f"{k}\n" for k in 1 + np.flatnonzero(np.load(things / "right.npy").any(1))))
    said = fsd("--config", "~/fsd.toml", "--truth", "~/truth", HOME=str(user), FSD_HOME="~/fsd")
    assert said[0] == 0, said
    assert right(things, user / "o.npz")
    assert (user / "root" / "fsd").is_dir()
    assert list((user / "fsd" / "runs").iterdir())
    assert not list((tmp_path / "here").iterdir())


def test_what_reads_or_writes_a_path_takes_a_tilde(things: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsd_core import cost
    from fsd_core.config import KINDS
    from fsd_core.model import load, open_model
    from fsd_core.model.sources import import_model
    from fsd_core.partition import Partition, partition
    from fsd_core.report import find_record

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    save(MODEL, "~/m")
    assert load("~/m").digest == open_model("~/m").digest == MODEL.digest
    shutil.copy(things / "x.npz", tmp_path)
    assert open_inputs("~/x.npz", 1024).shape == (6, 1024)
    assert len(import_model("~/x.npz").layers) == 1
    parts = partition(MODEL, 2, "block")
    parts.save("~/p.npz")
    assert Partition.load("~/p.npz", MODEL).workers == partition(MODEL, 2, "~/p.npz").workers == 2
    assert find_record("~/r.json", tmp_path) == tmp_path / "r.json"
    shutil.copy(cost.load("local").path, tmp_path / "t.toml")
    assert cost.load("~/t.toml").provider == cost.load("local").provider
    assert KINDS["output"].read_text("~/o.npz", "") == KINDS["truth"].check("~/o.npz", "") == str(tmp_path / "o.npz")
    result = run(MODEL, "~/x.npz", workers=2, partition="~/p.npz", home="~/h", settings={"root": "~/root"})
    assert (tmp_path / "h" / "runs" / f"{result.run}.json").exists()
    assert (tmp_path / "root" / "fsd" / "app").exists()
    assert not (tmp_path / "~").exists()
    assert expanded("./~/x") == Path("~/x")
    assert expanded("~") == tmp_path
    assert expanded("~//x") == tmp_path / "x"
    assert expanded("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")  # as a shell leaves it


@other_user
def test_a_user_without_a_home_is_told_to_set_one() -> None:
    kept = {name: value for name, value in os.environ.items() if name not in ("HOME", "FSD_HOME")}
    done = subprocess.run([*OTHER, *COMMAND], cwd="/", env=kept, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].endswith("no home folder of user 54321: set FSD_HOME to a folder that you can write to")


@other_user
def test_no_more_threads_is_the_machines_refusal() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o777)
        done = subprocess.run(
            [*OTHER, *COMMAND, "--partition", "block"],
            cwd="/",
            env={**os.environ, "FSD_HOME": folder, "OPENBLAS_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=60,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NPROC, (1, 1)),
        )
    assert done.returncode == 3, done.stderr
    assert done.stderr.splitlines()[-1] == "fsd: RuntimeError: can't start new thread"


def test_homes_that_cannot_be_used_say_so(fsd: Fsd, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert fsd(FSD_HOME=f"{tmp_path}/file") == (2, f"fsd: FSD_HOME {tmp_path}/file: is a file: expected a folder")
    below = f"{tmp_path}/file/home"
    code, line = fsd(FSD_HOME=below)
    assert code == 2
    assert line.startswith(f"fsd: folder {below}/local/fsd: cannot be used: ")
    assert "set FSD_HOME or [local] root" in line
    code, line = fsd(FSD_HOME=None, HOME="/proc/1/nothing")
    assert code in (2, 3)
    assert "/proc/1/nothing/.fsd" in line
    assert "bug" not in line
    code, line = fsd("--config", "/proc/self/mem")
    assert code == 2
    assert line.startswith("fsd: /proc/self/mem: cannot be read: ")


def test_a_relative_home_is_below_the_current_folder(fsd: Fsd, tmp_path: Path) -> None:
    assert fsd(FSD_HOME="mine")[0] == 0
    assert {each.name for each in (tmp_path / "here" / "mine").iterdir()} == {"local", "plans", "runs"}


def test_homes_are_found_in_one_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home_folder("/given", {"FSD_HOME": "/named"}) == Path("/given")
    assert home_folder(environ={"FSD_HOME": "/named"}) == Path("/named")
    assert home_folder(environ={}) == tmp_path / ".fsd"
    monkeypatch.delenv("HOME")
    assert home_folder(environ={}).is_absolute()  # of the system's record


def test_a_file_system_without_links_and_pipes_will_do(fsd: Fsd, things: Path, tmp_path: Path) -> None:
    said = fsd("--output", "o.npz", "--channel", "hybrid", POOR="link mkfifo", PYTHONPATH=str(things / "poor"))
    assert said[0] == 0, said
    assert right(things, tmp_path / "here" / "o.npz")
    root = tmp_path / "home" / "local" / "fsd"
    assert (root / "lock").exists()
    assert not list(root.rglob("bell"))


def test_one_with_neither_links_nor_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr("os.link", refused)
    monkeypatch.setattr("fcntl.flock", refused)
    with pytest.raises(InputError, match="neither hard links nor locks: expected one of them: set FSD_HOME or \\[local\\] root"):
        PROVIDER.provisioner({"root": str(tmp_path)}).ensure("fsd", 1, 1)


CREATE = """
import json, sys
from fsd_local.objects import LocalObjects
objects, mine = LocalObjects(sys.argv[1]), sys.argv[2]
sys.stdin.read(1)  # all begin together
won = 0
for number in range(300):
    try:
        objects.put(f"race/{number}", mine.encode(), if_absent=True)
        won += 1
    except FileExistsError:
        assert objects.get(f"race/{number}") != mine.encode()
print(won)
"""


def test_without_links_one_create_of_many_wins(things: Path, tmp_path: Path) -> None:
    variables = {**os.environ, "POOR": "link", "PYTHONPATH": str(things / "poor")}
    make = "import sys; from fsd_local import PROVIDER; PROVIDER.provisioner({'root': sys.argv[1]}).ensure('fsd', 1, 1)"
    subprocess.run([sys.executable, "-c", make, str(tmp_path)], env=variables, check=True, timeout=60)
    root = str(tmp_path / "fsd")
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", CREATE, root, f"racer {number}"],
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for each in racers:
        assert each.stdin is not None
        each.stdin.write("!")
        each.stdin.flush()
    won = [int(each.communicate(timeout=120)[0]) for each in racers]
    assert sum(won) == 300, won
    # A put that replaces keeps to the same lock; what it wrote is never taken for absent.
    objects = PROVIDER.objects(PROVIDER.provisioner({"root": str(tmp_path)}).ensure("fsd", 1, 1))
    objects.put("plain", b"first")
    with pytest.raises(FileExistsError) as caught:
        objects.put("plain", b"second", if_absent=True)
    assert objects.classify(caught.value) is Code.ALREADY_EXISTS
    assert objects.get("plain") == b"first"


def test_without_a_bell_messages_are_seen_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.mkfifo", refused)
    messages = PROVIDER.messages(PROVIDER.provisioner({"root": str(tmp_path)}).ensure("fsd", 1, 1), 0)
    began, used = time.monotonic(), time.thread_time()
    assert messages.receive(0, 10, 0.5) == []
    assert time.monotonic() - began >= 0.5
    assert time.thread_time() - used < 0.4
    messages.publish([Message(0, b"x")])
    assert [each.body for each in messages.receive(0, 10, 20.0)] == [b"x"]


def test_few_descriptors_little_memory_and_no_usable_temporary_folder(fsd: Fsd, things: Path, tmp_path: Path) -> None:
    def limits() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))

    said = fsd("--output", "o.npz", before=limits, TMPDIR=f"{tmp_path}/none")
    assert said[0] == 0, said
    assert right(things, tmp_path / "here" / "o.npz")


def test_less_address_space_than_the_imports_take_is_one_line(fsd: Fsd) -> None:
    code, line = fsd(before=lambda: resource.setrlimit(resource.RLIMIT_AS, (100 << 20, 100 << 20)))
    assert code != 0
    assert "this is a bug" not in line
    assert line


def test_a_locale_without_utf8(fsd: Fsd, things: Path, tmp_path: Path) -> None:
    poor = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    said = fsd("--output", "dätä ü.npz", **poor)
    assert said[0] == 0, said
    assert right(things, tmp_path / "here" / "dätä ü.npz")
    (record,) = (tmp_path / "home" / "runs").glob("*.json")
    assert json.loads(record.read_bytes())["workers"] == 2
    code, line = fsd("--truth", "ü", **poor)
    assert code == 2
    assert line.endswith("No such file or directory")
