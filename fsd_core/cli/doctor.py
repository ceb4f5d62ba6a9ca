"""``fsd doctor``."""

from __future__ import annotations

import attrs
import click

from fsd_core.cli.options import Command, with_settings
from fsd_core.cli.screen import Screen, pairs
from fsd_core.config import Settings

__all__ = ["doctor"]


@click.command(cls=Command, epilog="Example: fsd doctor")
@with_settings()
def doctor(screen: Screen, settings: Settings) -> None:
    """Show what is installed and how to install the rest."""
    from fsd_core.machine.doctor import doctor as look

    checks = look()
    screen.answer({"checks": [attrs.asdict(check) for check in checks]})
    screen.print(pairs("Found", [(check.name, check.found) for check in checks if check.found]))
    screen.print(pairs("\nNot found", [(check.name, check.hint) for check in checks if not check.found]))
