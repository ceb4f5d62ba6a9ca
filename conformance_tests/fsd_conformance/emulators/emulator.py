"""One emulator of a cloud: its servers, and the environment of its clients."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from fsd_conformance.emulators.process import Guard, Server
from fsd_core.providers.proxies import keep_local

__all__ = ["Emulator", "pointed"]

# Modules of SDKs that read the environment only when they are imported.
_READ_ONCE = ("google.auth.compute_engine._metadata",)


class Emulator:
    """One emulator. A subclass sets ``servers``, in the order in which they start, and ``env``, the variables of clients."""

    name: ClassVar[str]
    clears: ClassVar[tuple[str, ...]]  # prefixes of variables that point an SDK somewhere: only those in ``env`` stay
    settings: ClassVar[Mapping[str, object]] = {}  # the provider's settings for this emulator
    servers: tuple[Server, ...]
    env: Mapping[str, str]

    def __init__(self, folder: Path, guard: Guard | None = None) -> None:
        """``folder``: for logs and other files; ``guard``: watches the servers."""
        raise NotImplementedError

    @staticmethod
    def install(tell: Callable[[str], None]) -> None:
        """Install missing packages, and pass lines of progress to ``tell``. Quick if nothing is missing. Raises `InputError` where an
        installation fails.
        """

    def start(self) -> None:
        """Start all servers, and return when all are ready. If one does not start, this ends the others and raises."""
        try:
            for server in self.servers:
                server.start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all servers."""
        for server in reversed(self.servers):
            server.stop()

    def restart(self) -> None:
        """Stop all servers and start them again, without their data, at the same addresses."""
        self.stop()
        self.start()

    def healthy(self) -> bool:
        """Whether all servers answer."""
        return all(server.healthy() for server in self.servers)


@contextlib.contextmanager
def pointed(env: Mapping[str, str], clears: tuple[str, ...]) -> Iterator[None]:
    """Within the block this process uses an emulator: ``env`` is set, variables that begin with one of ``clears`` are removed."""
    before = dict(os.environ)
    for name in before:
        if name.startswith(clears):
            del os.environ[name]
    os.environ.update({name: value for name, value in env.items() if name.lower() != "no_proxy"})  # the user's own value counts too
    keep_local(os.environ, always=True)
    _read_again()
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            if name.startswith(clears) or name in env or name.lower() == "no_proxy":
                del os.environ[name]
        os.environ.update(
            {name: value for name, value in before.items() if name.startswith(clears) or name in env or name.lower() == "no_proxy"}
        )
        _read_again()


def _read_again() -> None:
    for name in _READ_ONCE:
        if name in sys.modules:
            importlib.reload(sys.modules[name])
