"""``fsd audit log``: shows who ran what, and checks the log for changed and missing entries."""

from __future__ import annotations

import time

import click

from fsd_core.cli.options import Checked, Command, as_flags, check_provider, emulated, reporting, with_settings
from fsd_core.cli.screen import Screen
from fsd_core.common.fields import integer
from fsd_core.common.home import home_folder
from fsd_core.config import PATH, Settings
from fsd_core.errors import InputError

__all__ = ["log"]


@click.command(
    "log",
    cls=Command,
    epilog="""\b
Examples:
  fsd audit log --verify
  fsd audit log --provider aws --app mine --last 20
  fsd audit log --csv > runs.csv
  fsd audit log --saved ~/.fsd/audit/aws-mine-20260131-120000.jsonl --verify
""",
)
@click.option(
    "--verify",
    is_flag=True,
    help="Check the whole log. If an entry does not fit, the last line names the first one, and the exit code is 1.",
)
@click.option("--csv", "as_csv", is_flag=True, help="Print a CSV table on standard output.")
@click.option("--last", type=Checked(integer(1)), metavar="N", help="Show only the latest N entries.")
@click.option("--saved", metavar="FILE", help="Read a log that fsd destroy saved, instead of that of an app.")
@with_settings("provider", "app", "emulator")
def log(screen: Screen, settings: Settings, verify: bool, as_csv: bool, last: int | None, saved: str | None) -> None:
    """Show the audit log of an app.

    Every run leaves an entry in the store of its app, also if it failed: who ran which model on which input, when, where, with how many
    requests and for how much money, and how it ended. --verify finds an entry that was changed, removed or moved, because each entry holds
    the digest of the entry before it, and this machine keeps the digests of the entries that it wrote.
    """
    from fsd_core.client.audit import read_audit_log

    if verify and last is not None:
        raise InputError("--verify: checks the whole log: expected it without --last")
    if as_csv and settings.json:
        raise InputError("--csv: expected it without --json, since both print the answer on standard output")
    check_provider(settings)
    file = None if saved is None else str(PATH.read_text(saved, "--saved "))
    with screen.progress() as show, emulated(settings, show) as settings, as_flags("saved"):
        found = read_audit_log(
            settings.provider, settings.app, settings.table(), home_folder(), saved=file, last=last, progress=reporting(show)
        )
    screen.answer(found.to_json())
    if as_csv:
        screen.print(found.to_csv().rstrip("\n"))
    elif not found.entries:
        screen.print(f"audit log of {found.where}: no entries")
    else:
        from rich.table import Table
        from rich.text import Text

        shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title=f"Audit log of {found.where}", title_justify="left")
        for name in ("entry", "when", "run", "outcome", "user", "model", "requests", "US dollars"):
            shown.add_column(name, justify="right" if name in ("entry", "requests", "US dollars") else "left")
        for entry in found.entries:
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.at))
            paths = ("run", "outcome", "caller.user", "model.name", "requests", "usd")
            shown.add_row(*map(Text, (f"{entry.number}", when, *map(entry.text, paths))))
        screen.print(shown)
    if verify:
        found.verify()
        if not as_csv:
            screen.print(f"all {len(found.entries)} entries fit" if found.entries else "nothing to check")
