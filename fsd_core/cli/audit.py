"""``fsd audit``, and the group of ``fsd audit log``."""

from __future__ import annotations

from typing import Any

import attrs
import click
from click.core import ParameterSource

from fsd_core.cli.audit_log import log
from fsd_core.cli.options import Command, check_provider, emulated, reporting, with_settings
from fsd_core.cli.screen import Screen
from fsd_core.config import Settings
from fsd_core.errors import CheckFailed, InputError

__all__ = ["audit"]


class _Audit(Command, click.Group):
    """A command that has subcommands too."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand, or the command itself if none is given. Each of them prints only its answer on standard output."""
        return click.Group.invoke(self, ctx)


@click.group(
    cls=_Audit,
    invoke_without_command=True,
    epilog="""\b
Examples:
  fsd audit --provider aws --app mine
  fsd audit --provider aws --app mine --json
  fsd audit log --provider aws --app mine --verify
""",
)
@with_settings("provider", "app", "emulator")
def audit(screen: Screen, settings: Settings) -> None:
    """Show whether a deployed app keeps the promises about its security.

    Compares the deployed app with what this version of fsd deploys, and changes nothing. The promises: encryption at rest and in transit,
    no public access, roles that allow only the actions that fsd uses, logs and how long they are kept, the deletion of old objects, and who
    changed the app last if the platform says so. If your credentials may not read a setting, its promise counts as broken. Exits with 1 if
    a promise does not hold, with 2 if the app is not deployed, and with 3 if a service refuses a request.
    """
    context = click.get_current_context()
    if (name := context.invoked_subcommand) is None:
        with screen.guarded():
            _audit(screen, settings)
        return
    for option in context.command.params:  # the subcommand does not get these options: without this error, it would audit another app
        if context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE:
            raise InputError(f"{option.opts[0]}: stands before {name!r}: expected it after {name!r}, as in 'fsd audit {name} --app mine'")


def _audit(screen: Screen, settings: Settings) -> None:
    from fsd_core.client.apps import audit as look

    check_provider(settings)
    with screen.progress() as show, emulated(settings, show) as settings:
        promises = look(settings.provider, settings.app, settings.table(), progress=reporting(show))
    screen.answer({"app": settings.app, "provider": settings.provider, "checks": [attrs.asdict(each) for each in promises]})
    screen.print(f"{settings.app} on {settings.provider}")
    for each in promises:
        lines = [f"{each.verdict}  {each.name}", f"       found:    {each.found}"]
        if not each.holds:
            lines += [f"       expected: {each.expected}", f"       to do:    {each.advice}"]
        screen.print(*lines)
    if broken := [each.name for each in promises if not each.holds]:
        raise CheckFailed(f"{len(broken)} of {len(promises)} promises do not hold: {'; '.join(broken)}")


audit.add_command(log)
