"""Stacked bars as inline SVG, drawn by matplotlib: colours are variables of the page's style, so that they follow its theme.

A plot is as wide as a phone and grows downwards, a row a bar. Each segment is a group whose id has ``mark`` in it, with a title.
"""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fsd_core.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

__all__ = ["Bar", "check", "stacked"]

SVG, LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
WIDTH, LEFT, RIGHT = 360.0, 66.0, 74.0  # points: the plot, its labels, its values
ROW, HEAD, KEY, AXIS = 19.0, 25.0, 18.0, 38.0
SIZE = 12.0  # of the text
COLOURS = {"#010101": "ink", "#020202": "soft", "#030303": "line", "#040404": "card"} | {f"#0500{n:02x}": f"part-{n}" for n in range(7)}
INK, SOFT, LINE, CARD, *PARTS = COLOURS


@dataclass(frozen=True, slots=True)
class Bar:
    """One row: its place, its label, the values of its segments; lowest and highest total; or why it has none."""

    group: str
    label: str
    values: tuple[float, ...] = ()
    low: float = 0.0
    high: float = 0.0
    why: str = ""

    @property
    def total(self) -> float:
        """The bar's length."""
        return sum(self.values)


def check() -> None:
    """Raise `InputError` where matplotlib is missing."""
    try:
        import matplotlib.backends.backend_svg  # noqa: F401
    except ImportError:
        raise InputError("the page's plots are matplotlib's, which is not installed: pip install 'fsd-inference[report]'") from None


def stacked(name: str, title: str, axis: str, parts: Sequence[str], bars: Sequence[Bar], text: Callable[[float], str]) -> str:
    """The SVG of a chart: bars below the headings of their groups, a key above, ``axis`` below. ``text`` writes a value."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    shown = [at for at in range(len(parts)) if any(bar.values and bar.values[at] for bar in bars)]
    keys = _key_rows([parts[at] for at in shown])
    top = KEY * len(keys) + 6
    heads = len({bar.group for bar in bars if bar.group})
    height = top + heads * HEAD + len(bars) * ROW + AXIS
    longest = max((bar.high for bar in bars), default=0.0) or 1.0
    titles: dict[str, str] = {}
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": SIZE, "font.family": "sans-serif"}):
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
        figure.patch.set_visible(False)
        below = height - top - AXIS
        axes = figure.add_axes((LEFT / WIDTH, AXIS / height, (WIDTH - LEFT - RIGHT) / WIDTH, below / height))
        axes.set(xlim=(0, longest), ylim=(below, 0), yticks=[], facecolor="none")
        axes.set_xlabel(axis, color=SOFT, fontsize=SIZE)
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: text(value) if value else "0"))
        axes.tick_params(colors=SOFT, length=0, labelsize=SIZE - 0.5)
        axes.grid(axis="x", color=LINE, linewidth=0.8)
        axes.set_axisbelow(True)
        for spine in axes.spines.values():
            spine.set_visible(False)
        y, group = 0.0, ""
        beside: dict[str, Any] = {"clip_on": False, "va": "center", "fontsize": SIZE}
        for row, bar in enumerate(bars):
            if bar.group and bar.group != group:
                axes.text(-LEFT / (WIDTH - LEFT - RIGHT), y + HEAD * 0.58, bar.group, transform=axes.get_yaxis_transform(), color=INK,
                    weight="bold", **beside)  # fmt: skip
                y, group = y + HEAD, bar.group
            middle, start = y + ROW / 2, 0.0
            axes.annotate(
                bar.label, (0, middle), (-6, 0), textcoords="offset points", ha="right", color=INK, annotation_clip=False, **beside
            )
            for at in shown if bar.values else ():
                if not bar.values[at]:
                    continue
                patch = axes.barh(middle, bar.values[at], ROW * 0.68, start, color=PARTS[at], edgecolor=CARD, linewidth=0.6)[0]
                patch.set_gid(f"mark-{row}-{at}")
                titles[f"mark-{row}-{at}"] = f"{bar.group + ', ' if bar.group else ''}{bar.label}: {parts[at]} {text(bar.values[at])}"
                start += bar.values[at]
            if bar.high > bar.low:
                axes.plot([bar.low, bar.high], [middle, middle], color=INK, linewidth=1.2, marker="|", markersize=7, clip_on=False)
            value = bar.why or text(bar.total)
            axes.annotate(value, (0 if bar.why else max(bar.high, bar.total), middle), (5, 0), textcoords="offset points", ha="left",
                color=SOFT if bar.why else INK, style="italic" if bar.why else "normal", annotation_clip=False, **beside)  # fmt: skip
            y += ROW
        for line, row_parts in enumerate(keys):
            x, at_y = 2.0, height - 10 - line * KEY
            for part in row_parts:
                figure.text((x + 14) / WIDTH, at_y / height, part, color=INK, va="center", fontsize=SIZE)
                figure.patches.append(_square(figure, x, at_y, height, PARTS[list(parts).index(part)]))
                x += _key_width(part)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    said = "; ".join(f"{bar.group + ', ' if bar.group else ''}{bar.label}: {bar.why or text(bar.total)}" for bar in bars)
    return _inline(out.getvalue(), name, title, said, titles)


def _square(figure: Figure, x: float, y: float, height: float, colour: str) -> Rectangle:
    """A key's square, its place in points."""
    from matplotlib.patches import Rectangle

    return Rectangle((x / WIDTH, (y - 5) / height), 10 / WIDTH, 10 / height, transform=figure.transFigure, color=colour)


def _key_width(part: str) -> float:
    return 32 + 6.6 * len(part)


def _key_rows(parts: Sequence[str]) -> list[list[str]]:
    """The key's entries, as many a line as fit."""
    rows: list[list[str]] = [[]]
    for part in parts:
        if rows[-1] and sum(map(_key_width, [*rows[-1], part])) > WIDTH:
            rows.append([])
        rows[-1].append(part)
    return rows


def _inline(text: str, name: str, title: str, said: str, titles: dict[str, str]) -> str:
    """Fit for a page: ids that no other plot has, colours by name, a title and a description for who does not see it."""
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
    for at, (tag, words) in enumerate((("title", title), ("desc", said))):
        element = ET.Element(f"{{{SVG}}}{tag}", {"id": f"{name}-{tag}"})
        element.text = words
        root.insert(at, element)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-title {name}-desc", "class": "chart"}
    return ET.tostring(root, encoding="unicode")
