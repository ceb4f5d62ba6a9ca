"""``fsd emulators``: up, down, status."""

from __future__ import annotations

import click

from fsd_core import providers
from fsd_core.cli.options import Group, with_settings
from fsd_core.cli.screen import Screen, pairs
from fsd_core.config import Settings
from fsd_core.errors import InputError

__all__ = ["group"]

CLOUDS = ("aws", "gcp", "azure")


@click.group(name="emulators", cls=Group, no_args_is_help=False)
def group() -> None:
    """Emulators of the clouds on this machine."""


@group.command(epilog="Example: fsd emulators up aws")
@click.argument("cloud", metavar="[aws|gcp|azure]", required=False)
@with_settings()
def up(screen: Screen, settings: Settings, cloud: str | None) -> None:
    """Start the emulators of one cloud, or of all whose provider is installed."""
    _chosen(cloud)


@group.command(epilog="Example: fsd emulators down")
@click.argument("cloud", metavar="[aws|gcp|azure]", required=False)
@with_settings()
def down(screen: Screen, settings: Settings, cloud: str | None) -> None:
    """Stop what `fsd emulators up` started."""
    _chosen(cloud)


@group.command(epilog="Example: fsd emulators status")
@click.argument("cloud", metavar="[aws|gcp|azure]", required=False)
@with_settings()
def status(screen: Screen, settings: Settings, cloud: str | None) -> None:
    """Show which emulators run."""
    states = {
        name: "not running" if name in providers.installed() else "provider not installed"
        for name in ((cloud,) if cloud in CLOUDS else CLOUDS)
    }
    if cloud is not None:
        _known(cloud)
    screen.answer({"emulators": states})
    screen.print(pairs("Emulators", states.items()))


def _known(cloud: str) -> None:
    if cloud == "local":
        raise InputError("emulators: provider local runs on this machine and needs no emulator")
    if cloud not in CLOUDS:
        raise InputError(f"emulators: {cloud!r}: must be one of {', '.join(CLOUDS)}")


def _chosen(cloud: str | None) -> tuple[str, ...]:
    """The clouds to act on. Raises `InputError` where there is none whose provider is installed."""
    if cloud is not None:
        _known(cloud)
    names = providers.installed()
    chosen = tuple(name for name in ((cloud,) if cloud else CLOUDS) if name in names)
    if not chosen:
        raise InputError(f"provider {cloud or ', '.join(CLOUDS)} is not installed; installed: {', '.join(names) or 'none'}")
    raise InputError(f"provider {', '.join(chosen)} has no emulator here")
