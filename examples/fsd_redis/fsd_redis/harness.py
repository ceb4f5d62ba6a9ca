"""Servers on this machine: for a run without the setting ``url``, for ``--emulator``, and for the conformance suite."""

import atexit
import os
import secrets
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from fsd_conformance import emulators
from fsd_conformance.emulators.emulator import Emulator
from fsd_conformance.emulators.process import Guard, Server
from fsd_conformance.harness import EmulatedHarness, Harness, Kind
from fsd_core.driver import Provider, Resources
from fsd_core.errors import InputError
from fsd_redis.invoke import SECRET
from fsd_redis.settings import PASSWORD, TOKEN, URL, WORKERS


class RedisServer(Server):
    """A Redis without a disk, which asks for a password."""

    name = "redis"

    def __init__(self, folder: Path, guard: Guard | None, password: str) -> None:
        super().__init__(folder, guard)
        self._password = password

    def command(self) -> Sequence[str]:
        """The command. The password is in a file that only this user can read, because all users can see a command line."""
        file = self.folder / "redis.conf"
        file.unlink(missing_ok=True)
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(f"port {self.port}\nbind {self.host}\nsave ''\nappendonly no\nrequirepass {self._password}\n")
        return ["redis-server", str(file)]

    def healthy(self) -> bool:
        """Whether Redis answers. The answer that it needs a password counts too."""
        with suppress(OSError), socket.create_connection((self.host, self.port), timeout=5) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        return False


class WorkerHost(Server):
    """A worker host."""

    name = "worker"
    health = "/"

    def __init__(self, folder: Path, guard: Guard | None, env: Callable[[], Mapping[str, str]]) -> None:
        super().__init__(folder, guard)
        self._env = env

    def command(self) -> Sequence[str]:
        """The command of the package."""
        return [sys.executable, "-P", "-m", "fsd_redis.worker", "--listen", f"{self.host}:{self.port}"]

    def healthy(self) -> bool:
        """Whether the host answers, and accepts the token."""
        asked = Request(self.url, headers={SECRET: self._env()[TOKEN]})
        with suppress(OSError), urlopen(asked, timeout=5):
            return True
        return False

    def environment(self) -> Mapping[str, str]:
        """The variables of the host: with the secrets, and with the variables AWS_* of an S3-compatible store."""
        store = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        return {**super().environment(), **store, **self._env()}


class Here(Emulator):
    """A Redis and a worker host on this machine."""

    name = "redis-server"
    clears = ("FSD_REDIS_",)

    def __init__(self, folder: Path, guard: Guard | None = None) -> None:
        password = secrets.token_hex(16)
        server, worker = RedisServer(folder, guard, password), WorkerHost(folder, guard, lambda: self.env)
        self.servers = (server, worker)
        self.env = {
            URL: f"redis://127.0.0.1:{server.port}/0",
            WORKERS: worker.url,
            PASSWORD: password,
            TOKEN: secrets.token_hex(16),
        }

    @staticmethod
    def install(tell: Callable[[str], None]) -> None:
        """Raise `InputError` if Redis is missing: only the system's package manager can install it."""
        if shutil.which("redis-server") is None:
            raise InputError("redis-server is not found: expected it on PATH: apt-get install redis-server, or set [redis] url")


class RedisHarness(EmulatedHarness):
    """The provider on this machine."""

    name = "redis-server"
    emulator = Here
    lease_s = 1.0
    few: Mapping[str, object] | None = {"concurrency": 2}

    def provider(self) -> Provider:
        """The provider."""
        from fsd_redis import PROVIDER

        return PROVIDER

    def finds(self, kind: Kind, native: Any, resources: Resources, what: str) -> bool:
        """Whether the SDK's object ``native`` finds what the suite wrote through the driver."""
        from fsd_redis.client import name
        from fsd_redis.messages import queue

        match kind:
            case "messages":
                return bool(native.exists(queue(resources.app, 0, 0)))
            case "objects":
                return bool(native.exists(name(resources.app, "object", what)))
            case "functions":
                return len(native) == len(resources.names["workers"].split(","))


HARNESSES: Mapping[str, type[Harness]] = {RedisHarness.name: RedisHarness}
_one = threading.Lock()


def here() -> None:
    """Set this process's variables for the servers of ``fsd emulators up redis``, or for new servers that end with this process."""
    with _one:
        if URL not in os.environ:
            stack = ExitStack()
            atexit.register(stack.close)
            stack.enter_context(emulators.use("redis"))
