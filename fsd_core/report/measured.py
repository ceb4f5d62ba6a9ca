"""The page of a measurement: how the times of each kind of request spread, and what else was measured."""

from __future__ import annotations

import os

from fsd_core.common import arguments
from fsd_core.common.files import check_file, write_file
from fsd_core.measuring.making import Measurement
from fsd_core.measuring.shown import facts as shown
from fsd_core.measuring.shown import figure
from fsd_core.report.html import MARK, count, escaped, facts, page, section, table
from fsd_core.report.spread import Spread, spreads

__all__ = ["check_page", "write_measurement"]


def check_page(path: str | os.PathLike[str]) -> None:
    """Raise `InputError` unless `write_measurement` can write ``path``."""
    check_file("report", arguments.path("report", path), MARK)


def write_measurement(measurement: Measurement, out: str | os.PathLike[str]) -> None:
    """Write an HTML page about a measurement. The page is one file that loads nothing from the network.

    An existing file is replaced only if fsd made it. Raises `InputError` if the file cannot be written.
    """
    found = arguments.instance("measurement", measurement, Measurement)
    check_page(out)
    write_file("report", arguments.path("report", out), _page(found), MARK)


def _page(found: Measurement) -> str:
    title = f"Latencies of {found.provider}, {found.region}"
    parts = [f"<h1>{escaped(title)}</h1>"]
    if found.stand_in:
        words = f"Measured on an emulator at {found.stand_in}: these are times of this machine, not of the services of {found.provider}."
        parts.append(f'<p class="warn">{escaped(words)}</p>')
    about = [("provider", found.provider), ("region", found.region), ("app", found.app), ("day", found.table.as_of)]
    parts += [section("Where and when", facts([*about, *shown(found)])), _spread(found), _rows(found)]
    return page(title, [*parts, section("How this was measured", _rests(found))])


def _spread(found: Measurement) -> str:
    rows = [
        Spread(verb, found.samples[verb], row.p50_ms, row.p90_ms, row.p99_ms)
        for verb, row in found.table.rows.items()
        if verb in found.samples
    ]
    if not rows:
        return ""
    words = (
        "The bars of a row show how many samples took this time. Below them, the point is p50, and the marks are p90 and p99 of the table."
    )
    return section("How the times spread", f'<figure>{spreads("spread", "Times by verb", rows)}</figure><p class="soft">{words}</p>')


def _rows(found: Measurement) -> str:
    names = ["verb", "samples", "p50 ms", "p90 ms", "p99 ms", "MB/s"]
    rows = [
        [each["verb"], count(each["n"]), *(figure(each[name]) for name in ("p50_ms", "p90_ms", "p99_ms", "mb_per_s"))]
        for each in found.rows
    ]
    return section("The figures", table(names, rows))


def _rests(found: Measurement) -> str:
    few = [verb for verb, row in found.table.rows.items() if verb in found.samples and row.confidence == "low"]
    words = ["A function measured its requests to the services, by its own clock. The client measured invoke."]
    if few:
        words.append(f"These verbs have too few samples for p99, so p99 follows from p50 and p90: {', '.join(few)}.")
    others = [verb for verb in found.table.rows if verb not in found.samples]
    if others:
        words.append(f"These verbs were not measured; their rows are those of the table of {found.provider}: {', '.join(others)}.")
    return "".join(f"<p>{escaped(each)}</p>" for each in words)
