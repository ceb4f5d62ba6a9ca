"""The scatter of a plan as inline SVG: seconds against USD, both on logarithmic axes. Colours are variables of the page's style.

A candidate is a point at its median time, with a line from p50 to p95. Those on the front are filled and joined, and the choice has a ring
and its name. The drawing is as wide as a phone and scales.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs

from fsd_core.report.html import escaped, usd

__all__ = ["Point", "scatter"]

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 360.0, 300.0, 58.0, 14.0, 26.0, 44.0
SIZE = 12
NEAR = 14.0  # a label that would be closer to another one is left out


@attrs.frozen
class Point:
    """A candidate: its name, p50 and p95 in seconds, USD, its part (a colour), and whether it is on the front, or chosen."""

    name: str
    p50: float
    p95: float
    usd: float
    part: int
    front: bool
    chosen: bool


def scatter(name: str, title: str, points: Sequence[Point], parts: Sequence[str]) -> str:
    """The SVG. ``parts``: the names of the colours, for the key."""
    xs = _Axis.of([value for point in points for value in (point.p50, point.p95)], LEFT, WIDTH - RIGHT)
    ys = _Axis.of([point.usd for point in points], HEIGHT - BOTTOM, TOP)
    body = [f'<title id="{name}-title">{escaped(title)}</title>', f'<desc id="{name}-desc">{escaped(_words(points))}</desc>']
    for value in xs.ticks():
        x = xs.at(value)
        body.append(f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" style="stroke:var(--line)"/>')
        body.append(_text(f"{value:g} s", x, HEIGHT - BOTTOM + 16, "end" if x > WIDTH - 30 else "middle", "soft"))
    for value in ys.ticks():
        y = ys.at(value)
        body.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" style="stroke:var(--line)"/>')
        body.append(_text(usd(value), LEFT - 6, y + 4, "end", "soft"))
    body.append(_text("seconds until the answer, p50 to p95", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "middle", "soft"))
    body.append(_text("USD a run", 4, 12, "start", "soft"))
    x = 84.0
    for number, part in enumerate(parts):
        body.append(f'<circle cx="{x:.0f}" cy="8" r="5" style="fill:var(--part-{number})"/>' + _text(part, x + 9, 12, "start", "ink"))
        x += 24 + 7 * len(part)
    line = sorted((point for point in points if point.front), key=lambda point: point.p50)
    if len(line) > 1:
        path = "L".join(f"{xs.at(point.p50):.1f} {ys.at(point.usd):.1f}" for point in line)
        body.append(f'<path d="M{path}" style="fill:none;stroke:var(--soft);stroke-dasharray:4 3"/>')
    taken: list[tuple[float, float]] = []
    for number, point in enumerate(sorted(points, key=lambda point: (point.front, point.chosen))):
        body.append(_mark(name, number, point, xs, ys))
    for point in sorted(line, key=lambda point: not point.chosen):
        x, y = xs.at(point.p50), ys.at(point.usd)
        if all(abs(y - other) >= NEAR or abs(x - beside) > 110 for beside, other in taken):
            taken.append((x, y))
            side = "end" if x > WIDTH * 0.6 else "start"
            body.append(_text(point.name, x + (-11 if side == "end" else 11), y - 7, side, "ink", bold=point.chosen))
    inside = "\n".join(body)
    head = f'viewBox="0 0 {WIDTH:g} {HEIGHT:g}" class="chart" role="img" aria-labelledby="{name}-title {name}-desc"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {head}>\n{inside}\n</svg>'


def _mark(name: str, number: int, point: Point, xs: _Axis, ys: _Axis) -> str:
    x, y, end = xs.at(point.p50), ys.at(point.usd), xs.at(point.p95)
    colour, strength = f"var(--part-{point.part})", 1.0 if point.front else 0.45
    words = f"{point.name}: {point.p50:.3g} s, p95 {point.p95:.3g} s, {point.usd:.3g} USD{', chosen' * point.chosen}"
    ring = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8" style="fill:none;stroke:var(--ink);stroke-width:2"/>' if point.chosen else ""
    return (
        f'<g id="{name}-mark-{number}" opacity="{strength}"><title>{escaped(words)}</title>'
        f'<path d="M{x:.1f} {y:.1f}H{end:.1f}M{end:.1f} {y - 3:.1f}V{y + 3:.1f}" style="stroke:{colour};stroke-width:1.5"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" style="fill:{colour}"/>{ring}</g>'
    )


def _text(words: str, x: float, y: float, anchor: str, colour: str, *, bold: bool = False) -> str:
    style = f"fill:var(--{colour});font-size:{SIZE}px;paint-order:stroke;stroke:var(--card);stroke-width:3px"
    style += ";font-weight:600" if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="{style}">{escaped(words)}</text>'


def _words(points: Sequence[Point]) -> str:
    shown = [point for point in points if point.front]
    return "; ".join(f"{point.name}: {point.p50:.3g} s, {point.usd:.3g} USD" for point in shown)


@attrs.frozen
class _Axis:
    """A logarithmic axis from ``low`` at ``start`` to ``high`` at ``end``."""

    low: float
    high: float
    start: float
    end: float

    @staticmethod
    def of(values: Sequence[float], start: float, end: float) -> _Axis:
        """The axis that shows all values, with some room."""
        low, high = min(values), max(values)
        return _Axis(low / 1.25, max(high, low * 1.5) * 1.25, start, end)

    def at(self, value: float) -> float:
        """Where a value is."""
        return self.start + (self.end - self.start) * math.log(value / self.low) / math.log(self.high / self.low)

    def ticks(self) -> list[float]:
        """A few round values."""
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        all_ = [round(step * 10.0**decade, 12) for decade in decades for step in (1, 2, 5)]
        inside = [value for value in all_ if self.low <= value <= self.high]
        return [value for value in inside if f"{value:e}".startswith("1")] if len(inside) > 6 else inside
