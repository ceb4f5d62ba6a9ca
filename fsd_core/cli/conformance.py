"""``fsd conformance``."""

from __future__ import annotations

import click

from fsd_core.cli.options import Command, check_provider, emulator_name, with_settings
from fsd_core.cli.screen import Screen
from fsd_core.config import Settings
from fsd_core.errors import CheckFailed, InputError

__all__ = ["conformance"]


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  fsd conformance --provider local
  fsd conformance --provider aws --emulator=localstack
  fsd conformance --provider aws --live
  fsd conformance --provider azure -k "Message and not Faulty"
""",
)
@click.option("--live", is_flag=True, help="Against the account that the SDK finds, not an emulator. It costs a little.")
@click.option("-k", "only", metavar="WORDS", help="Only cases whose names have these words, as pytest's -k takes them.")
@with_settings("provider", "emulator")
def conformance(screen: Screen, settings: Settings, live: bool, only: str | None) -> None:
    """Run the conformance suite.

    What every driver of a provider promises, as cases, listed on standard error. Exits 1 if one fails.

    Without --live it runs on an emulator of its own. Local needs neither: this machine is the real service.
    """
    check_provider(settings)
    if live and settings.emulator:
        raise InputError("--live and --emulator: one or the other")
    try:
        from fsd_conformance import run
    except ImportError as error:
        raise InputError(f"the suite cannot be imported: {error}: install fsd-inference[test]") from error
    failed = run(settings.provider, live, settings.table(), emulator_name(settings), only)
    screen.answer({"provider": settings.provider, "live": live, "conforms": not failed})
    if failed:
        raise CheckFailed(f"provider {settings.provider} does not conform: the failed cases are listed above")
    screen.print(f"provider {settings.provider} conforms")
