"""Signals and closed streams: real processes, stopped in every phase by the signal that a terminal, a shell or a machine sends.

A process is held where a phase is long (`held/sitecustomize.py`), for minutes: so that it ends at all shows that the signal ended it.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from fsd_core.common import interrupt
from waiting import until

INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
LINES = {INT: "fsd: interrupted", TERM: "fsd: terminated", HUP: "fsd: hung up"}
LINUX = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="processes are found by their environment in /proc")
NET = ["radixnet:1024:6", "random:40"]
RUN = ["run", *NET, "--workers", "2", "--partition", "block"]


class Command:
    """``fsd`` with these words in a new process."""

    all: ClassVar[list[Command]] = []

    def __init__(self, home: Path, words: list[str], hold: str = "", how: str = "sleep", ignored: int | None = None, **env: str) -> None:
        self.home = home
        self.held = home / "held"
        self.tag = f"{home}:{time.monotonic_ns()}"
        path = os.pathsep.join(filter(None, [str(Path(__file__).parent / "held"), os.environ.get("PYTHONPATH")]))
        held = {"HOLD": hold, "HELD": str(self.held), "HOW": how}
        (home / "stderr").unlink(missing_ok=True)
        with (home / "stderr").open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "fsd_core.cli", *words],
                env={**os.environ, "FSD_HOME": str(home), "PYTHONPATH": path, "TEST_TAG": self.tag, **held, **env},
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=err,
                text=True,
                start_new_session=True,
                preexec_fn=lambda: ignored and signal.signal(ignored, signal.SIG_IGN),
            )
        self.all.append(self)

    def at(self) -> Command:
        """Returns when it is where it was to be held."""
        until(lambda: self.held.exists() or self.process.poll() is not None)
        assert self.process.poll() is None, self.said()
        return self

    def go_on(self) -> Command:
        """Let it go from where it was held."""
        self.held.with_suffix(".over").touch()
        return self

    def send(self, *numbers: int) -> Command:
        """The signals, one after the other."""
        for number in numbers:
            self.process.send_signal(number)
            time.sleep(0.05)  # two of one number at once would be one
        return self

    def said(self) -> str:
        """Its standard error so far."""
        return (self.home / "stderr").read_text()

    def end(self) -> tuple[int, str, str]:
        """Exit code, standard output, last line of standard error."""
        out = self.process.communicate(timeout=90)[0]
        said = self.said()
        assert "Traceback" not in said, said
        assert "Exception ignored" not in said, said
        return self.process.returncode, out, said.splitlines()[-1] if said else ""

    def others(self) -> list[int]:
        """The processes that it started and that still run, with any parent."""
        found = []
        for each in Path("/proc").iterdir():
            if each.name.isdigit() and int(each.name) != self.process.pid:
                try:
                    alive = (each / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
                    mine = f"TEST_TAG={self.tag}".encode() in (each / "environ").read_bytes().split(b"\0")
                except OSError:  # it ended
                    continue
                found += [int(each.name)] if alive and mine else []
        return found


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """The folder of a test's commands, of which none outlives it."""
    yield tmp_path
    for command in Command.all:
        if command.process.poll() is None:
            os.killpg(command.process.pid, signal.SIGKILL)
            command.process.wait()
    Command.all.clear()


def interrupted(command: Command, number: int) -> str:
    """Send the signal, check how the command ends; the last line after the word for it."""
    code, _, line = command.at().send(number).end()
    before, found, left = line.partition(LINES[number])  # type: ignore[index]  # pytest may have begun a line that it did not end
    assert (code, found) == (128 + number, LINES[number]), command.said()  # type: ignore[index]
    assert not before or "test_" in before
    return left.removeprefix("; ")


# every phase outside a run


