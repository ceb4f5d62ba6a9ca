"""The HTML page of a comparison or of one run. The page escapes all text from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fsd_core.client.result import left_out
from fsd_core.common.amount import counted
from fsd_core.cost import Bill
from fsd_core.latency import words as latency_words
from fsd_core.report import charts
from fsd_core.report.charts import Bar, Row
from fsd_core.report.compare import Comparison, median, spread
from fsd_core.report.figures import FIGURES, RANK_PARTS, Figure, Measured, rank_parts, rank_spans
from fsd_core.report.html import MARK
from fsd_core.report.html import count as _count
from fsd_core.report.html import details as _details
from fsd_core.report.html import escaped as _text
from fsd_core.report.html import facts as _facts
from fsd_core.report.html import page as _page
from fsd_core.report.html import seconds as _seconds
from fsd_core.report.html import section as _section
from fsd_core.report.html import size as _bytes
from fsd_core.report.html import table as _table
from fsd_core.report.html import usd as _usd
from fsd_core.report.stragglers import stragglers

__all__ = ["MARK", "check_page", "comparison_page", "run_page"]

EMULATED = (
    "An emulator's times are times of this machine. They do not show how fast a cloud is, or which cloud is faster. The bill contains"
    " function time, so the money for functions is also that of this machine. Counts and bytes are those that the cloud would see, and so"
    " is the money for messages and objects. One count differs: how many receives find no message depends on the speed of the service."
)
LOCAL = "The provider local runs on this machine with files and processes: its times and counts are real, and it costs nothing."
SIMULATED = (
    "Every request was delayed as a table of latencies says: times are an estimate for the cloud of that table, and so is the money for"
    " function time. Counts and bytes are real."
)


def check_page() -> None:
    """Raise `InputError` if matplotlib, which draws the charts, is missing."""
    charts.check()


def _sizes(about: Mapping[str, Any]) -> str:
    """The sizes of the input and of the model."""
    layers = f"{counted(about['layers'], 'layer')} of up to {counted(about['neurons'], 'neuron')}"
    return f"{counted(about['samples'], 'sample')}, {layers}"


def comparison_page(found: Comparison) -> str:
    """The page of a comparison, as HTML."""
    about = found.about
    emulated = [f"{name} ({where.emulator})" for name, where in found.providers.items() if where.emulator]
    top = [f"<h1>{_text(about['model'])} on {_text(', '.join(found.providers))}</h1>"]
    ran = sum(len(cell.runs) for cell in found.cells)
    times = "once" if about["repeat"] == 1 else f"{about['repeat']} times; the cases took turns"
    agree = "All outputs agree." if ran > 1 else "" if ran else "Nothing ran."
    top += [f"<p>{_sizes(about)}. Every provider runs the same partition. Each case ran {times}. {agree}</p>"]
    if found.headline:
        top.append(f"<p><strong>{_text(found.headline)}</strong></p>")
    if emulated:
        top.append(f'<p class="warn">Ran on emulators here: {_text(", ".join(emulated))}. Compare counts and bytes, not times.</p>')
    top += [f'<p class="warn">No figures: {_text(line)}</p>' for _, line in found.failures()]
    top += [f'<p class="warn">{_text(line)}.</p>' for line in found.left_out()]
    sections = [
        _section("At a glance", _overview(found)),
        f'<div class="pair">{"".join(_compared(figure, found) for figure in FIGURES)}</div>',
    ]
    sections.append(_section("Money by service", _services(found)))
    words = [SIMULATED] if about.get("latency") else [LOCAL] if "local" in found.providers else []
    words += [EMULATED] if emulated and not about.get("latency") else []
    words.append(
        "A bar shows the median run of a case; for an even number of runs, the lower one of the middle two. The thin line goes from the"
        " lowest to the highest run. Before these runs, each provider and number of workers had one run that is not shown: it made the"
        " resources, started functions and put the weights into the store, so that the runs that are shown did not."
    )
    sections.append(_section("How to read this", "".join(f"<p>{_text(each)}</p>" for each in words)))
    sections.append(_section("Configuration and versions", _facts([*about.items(), *_wheres(found)])))
    return _page(f"fsd compare: {about['model']}", [*top, *sections])


def run_page(run: Measured) -> str:
    """The page of one run, as HTML."""
    record = run.record
    alone = record["workers"] == 1
    what = " on ".join(record["note"][name] for name in ("model", "input") if name in record["note"])
    top = [
        f"<h1>Run {_text(record['run'])}{_text(f': {what}' if what else '')}</h1>",
        f"<p>{_sizes(record)}, {counted(record['workers'], 'worker')} on {_text(record['provider'])}"
        f"{'' if alone else ', channel ' + _text(record['channel'])}:"
        f" {record['seconds']['total']:.2f} s, {run.bill.total_usd:.6f} USD.</p>",
    ]
    if record["stand_in"]:
        where = _text(record["stand_in"])
        top.append(f'<p class="warn">Ran on an emulator at {where}. Compare counts and bytes, not times.</p>')
    if words := left_out(record.get("missing_ranks", ())):
        top.append(f'<p class="warn">{_text(words)}.</p>')
    sections = [
        *(_by_rank(record) if record["ranks"] else ()),
        _section("Bill", _bill(run.bill)),
        f'<div class="pair">{"".join(_amounts(figure, run) for figure in FIGURES[:3])}</div>',
    ]
    names = ("run", "began", "provider", "channel", "partition", "seed", "objective", "workers", "branching", "faults", "model")
    facts = [*record["note"].items()]
    facts += [(name if name != "model" else "model digest", record[name]) for name in names if record[name] is not None]
    facts += [("replicas x stages x workers of a stage", " x ".join(map(str, record["parallel"].values())))]
    facts += [("simulated latency", latency_words(record["latency"]))] if record.get("latency") else []
    facts += [("batches of samples", ", ".join(map(str, record["batches"]))), ("emulator", record["stand_in"] or "none")]
    facts += [("memory, largest worker", _bytes(record["memory"]["peak_bytes_max"]))]
    facts += [("memory limit", _bytes(record["memory"]["limit_bytes"]))] if "limit_bytes" in record["memory"] else []
    facts += record["versions"].items()
    sections.append(_section("Configuration and versions", _facts(facts)))
    own = LOCAL if record["provider"] == "local" else EMULATED if record["stand_in"] else ""
    if words := SIMULATED if record.get("latency") else own:
        sections.append(_section("How to read this", f"<p>{_text(words)}</p>"))
    return _page(f"fsd run {record['run']}", [*top, *sections])


def _by_rank(record: Mapping[str, Any]) -> list[str]:
    """The sections with a line for every rank that left a record."""
    ranks = [(f"rank {rank['rank']}", rank_parts(rank)) for rank in record["ranks"]]
    rows_of = [Row(f"rank {rank['rank']}", rank_spans(rank)) for rank in record["ranks"]]
    moments = charts.timeline("moments", "Phases of each rank over time", "seconds from the first launch", RANK_PARTS, rows_of, _seconds)
    moments_words = (
        "Time starts when the client begins to launch. Phases: launch (until the rank's function runs), load (reading weights and inputs),"
        " compute, send (encoding activations and giving them to the channel, which sends them while the rank computes), wait (for"
        " activations of other ranks), other (claiming the rank, starting other ranks). A row has up to 512 intervals; the colour of an"
        " interval is that of its longest phase."
    )
    bars = [Bar("", name, parts, sum(parts), sum(parts)) for name, parts in ranks]
    chart = charts.stacked("ranks", "Time of each rank", "seconds, all phases", RANK_PARTS, bars, _seconds)
    words = "The total time that each rank spent in each phase."
    rows = [[name, *map(_seconds, parts), _seconds(sum(parts))] for name, parts in ranks]
    figure = f"<figure>{chart}</figure>{_details(_table(['rank', *RANK_PARTS, 'all'], rows))}"
    late = [[each.phase, f"rank {each.rank}", _seconds(each.seconds), _seconds(each.median), "yes" if each.late else "no"] for each in
        stragglers(record)]  # fmt: skip
    stragglers_words = (
        "A straggler took more than 1.5 times as long as the median rank, and its delay is more than 5 % of the run's time: the other ranks"
        " wait for it."
    )
    both = _section("Timeline by rank", f'<figure>{moments}</figure><p class="soft">{moments_words}</p>')
    both += _section("Time by rank", figure + f'<p class="soft">{words}</p>')
    table = _table(["phase", "slowest rank", "its time", "median rank's time", "straggler"], late)
    return [f'<div class="pair">{both}</div>', _section("Stragglers", f'{table}<p class="soft">{stragglers_words}</p>')]


def _amounts(figure: Figure, run: Measured) -> str:
    """The section of one figure of one run."""
    parts = zip(figure.parts, map(_writer(figure), figure.of(run)), strict=True)
    return _section(figure.title, f'{_facts(parts)}<p class="soft">{_text(figure.meaning)}</p>')


def _compared(figure: Figure, found: Comparison) -> str:
    """The section of one figure: its chart, its meaning, its numbers."""
    bars, rows = [], []
    text = _writer(figure)
    for cell in _ordered(found):
        group = f"{counted(cell.case.workers, 'worker')}, {cell.case.channel}"
        if why := found.why(cell):
            bars.append(Bar(group, cell.case.provider, why="failed" if cell.error else "cannot start"))
            rows.append([str(cell.case), why if cell.error else "cannot start", *[""] * len(figure.parts)])
            continue
        values = figure.of(median(figure, cell))
        _, low, high = spread(figure, cell)
        bars.append(Bar(group, cell.case.provider, values, low, high))
        rows.append([str(cell.case), _three(figure, cell), *map(text, values)])
    units = {"s": "seconds", "B": "bytes", "USD": "USD for 1000 runs", "": "requests"}
    title = f"{figure.title} by provider, channel and workers"
    none = "These runs cost nothing." if any(cell.runs for cell in found.cells) else "Nothing ran."
    chart = (
        charts.stacked(figure.name, title, units[figure.unit], figure.parts, bars, text)
        if any(bar.total for bar in bars)
        else f"<p>{none}</p>"
    )
    table = _details(_table(["case", "median (lowest to highest)", *figure.parts], rows))
    return _section(figure.title, f'<figure>{chart}</figure>{table}<p class="soft">{_text(figure.meaning)}</p>')


def _overview(found: Comparison) -> str:
    rows = []
    for cell in _ordered(found):
        if why := found.why(cell):
            rows.append([str(cell.case), why if cell.error else "cannot start", "", "", ""])
        else:
            *others, money = (_three(figure, cell) for figure in FIGURES)
            rows.append([str(cell.case), *others, money + (" *" if cell.runs[0].bill.doubted else "")])
    names = ["case", "time", "requests", "bytes", "USD for 1000 runs"]
    words = ["Each figure is the median; in brackets are the lowest and the highest."]
    words += [f"* One of its prices has low confidence: {', '.join(doubted)}."] if (doubted := _doubted(found)) else []
    return _table(names, rows) + f'<p class="soft">{_text(" ".join(words))}</p>'


def _doubted(found: Comparison) -> list[str]:
    """The names of all prices of low confidence in any bill."""
    return sorted({f"{price.service} {price.sku}" for cell in found.cells for run in cell.runs for price in run.bill.doubted})


def _services(found: Comparison) -> str:
    rows = []
    for cell in _ordered(found):
        if cell.runs:
            bill = median(FIGURES[-1], cell).bill
            parts = (
                f"{name} {1000 * sum(line.usd for line in lines):.4f}" + (" *" if any(line.price in bill.doubted for line in lines) else "")
                for name, lines in bill.by_service.items()
            )
            other = f"{1000 * bill.otherwise_usd:.4f} if {bill.otherwise}" if bill.otherwise else ""
            rows.append([str(cell.case), bill.tariff.name, ", ".join(parts), f"{1000 * bill.total_usd:.4f}", other])
    words = "USD for 1000 runs. * One of the prices has low confidence; the last column is for the case that this price is wrong."
    fees = {
        f"{line.price.service} {line.price.unit}: {line.usd:g} USD, is charged even without use, and is not in the totals."
        for cell in found.cells for run in cell.runs[:1] for line in run.bill.apart
    }  # fmt: skip
    return (
        _table(["case", "tariff", "services", "total", "total if the price is wrong"], rows)
        + f'<p class="soft">{_text(" ".join([words, *sorted(fees)]))}</p>'
    )


def _bill(bill: Bill) -> str:
    rows = [
        [line.price.service, line.price.sku, f"{line.quantity:.6g} {line.price.unit}", f"{line.price.usd:g}", line.price.confidence,
            f"{line.usd:.7f}"] for line in bill.lines
    ]  # fmt: skip
    words = f"Total by tariff {bill.tariff.name} ({bill.tariff.region}, {bill.tariff.as_of}): {bill.total_usd:.7f} USD"
    if bill.otherwise_usd != bill.total_usd:
        words += f", or {bill.otherwise_usd:.7f} USD if {bill.otherwise}"
    apart = "".join(f" {line.price.service} {line.price.unit}: {line.usd:g} USD, which is not in the total." for line in bill.apart)
    return _table(["service", "price", "quantity", "USD per unit", "confidence", "USD"], rows) + f"<p>{_text(words)}.{_text(apart)}</p>"


def _wheres(found: Comparison) -> Iterable[tuple[str, str]]:
    for name, where in found.providers.items():
        limits = {run.record["memory"].get("limit_bytes") for cell in found.cells if cell.case.provider == name for run in cell.runs}
        memory = "".join(f", functions of {limit / 2**20:.0f} MiB" for limit in limits if limit)
        yield name, f"{'emulator ' + where.emulator if where.emulator else 'no emulator'}, tariff {where.tariff}{memory}"


def _ordered(found: Comparison) -> list[Any]:
    """The cells in the order of the page: by workers, then channel, then provider in the order of the command."""
    order = list(found.providers)
    channels = list(dict.fromkeys(cell.case.channel for cell in found.cells))
    return sorted(found.cells, key=lambda c: (c.case.workers, channels.index(c.case.channel), order.index(c.case.provider)))


def _three(figure: Figure, cell: Any) -> str:
    text = _writer(figure)
    middle, low, high = spread(figure, cell)
    return text(middle) if text(low) == text(high) else f"{text(middle)} ({text(low)} to {text(high)})"


def _writer(figure: Figure) -> Callable[[float], str]:
    return {"s": _seconds, "B": _bytes, "USD": _usd, "": _count}[figure.unit]
