"""Writes the page of a past run, and the page and table of a comparison, to files."""

from __future__ import annotations

import os
from pathlib import Path

import attrs

from fsd_core import cost
from fsd_core.client.result import Result
from fsd_core.common import arguments
from fsd_core.common.files import check_apart, check_file, write_file
from fsd_core.cost import Bill, Tariff, Usage
from fsd_core.errors import InputError
from fsd_core.report import trace as traces
from fsd_core.report.compare import CSV_START, Comparison
from fsd_core.report.figures import Measured
from fsd_core.report.page import MARK, check_page, comparison_page, run_page
from fsd_core.report.record import find_record, read_record
from fsd_core.report.stragglers import Straggler, stragglers

__all__ = ["Report", "check_comparison", "write_comparison", "write_report"]

_CSV_MARK = ",".join(CSV_START)


@attrs.frozen
class Report:
    """What `write_report` wrote, and what it found.

    - ``run``: the id of the run. ``page``, ``trace``: the files; ``trace`` is `None` if it was not requested.
    - ``bill``: of the run. ``slowest``: the slowest rank of each phase in which a rank can delay others.
    - ``missing_ranks``: ranks that left no record; times, counts and the bill do not include them.
    """

    run: str
    page: Path
    trace: Path | None
    bill: Bill
    slowest: list[Straggler]
    missing_ranks: list[int]


def write_report(
    run: str | os.PathLike[str] | Result,
    out: str | os.PathLike[str] | None = None,
    *,
    trace: str | os.PathLike[str] | None = None,
    tariff: Tariff | str | os.PathLike[str] | None = None,
    home: str | os.PathLike[str] | None = None,
) -> Report:
    """Write an HTML page of a past run: the time of each rank, the slowest ranks, the bill. The page loads nothing from the network.

    - ``run``: the id of the run, the path of its record, or its `Result`.
    - ``out``: the path of the page. Default: ``fsd-RUN.html`` in the current folder.
    - ``trace``: also write the timeline to this file, for Perfetto or chrome://tracing.
    - ``tariff``: the prices of the bill: a `Tariff`, a name, or the path of a .toml file. Default: the tariff of the run's provider.
    - ``home``: the folder with the record, as in `run`.

    An existing file is replaced only if fsd made it. Raises `InputError` before anything is written if the record is missing or damaged, a
    file cannot be written, the tariff is wrong, or matplotlib is not installed.
    """
    check_page()
    record = read_record(find_record(run.run if isinstance(run, Result) else run, arguments.home(home)))
    page = Path(f"fsd-{Path(record['run']).name}.html") if out is None else arguments.path("out", out)
    check_file("out", page, MARK)
    traced = None if trace is None else arguments.path("trace", trace)
    if traced is not None:
        check_file("trace", traced, traces.MARK)
    check_apart(out=page, trace=traced)
    prices = cost.tariff_of_run(record["provider"], tariff)
    if prices is None:
        raise InputError(
            f"run {record['run']}: fsd has no tariff for provider {record['provider']}: expected the path of a tariff of your own"
        )
    measured = Measured(record, cost.bill(Usage.of_run(record), prices))
    write_file("out", page, run_page(measured), MARK)
    if traced is not None:
        write_file("trace", traced, traces.trace(record), traces.MARK)
    return Report(record["run"], page, traced, measured.bill, stragglers(record), list(record.get("missing_ranks", ())))


def write_comparison(
    comparison: Comparison, page: str | os.PathLike[str] | None = None, *, csv: str | os.PathLike[str] | None = None
) -> None:
    """Write a comparison to files.

    - ``comparison``: of `compare`.
    - ``page``: the path of an HTML page, which loads nothing from the network. `None`: no page.
    - ``csv``: the path of a CSV table with a row for each combination: median, lowest and highest of each figure. `None`: no table.

    An existing file is replaced only if fsd made it. Raises `InputError` before anything is written if a file cannot be written, or
    matplotlib, which draws the charts of the page, is not installed.
    """
    found = arguments.instance("comparison", comparison, Comparison)
    html, table = check_comparison(page, csv)
    if html is not None:
        write_file("page", html, comparison_page(found), MARK)
    if table is not None:
        write_file("csv", table, found.to_csv(), _CSV_MARK)


def check_comparison(
    page: str | os.PathLike[str] | None, csv: str | os.PathLike[str] | None, name: str = "page"
) -> tuple[Path | None, Path | None]:
    """The paths of both files. Raises `InputError` unless `write_comparison` can write them. ``name``: of the page, in errors."""
    html, table = None if page is None else arguments.path(name, page), None if csv is None else arguments.path("csv", csv)
    if html is not None:
        check_page()
        check_file(name, html, MARK)
    if table is not None:
        check_file("csv", table, _CSV_MARK)
    check_apart(**{name: html, "csv": table})
    return html, table
