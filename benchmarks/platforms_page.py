"""Writes the tables in the marked parts of docs/platforms.md, and its plots, from the figures of benchmarks/platforms.py."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from fsd_core.plan.choose import ALIKE

DOCS = Path(__file__).parents[1] / "docs"
KEPT, PAGE = DOCS / "platforms.json", DOCS / "platforms.md"
CLOUDS = {"aws": ("AWS", "#b85c00"), "gcp": ("Google Cloud", "#0b5394"), "azure": ("Azure", "#2a7a4f")}  # name, colour
TITLES = {"batch": "Graph Challenge batch, cold", "large": "Model of 2 GB, cold", "calls": "Small network, warm"}
MARKS = {"one function": "o", "replicas": "^", "stages": "s", "workers share layers": "D"}  # the last one that a way's name has
FACTORS = (0.5, 2.0)  # by which figures of low confidence are multiplied


def least(rows: Iterable[Mapping[str, Any]], key: str) -> dict[str, float]:
    """The smallest figure of each cloud."""
    found: dict[str, float] = {}
    for each in rows:
        if key in each:
            found[each["cloud"]] = min(each[key], found.get(each["cloud"], math.inf))
    return found


def write(data: Mapping[str, Any]) -> None:
    """Write the page and its plots."""
    PAGE.write_text(filled(PAGE.read_text(), rendered(data)))
    draw(data["workloads"])


def filled(page: str, parts: Mapping[str, str]) -> str:
    """The page with its marked parts replaced. Ends the program unless the page has each mark once."""
    for name, text in parts.items():
        before, begin, rest = page.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"\n<!-- /{name} -->")
        if not end or begin in after:
            sys.exit(f"{PAGE.name}: expected one part between <!-- {name} --> and <!-- /{name} -->")
        page = f"{before}{begin}\n{text}\n{end}{after}"
    return page


def rendered(data: Mapping[str, Any]) -> dict[str, str]:
    """The marked parts of the page by name."""
    kinds = data["workloads"]
    figures = ["memory, MB", "p50, s", "p95, s", "USD for 1,000 runs", "what binds"]
    found = {"sentences": "\n".join(sentences(kinds))}
    found["answer"] = table(["workload", "cloud", "objective", "way", *figures], answers(kinds), 4)
    columns = [f"{cloud}, {what}" for cloud in CLOUDS for what in ("s, p50 / p95", "USD for 1,000", "what binds")]
    found |= {name: table(["way", "channel", *columns], ways(each["rows"]), 2) for name, each in kinds.items()}
    found["limits"] = table(["cloud", "largest function, MB", "functions at once", "longest run of a function, s"], limits(data["limits"]))
    found["orders"] = table(["workload", "by", "order", "another order with"], orders(kinds), 4)
    found["estimates"] = table(["workload", "cloud", "way", "row", "half", "double"], estimates(kinds), 4)
    found["servers"] = table(["workload", *(f"{cloud}, runs a day" for cloud in CLOUDS)], servers(kinds))
    head = ["workload", "way", "table", "runs", "measured, s", "predicted, s", "predicted is off by"]
    found["measured"] = table(head, measured(data["measured"]), 3)
    return found


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table in Markdown. The first ``left`` columns are texts, which are aligned to the left."""
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def number(value: float) -> str:
    """A figure with two digits, or with all digits before the point if there are more."""
    return f"{value:,.{max(0, 1 - math.floor(math.log10(value)))}f}"


def binds(row: Mapping[str, Any]) -> str:
    """The longest part of the time; and the smallest possible bill (``floor``), if it is at least half of the bill."""
    return f"{row['part']} {row['share']:.0%}" + ("; floor" if row["floor"] >= 0.5 else "")


