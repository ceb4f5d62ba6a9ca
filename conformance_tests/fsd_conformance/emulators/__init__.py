"""Emulators of clouds on this machine, without containers and without an account.

`up` starts an emulator that runs until `down`, also for other processes. `use` is a context manager: its block uses the emulator that `up`
started or, if none is up, a new one that ends with the block. A new emulator is a subclass of `Emulator`; the entry point of its provider
in the group ``fsd.emulators`` leads to it, see `harnesses`.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from fsd_conformance.emulators.emulator import Emulator, pointed
from fsd_conformance.emulators.install import folder, locked
from fsd_conformance.emulators.process import Guard, Process, started
from fsd_core.common import interrupt, plugins
from fsd_core.errors import InputError

if TYPE_CHECKING:
    from fsd_conformance.harness import EmulatedHarness

__all__ = ["Emulator", "Running", "Used", "down", "find", "harnesses", "names", "own", "providers", "state", "up", "use"]

E = TypeVar("E", bound=Emulator)


@attrs.frozen
class Running:
    """An emulator that `up` started, as recorded in FSD_HOME. ``started``: seconds since 1970."""

    provider: str
    name: str
    env: Mapping[str, str]
    servers: Mapping[str, Mapping[str, str | int]]  # server name -> pid, born, port, log
    started: float

    def processes(self) -> dict[str, Process]:
        """The servers' processes."""
        return {name: Process(int(server["pid"]), str(server["born"])) for name, server in self.servers.items()}

    def alive(self) -> bool:
        """Whether every server's process still runs."""
        return all(process.alive() for process in self.processes().values())


@attrs.frozen
class Used:
    """The emulator that a client uses. ``settings``: the provider's settings for this emulator; ``own``: the emulator if it ends with the
    block, None if `up` started it.
    """

    name: str
    settings: Mapping[str, object]
    own: Emulator | None


def harnesses(provider: str) -> Mapping[str, Any]:
    """The classes of a provider's harnesses by name, the default first: the object of its entry point in the group ``fsd.emulators``.

    Empty for a provider without such an entry point. Raises `InputError` where the object cannot be imported.
    """
    entry = plugins.entries(plugins.EMULATORS).get(provider)
    if entry is None:
        return {}
    try:
        found: Mapping[str, Any] = entry.load()
    except Exception as error:  # the code of the package may raise anything
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"emulators of {provider}: package {plugins.owner(entry)}: {entry.value} cannot be imported: {why}") from error
    return found


def names(provider: str) -> list[str]:
    """The names of a provider's emulators, the default first. Raises `InputError`, see `harnesses`."""
    return [name for name, harness in harnesses(provider).items() if getattr(harness, "emulator", None)]


def providers() -> list[str]:
    """The installed providers that have an emulator, ascending. One whose package cannot be imported has none."""
    found = []
    for name in plugins.entries(plugins.EMULATORS):
        with contextlib.suppress(InputError):
            found += [name] if names(name) else []
    return found


def find(provider: str, name: str | None = None) -> type[Emulator]:
    """The emulator of this name, or the default. Raises `InputError` where the provider has no such emulator."""
    known = names(provider)
    if not known:
        reason = "runs on this machine and needs no emulator" if harnesses(provider) else "has no emulator"
        raise InputError(f"--emulator: provider {provider} {reason}")
    chosen = name or known[0]
    if chosen not in known:
        raise InputError(f"emulator {chosen!r}: expected one of provider {provider}: {', '.join(known)}")
    harness: type[EmulatedHarness] = harnesses(provider)[chosen]
    return harness.emulator


def state(provider: str) -> Running | None:
    """The record of the emulator that `up` started and `down` has not ended, also if its processes have died; None if no record exists."""
    try:
        return Running(**json.loads(_file(provider).read_text()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError):
        raise InputError(f"{_file(provider)}: expected a record of an emulator; remove the file") from None


def up(provider: str, name: str | None = None, tell: Callable[[str], None] = lambda text: None) -> Running:
    """Start an emulator that continues after this process ends; do nothing if it is already up.

    Raises `InputError` where another emulator of the provider is up, or where the emulator does not start.
    """
    found = find(provider, name)
    with locked(provider):
        running = state(provider)
        if running and running.alive():
            if name not in (None, running.name):
                raise InputError(f"emulators: {running.name} is up for {provider}: end it with `fsd emulators down {provider}` first")
            return running
        if running:
            tell(f"{running.name} did not end properly: starting a new one")
            _end(running)
        found.install(tell)
        home = folder() / provider
        shutil.rmtree(home, ignore_errors=True)
        tell(f"starting {found.name}")
        with _guarded(found, home) as emulator:
            try:
                running = Running(provider, found.name, dict(emulator.env), _servers(emulator), time.time())
                _write(running)
            except BaseException:
                emulator.stop()
                raise
        return running


def down(provider: str) -> Running | None:
    """End the emulator that `up` started, and return its record."""
    find(provider)
    with locked(provider):
        running = state(provider)
        if running:
            _end(running)
        return running


@contextlib.contextmanager
def use(provider: str, name: str | None = None, tell: Callable[[str], None] = lambda text: None) -> Iterator[Used]:
    """Within the block this process uses the emulator that is up, or a new one that ends with the block."""
    found = find(provider, name)
    running = state(provider)
    if running and running.alive() and name in (None, running.name):
        found = find(provider, running.name)
        found.install(tell)
        with pointed(running.env, found.clears):
            yield Used(found.name, found.settings, None)
        return
    with own(found, tell) as emulator:
        yield Used(found.name, found.settings, emulator)


@contextlib.contextmanager
def own(found: type[E], tell: Callable[[str], None] = lambda text: None) -> Iterator[E]:
    """Within the block this process uses a new emulator on free ports; it ends with the block."""
    found.install(tell)
    home = Path(tempfile.mkdtemp(prefix=f"fsd-{found.name}-"))
    tell(f"starting {found.name}")
    try:
        with _guarded(found, home) as emulator:
            try:
                with interrupt.contained(), pointed(emulator.env, found.clears):
                    yield emulator
            finally:
                try:
                    emulator.stop()
                except Exception as error:  # no error here: the block's result is valid, and the guard ends the servers
                    tell(f"{found.name} did not stop by itself: {type(error).__name__}: {error}")
    finally:  # also if it did not start
        shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def _guarded(found: type[E], home: Path) -> Iterator[E]:
    """An emulator that has started. If this process is killed within the block, a guard ends its servers and removes ``home``."""
    guard = Guard(home)
    try:
        yield started(lambda: found(home, guard))
    finally:
        guard.end()


def _servers(emulator: Emulator) -> dict[str, Mapping[str, str | int]]:
    return {
        server.name: {**attrs.asdict(server.process), "port": server.port, "log": str(server.log)}
        for server in emulator.servers
        if server.process
    }


def _file(provider: str) -> Path:
    return folder() / f"{provider}.json"


def _write(running: Running) -> None:
    file = _file(running.provider)
    new = file.with_suffix(".new")
    new.write_text(json.dumps(attrs.asdict(running), indent=1))
    new.replace(file)


def _end(running: Running) -> None:
    for process in reversed(running.processes().values()):
        process.end(10.0)
    shutil.rmtree(folder() / running.provider, ignore_errors=True)
    _file(running.provider).unlink(missing_ok=True)
