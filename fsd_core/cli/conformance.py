"""``fsd conformance``."""

from __future__ import annotations

import click

from fsd_core.cli.options import Command, check_provider, with_settings
from fsd_core.cli.screen import Screen
from fsd_core.config import Settings
from fsd_core.errors import CheckFailed, InputError

__all__ = ["conformance"]


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  fsd conformance --provider local
  fsd conformance --provider aws --live
""",
)
@click.option("--live", is_flag=True, help="Against the account that the SDK finds, not an emulator. It costs a little.")
@with_settings("provider", "emulator")
def conformance(screen: Screen, settings: Settings, live: bool) -> None:
    """Run the conformance suite.

    What every driver of a provider promises, as cases, listed on standard error. Exits 1 if one fails.

    Local needs no --live: this machine is the real service.
    """
    check_provider(settings)
    try:
        from fsd_conformance import run
    except ImportError as error:
        raise InputError(f"the suite cannot be imported: {error}: install fsd-inference[test]") from error
    failed = run(settings.provider, live, settings.table())
    screen.answer({"provider": settings.provider, "live": live, "conforms": not failed})
    if failed:
        raise CheckFailed(f"provider {settings.provider} does not conform: the failed cases are listed above")
    screen.print(f"provider {settings.provider} conforms")