def sentences(kinds: Mapping[str, Any]) -> Iterator[str]:
    """Which cloud is the fastest and which the cheapest, for each workload."""
    for name, each in kinds.items():
        quick, cheap = (min(each["choices"], key=lambda row: row[key]) for key in ("p50", "usd"))
        fast = f"{CLOUDS[quick['cloud']][0]} is the fastest ({quick['way']}, {number(quick['p50'])} s)"
        other = "" if quick["cloud"] == cheap["cloud"] else f"{CLOUDS[cheap['cloud']][0]} is "
        yield f"- **{TITLES[name]}**: {fast}, and {other}the cheapest ({cheap['way']}, {number(1000 * cheap['usd'])} USD for 1,000 runs)."


def answers(kinds: Mapping[str, Any]) -> Iterator[list[str]]:
    """What a plan chooses at each cloud."""
    for name, each in kinds.items():
        for cloud in CLOUDS:
            quick, cheap = (
                next(one for one in each["choices"] if one["cloud"] == cloud and one["objective"] == by) for by in ("latency", "cost")
            )
            same = all(quick[key] == cheap[key] for key in ("way", "channel", "memory_mb"))
            for by, row in (("both", cheap),) if same else (("latency", quick), ("cost", cheap)):
                way = row["way"] + (f", {row['channel']}" if row["channel"] else "")
                figures = [f"{row['memory_mb']:,}", number(row["p50"]), number(row["p95"]), number(1000 * row["usd"]), binds(row)]
                yield [name, cloud, by, way, *figures]


