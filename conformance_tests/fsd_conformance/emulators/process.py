"""A server process of this machine: a free port, health with a deadline, a log file, and an end that takes all it started along.

Each server leads a session of its own, so Ctrl-C in a terminal does not reach it and its group can be killed as a whole. A
process is known by its number and its birth: a number alone may mean another process by now.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fsd_core.common import interrupt
from fsd_core.errors import InputError
from fsd_core.providers.proxies import local_only

__all__ = ["POINTERS", "Guard", "Process", "Server", "free_port"]

# Provider -> how variables begin that point its SDK at a service or at an account.
POINTERS: Mapping[str, tuple[str, ...]] = {
    "aws": ("AWS_",),
    "gcp": (
        *("GOOGLE_", "CLOUDSDK_", "GCE_METADATA_", "NO_GCE_CHECK"),
        *("PUBSUB_EMULATOR_HOST", "STORAGE_EMULATOR_HOST", "FSD_GCP_ENDPOINT"),
    ),
    "azure": ("AZURE_", "FSD_AZURE_", "IDENTITY_", "MSI_"),
}

_POLL_S = 0.05
_GUARD = """
import os, shutil, signal, sys, time
groups = set()
for line in sys.stdin:
    word, _, what = line.strip().partition(" ")
    if word == "end":
        sys.exit()
    (groups.add if word == "watch" else groups.discard)(int(what))
for number in (signal.SIGTERM, signal.SIGKILL):
    for group in groups:
        try:
            os.killpg(group, number)
        except OSError:
            pass
    time.sleep(3 if number == signal.SIGTERM else 0)
shutil.rmtree(sys.argv[1], ignore_errors=True)
"""


def free_port() -> int:
    """A port of 127.0.0.1 that is free, below those that systems give to clients: it can be taken again after a restart."""
    for port in random.sample(range(20000, 32000), 200):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise InputError("emulators: no port of 127.0.0.1 from 20000 to 32000 is free")


@dataclass(frozen=True)
class Process:
    """The leader of a group of processes: ``pid``, and ``born`` as the system says it."""

    pid: int
    born: str

    @staticmethod
    def of(pid: int) -> Process:
        """The process that has this number now."""
        return Process(pid, _born(pid) or "")

    def alive(self) -> bool:
        """Whether it runs still, and is no other of the same number."""
        return bool(self.born) and _born(self.pid) == self.born

    def end(self, grace_s: float) -> None:
        """Ask the group to end, and kill what of it is left after ``grace_s`` seconds. A process that ended long ago is no error."""
        if not self.alive():
            return
        if grace_s:
            _signal(self.pid, signal.SIGTERM)
        until = time.monotonic() + grace_s
        while self.alive() and time.monotonic() < until:
            time.sleep(_POLL_S)
        _signal(self.pid, signal.SIGKILL)
        while self.alive():
            time.sleep(_POLL_S)


class Guard:
    """Ends servers and removes their folder when this process dies without a word; `end` tells it that all is well."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-I", "-c", _GUARD, str(folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=2, start_new_session=True)

    def tell(self, word: str, pid: int) -> None:
        """``watch`` a group, or ``forget`` it."""
        self._say(f"{word} {pid}")

    def end(self) -> None:
        """Nothing is left to guard."""
        self._say("end")
        self._process.wait()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()


class Server:
    """One server at ``http://host:port``. A subclass says how it is started and asked whether it is well."""

    name: str
    health: str  # the path that answers 2xx once it can be used
    within_s = 120.0  # from its start until it can be used, on a machine that has much else to do
    host = "127.0.0.1"
    grace_s = 10.0  # for its end; 0 where nothing is worth waiting for

    def __init__(self, folder: Path, guard: Guard | None = None) -> None:
        self.folder = folder
        self.port = free_port()
        self.log = folder / f"{self.name}.log"
        self.process: Process | None = None
        self._guard = guard
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address: the same after a restart."""
        return f"http://{self.host}:{self.port}"

    def command(self) -> Sequence[str]:
        """What to run."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        """Of the process: by default this one's, without what points an SDK somewhere, and with no proxy before this machine."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(sum(POINTERS.values(), ()))}
        return {**kept, **local_only(kept)}

    def healthy(self) -> bool:
        """Whether it answers."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=5)  # knows nothing of proxies
        try:
            connection.request("GET", self.health)
            return connection.getresponse().status < 300
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def start(self) -> None:
        """Start it and wait until it can be used. `InputError`: it ended, or took too long; with the end of its log."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log, interrupt.whole():
            self._child = subprocess.Popen(
                list(self.command()),
                env=dict(self.environment()),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            self.process = Process.of(self._child.pid)
            if self._guard:
                self._guard.tell("watch", self._child.pid)
        until = time.monotonic() + self.within_s
        while not self.healthy():
            if self._child.poll() is not None or time.monotonic() > until:
                code = self._child.poll()
                self.stop()
                what = f"did not answer within {self.within_s:.0f} s" if code is None else f"ended with code {code}"
                raise InputError(f"emulator {self.name}: {what}: {self._last_words()}")
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """End it and whatever it started."""
        if self._child is None or self.process is None:
            return
        self.process.end(min(self.grace_s, interrupt.remaining() / 4))  # there may be three more
        _signal(self._child.pid, signal.SIGKILL)  # its leader may have ended before the others of the group
        self._child.wait()
        if self._guard:
            self._guard.tell("forget", self._child.pid)
        self._child = self.process = None

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-3:]
        return " / ".join(line.strip() for line in lines if line.strip())[-600:] or "it said nothing"


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # PermissionError: macOS's for a group of zombies
        os.killpg(group, number)


def _born(pid: int) -> str | None:
    """When a process started, as text that only it has; `None` if there is none or only its exit code is left."""
    if not os.path.isdir("/proc/self"):
        done = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
        state, _, born = done.stdout.strip().partition(" ")
        return born.strip() if born and not state.startswith("Z") else None
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[19] if fields[0] not in "ZX" else None
