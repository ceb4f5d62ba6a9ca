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
@click.option("--live", is_flag=True, help="Test the cloud itself, with the account that its SDK finds. The requests cost a little money.")
@click.option("-k", "only", metavar="WORDS", help="Run only cases whose names match, with the syntax of -k of pytest.")
@with_settings("provider", "emulator")
def conformance(screen: Screen, settings: Settings, live: bool, only: str | None) -> None:
    """Test whether a provider keeps the contract of fsd.

    The contract (fsd_core/driver.py) is what fsd expects of the services of a provider. The command runs a test case for each promise of
    the contract and lists the cases on standard error, then the reason of each skipped case. It exits with 1 if a case fails.

    Without --live, the command starts an emulator of the cloud and runs the cases on it. The provider local needs neither --live nor an
    emulator.
    """
    check_provider(settings)
    if live and settings.emulator:
        raise InputError("--live and --emulator: expected only one of them")
    from fsd_core.machine.suite import conformance as conforms

    kept = conforms(settings.provider, settings.table(), live=live, emulator=emulator_name(settings), only=only)
    screen.answer({"provider": settings.provider, "live": live, "conforms": kept})
    if not kept:
        raise CheckFailed(f"provider {settings.provider} does not keep the contract: the failed cases are listed above")
    if only is None:
        screen.print(f"provider {settings.provider} keeps the contract, in all cases that were not skipped")
    else:
        screen.print(f"provider {settings.provider} passes the cases that -k {only!r} selects; without -k all cases run")
