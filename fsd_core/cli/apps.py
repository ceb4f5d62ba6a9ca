"""The commands that make and remove the resources of an app: ``fsd deploy``, ``destroy``, ``gc``, ``clean``."""

from __future__ import annotations

import click

from fsd_core.cli.options import Checked, Command, check_provider, emulated, reporting, with_settings
from fsd_core.cli.screen import Screen, pairs
from fsd_core.common.amount import counted
from fsd_core.common.fields import choice, integer
from fsd_core.common.home import home_folder
from fsd_core.config import Settings

__all__ = ["clean", "deploy", "destroy", "gc"]

KEYS = ("provider", "app", "emulator")
WORKERS = 8  # without --workers: a run that needs more queues makes them


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  fsd deploy --provider local --app mine
  fsd deploy --provider aws --app mine --workers 32
  fsd deploy --provider aws --app mine --engine onnx
""",
)
@click.option("--slots", type=Checked(integer(1)), default=4, metavar="N", help="Number of runs that can be active at once.  [default: 4]")
@click.option("--repair", is_flag=True, help="Set every resource of the app again, also those that exist. No run should be active.")
@with_settings(*KEYS, "workers", "engine")
def deploy(screen: Screen, settings: Settings, slots: int, repair: bool) -> None:
    """Make the resources of an app.

    An app is everything that one deployment makes, under one name: the function, the object store, and the queues of the workers. Resources
    that exist already stay as they are: a second deploy changes nothing. With --engine onnx, the functions also have ONNX Runtime. With
    --workers auto, each slot gets queues for 8 workers; a run with more workers makes more queues.
    """
    from fsd_core.client.apps import deploy as make

    check_provider(settings)
    workers = settings.workers if isinstance(settings.workers, int) else WORKERS
    engine = "rows" if settings.engine == "auto" else settings.engine
    with screen.progress() as show, emulated(settings, show) as settings:
        size = {"workers": workers, "slots": slots}
        made = make(settings.provider, settings.app, settings.table(), **size, engine=engine, repair=repair, progress=reporting(show))
    screen.answer({"app": made.app, "provider": settings.provider, "workers": made.ranks, "slots": made.slots, "names": dict(made.names)})
    rows = [("workers", f"{made.ranks}"), ("slots", f"{made.slots}"), *(row for row in made.names.items() if row[1])]
    screen.print(pairs(f"{made.app} on {settings.provider}", rows))


@click.command(cls=Command, epilog="Example: fsd destroy --provider local --app mine")
@click.option(
    "--audit-log",
    type=Checked(choice("save", "delete")),
    default="save",
    metavar="save|delete",
    help="save: keep the audit log below FSD_HOME/audit; delete: remove it without saving it.  [default: save]",
)
@with_settings(*KEYS)
def destroy(screen: Screen, settings: Settings, audit_log: str) -> None:
    """Remove all resources of an app.

    Does nothing if the app does not exist. The command first saves the audit log of the app; the answer names the file.
    """
    from fsd_core.client.apps import destroy as remove

    check_provider(settings)
    with screen.progress() as show, emulated(settings, show) as settings:
        removed = remove(settings.provider, settings.app, settings.table(), home_folder(), audit_log=audit_log, progress=reporting(show))
    screen.answer({"app": settings.app, "provider": settings.provider, "removed": removed})
    screen.print(f"{settings.app} on {settings.provider}: {len(removed)} removed", *(f"  {line}" for line in removed))


@click.command(cls=Command, epilog="Example: fsd gc --provider local --app mine")
@with_settings(*KEYS)
def gc(screen: Screen, settings: Settings) -> None:
    """Remove the objects of dead runs.

    An active run holds a slot: a set of queues that no other run uses. This command removes the objects of runs that hold no slot. It keeps
    the objects of active runs, and the shards and inputs that the next run can use again.
    """
    from fsd_core.client.garbage import collect_garbage

    check_provider(settings)
    with screen.progress() as show, emulated(settings, show) as settings:
        removed = collect_garbage(settings.provider, settings.app, settings.table(), progress=reporting(show))
    screen.answer({"app": settings.app, "provider": settings.provider, "removed": removed})
    screen.print(f"{counted(removed, 'object')} removed")


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  fsd clean --app mine
  fsd clean --app mine --keep-records
""",
)
@click.option("--keep-records", is_flag=True, help="Keep the records of past runs. fsd report reads them.")
@with_settings(*KEYS)
def clean(screen: Screen, settings: Settings, keep_records: bool) -> None:
    """Remove shards, inputs, partitions and records.

    Removes the shards and inputs that an app keeps in its object store for the next run, and the partitions and records of all runs below
    FSD_HOME. The next run makes shards, inputs and partitions again. The command cannot restore the records of past runs.
    """
    from fsd_core.client.garbage import clean as clean_up

    check_provider(settings)
    with screen.progress() as show, emulated(settings, show) as settings:
        removed = clean_up(
            settings.provider, settings.app, settings.table(), home_folder(), keep_records=keep_records, progress=reporting(show)
        )
    screen.answer({"app": settings.app, "provider": settings.provider, "removed": removed})
    screen.print(f"{counted(removed, 'object')} removed")