@pytest.mark.parametrize(
    ("words", "hold", "number"),
    [
        (["run", *NET], "import click", INT),
        (["run", *NET], "call fsd_core.model.sources:open_model", HUP),
        (["run", *NET, "--partition", "random"], "call fsd_core.partition.methods:partition", TERM),
        (RUN, "call fsd_local.provision:LocalProvisioner.ensure", HUP),
        (["destroy"], "call fsd_local.provision:LocalProvisioner.destroy", TERM),
        (["gc"], "call fsd_core.client.garbage:collect_garbage", HUP),
        (["clean"], "call fsd_core.client.garbage:clean", INT),
        (["demo"], "call fsd_core.demo.training:_gradients", TERM),
        (["compare", *NET, "--providers", "local", "--workers", "1", "--channels", "object"], "call fsd_core.report.compare:_agree", INT),
        (
            ["conformance", "--provider", "local", "-k", "Object"],
            "call fsd_conformance.objects:ObjectCases.test_ranges",
            TERM,
        ),  # pytest takes it first
        (["emulators", "up", "aws"], "call fsd_conformance.emulators.install:packages", HUP),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_phase_ends(home: Path, words: list[str], hold: str, number: int) -> None:
    interrupted(Command(home, words, hold), number)


@LINUX
@pytest.mark.parametrize("number", [TERM, signal.SIGKILL])
def test_the_solver_does_not_outlive_a_partition(home: Path, number: int) -> None:
    pytest.importorskip("mtkahypar")
    command = Command(home, ["partition", "radixnet:1024:6", "--workers", "4", "p.npz"], "call fsd_core.partition._mtkahypar:read").at()
    assert until(command.others)
    if number == signal.SIGKILL:
        command.send(number)
    else:
        interrupted(command, number)
    until(lambda: not command.others())
    assert not (home / "p.npz").exists()


@LINUX
def test_an_emulator_that_was_starting_ends_with_the_command(home: Path) -> None:
    command = Command(home, ["emulators", "up", "aws"], "call fsd_conformance.emulators.process:Server.healthy").at()
    assert until(command.others)
    interrupted(command, HUP)
    until(lambda: not command.others())


@pytest.fixture
def deaf() -> Iterator[socket.socket]:
    """A service that takes connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        listening.settimeout(90)
        yield listening


@pytest.mark.parametrize(("provider", "verb"), [("aws", "deploy"), ("gcp", "deploy"), ("azure", "destroy")])
def test_a_service_that_never_answers_is_not_waited_for(home: Path, deaf: socket.socket, provider: str, verb: str) -> None:
    host = f"127.0.0.1:{deaf.getsockname()[1]}"
    url = f"http://{host}"
    env = {
        "aws": {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "eu-west-1"},
        "gcp": {"FSD_GCP_ENDPOINT": url, "GCE_METADATA_HOST": host, "GCE_METADATA_IP": host, "CLOUDSDK_CONFIG": str(home)},
        "azure": {"FSD_AZURE_ENDPOINT": url, "AZURE_SUBSCRIPTION_ID": "00000000-0000-0000-0000-000000000000"},
    }[provider]
    command = Command(home, [verb, "--provider", provider], **env)
    with deaf.accept()[0]:
        code, _, line = command.send(TERM).end()
    assert (code, line) == (143, LINES[TERM])


# how it ends


@pytest.mark.parametrize("number", [INT, HUP])
def test_a_call_that_no_signal_reaches_is_ended_by_force(home: Path, number: int) -> None:
    command = Command(home, [*RUN, "--json"], "call fsd_core.model.sources:open_model", "c").at().send(number)
    code, out, line = command.end()
    assert code == 128 + number
    assert line == f"{LINES[signal.Signals(number)]}; a thing is held: `fsd gc` removes it"
    assert json.loads(out)["error"]["code"] == "INTERRUPTED"


def test_an_interrupt_that_python_cannot_raise_comes_again(home: Path) -> None:
    interrupted(Command(home, RUN, "call fsd_core.model.sources:open_model", "finalizer"), INT)


def test_a_signal_that_comes_while_signals_are_set_up(home: Path) -> None:
    """Their handler is there already, and what it raises has somebody who takes it."""
    interrupted(Command(home, RUN, "call threading:Thread.start"), HUP)


def test_impatience_changes_nothing(home: Path) -> None:
    command = Command(home, RUN, "call fsd_core.model.sources:open_model", "heard").at().send(INT)
    until(lambda: command.held.with_suffix(".heard").exists())  # of several that wait for a process, Python takes the lowest number first
    code, _, line = command.send(INT, TERM, HUP).go_on().end()
    assert (code, line) == (130, LINES[INT])


@pytest.mark.parametrize(("ignored", "then"), [(HUP, TERM), (INT, HUP)])
def test_what_was_ignored_stays_ignored(home: Path, ignored: int, then: int) -> None:
    """By nohup, or by the shell of a job in the background."""
    command = Command(home, RUN, "call fsd_core.model.sources:open_model", ignored=ignored).at()
    code, _, line = command.send(ignored, then).end()
    assert (code, line) == (128 + then, LINES[signal.Signals(then)])


def test_what_is_left_is_named_once_until_it_is_given_back() -> None:
    before = interrupt.notes()
    first, second = interrupt.leave_note("a slot"), interrupt.leave_note("a slot")
    assert interrupt.notes() == [*before, "a slot"]
    first()
    first()
    assert interrupt.notes() == [*before, "a slot"]
    second()
    with pytest.raises(ValueError), interrupt.leaving("a queue"):  # noqa: PT012  # an error speaks for itself
        assert interrupt.notes() == [*before, "a queue"]
        raise ValueError
    with pytest.raises(KeyboardInterrupt), interrupt.contained():  # noqa: PT012
        with interrupt.leaving("a topic"):
            raise KeyboardInterrupt
        raise AssertionError
    assert interrupt.notes() == before


def test_nobody_is_hurried_without_a_signal() -> None:
    assert interrupt.remaining(7.0) == 7.0
    interrupt.begin()
    try:
        assert 0 <= interrupt.remaining() <= interrupt.LIMIT_S
    finally:
        interrupt.end()


# streams


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one run in it."""
    home = tmp_path_factory.mktemp("home")
    code, _, _ = Command(home, RUN).end()
    assert code == 0
    return home


def shell(home: Path, words: list[str], redirection: str) -> tuple[int, str, str]:
    """A command with the shell's redirections: its exit code, standard output and error."""
    line = f'"$PYTHON" -P -m fsd_core.cli {" ".join(words)} {redirection}; exit ${{PIPESTATUS[0]}}'
    env = {**os.environ, "PYTHON": sys.executable, "FSD_HOME": str(home)}
    done = subprocess.run(["bash", "-c", line], env=env, capture_output=True, text=True, timeout=90, cwd=home, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def last_run(home: Path) -> str:
    return max((home / "runs").glob("*.json"), key=os.path.getmtime).stem


FULL = "fsd: standard output: No space left on device: the answer was not printed"
CLOSED = "fsd: standard output: is closed: the answer was not printed"


@pytest.mark.parametrize(("redirection", "code", "line"), [("> /dev/full", 3, FULL), (">&-", 0, CLOSED)])
@pytest.mark.parametrize("words", [["--help"], [*RUN, "--json"]], ids=["help", "run"])
def test_an_answer_that_cannot_be_printed(record: Path, words: list[str], redirection: str, code: int, line: str) -> None:
    found, _, err = shell(record, words, redirection)
    kept = f"; the record of run {last_run(record)} is kept: fsd report {last_run(record)}" if words[0] == "run" else ""
    assert (found, err.splitlines()[-1]) == (code, line + kept)


@pytest.mark.parametrize("redirection", ["2>/dev/full", "<&- 2>&-"])
def test_an_answer_is_whole_without_standard_error(record: Path, redirection: str) -> None:
    code, out, _ = shell(record, [*RUN, "--json"], redirection)
    assert code == 0
    assert json.loads(out)["run"] == last_run(record)


def test_a_reader_that_leaves_is_no_error(record: Path) -> None:
    code, out, err = shell(record, RUN, "| head -1")
    assert (code, out) == (0, "Result\n")
    assert "standard output" not in err
    assert shell(record, ["--help"], "| true")[0] == 0


def test_a_wrong_word_is_2_whatever_is_closed(record: Path) -> None:
    assert shell(record, ["run", "nosuch", "digits"], "<&- >&- 2>&-")[0] == 2


def test_a_signal_while_nobody_reads(record: Path) -> None:
    """The command cannot say its last words, nor end by itself: it is blocked where it writes."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, bytes(65536))
    except BlockingIOError:
        os.set_blocking(writing, True)
    command = subprocess.Popen(
        [sys.executable, "-P", "-m", "fsd_core.cli", "model", "show", NET[0]],
        stdout=writing,
        stderr=writing,
        env={**os.environ, "FSD_HOME": str(record)},
    )
    try:
        with pytest.raises(subprocess.TimeoutExpired):  # if it is slow to start, the signal comes earlier: it must end as well
            command.wait(2)
        command.send_signal(TERM)
        assert command.wait(90) in (143, -TERM)
    finally:
        command.kill()
        os.close(reading)
        os.close(writing)


# a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_is_said_at_once(home: Path, small_disk: Path) -> None:
    command = Command(home, ["run", "radixnet:1024:60", "digits", "--workers", "2", "--partition", "block"], FSD_HOME=str(small_disk))
    code, _, line = command.end()
    assert code == 3
    assert re.match(rf"fsd: TOO_LARGE: put \S+: OSError: \[Errno 28\] No space left on device: '{small_disk}/local/fsd/tmp/\w+'", line)


def fill(disk: Path) -> None:
    """Leave no room for another byte."""
    with pytest.raises(OSError), (disk / "ballast").open("wb", buffering=0) as file:  # noqa: PT012
        while True:
            file.write(bytes(512))


def test_a_disk_that_takes_no_folder_is_said_at_once(home: Path, small_disk: Path) -> None:
    fill(small_disk)
    code, _, line = Command(home, RUN, FSD_HOME=str(small_disk)).end()
    assert code == 3
    assert line.startswith(f"fsd: {small_disk}")
    assert line.endswith("No space left on device")


# in a run


def left(home: Path) -> tuple[list[str], int]:
    """Objects of runs in the local store, and slots that were given back."""
    store = home / "local" / "fsd" / "objects"
    files = [str(path.relative_to(store)) for path in store.rglob("*") if path.is_file()]
    return [name for name in files if "/run," in name], sum(name.startswith("slots,") and name.endswith(".free=") for name in files)


@pytest.mark.parametrize(
    ("hold", "how", "number"),
    [
        ("replace content", "sleep", TERM),  # a request of staging does not come back
        ("replace content", "error", INT),  # it is tried again and again
        ("open output,", "sleep", HUP),  # collecting
    ],
    ids=["staging", "retrying", "collecting"],
)
def test_a_run_ends_and_leaves_nothing_or_says_what(home: Path, hold: str, how: str, number: int) -> None:
    words = interrupted(Command(home, RUN, hold, how), number)
    objects, free = left(home)
    assert (not objects and free == 1) or "fsd gc" in words, (objects, free, words)


@LINUX
@pytest.mark.parametrize("numbers", [[TERM], [HUP], [INT, INT, INT, INT]], ids=["term", "hup", "four"])
def test_a_run_in_its_layers_ends_with_its_workers(home: Path, numbers: list[int]) -> None:
    words = ["run", "radixnet:1024:24", "random:100", "--workers", "4", "--partition", "block", "--faults", "delay=200ms,seed=1"]
    command = Command(home, words)
    until(lambda: any("claim,/3=" in path for path in map(str, (home / "local").rglob("*"))) or command.process.poll() is not None)
    code, _, line = command.send(*numbers).end()
    assert (code, line.partition(";")[0]) == (128 + numbers[0], LINES[signal.Signals(numbers[0])])
    until(lambda: not command.others())
    objects, free = left(home)
    assert (not objects and free == 1) or "fsd gc" in line, (objects, free, line)


def test_a_terminal_that_closes_ends_the_run_that_draws_on_it(home: Path) -> None:
    """The system sends SIGHUP, and whatever is written from then on fails."""
    terminal, other = pty.openpty()
    words = ["run", "radixnet:1024:24", "random:100", "--workers", "2", "--partition", "block", "--faults", "delay=200ms,seed=1"]
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "fsd_core.cli", *words],
        env={**os.environ, "FSD_HOME": str(home)},
        stdin=other,
        stdout=other,
        stderr=other,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    ) as process:
        os.close(other)
        drawn = b""
        while b"launch" not in drawn:
            drawn += os.read(terminal, 4096)
        os.close(terminal)
        assert process.wait(90) == 129
    objects, free = left(home)
    assert not objects or not free  # where it had no time for both, nobody else may have the slot yet


def test_a_worker_on_a_full_disk_ends_the_run(home: Path, small_disk: Path) -> None:
    """Where nothing can be written there is no error object and no abort either: the host tells the client."""
    command = Command(home, [*RUN, "--timeout", "60"], "call fsd_local.invoke:LocalInvoker.invoke", FSD_HOME=str(small_disk)).at()
    fill(small_disk)
    began = time.monotonic()
    code, _, line = command.go_on().end()
    assert code == 3
    assert "No space left on device" in line
    assert time.monotonic() - began < 60  # it did not wait for its deadline
