"""Emulators: servers that start, stop and leave nothing, whatever process dies; what `fsd emulators` keeps; `--emulator`."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fsd_conformance import emulators
from fsd_conformance.emulators import install
from fsd_conformance.emulators.emulator import Emulator, pointed
from fsd_conformance.emulators.process import Guard, PortTaken, Process, Server, free_port, started
from fsd_core.cli import main
from fsd_core.errors import InputError
from waiting import until

WITHIN_S = 60


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A new home, at whose end nothing is up."""
    monkeypatch.setenv("FSD_HOME", str(tmp_path / "home"))
    yield tmp_path / "home"
    for provider in emulators.providers():
        emulators.down(provider)


@pytest.fixture
def fsd(home, capfd, tmp_path, monkeypatch):
    """Run the command in this process: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(word) for word in words])
        return code, *capfd.readouterr()

    return call


class Tiny(Server):
    """An HTTP server with a child, which stands for what an emulator starts."""

    name = "tiny"
    health = "/"
    program = textwrap.dedent("""
        import http.server, subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print("child", child.pid, flush=True)
        http.server.test(http.server.SimpleHTTPRequestHandler, port=int(sys.argv[1]), bind="127.0.0.1")
    """)

    def command(self):
        return [sys.executable, "-c", self.program, str(self.port)]

    def child(self) -> Process:
        return Process.of(int(self.log.read_text().split()[1]))


class TinyEmulator(Emulator):
    name = "tiny"
    clears = ("TINY_",)

    def __init__(self, folder, guard=None):
        self.servers = (Tiny(folder, guard), Tiny(folder / "second", guard))
        self.env = {"TINY_URL": self.servers[0].url}


# servers


def test_a_server_starts_and_takes_its_children_along(tmp_path):
    server = Tiny(tmp_path / "folder")
    server.start()
    process, child, port = server.process, server.child(), server.port
    assert server.healthy()
    assert process.alive()
    assert child.alive()
    server.stop()
    assert not process.alive()
    until(lambda: not child.alive())
    assert not server.healthy()
    server.stop()
    server.start()
    assert server.port == port
    assert server.process != process
    server.stop()


def test_children_of_a_server_that_died_are_ended_as_well(tmp_path):
    server = Tiny(tmp_path)
    server.start()
    child = server.child()
    os.kill(server.process.pid, signal.SIGKILL)
    until(lambda: not server.process.alive())
    server.stop()
    until(lambda: not child.alive())


def test_a_server_that_ends_says_why(tmp_path):
    class Broken(Tiny):
        program = "print('the reason is this'); import sys; sys.exit(7)"

    server = Broken(tmp_path)
    with pytest.raises(InputError, match=r"emulator tiny: ended with code 7: the reason is this"):
        server.start()
    assert server.process is None


def test_a_server_whose_port_is_taken_draws_another_one(tmp_path):
    """Taken before its process starts, and while it starts. Once it has started, its address stays."""

    class Late(Tiny):
        program = f"""