def ways(rows: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    """All ways of a workload that were predicted for every cloud, a line for each way and channel."""
    for way, channel in dict.fromkeys((row["way"], row["channel"]) for row in rows):
        cells = []
        for cloud in CLOUDS:
            row = next((row for row in rows if (row["cloud"], row["way"], row["channel"]) == (cloud, way, channel)), None)
            if row is None:
                cells += ["-", "-", "-"]
            elif "why" in row:
                cells += ["-", "-", row["why"]]
            else:
                cells += [f"{number(row['p50'])} / {number(row['p95'])}", number(1000 * row["usd"]), binds(row)]
        yield [way, channel, *cells]


def limits(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[str]]:
    """The limits of functions of each cloud."""
    for row in rows:
        yield [row["cloud"], *(f"{row[key]:,.0f}" for key in ("memory_mb", "functions", "timeout_s"))]


def better(values: Mapping[str, float]) -> set[tuple[str, str]]:
    """The pairs of clouds in which the first cloud is better than the second by more than `ALIKE`."""
    return {(one, other) for one in values for other in values if values[other] >= ALIKE * values[one]}


def order(values: Mapping[str, float]) -> str:
    """The clouds, the best first. Between two clouds is an equals sign if `better` does not have them as a pair."""
    names = sorted(values, key=lambda name: values[name])
    return names[0] + "".join(f"{' = ' if (before, name) not in better(values) else ', '}{name}" for before, name in pairwise(names))


def orders(kinds: Mapping[str, Any]) -> Iterator[list[str]]:
    """For seconds and USD of each workload: the order of the clouds, and which multiplied figures of one cloud change it."""
    for name, each in kinds.items():
        for key, title in (("fastest", "seconds"), ("cheapest", "USD")):
            base = least(each["rows"] + each["others"], key)
            changed = [(change, base | {change["cloud"]: change[key]}) for change in each["changes"]]
            others = [f"{words(change)}: {order(values)}" for change, values in changed if better(values) != better(base)]
            yield [name, title, order(base), "; ".join(others) or "none"]


def words(change: Mapping[str, Any]) -> str:
    """A change in words: the multiplied figures and the factor."""
    return f"{change['cloud']} {'half' if change['factor'] < 1 else 'double'}"


def estimates(kinds: Mapping[str, Any]) -> Iterator[list[str]]:
    """The rows of low confidence that matter most."""
    for name, each in kinds.items():
        for verb in each["verbs"]:
            yield [name, verb["cloud"], verb["way"], f"`{verb['verb']}`", *(f"{effect:+.0%}" for effect in verb["effect"])]


def servers(kinds: Mapping[str, Any]) -> Iterator[list[str]]:
    """The number of runs a day from which a server is cheaper."""
    for name, each in kinds.items():
        yield [name, *(f"{row['runs']:,} ({row['count']} x {row['server']})" if row["runs"] else "never" for row in each["servers"])]


def measured(runs: Iterable[Mapping[str, Any]]) -> Iterator[list[str]]:
    """Measured and predicted seconds on this machine."""
    for run in runs:
        seconds = number(run["p50"]) + (f" ({number(run['least'])} to {number(run['most'])})" if run["seeds"] > 1 else "")
        off = f"{run['predicted'] / run['p50'] - 1:+.0%}"
        yield [run["workload"], run["way"], run["cloud"], str(run["seeds"]), seconds, number(run["predicted"]), off]


def mark(way: str) -> str:
    """The mark of a way in the plot."""
    return [sign for kind, sign in MARKS.items() if kind in way][-1]


def draw(kinds: Mapping[str, Any]) -> None:
    """Write both plots: all ways by USD and seconds; and the fastest way of each cloud with multiplied figures of low confidence."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "platforms", "font.family": "sans-serif", "font.size": 11}):
        figure = Figure(figsize=(9, 4.2), layout="constrained")
        for axes, (name, each) in zip(figure.subplots(1, len(kinds)), kinds.items(), strict=True):
            for row in each["rows"] + each["others"]:
                if "p50" in row:
                    axes.plot(
                        1000 * row["usd"], row["p50"], color=CLOUDS[row["cloud"]][1], marker=mark(row["way"]), markersize=7, alpha=0.8
                    )
            axes.set(xscale="log", yscale="log", xlabel="USD for 1,000 runs")
            axes.set_title(TITLES[name], size=11)
            plain(axes, axes.xaxis, axes.yaxis)
        figure.axes[0].set_ylabel("seconds, p50")
        handles = [Line2D([], [], color=colour, linewidth=6, label=title) for title, colour in CLOUDS.values()]
        handles += [Line2D([], [], color="#59636e", marker=sign, linestyle="none", label=kind) for kind, sign in MARKS.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9, handlelength=1.2)
        figure.savefig(DOCS / "platforms.svg", format="svg", metadata={"Date": None})
        figure = Figure(figsize=(9, 2.6), layout="constrained")
        for axes, (name, each) in zip(figure.subplots(1, len(kinds)), kinds.items(), strict=True):
            base = least(each["rows"] + each["others"], "fastest")
            for at, (cloud, (title, colour)) in enumerate(CLOUDS.items()):
                ends = [change["fastest"] for change in each["changes"] if change["cloud"] == cloud]
                axes.plot(ends, [-at, -at], color=colour, linewidth=7, alpha=0.35, solid_capstyle="butt")
                axes.plot(base[cloud], -at, color=colour, marker="o")
                axes.annotate(title, (min(ends), -at), (0, 8), textcoords="offset points", color=colour, weight="bold", size=10)
            axes.margins(x=0.2)
            axes.set(xscale="log", xlabel="seconds, p50", yticks=[], ylim=(-2.4, 0.8))
            axes.set_title(TITLES[name], size=11)
            plain(axes, axes.xaxis)
            axes.spines["left"].set_visible(False)
        figure.savefig(DOCS / "platforms-estimates.svg", format="svg", metadata={"Date": None})


def plain(axes: Any, *logarithmic: Any) -> None:
    """Grid lines behind the marks, and plain numbers at the logarithmic axes."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.grid(color="#d4dae0", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    for axis in logarithmic:
        low, high = axis.get_view_interval()
        subs = (1, 1.5, 2, 3, 5, 7) if high / low < 6 else (1, 2, 5) if high / low < 200 else (1,)
        axis.set_major_locator(LogLocator(subs=subs))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
