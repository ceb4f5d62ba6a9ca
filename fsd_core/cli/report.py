"""``fsd report``."""

from __future__ import annotations

import click

from fsd_core.cli.cost import service_table
from fsd_core.cli.options import Command, as_flags, with_settings
from fsd_core.cli.screen import Screen, pairs
from fsd_core.client.result import left_out
from fsd_core.common.home import home_folder
from fsd_core.config import PATH, Settings

__all__ = ["report"]


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  fsd report 027e31da6bd78f6a
  fsd report ~/.fsd/runs/027e31da6bd78f6a.json --out run.html
  fsd report 027e31da6bd78f6a --trace run.json
""",
)
@click.argument("run")
@click.option("--out", metavar="FILE", help="Path of the page (default: fsd-RUN.html in the current folder).")
@click.option("--trace", "traced", metavar="FILE", help="Also write the timeline to this file, for Perfetto or chrome://tracing.")
@with_settings("tariff")
def report(screen: Screen, settings: Settings, run: str, out: str | None, traced: str | None) -> None:
    """Write an HTML page of a past run.

    RUN is the id that fsd run prints, or the path of a record. Records are in FSD_HOME/runs. The page shows the time of each rank, the
    slowest ranks and the bill.
    """
    from fsd_core.report.writing import write_report

    out = None if out is None else str(PATH.read_text(out, "--out "))
    traced = None if traced is None else str(PATH.read_text(traced, "--trace "))
    with as_flags("out", "trace"):
        made = write_report(run, out, trace=traced, tariff=settings.tariff, home=home_folder())
    slowest = made.slowest
    screen.answer(
        {
            "run": made.run,
            "missing_ranks": made.missing_ranks,
            "report": str(made.page),
            "trace": traced,
            "bill": made.bill.to_json(),
        }
        | {"slowest": [{"phase": s.phase, "rank": s.rank, "seconds": s.seconds, "median": s.median, "late": s.late} for s in slowest]}
    )
    rows = [
        (s.phase, f"rank {s.rank} {s.seconds:8.3f} s, median rank {s.median:.3f} s{', a straggler' if s.late else ''}") for s in slowest
    ]
    files = [f"\n{words}"] if (words := left_out(made.missing_ranks)) else []
    files += [f"\nPage: {made.page}", *([f"Trace: {traced}"] if traced else [])]
    screen.print(pairs(f"Slowest ranks of run {made.run}", rows), service_table(made.bill), *files)
