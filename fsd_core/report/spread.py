"""The spread of measured times as inline SVG: a histogram for each verb over one logarithmic axis, with p50, p90 and p99 below it.

The drawing is as wide as a phone and scales. Colours are variables of the page's style and follow its theme.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import attrs

from fsd_core.report.axes import LogAxis, label
from fsd_core.report.html import escaped

__all__ = ["Spread", "spreads"]

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 360.0, 100.0, 14.0, 6.0, 40.0
ROW, BARS = 34.0, 20.0  # the height of a row, and of its largest bar
BIN = 6.0  # the width of a bar


@attrs.frozen
class Spread:
    """A row: its name, its samples in milliseconds, and the fitted quantiles."""

    name: str
    samples: Sequence[float]
    p50: float
    p90: float
    p99: float


def spreads(name: str, title: str, rows: Sequence[Spread]) -> str:
    """The SVG of at least one row."""
    height = TOP + ROW * len(rows) + BOTTOM
    smallest = min(min(row.samples, default=row.p50) for row in rows)
    least = max(1e-3, min(smallest, *(row.p50 for row in rows)))
    axis = LogAxis.of([least, *(max(*row.samples, row.p99) for row in rows)], LEFT, WIDTH - RIGHT)
    words = "; ".join(f"{row.name}: p50 {row.p50:.3g} ms, p90 {row.p90:.3g} ms, p99 {row.p99:.3g} ms" for row in rows)
    body = [f'<title id="{name}-title">{escaped(title)}</title>', f'<desc id="{name}-desc">{escaped(words)}</desc>']
    for value in axis.ticks():
        x = axis.at(value)
        body.append(f'<path d="M{x:.1f} {TOP}V{height - BOTTOM:.0f}" style="stroke:var(--line)"/>')
        body.append(label(_time(value), x, height - BOTTOM + 16, "end" if x > WIDTH - 26 else "middle", "soft"))
    body.append(label("milliseconds and seconds, logarithmic", (LEFT + WIDTH - RIGHT) / 2, height - 6, "middle", "soft"))
    for number, row in enumerate(rows):
        body.append(_row(name, number, row, axis, least))
    head = f'viewBox="0 0 {WIDTH:g} {height:g}" class="chart" role="img" aria-labelledby="{name}-title {name}-desc"'
    inside = "\n".join(body)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {head}>\n{inside}\n</svg>'


def _row(name: str, number: int, row: Spread, axis: LogAxis, least: float) -> str:
    base = TOP + ROW * number + BARS + 4
    counts = Counter(math.floor((axis.at(max(least, each)) - LEFT) / BIN) for each in row.samples)
    most = max(counts.values())
    bars = "".join(
        f"M{LEFT + BIN * at:.1f} {base:.1f}v{-max(2.0, BARS * count / most):.1f}h{BIN - 1:.1f}V{base:.1f}z"
        for at, count in sorted(counts.items())
    )
    p50, p90, p99 = (axis.at(max(least, each)) for each in (row.p50, row.p90, row.p99))
    words = f"{row.name}, {len(row.samples)} samples: p50 {row.p50:.3g} ms, p90 {row.p90:.3g} ms, p99 {row.p99:.3g} ms"
    line = base + 4
    marks = "".join(f"M{x:.1f} {line - 2:.1f}v4" for x in (p90, p99))
    return (
        f'<g id="{name}-mark-{number}"><title>{escaped(words)}</title>'
        f'<path d="{bars}" style="fill:var(--part-0)"/>'
        f'<path d="M{p50:.1f} {line:.1f}H{p99:.1f}{marks}" style="stroke:var(--ink);fill:none"/>'
        f'<circle cx="{p50:.1f}" cy="{line:.1f}" r="3" style="fill:var(--ink)"/>'
        f"{label(row.name, LEFT - 8, base, 'end', 'ink')}</g>"
    )


def _time(ms: float) -> str:
    return f"{ms / 1000:g} s" if ms >= 1000 else f"{ms:g}"
