"""What charts with a logarithmic axis share: the axis, and text that stays readable over lines."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs

from fsd_core.report.html import escaped

__all__ = ["SIZE", "LogAxis", "label"]

SIZE = 12  # of the text, in points of a chart that is as wide as a phone


@attrs.frozen
class LogAxis:
    """A logarithmic axis: the value ``low`` is at the coordinate ``start``, the value ``high`` at the coordinate ``end``."""

    low: float
    high: float
    start: float
    end: float

    @staticmethod
    def of(values: Sequence[float], start: float, end: float) -> LogAxis:
        """The axis that shows all values, with some room."""
        low, high = min(values), max(values)
        return LogAxis(low / 1.25, max(high, low * 1.5) * 1.25, start, end)

    def at(self, value: float) -> float:
        """The coordinate of a value."""
        return self.start + (self.end - self.start) * math.log(value / self.low) / math.log(self.high / self.low)

    def ticks(self) -> list[float]:
        """The values of the ticks: a few round values between ``low`` and ``high``."""
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        all_ = [round(step * 10.0**decade, 12) for decade in decades for step in (1, 2, 5)]
        inside = [value for value in all_ if self.low <= value <= self.high]
        return [value for value in inside if f"{value:e}".startswith("1")] if len(inside) > 6 else inside


def label(words: str, x: float, y: float, anchor: str, colour: str, *, bold: bool = False) -> str:
    """The SVG of a text with an edge in the colour of the background. ``anchor``: start, middle or end; ``colour``: ink or soft."""
    style = f"fill:var(--{colour});font-size:{SIZE}px;paint-order:stroke;stroke:var(--card);stroke-width:3px"
    style += ";font-weight:600" if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="{style}">{escaped(words)}</text>'
