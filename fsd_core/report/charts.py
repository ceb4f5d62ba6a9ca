"""Stacked bars and timelines as inline SVG, drawn by matplotlib. Their colours are variables of the page's style and follow its theme.

A chart is as wide as a phone and has a row for each bar. Each segment is a group whose id contains ``mark``, with a title.
"""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import attrs

from fsd_core.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch, Rectangle

__all__ = ["Bar", "Row", "check", "stacked", "timeline"]

SVG, LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
WIDTH, LEFT, RIGHT = 360.0, 66.0, 74.0  # points: the plot, its labels, its values
ROW, HEAD, KEY, AXIS = 19.0, 25.0, 18.0, 38.0
BAR = ROW * 0.68
SIZE = 12.0  # of the text
BESIDE: Mapping[str, Any] = {"clip_on": False, "va": "center", "fontsize": SIZE}
COLOURS = {"#010101": "ink", "#020202": "soft", "#030303": "line", "#040404": "card"} | {f"#0500{n:02x}": f"part-{n}" for n in range(7)}
INK, SOFT, LINE, CARD, *PARTS = COLOURS
PHASES = {"launch": 0, "load": 1, "compute": 2, "send": 3, "wait": 4, "other": 5, "rest": 5, "stage": 6}  # the same on every page


@attrs.frozen
class Bar:
    """One row: its group, its label, the values of its segments, the lowest and highest total. ``why``: why it has no values."""

    group: str
    label: str
    values: tuple[float, ...] = ()
    low: float = 0.0
    high: float = 0.0
    why: str = ""

    @property
    def total(self) -> float:
        """The sum of the values."""
        return sum(self.values)


@attrs.frozen
class Row:
    """One row of a timeline: its label and its spans (part, start, end), ascending."""

    label: str
    spans: tuple[tuple[int, float, float], ...]

    @property
    def end(self) -> float:
        """The end of the last span."""
        return self.spans[-1][2] if self.spans else 0.0


def check() -> None:
    """Raise `InputError` if matplotlib is missing."""
    try:
        import matplotlib.backends.backend_svg  # noqa: F401
    except ImportError:
        raise InputError("matplotlib, which draws the charts of the page, is not installed: pip install 'fsd-inference[report]'") from None


def stacked(name: str, title: str, axis: str, parts: Sequence[str], bars: Sequence[Bar], text: Callable[[float], str]) -> str:
    """The SVG of a bar chart: a colour key, the bars below the headings of their groups, and the axis' label. ``text`` formats a value."""
    shown = [at for at in range(len(parts)) if any(bar.values and bar.values[at] for bar in bars)]
    heads = len({bar.group for bar in bars if bar.group})
    with _plot(name, axis, parts, shown, heads * HEAD + len(bars) * ROW, max((bar.high for bar in bars), default=0.0), text) as plot:
        axes = plot.axes
        y, group = 0.0, ""
        for row, bar in enumerate(bars):
            if bar.group and bar.group != group:
                axes.text(-LEFT / (WIDTH - LEFT - RIGHT), y + HEAD * 0.58, bar.group, transform=axes.get_yaxis_transform(), color=INK,
                    weight="bold", **BESIDE)  # fmt: skip
                y, group = y + HEAD, bar.group
            middle, start = y + ROW / 2, 0.0
            plot.label(bar.label, middle)
            for at in shown if bar.values else ():
                if not bar.values[at]:
                    continue
                patch = axes.barh(middle, bar.values[at], BAR, start, color=_colour(parts, at), edgecolor=CARD, linewidth=0.6)[0]
                plot.mark(patch, row, at, f"{bar.group + ', ' if bar.group else ''}{bar.label}: {parts[at]} {text(bar.values[at])}")
                start += bar.values[at]
            if bar.high > bar.low:
                axes.plot([bar.low, bar.high], [middle, middle], color=INK, linewidth=1.2, marker="|", markersize=7, clip_on=False)
            plot.value(bar.why or text(bar.total), middle, soft=bool(bar.why))
            y += ROW
    description = "; ".join(f"{bar.group + ', ' if bar.group else ''}{bar.label}: {bar.why or text(bar.total)}" for bar in bars)
    return plot.svg(title, description)


