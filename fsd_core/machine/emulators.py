"""Emulators of clouds on this machine, for the command and the Python API."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fsd_core import providers
from fsd_core.common import arguments
from fsd_core.errors import InputError

if TYPE_CHECKING:
    from fsd_conformance.emulators import Running
    from fsd_core.client.job import Progress

__all__ = ["emulator", "emulator_states", "start_emulators", "stop_emulators"]


@contextmanager
def emulator(
    provider: str,
    name: str | None = None,
    *,
    settings: Mapping[str, object] | None = None,
    start: bool = True,
    progress: Callable[[Progress], None] | None = None,
) -> Iterator[dict[str, object]]:
    """Within the ``with`` block, this process uses an emulator of a cloud, without an account. Yields the settings to call `run` with::

        with fsd_core.emulator("aws") as settings:
            result = fsd_core.run("radixnet:1024:12", "digits", provider="aws", settings=settings)

    - ``provider``: a provider that has an emulator, for instance aws, gcp or azure.
    - ``name``: the emulator, if the provider has several. Default: the one that runs, else the provider's first.
    - ``settings``: your own settings of the provider. They replace settings of the emulator that have the same key.
    - ``start``: start an emulator for the block if none runs, and stop it at the end of the block. If False, an emulator must already run.
    - ``progress``: called with a `Progress` of phase emulator while software is installed and servers start.

    The block sets environment variables of this process that make the provider's SDK use the emulator, also in other threads. Raises
    `InputError` if the provider has no such emulator, or if the emulator does not run or does not start.
    """
    from fsd_conformance import emulators

    provider, start = arguments.text("provider", provider), arguments.yes_or_no("start", start)
    name = None if name is None else arguments.text("name", name)
    own, tell = arguments.table("settings", settings), _teller(progress, "emulator")
    providers.find(provider)
    emulators.find(provider, name)
    running = emulators.state(provider)
    if not start and not (running and running.alive() and name in (None, running.name)):
        words = f"{provider} --name {name}" if name else provider
        which = f"{name} of {provider}" if name else f"of {provider}"
        raise InputError(f"emulator {which}: does not run: expected a running emulator; start one with: fsd emulators up {words}")
    with emulators.use(provider, name, tell) as used:
        yield {**used.settings, **own}


def start_emulators(
    cloud: str | None = None, name: str | None = None, *, progress: Callable[[Progress], None] | None = None
) -> dict[str, Running]:
    """Start the emulator of one cloud, or of each installed provider that has one. Does nothing where one runs already.

    - ``cloud``: a provider. Default: all.
    - ``name``: the emulator, if ``cloud`` has several.
    - ``progress``: called with a `Progress` whose phase is the cloud.

    The emulators run until `stop_emulators`, or until the machine stops; `emulator` uses them. Returns the running emulators by cloud:
    ``name``, ``env`` (environment variables that make a client of the cloud use the emulator), ``servers`` and ``started`` (seconds since
    1970). Raises `InputError` if the cloud has no such emulator, if another emulator of it runs, or if the emulator does not start.
    """
    from fsd_conformance import emulators

    name = None if name is None else arguments.text("name", name)
    if name is not None and cloud is None:
        raise InputError(f"name {name}: the cloud is missing: expected the cloud of this emulator")
    return {each: emulators.up(each, name, _teller(progress, each)) for each in _chosen(cloud)}


def stop_emulators(cloud: str | None = None) -> dict[str, Running | None]:
    """Stop the emulator of one cloud, or of all clouds. Returns the stopped emulator by cloud; `None` if none ran.

    ``cloud``: a provider. Default: all. Raises `InputError` if the cloud is unknown or has no emulator.
    """
    from fsd_conformance import emulators

    return {each: emulators.down(each) for each in _chosen(cloud)}


def emulator_states(cloud: str | None = None) -> dict[str, Running | None]:
    """The emulators that `start_emulators` started and `stop_emulators` has not stopped, by cloud; `None` if a cloud has none.

    ``cloud``: a provider. Default: all. ``alive()`` of an emulator: whether its servers still run. Raises `InputError` if the cloud is
    unknown.
    """
    from fsd_conformance import emulators

    return {each: emulators.state(each) for each in (emulators.providers() if cloud is None else (_known(cloud),))}


def _teller(progress: Callable[[Progress], None] | None, phase: str) -> Callable[[str], None]:
    from fsd_core.client.job import Progress

    tell = arguments.callback("progress", progress)
    return lambda text: tell(Progress(phase, 0, 0, text)) if tell else None


def _known(cloud: str) -> str:
    if isinstance(cloud, str) and cloud == "local":
        raise InputError("emulators: provider local runs on this machine and needs no emulator: expected a cloud")
    from fsd_conformance import emulators

    known = emulators.providers()
    if not isinstance(cloud, str) or cloud not in known:
        raise InputError(f"emulators: {arguments.shown(cloud)}: expected one of {', '.join(known) or 'none'}")
    return cloud


def _chosen(cloud: str | None) -> list[str]:
    """The clouds to act on. Raises `InputError` if ``cloud`` is not installed or has no emulator."""
    from fsd_conformance import emulators

    names = providers.installed()
    if cloud is None:
        return [each for each in emulators.providers() if each in names]
    if _known(cloud) not in names:
        raise InputError(f"provider {cloud} is not installed: expected one of {', '.join(names) or 'none'}")
    return [cloud]
