"""Queue or object channel: the price of the communication of a run, by number of workers, for two tariffs.

The lines are predictions under the limits and latencies of AWS; nothing runs for them. The marks are runs on this machine, where requests
and bytes are close to those in a cloud. The price of function time is not included, since the seconds of this machine are not those of a
cloud.

    python benchmarks/choosing.py --out docs/choosing.svg
    python benchmarks/choosing.py --workers 30,42                       # a part of the runs; then put its lines into the table of the page
    python benchmarks/choosing.py --page docs/choosing.md --out docs/choosing.svg     # runs nothing: takes the marks from that table
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import fsd_core
from fsd_core.cost import Usage, bill, load
from fsd_core.model import open_model
from fsd_core.model.inputs import open_inputs
from fsd_core.partition import ExchangePlan, Parallel
from fsd_core.partition.methods import partition as make_partition
from fsd_core.plan.facts import learn
from fsd_core.plan.places import place
from fsd_core.plan.predict import Platform, predict
from fsd_core.plan.traffic import of_partition
from fsd_core.report.figures import FIGURES, Measured

TARIFFS = ("aws-us-east-1", "aws-icde2024")
CHANNELS = {"queue": ("#0b5394", "o", "-"), "object": ("#d07000", "s", "--")}  # colour, mark, line
MONEY = FIGURES[-1]
WORKERS = (2, 4, 8, 14, 20, 30, 42)
LEARN_S = 5.0  # seconds for which samples of the input are computed
MEMORY_MB = 1769  # of a function: one core
HEAD = f"| workers | channel | messages, MB | queue requests | object requests | {' | '.join(f'USD, {name}' for name in TARIFFS)} |"


def measure(model: str, inputs: str, counts: list[int], partition: str) -> dict[tuple[str, str], list[float]]:
    """(Tariff, channel) -> USD for the messages and objects of a thousand runs, a number for each of ``counts`` workers."""
    network = open_model(model)
    samples = open_inputs(inputs, network.inputs)
    found: dict[tuple[str, str], list[float]] = {(tariff, channel): [] for tariff in TARIFFS for channel in CHANNELS}
    print(f"{HEAD}\n|" + " ---: |" * (5 + len(TARIFFS)))
    for count in counts:
        fsd_core.run(
            network, samples, channel="object", tensor_parallel=count, partition=partition
        )  # not measured: this run stages the weights
        for channel in CHANNELS:
            result = fsd_core.run(network, samples, channel=channel, tensor_parallel=count, partition=partition)
            record = result.to_json() | {"ranks": result.ranks}
            usd = []
            for name in TARIFFS:
                parts = dict(zip(MONEY.parts, MONEY.of(Measured(record, bill(Usage.of_run(record), load(name)))), strict=True))
                usd.append(parts["messages"] + parts["objects"])
                found[name, channel].append(usd[-1])
            meter = result.meter
            queue = sum(meter[f"{verb}_requests"] for verb in ("publish", "receive", "ack"))
            objects = sum(meter[f"object_{verb}"] for verb in ("puts", "gets", "lists"))
            sizes = f"{count} | {channel} | {meter['message_bytes_sent'] / 1e6:.2f} | {queue} | {objects}"
            print(f"| {sizes} | " + " | ".join(f"{each:.2f}" for each in usd) + " |", flush=True)
    return found


def listed(page: Path, counts: list[int]) -> dict[tuple[str, str], list[float]]:
    """The same from the first table of ``page`` that `measure` printed. Ends this program if it lacks a line."""
    lines = page.read_text().partition(f"{HEAD}\n")[2].partition("\n\n")[0].splitlines()
    rows = {(cells[0], cells[1]): cells for cells in ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)}
    missing = [f"{count} {channel}" for count in counts for channel in CHANNELS if (str(count), channel) not in rows]
    if missing:
        sys.exit(f"{page}: expected a table that begins with {HEAD!r} and has lines for {', '.join(missing)}")
    return {
        (tariff, channel): [float(rows[str(count), channel][number - len(TARIFFS)]) for count in counts]
        for number, tariff in enumerate(TARIFFS)
        for channel in CHANNELS
    }


def expected(model: str, inputs: str, counts: list[int], method: str) -> dict[tuple[str, str], list[float]]:
    """The same from predictions under the limits and latencies of AWS."""
    network = open_model(model)
    samples = open_inputs(inputs, network.inputs)
    facts, where = learn(network, samples, LEARN_S), place("aws", {})
    found: dict[tuple[str, str], list[float]] = {(tariff, channel): [] for tariff in TARIFFS for channel in CHANNELS}
    print("\n| workers | channel | " + " | ".join(f"USD, {name}, predicted" for name in TARIFFS) + " |")
    print("|" + " ---: |" * (2 + len(TARIFFS)))
    for count in counts:
        made, shape = make_partition(network, count, method), Parallel(tensor=count)
        split = of_partition(facts, made, ExchangePlan(network, made), shape, [samples.shape[0]])
        for channel in CHANNELS:
            usd = []
            for name in TARIFFS:
                platform = Platform(provider="aws", outline=where.outline, table=where.table, tariff=load(name), memory_mb=MEMORY_MB)
                parts = predict(split, platform, channel).usd_by_service
                usd.append(1000 * sum(part for service, part in parts.items() if service != "lambda"))
                found[name, channel].append(usd[-1])
            print(f"| {count} | {channel} | " + " | ".join(f"{each:.2f}" for each in usd) + " |", flush=True)
    return found


def plot(
    found: dict[tuple[str, str], list[float]], predicted: dict[tuple[str, str], list[float]], counts: list[int], title: str, out: str
) -> None:
    """Draw one panel for each tariff, with logarithmic axes, and save them as SVG to ``out``. Lines: predicted; marks: measured."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullLocator

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "choosing", "font.family": "sans-serif", "font.size": 11}):
        figure = Figure(figsize=(9, 4), layout="constrained")
        panels = figure.subplots(1, len(TARIFFS), sharey=True)
        for axes, tariff in zip(panels, TARIFFS, strict=True):
            for channel, (colour, mark, line) in CHANNELS.items():
                usd = found[tariff, channel]
                axes.plot(counts, usd, color=colour, marker=mark, linestyle="none")
                axes.plot(counts, predicted[tariff, channel], color=colour, linestyle=line, linewidth=2)
                axes.annotate(channel, (counts[-1], usd[-1]), (7, 0), textcoords="offset points", color=colour, va="center", weight="bold")
            axes.set(xscale="log", yscale="log", xlabel="workers", title=tariff, xticks=counts, xlim=(counts[0] * 0.9, counts[-1] * 1.9))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.grid(color="#d4dae0", linewidth=0.8)
            axes.spines[["top", "right"]].set_visible(False)
        panels[0].set_ylabel("USD for a thousand runs,\nmessages and objects")
        figure.suptitle(title)
        figure.savefig(out, format="svg", metadata={"Date": None})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="radixnet:1024:24")
    parser.add_argument("--input", default="digits")
    parser.add_argument("--workers", default=",".join(map(str, WORKERS)))
    parser.add_argument("--partition", default="hypergraph")
    parser.add_argument("--page", type=Path, help="a page with a table of runs; default: run them")
    parser.add_argument("--out", help="the file of the plot, an SVG; default: no plot")
    given = parser.parse_args()
    counts = [int(word) for word in given.workers.split(",")]
    predicted = expected(given.model, given.input, counts, given.partition)
    found = listed(given.page, counts) if given.page else measure(given.model, given.input, counts, given.partition)
    if given.out:
        title = f"{given.model}, {given.input}, {given.partition} partition: lines are predicted, marks are measured"
        plot(found, predicted, counts, title, given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
