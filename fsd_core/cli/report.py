"""``fsd report``."""

from __future__ import annotations

from pathlib import Path

import attrs
import click

from fsd_core import cost
from fsd_core.cli.cost import run_tariff, service_table
from fsd_core.cli.files import check_apart, check_file, write_file
from fsd_core.cli.options import Command, with_settings
from fsd_core.cli.screen import Screen, pairs
from fsd_core.client.result import left_out
from fsd_core.common.home import home_folder
from fsd_core.config import PATH, Settings
from fsd_core.cost import Usage
from fsd_core.errors import InputError
from fsd_core.report.figures import Measured

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
    from fsd_core.report import check_page, find_record, read_record, run_page, stragglers, trace
    from fsd_core.report.page import MARK

    check_page()
    record = read_record(find_record(run, home_folder()))
    path = Path(PATH.read_text(out, "--out ") if out is not None else f"fsd-{Path(record['run']).name}.html")
    check_file("--out", path, MARK)
    if traced is not None:
        traced = PATH.read_text(traced, "--trace ")
        check_file("--trace", Path(traced), trace.MARK)
    check_apart(out=path, trace=traced)
    tariff = run_tariff(attrs.evolve(settings, provider=record["provider"]))
    if tariff is None:
        raise InputError(f"run {record['run']}: fsd has no tariff for provider {record['provider']}: expected --tariff PATH.toml")
    measured = Measured(record, cost.bill(Usage.of_run(record), tariff))
    write_file("--out", path, run_page(measured), MARK)
    if traced is not None:
        write_file("--trace", Path(traced), trace.trace(record), trace.MARK)
    slowest = stragglers(record)
    screen.answer(
        {
            "run": record["run"],
            "missing_ranks": record.get("missing_ranks", []),
            "report": str(path),
            "trace": traced,
            "bill": measured.bill.to_json(),
        }
        | {"slowest": [{"phase": s.phase, "rank": s.rank, "seconds": s.seconds, "median": s.median, "late": s.late} for s in slowest]}
    )
    rows = [
        (s.phase, f"rank {s.rank} {s.seconds:8.3f} s, median rank {s.median:.3f} s{', a straggler' if s.late else ''}") for s in slowest
    ]
    files = [f"\n{words}"] if (words := left_out(record.get("missing_ranks", ()))) else []
    files += [f"\nPage: {path}", *([f"Trace: {traced}"] if traced else [])]
    screen.print(pairs(f"Slowest ranks of run {record['run']}", rows), service_table(measured.bill), *files)
