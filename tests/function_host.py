"""An emulator of a function platform that a test starts for itself, its functions, and looks at processes."""

from __future__ import annotations

import http.client
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest

__all__ = ["PATIENCE_S", "Host", "ask", "gone", "needs_proc", "package", "parent_of", "state"]

PATIENCE_S = 60.0
PROC = Path("/proc/self").exists()
needs_proc = pytest.mark.skipif(not PROC, reason="looks at processes through /proc")


def package(files: Mapping[str, str]) -> bytes:
    """A deployment package."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return data.getvalue()


def state(pid: int) -> str:
    """R: runs, S: sleeps, T: is stopped, Z: has ended."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def gone(pid: int) -> bool:
    """Whether the process has ended; its parent may not have noticed."""
    try:
        os.kill(pid, 0)
        return PROC and state(pid) == "Z"
    except (ProcessLookupError, FileNotFoundError):
        return True


def ask(port: int, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
    """One request to a server of this machine: status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request(method, path, body, dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class Host:
    """A running one. A subclass says how functions are made and called."""

    module: ClassVar[str]  # of `fsd_conformance.emulators`
    words: ClassVar[tuple[str, ...]] = ()
    hides: ClassVar[tuple[str, ...]] = ()  # variables that it does not get, by how their names begin or end
    listed: ClassVar[str] = "instances"
    names = 0

    def __init__(self, *flags: str, **variables: str) -> None:
        hidden = [name for name in os.environ if name.startswith(self.hides) or name.endswith(self.hides)]
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"fsd_conformance.emulators.{self.module}", "--until-stdin-closes", *self.words, *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**environment, "PYTHONPATH": str(Path(__file__).parent), "EMULATOR_ONLY": "1", **variables},
        )
        assert self.process.stdout is not None
        self.ready = json.loads(self.process.stdout.readline())
        self.set_up()

    def set_up(self) -> None:
        """What comes before the first function."""

    @classmethod
    @contextmanager
    def running(cls, *flags: str, **variables: str) -> Iterator[Self]:
        """Within the block it runs."""
        host = cls(*flags, **variables)
        try:
            yield host
        finally:
            host.stop()

    def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
        """One request: status and body."""
        return ask(self.ready["port"], method, path, body, headers)

    def look(self, what: str) -> Any:
        return json.loads(self.ask("GET", f"/_fsd/{what}")[1])

    def plan(self, **fault: Any) -> None:
        assert self.ask("POST", "/_fsd/faults", json.dumps(fault).encode())[0] == 204

    def new_name(self) -> str:
        self.names += 1
        return f"function-{self.names}"

    def instances(self, name: str) -> Any:
        return self.look(self.listed)[name]

    def create(self, name: str | None = None, **settings: Any) -> str:
        """A function that can be called."""
        raise NotImplementedError

    def post(self, name: str, **event: Any) -> tuple[int, bytes]:
        """One call that waits for its answer: status and body."""
        raise NotImplementedError

    def call(self, name: str, **event: Any) -> Any:
        """The result of a call that must succeed."""
        status, body = self.post(name, **event)
        assert status == 200, body
        return json.loads(body)

    def stop(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(PATIENCE_S)