def timeline(name: str, title: str, axis: str, parts: Sequence[str], rows: Sequence[Row], text: Callable[[float], str]) -> str:
    """The SVG of a timeline: the parts of each row over time. Colour key, ``axis`` and ``text`` are as in `stacked`."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    shown = sorted({part for row in rows for part, _, _ in row.spans})
    with _plot(name, axis, parts, shown, len(rows) * ROW, max((row.end for row in rows), default=0.0), text) as plot:
        for number, row in enumerate(rows):
            top = number * ROW + (ROW - BAR) / 2
            plot.label(row.label, number * ROW + ROW / 2)
            for at in shown:
                boxes = [Path(_box(start, end, top, top + BAR), closed=True) for part, start, end in row.spans if part == at]
                if boxes:  # one mark for each part of a row, not for each span: a page would have thousands of marks
                    patch = plot.axes.add_patch(PathPatch(Path.make_compound_path(*boxes), color=_colour(parts, at), linewidth=0))
                    whole = sum(end - start for part, start, end in row.spans if part == at)
                    plot.mark(patch, number, at, f"{row.label}: {parts[at]} {text(whole)}")
            plot.value(text(row.end), number * ROW + ROW / 2)
    return plot.svg(title, "; ".join(f"{row.label}: until {text(row.end)}" for row in rows))


def _box(left: float, right: float, top: float, bottom: float) -> list[tuple[float, float]]:
    return [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]


@attrs.define
class _Plot:
    """A chart that is being drawn."""

    name: str
    axes: Axes
    titles: dict[str, str]
    text: str = ""

    def label(self, words: str, y: float) -> None:
        """Name the row at ``y``."""
        self.axes.annotate(
            words, (0, y), (-6, 0), textcoords="offset points", ha="right", color=INK, annotation_clip=False, **BESIDE
        )  # fmt: skip

    def value(self, words: str, y: float, *, soft: bool = False) -> None:
        """Write the total of the row at ``y`` to the right of all bars. At the end of a bar, it would overlap the line from low to high.

        ``soft``: the words say why the row has no bar; they stand in the place of the bar.
        """
        self.axes.annotate(words, (0 if soft else self.axes.get_xlim()[1], y), (6, 0), textcoords="offset points", ha="left",
            color=SOFT if soft else INK, style="italic" if soft else "normal", annotation_clip=False, **BESIDE)  # fmt: skip

    def mark(self, patch: Patch, row: int, part: int, words: str) -> None:
        """Make a patch a segment of its row, with ``words`` as its title."""
        patch.set_gid(f"mark-{row}-{part}")
        self.titles[f"mark-{row}-{part}"] = words

    def svg(self, title: str, description: str) -> str:
        """The SVG of the chart. ``description``: for screen readers."""
        return _inline(self.text, self.name, title, description, self.titles)


@contextmanager
def _plot(
    name: str, axis: str, parts: Sequence[str], shown: Sequence[int], below: float, longest: float, text: Callable[[float], str]
) -> Iterator[_Plot]:
    """Axes with ``below`` points for rows, from 0 to ``longest``, and a key of the ``shown`` parts. The block's end draws the chart."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    keys = _key_rows([parts[at] for at in shown])
    height = KEY * len(keys) + 6 + below + AXIS
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": SIZE, "font.family": "sans-serif"}):
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
        figure.patch.set_visible(False)
        axes = figure.add_axes((LEFT / WIDTH, AXIS / height, (WIDTH - LEFT - RIGHT) / WIDTH, below / height))
        axes.set(xlim=(0, longest or 1.0), ylim=(below, 0), yticks=[], facecolor="none")
        axes.set_xlabel(axis, color=SOFT, fontsize=SIZE)
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: text(value) if value else "0"))
        axes.tick_params(colors=SOFT, length=0, labelsize=SIZE - 0.5)
        axes.grid(axis="x", color=LINE, linewidth=0.8)
        axes.set_axisbelow(True)
        for spine in axes.spines.values():
            spine.set_visible(False)
        plot = _Plot(name, axes, {})
        yield plot
        for line, row_parts in enumerate(keys):
            x, at_y = 2.0, height - 10 - line * KEY
            for part in row_parts:
                figure.text((x + 14) / WIDTH, at_y / height, part, color=INK, va="center", fontsize=SIZE)
                figure.patches.append(_square(figure, x, at_y, height, _colour(parts, list(parts).index(part))))
                x += _key_width(part)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
        plot.text = out.getvalue()


def _colour(parts: Sequence[str], at: int) -> str:
    return PARTS[PHASES.get(parts[at], at)]


def _square(figure: Figure, x: float, y: float, height: float, colour: str) -> Rectangle:
    """A square of the key at (x, y), in points."""
    from matplotlib.patches import Rectangle

    return Rectangle((x / WIDTH, (y - 5) / height), 10 / WIDTH, 10 / height, transform=figure.transFigure, color=colour)


def _key_width(part: str) -> float:
    return 32 + 6.6 * len(part)


def _key_rows(parts: Sequence[str]) -> list[list[str]]:
    """The entries of the key, in lines of the chart's width."""
    rows: list[list[str]] = [[]]
    for part in parts:
        if rows[-1] and sum(map(_key_width, [*rows[-1], part])) > WIDTH:
            rows.append([])
        rows[-1].append(part)
    return rows


def _inline(text: str, name: str, title: str, description: str, titles: dict[str, str]) -> str:
    """The SVG for a page: with ids that no other chart has, colours by name, a title and a description."""
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", LINK)
    root = ET.fromstring(text)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        if own := element.get("id"):
            if own in titles:
                tip = ET.Element(f"{{{SVG}}}title")
                tip.text = titles[own]
                element.insert(0, tip)
            element.set("id", f"{name}-{own}")
        for key in (f"{{{LINK}}}href", "clip-path"):
            if value := element.get(key):
                element.set(key, value.replace("#", f"#{name}-", 1))
        if style := element.get("style"):
            for colour, variable in COLOURS.items():
                style = style.replace(colour, f"var(--{variable})")
            element.set("style", style.replace("'sans-serif'", "sans-serif"))
    for at, (tag, words) in enumerate((("title", title), ("desc", description))):
        element = ET.Element(f"{{{SVG}}}{tag}", {"id": f"{name}-{tag}"})
        element.text = words
        root.insert(at, element)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-title {name}-desc", "class": "chart"}
    return ET.tostring(root, encoding="unicode")