import os, sys
if not os.path.exists("again"):
    open("again", "w").close()
    sys.exit("OSError: [Errno 98] error while attempting to bind on address ('127.0.0.1', " + sys.argv[1] + "): address already in use")
{Tiny.program}"""

        def child(self):
            return Process.of(int(self.log.read_text().rpartition("child")[2].split()[0]))

    made = []
    with socket.socket() as other:

        def make():
            made.append(Late(tmp_path))
            if len(made) == 1:
                other.bind(("127.0.0.1", made[0].port))
                other.listen()
            return made[-1]

        server = started(make)
    assert (len(made), server) == (3, made[2])
    child = server.child()
    server.stop()
    until(lambda: not child.alive())
    (tmp_path / "again").unlink()
    with pytest.raises(PortTaken, match=rf"emulator tiny: ended with code 1: .*{server.port}.*address already in use"):
        server.start()
    assert len(made) == 3


def test_a_guard_leaves_no_pipe_open(tmp_path):
    guard = Guard(tmp_path / "folder")
    guard.end()
    assert guard._process.stdin.closed


def test_a_server_that_does_not_answer_is_given_up(tmp_path):
    class Silent(Tiny):
        program = "import time; time.sleep(600)"
        within_s = 0.5

    server = Silent(tmp_path)
    with pytest.raises(InputError, match=r"did not answer within 0 s: its log is empty"):
        server.start()
    assert server.process is None


def test_a_number_that_another_process_has_now_is_left_alone():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True) as other:
        stale = Process(other.pid, "long ago")
        assert not stale.alive()
        stale.end(1.0)
        assert other.poll() is None
        same = Process.of(other.pid)
        assert same.alive()
        same.end(0.0)
        assert other.wait(WITHIN_S) == -signal.SIGKILL
    assert not Process.of(other.pid).alive()


def test_free_ports_differ():
    assert len({free_port() for _ in range(20)}) > 10


def test_all_servers_start_or_none(tmp_path):
    class Half(TinyEmulator):
        def __init__(self, folder, guard=None):
            super().__init__(folder, guard)
            self.servers[1].program = "raise SystemExit(1)"

    half = Half(tmp_path)
    with pytest.raises(InputError, match="ended with code 1"):
        half.start()
    assert not half.servers[0].healthy()
    assert not half.healthy()


# who uses them


def test_pointed_takes_back_what_it_changed(monkeypatch):
    monkeypatch.setenv("TINY_URL", "before")
    monkeypatch.setenv("TINY_KEY", "secret")
    monkeypatch.delenv("OTHER", raising=False)
    before = dict(os.environ)
    with pointed({"TINY_URL": "x", "OTHER": "y"}, ("TINY_",)):
        assert (os.environ["TINY_URL"], os.environ["OTHER"]) == ("x", "y")
        assert "TINY_KEY" not in os.environ
        os.environ["TINY_MORE"] = "z"
    assert dict(os.environ) == before


def test_one_of_its_own_ends_with_its_block():
    with pytest.raises(KeyboardInterrupt), emulators.own(TinyEmulator) as tiny:  # noqa: PT012  # what it leaves is the point
        processes = [server.process for server in tiny.servers]
        assert os.environ["TINY_URL"] == tiny.servers[0].url
        assert tiny.healthy()
        tiny.restart()
        assert not any(process.alive() for process in processes)
        processes = [server.process for server in tiny.servers]
        folder = tiny.servers[0].folder
        raise KeyboardInterrupt
    assert not any(process.alive() for process in processes)
    assert not folder.exists()
    assert "TINY_URL" not in os.environ


def test_nothing_is_left_of_a_client_that_was_killed():
    program = textwrap.dedent("""
        import json, sys, time
        sys.path.insert(0, sys.argv[1])
        from test_emulators import TinyEmulator, emulators
        with emulators.own(TinyEmulator) as tiny:
            print(json.dumps([[s.process.pid, s.child().pid] for s in tiny.servers] + [[str(tiny.servers[0].folder)]]), flush=True)
            time.sleep(600)
    """)
    with subprocess.Popen([sys.executable, "-c", program, str(Path(__file__).parent)], stdout=subprocess.PIPE) as client:
        *pids, [folder] = json.loads(client.stdout.readline())
        processes = [Process.of(pid) for pair in pids for pid in pair]
        assert len(processes) == 4
        assert all(process.alive() for process in processes)
        client.kill()
    until(lambda: not any(process.alive() for process in processes))
    until(lambda: not Path(folder).exists())


def test_names_and_what_is_refused():
    assert emulators.names("aws") == ["moto", "localstack"]
    assert emulators.names("gcp") == ["google"]
    assert emulators.names("azure") == ["azure"]
    for provider, name, words in (
        ("local", None, "needs no emulator"),
        ("other", None, "provider other has no emulator"),
        ("aws", "x", "moto, localstack"),
    ):
        with pytest.raises(InputError, match=words):
            emulators.find(provider, name)


# getting what is missing


def test_an_installation_is_made_once_and_whole(home):
    made, told = [], []
    target = install.folder() / "thing"

    def make() -> None:
        target.mkdir(parents=True)
        made.append(threading.get_ident())
        (target / "half").touch()
        if len(made) == 1:
            raise KeyboardInterrupt
        time.sleep(0.1)

    with pytest.raises(KeyboardInterrupt):
        install._once(target, "v1", make, told.append)
    with ThreadPoolExecutor(3) as pool:
        for each in [pool.submit(install._once, target, "v1", make, told.append) for _ in range(3)]:
            each.result()
    assert len(made) == 2
    install._once(target, "v2", make, told.append)
    assert len(made) == 3
    assert any("installing thing" in line for line in told)


def test_what_cannot_be_installed_says_so(home):
    with pytest.raises(InputError, match=r"thing cannot be installed: pip ended with 1: .*no-such-file"):
        install._pip([sys.executable, "-m", "pip", "install", "./no-such-file.whl"], "thing", lambda line: None)


def test_wheels_are_kept_as_their_hashes_say(home, tmp_path):
    wheel, pins = tmp_path / "thing-1.0-py3-none-any.whl", tmp_path / "things.txt"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("thing-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
        archive.writestr("thing-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    told: list[str] = []
    pins.write_text(f"thing @ {wheel.as_uri()} --hash=sha256:{'0' * 64}\n")
    for _ in range(2):  # what failed is no installation
        with pytest.raises(InputError, match=r"wheels-things cannot be installed: pip ended with 1: "):
            install.wheels(pins, told.append)
    pins.write_text(f"thing @ {wheel.as_uri()} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")
    for _ in range(2):
        assert [each.read_bytes() for each in install.wheels(pins, told.append).glob("*.whl")] == [wheel.read_bytes()]
    assert sum("installing wheels-things" in line for line in told) == 3


def test_what_is_there_is_not_installed(home, monkeypatch):
    before = list(sys.path)
    install.packages(("aws", "emulators"), lambda line: pytest.fail(line))
    assert sys.path == before
    assert not home.exists()


# the commands


def servers() -> dict[str, Process]:
    running = emulators.state("aws")
    assert running is not None
    return running.processes()


def test_what_up_prints_can_be_pasted(fsd, monkeypatch):
    told = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "STRINGS": "Endpoint=sb://a;Key=k; Endpoint=sb://b;Key='$HOME'"}
    monkeypatch.setattr(emulators, "up", lambda *_: emulators.Running("aws", "moto", told, {}, 0.0))
    code, out, err = fsd("emulators", "up", "aws")
    assert code == 0, err
    lines = [line for line in out.splitlines() if line.startswith("export ")]
    pasted = "\n".join([*lines, f"{sys.executable} -c 'import json, os; print(json.dumps(dict(os.environ)))'"])
    done = subprocess.run(["bash", "-c", pasted], capture_output=True, text=True, check=True)
    assert {name: json.loads(done.stdout)[name] for name in told} == told


def test_up_is_up_until_down(fsd, home):
    code, out, err = fsd("emulators", "up", "aws", "--json")
    assert code == 0, err
    first = json.loads(out)["emulators"]["aws"]
    assert (first["name"], first["state"]) == ("moto", "running")
    assert first["servers"].keys() == {"moto", "lambda"}
    assert first["env"]["AWS_ENDPOINT_URL"] == first["servers"]["moto"]["url"]
    code, out, _ = fsd("emulators", "up", "aws", "--json")
    assert json.loads(out)["emulators"]["aws"] == first
    code, out, _ = fsd("emulators", "up", "aws")
    assert f"export AWS_ENDPOINT_URL={first['servers']['moto']['url']}\n" in out
    code, out, _ = fsd("emulators", "status", "--json")
    assert json.loads(out)["emulators"]["aws"] == first
    code, out, _ = fsd("emulators", "status")
    assert first["servers"]["lambda"]["url"] in out
    code, _, err = fsd("emulators", "up", "aws", "--name", "localstack")
    assert code == 2
    assert "moto is up for aws" in err
    assert all(process.alive() for process in servers().values())
    before = servers()
    code, out, _ = fsd("emulators", "down", "--json")
    stopped = {cloud: {"stopped": "moto" if cloud == "aws" else None} for cloud in emulators.providers()}
    assert (code, json.loads(out)) == (0, {"emulators": stopped})
    assert not any(process.alive() for process in before.values())
    assert emulators.state("aws") is None
    assert {path.name for path in (home / "emulators").iterdir()} == {f"{cloud}.lock" for cloud in emulators.providers()}
    code, out, _ = fsd("emulators", "down", "aws", "--json")
    assert (code, json.loads(out)) == (0, {"emulators": {"aws": {"stopped": None}}})


def test_what_died_is_noticed_and_begun_anew(fsd, home):
    assert fsd("emulators", "up", "aws")[0] == 0
    before = servers()
    os.kill(before["moto"].pid, signal.SIGKILL)
    until(lambda: not before["moto"].alive())
    code, out, _ = fsd("emulators", "status", "--json")
    state = json.loads(out)["emulators"]["aws"]
    assert (state["state"], state["servers"]["moto"]["alive"], state["servers"]["lambda"]["alive"]) == ("dead", False, True)
    code, _, err = fsd("destroy", "--provider", "aws", "--emulator")
    assert code == 2
    assert "fsd emulators up aws" in err
    code, _, err = fsd("emulators", "up", "aws")
    assert code == 0
    assert "starting a new one" in err
    after = servers()
    assert all(process.alive() for process in after.values())
    assert not before["lambda"].alive()


def test_two_at_once_start_one(home):
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(emulators.up, ["aws", "aws"])
    assert first == second
    assert first.alive()


def test_a_record_that_is_none_is_named(home):
    install.folder().mkdir(parents=True)
    record = install.folder() / "aws.json"
    record.write_text("{}")
    with pytest.raises(InputError, match=r"aws\.json: expected a record of an emulator"):
        emulators.state("aws")
    record.unlink()


# a run


NET = ["run", "radixnet:1024:6", "random:40", "--provider", "aws", "--workers", "2", "--partition", "block"]


@pytest.fixture
def place(tmp_path, home, monkeypatch):
    """What is needed to run the command as a process that leaves traces nowhere but here; at the end there are none."""
    there = tmp_path / "tmp"
    there.mkdir()
    yield {"cwd": tmp_path, "env": {**os.environ, "TMPDIR": str(there)}}
    until(lambda: not list(there.iterdir()) and not processes_of(there))


def processes_of(folder: Path) -> list[str]:
    """The command lines of processes that were started with this TMPDIR."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"TMPDIR={folder}\0".encode() in (process / "environ").read_bytes() + b"\0" and Process.of(int(process.name)).born:
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def test_a_run_on_an_emulator_of_its_own(place):
    words = [sys.executable, "-m", "fsd_core.cli", *NET, "--emulator", "--json"]
    done = subprocess.run(words, **place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["provider"], answer["samples"], answer["workers"]) == ("aws", 40, 2)
    assert answer["meter"]["invocations"] >= 2  # one that starts late is launched again
    assert "starting moto" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_nothing_is_left_of_a_run_that_was_interrupted(place, number, code):
    words = [sys.executable, "-m", "fsd_core.cli", *NET, "--emulator=moto", "--channel", "queue", "--faults", "delay=5s"]
    with subprocess.Popen(words, **place, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        while "launch" not in (line := process.stderr.readline()):
            assert line, "ended before it launched"
        assert len(processes_of(Path(place["env"]["TMPDIR"]))) >= 4 or not os.path.isdir("/proc/self")
        process.send_signal(number)
        process.stderr.read()
        assert process.wait(WITHIN_S) == code


def test_a_run_fails_and_nothing_is_left(place):
    words = [sys.executable, "-m", "fsd_core.cli", *NET, "--emulator", "--timeout", "0.01"]
    done = subprocess.run(words, **place, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "DEADLINE" in done.stderr.splitlines()[-1]


def test_what_is_up_is_used_by_all_commands(fsd):
    assert fsd("emulators", "up", "aws")[0] == 0
    before = servers()
    code, out, err = fsd("deploy", "--provider", "aws", "--emulator", "--app", "mine", "--workers", 2, "--json")
    assert code == 0, err
    assert json.loads(out)["app"] == "mine"
    for _ in range(2):
        code, out, err = fsd(*NET, "--emulator", "--app", "mine", "--json")
        assert code == 0, err
    assert json.loads(out)["output_nonzero_samples"] > 0
    for command in ("gc", "clean"):
        code, _, err = fsd(command, "--provider", "aws", "--emulator=moto", "--app", "mine")
        assert code == 0, err
    code, out, err = fsd("destroy", "--provider", "aws", "--emulator", "--app", "mine", "--json")
    assert code == 0, err
    assert json.loads(out)["removed"]
    assert servers() == before
    assert not [name for name in os.environ if name.startswith("AWS_ENDPOINT")]
