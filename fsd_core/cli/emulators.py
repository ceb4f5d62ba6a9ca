"""``fsd emulators up``, ``down`` and ``status``."""

from __future__ import annotations

import shlex
import time
from typing import TYPE_CHECKING, Any

import click

from fsd_core import providers
from fsd_core.cli.options import Group, reporting, with_settings
from fsd_core.cli.screen import Screen, pairs
from fsd_core.config import Settings
from fsd_core.errors import InputError
from fsd_core.machine.emulators import emulator_states, start_emulators, stop_emulators

if TYPE_CHECKING:
    from fsd_conformance.emulators import Running

__all__ = ["group"]

CLOUD = click.argument("cloud", metavar="[PROVIDER]", required=False)


@click.group(name="emulators", cls=Group, no_args_is_help=False)
def group() -> None:
    """Start and stop emulators of clouds on this machine."""


@group.command(
    epilog="""\b
Examples:
  fsd emulators up aws
  fsd emulators up aws --name localstack
"""
)
@CLOUD
@click.option("--name", metavar="NAME", help="Name of the emulator, if the cloud has several.")
@with_settings()
def up(screen: Screen, settings: Settings, cloud: str | None, name: str | None) -> None:
    """Start the emulators of one cloud, or of all clouds.

    Without PROVIDER, starts an emulator for each installed provider. Emulators run until fsd emulators down, or until the machine stops. If
    an emulator needs software that is missing, the command installs it below FSD_HOME. Commands of fsd use an emulator with --emulator. For
    other programs, the command prints environment variables that make a client of the cloud use the emulator.
    """
    if name and not cloud:
        raise InputError(f"--name {name}: the cloud is missing: expected fsd emulators up CLOUD --name {name}")
    with screen.progress() as show:
        states = start_emulators(cloud, name, progress=reporting(show))
    screen.answer({"emulators": {each: _fields(running) for each, running in states.items()}})
    for each, running in states.items():
        screen.print(
            pairs(each, _rows(running)),
            *(f"export {key}={shlex.quote(value)}" for key, value in running.env.items()),
            f"{each}: to use it, add --emulator to a command, or emulator = true to fsd.toml",
        )


@group.command(epilog="Example: fsd emulators down")
@CLOUD
@with_settings()
def down(screen: Screen, settings: Settings, cloud: str | None) -> None:
    """Stop the emulators of one cloud, or of all clouds."""
    ended = stop_emulators(cloud)
    screen.answer({"emulators": {each: {"stopped": running.name if running else None} for each, running in ended.items()}})
    screen.print(pairs("Emulators", [(each, f"{running.name}: stopped" if running else "not running") for each, running in ended.items()]))


@group.command(epilog="Example: fsd emulators status")
@CLOUD
@with_settings()
def status(screen: Screen, settings: Settings, cloud: str | None) -> None:
    """Show which emulators are running."""
    rows, states = [], {}
    for each, running in emulator_states(cloud).items():
        if running:
            states[each] = _fields(running)
            rows += _rows(running)
        else:
            installed = each in providers.installed()
            word = "not running" if installed else "provider not installed"
            states[each] = {"state": word}
            rows.append((each, word))
    screen.answer({"emulators": states})
    screen.print(pairs("Emulators", rows))


def _fields(running: Running) -> dict[str, Any]:
    """The state of an emulator as values that JSON can hold."""
    servers = {
        name: {**running.servers[name], "alive": process.alive(), "url": f"http://127.0.0.1:{running.servers[name]['port']}"}
        for name, process in running.processes().items()
    }
    state = "running" if running.alive() else "dead"
    return {"state": state, "name": running.name, "started": running.started, "servers": servers, "env": dict(running.env)}


def _rows(running: Running) -> list[tuple[str, str]]:
    """The state of an emulator as rows of a table for people."""
    fields = _fields(running)
    dead = "" if running.alive() else f": fsd emulators up {running.provider} starts it again"
    rows = [(running.provider, f"{running.name}, {fields['state']}, since {time.strftime('%F %T', time.localtime(running.started))}{dead}")]
    for name, server in fields["servers"].items():
        rows.append((f"  {name}", f"{server['url']}, process {server['pid']}{'' if server['alive'] else ' (ended)'}, {server['log']}"))
    return rows
