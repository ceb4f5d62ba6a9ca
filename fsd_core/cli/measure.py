"""``fsd measure``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fsd_core.cli.options import Checked, Command, as_flags, check_provider, emulated, with_settings
from fsd_core.cli.screen import Screen, Show, pairs
from fsd_core.common.fields import integer, number
from fsd_core.config import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

    from fsd_core import Measurement, Progress

__all__ = ["measure"]


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  fsd measure --provider aws --quick
  fsd measure --provider aws --app mine --max-usd 0.20 --report latencies.html
  fsd measure --provider aws --emulator --quick
  fsd measure --provider aws --memory-mb 512,1769,3538
""",
)
@click.option("--quick", is_flag=True, help="Take fewer samples, in about half a minute. They are too few for the 99th percentile.")
@click.option(
    "--max-usd", type=Checked(number(0, 1e6, "USD")), default=0.5, help="Largest cost of the measurement by the tariff.  [default: 0.5]"
)
@click.option(
    "--memory-mb", metavar="N,N,...", help="Also measure how fast functions of these sizes compute, in MiB.  [default: only the app's]"
)
@click.option("--report", metavar="OUT.html", help="Write a page with the distributions. The page loads nothing from the network.")
@with_settings("provider", "app", "emulator")
def measure(screen: Screen, settings: Settings, quick: bool, max_usd: float, memory_mb: str | None, report: str | None) -> None:
    """Measure how long requests to the services of an app take.

    Functions of the app publish, receive, acknowledge, put, get and list, start cold and warm, and compute. Before they start, the command
    prints the largest number of requests and their largest cost. It writes the figures to a table of latencies below FSD_HOME; --latency,
    fsd plan and fsd run then use this table instead of the one that comes with the provider (docs/latency.md). They use the table of an
    emulator only if you give its path.

    For each size of --memory-mb, the command makes a second app, which takes minutes on a cloud, and then removes that app.
    """
    from fsd_core import measure as measure_app
    from fsd_core import write_measurement
    from fsd_core.measuring.shown import facts
    from fsd_core.report.measured import check_page

    check_provider(settings)
    if report:
        with as_flags("report"):
            check_page(report)
    sizes = [integer(1).read_text(word.strip(), "--memory-mb ") for word in memory_mb.split(",")] if memory_mb is not None else []
    with screen.progress() as show, emulated(settings, show, start=True) as settings, as_flags("max_usd", "memory_mb"):
        found = measure_app(
            settings.provider,
            settings.app,
            settings.table(),
            quick=quick,
            max_usd=max_usd,
            memory_mb=sizes,
            progress=_teller(screen, show),
        )
    if report:
        write_measurement(found, report)
    screen.answer(found.to_json() | {"report": report})
    screen.print(_table(found), pairs("\nMeasured", [*facts(found), _used(found)]), *([f"Page: {report}"] if report else []))


def _teller(screen: Screen, show: Show) -> Callable[[Progress], None]:
    """A callback that shows progress. The estimate of the measurement is a line that stays on the screen."""

    def tell(step: Progress) -> None:
        if step.phase == "ask":
            screen.note(step.text)
        else:
            show(step.phase, step.done, step.total, step.text)

    return tell


def _table(found: Measurement) -> Table:
    from rich.table import Table

    from fsd_core.measuring.shown import figure

    shown = Table(title=found.table.title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    shown.add_column("verb")
    for name in ("samples", "p50 ms", "p90 ms", "p99 ms", "MB/s"):
        shown.add_column(name, justify="right")
    for row in found.rows:
        figures = (row[name] for name in ("p50_ms", "p90_ms", "p99_ms", "mb_per_s"))
        shown.add_row(row["verb"], str(row["n"]), *(figure(each) or "-" for each in figures))
    return shown


def _used(found: Measurement) -> tuple[str, str]:
    if found.file is None:
        return "used", "by nothing, because the table could not be written"
    if found.stand_in:
        return "used", f"only where its path is given, because an emulator at {found.stand_in} was measured"
    return "used", f"by fsd plan and --latency {found.provider}"
