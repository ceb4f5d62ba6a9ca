"""Runs a server as a process on this machine: finds a free port, waits for its health check, keeps its log, and ends it with its children.

Each server leads its own session, so Ctrl-C in a terminal does not reach it, and its group can be killed as a whole. A process is
identified by its PID and its start time, since a later process may have the same PID.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import attrs

from fsd_core.common import interrupt
from fsd_core.errors import InputError
from fsd_core.providers.proxies import local_only

__all__ = ["POINTERS", "Guard", "PortTaken", "Process", "Server", "free_port", "started"]

# By provider: prefixes of variables that point its SDK at a service or an account.
POINTERS: Mapping[str, tuple[str, ...]] = {
    "aws": ("AWS_",),
    "gcp": (
        *("GOOGLE_", "CLOUDSDK_", "GCE_METADATA_", "NO_GCE_CHECK"),
        *("PUBSUB_EMULATOR_HOST", "STORAGE_EMULATOR_HOST", "FSD_GCP_ENDPOINT"),
    ),
    "azure": ("AZURE_", "FSD_AZURE_", "IDENTITY_", "MSI_"),
}

_POLL_S = 0.05
_DRAWS = 5  # so often a server draws ports until all are free
_TAKEN = re.compile(r"address already in use|EADDRINUSE", re.IGNORECASE)  # in the log of a server that could not get its port
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
    """A free port of 127.0.0.1. It is lower than the ports that the kernel gives to clients, so it remains free for a restart."""
    for port in random.sample(range(20000, 32000), 200):
        if _is_free(port):
            return port
    raise InputError("emulators: no port of 127.0.0.1 from 20000 to 32000 is free")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@attrs.frozen
class Process:
    """The leader of a process group. ``born``: the start time of the process, as text of the operating system."""

    pid: int
    born: str

    @staticmethod
    def of(pid: int) -> Process:
        """The process that has this PID now."""
        return Process(pid, _born(pid) or "")

    def alive(self) -> bool:
        """Whether the process still runs. A later process with the same PID does not count."""
        return bool(self.born) and _born(self.pid) == self.born

    def end(self, grace_s: float) -> None:
        """Send SIGTERM to the group, and kill the processes that still run after ``grace_s`` seconds. Does nothing where the process has
        ended.
        """
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
    """A process that ends the servers and removes their folder if this process dies. `end` ends the guard itself."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-I", "-c", _GUARD, str(folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=2, start_new_session=True)

    def send(self, word: str, pid: int) -> None:
        """Order the guard to ``watch`` a group, or to ``forget`` it."""
        self._write(f"{word} {pid}")

    def end(self) -> None:
        """End the guard; the servers continue."""
        assert self._process.stdin is not None
        self._write("end")
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()


class PortTaken(InputError):
    """Another process has a port that the server needs."""


class Starts(Protocol):
    """A server, or an emulator of several servers."""

    def start(self) -> None:
        """Start it. Raises `PortTaken`."""


S = TypeVar("S", bound=Starts)


def started(make: Callable[[], S]) -> S:
    """What ``make`` returns, started. If another process has taken one of its ports, the next one that ``make`` returns draws others."""
    for _ in range(_DRAWS - 1):
        with contextlib.suppress(PortTaken):
            made = make()
            made.start()
            return made
    made = make()
    made.start()
    return made


class Server:
    """One server at ``http://host:port``. A subclass defines its command and its health check.

    Another process may take the port before the first start: `started` then makes another server.
    """

    name: str
    health: str  # the path that answers 2xx once the server is ready
    within_s = 120.0  # seconds from the start until the server is ready, on a busy machine
    host = "127.0.0.1"
    grace_s = 10.0  # seconds for the server to end by itself; 0: kill it at once

    def __init__(self, folder: Path, guard: Guard | None = None) -> None:
        self.folder = folder
        self.port = free_port()
        self.log = folder / f"{self.name}.log"
        self.process: Process | None = None
        self._guard = guard
        self._child: subprocess.Popen[bytes] | None = None
        self._new = True

    @property
    def url(self) -> str:
        """The URL of the server, which does not change after a restart."""
        return f"http://{self.host}:{self.port}"

    def command(self) -> Sequence[str]:
        """The command line."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        """This process's environment, without variables that hold an SDK's endpoint or credentials, and without HTTP proxies for this
        machine.
        """
        kept = {name: value for name, value in os.environ.items() if not name.startswith(sum(POINTERS.values(), ()))}
        return {**kept, **local_only(kept)}

    def healthy(self) -> bool:
        """Whether the server answers the health check."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=5)  # this class uses no HTTP proxy
        try:
            connection.request("GET", self.health)
            return connection.getresponse().status < 300
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def start(self) -> None:
        """Start the server, and wait until it is ready. Raises `InputError` with the last lines of its log if the server ends, or is not
        ready in time; `PortTaken` if another process has its port.
        """
        if self._new and not _is_free(self.port):  # the other one might answer the health check
            raise PortTaken(f"emulator {self.name}: another process has taken port {self.port}; start the emulator again")
        self._new = False
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log, interrupt.whole():
            said = log.tell()
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
                self._guard.send("watch", self._child.pid)
        until = time.monotonic() + self.within_s
        while not self.healthy() or self._child.poll() is not None:
            if self._child.poll() is not None or time.monotonic() > until:
                code = self._child.poll()
                self.stop()
                what = f"did not answer within {self.within_s:.0f} s" if code is None else f"ended with code {code}"
                taken = _TAKEN.search(self.log.read_bytes()[said:].decode(errors="replace"))
                raise (PortTaken if taken else InputError)(f"emulator {self.name}: {what}: {self._log_end()}")
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """End the server and its children."""
        if self._child is None or self.process is None:
            return
        self.process.end(min(self.grace_s, interrupt.remaining() / 4))  # up to three more servers need time
        _signal(self._child.pid, signal.SIGKILL)  # the leader may have ended before the rest of its group
        self._child.wait()
        if self._guard:
            self._guard.send("forget", self._child.pid)
        self._child = self.process = None

    def _log_end(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-3:]
        return " / ".join(line.strip() for line in lines if line.strip())[-600:] or "its log is empty"


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # PermissionError: macOS raises it for a group of zombies
        os.killpg(group, number)


def _born(pid: int) -> str | None:
    """The start time of a process, as text; None where the process does not exist, or has ended and only its exit code remains."""
    if not os.path.isdir("/proc/self"):
        done = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
        state, _, born = done.stdout.strip().partition(" ")
        return born.strip() if born and not state.startswith("Z") else None
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[19] if fields[0] not in "ZX" else None
