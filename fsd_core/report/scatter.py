"""The scatter of a plan as inline SVG: seconds against USD, both on logarithmic axes. Colours are variables of the page's style.

A candidate is a point at its median time, with a line from p50 to p95. A candidate on the front is one that no other candidate beats in
both time and money: these points are filled and joined. The choice has a ring and its name. The drawing is as wide as a phone and scales.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from fsd_core.report.axes import LogAxis, label
from fsd_core.report.html import escaped, usd

__all__ = ["Point", "scatter"]

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 360.0, 300.0, 58.0, 14.0, 26.0, 44.0
NEAR = 14.0  # a label that would be closer than this to another label is left out


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
    xs = LogAxis.of([value for point in points for value in (point.p50, point.p95)], LEFT, WIDTH - RIGHT)
    ys = LogAxis.of([point.usd for point in points], HEIGHT - BOTTOM, TOP)
    body = [f'<title id="{name}-title">{escaped(title)}</title>', f'<desc id="{name}-desc">{escaped(_words(points))}</desc>']
    for value in xs.ticks():
        x = xs.at(value)
        body.append(f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" style="stroke:var(--line)"/>')
        body.append(label(f"{value:g} s", x, HEIGHT - BOTTOM + 16, "end" if x > WIDTH - 30 else "middle", "soft"))
    for value in ys.ticks():
        y = ys.at(value)
        body.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" style="stroke:var(--line)"/>')
        body.append(label(usd(value), LEFT - 6, y + 4, "end", "soft"))
    body.append(label("seconds until the answer, p50 to p95", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "middle", "soft"))
    body.append(label("USD a run", 4, 12, "start", "soft"))
    x = 84.0
    for number, part in enumerate(parts):
        body.append(f'<circle cx="{x:.0f}" cy="8" r="5" style="fill:var(--part-{number})"/>' + label(part, x + 9, 12, "start", "ink"))
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
            body.append(label(point.name, x + (-11 if side == "end" else 11), y - 7, side, "ink", bold=point.chosen))
    inside = "\n".join(body)
    head = f'viewBox="0 0 {WIDTH:g} {HEIGHT:g}" class="chart" role="img" aria-labelledby="{name}-title {name}-desc"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {head}>\n{inside}\n</svg>'


def _mark(name: str, number: int, point: Point, xs: LogAxis, ys: LogAxis) -> str:
    x, y, end = xs.at(point.p50), ys.at(point.usd), xs.at(point.p95)
    colour, strength = f"var(--part-{point.part})", 1.0 if point.front else 0.45
    words = f"{point.name}: {point.p50:.3g} s, p95 {point.p95:.3g} s, {point.usd:.3g} USD{', chosen' * point.chosen}"
    ring = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8" style="fill:none;stroke:var(--ink);stroke-width:2"/>' if point.chosen else ""
    return (
        f'<g id="{name}-mark-{number}" opacity="{strength}"><title>{escaped(words)}</title>'
        f'<path d="M{x:.1f} {y:.1f}H{end:.1f}M{end:.1f} {y - 3:.1f}V{y + 3:.1f}" style="stroke:{colour};stroke-width:1.5"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" style="fill:{colour}"/>{ring}</g>'
    )


def _words(points: Sequence[Point]) -> str:
    shown = [point for point in points if point.front]
    return "; ".join(f"{point.name}: {point.p50:.3g} s, {point.usd:.3g} USD" for point in shown)
