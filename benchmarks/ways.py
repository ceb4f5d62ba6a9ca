"""The three ways of splitting a model, side by side: seconds under the table of latencies of each cloud, bytes, and the bill.

    python benchmarks/ways.py --data FOLDER [--tables aws,gcp,azure] [--seeds 1,2,3,4,5] [--workers 1,8,42] [--memory-mb 1000]
    python benchmarks/ways.py --model radixnet:16384:120 --input digits
    python benchmarks/ways.py --model radixnet:16384:120 --input digits --predict --only "data 42;tensor 42"

With --data it takes the official N = 1024 model of the Graph Challenge and its first 10,000 images. The bill of AWS is that of the runs
under the table `aws`, for functions of --memory-mb, at today's list prices and at those of the paper (Oakley and Ferhatosmanoglu,
FSD-Inference, ICDE 2024). It prints Markdown. Every case runs once without a latency first: this stages the model. Let nothing else run
meanwhile: real time counts. --predict runs nothing and computes what a cloud would take, for cases that this machine cannot run: each
worker has a core as fast as one of this machine. Its seconds are p50, in brackets p95. A prediction encodes each payload on its own,
and a run only what changed since the last one, so predicted activations are up to twice as many bytes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import attrs

from fsd_core.common.home import home_folder
from fsd_core.cost import Usage, bill, load
from fsd_core.latency.named import shipped_table
from fsd_core.model import Model, open_model
from fsd_core.model.inputs import open_inputs
from fsd_core.partition import ExchangePlan, Parallel
from fsd_core.partition.kept import find_partition
from fsd_core.plan.batches import plan_batches, sizes
from fsd_core.plan.facts import Facts, learn
from fsd_core.plan.places import place
from fsd_core.plan.predict import Platform, predict
from fsd_core.plan.traffic import of_partition
from graphchallenge import FILES
from graphchallenge import load as challenge

WAYS = {"data": "--data-parallel", "pipeline": "--pipeline-parallel", "tensor": "--tensor-parallel"}
LEARN_S = 60.0  # seconds for which samples of the input are computed before a prediction
TARIFFS = ("aws-us-east-1", "aws-icde2024")
# Table II of the paper, N = 1024 and 10,000 samples on 8 functions of 1,000 MB: seconds, bytes sent, USD.
PAPER = {"the paper, queue": (63.5, 104_131_260, 0.0215), "the paper, object": (58.2, 240_694_300, 0.0539)}


def record(words: list[str], latency: str | None) -> dict[str, Any]:
    """The record of one run of ``fsd``, with its ranks. Ends this program if the run fails."""
    command = [sys.executable, "-m", "fsd_core.cli", *words, *(["--latency", latency] if latency else []), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)} --latency {latency}: exit code {done.returncode}: {done.stderr.splitlines()[-1:]}")
    found: dict[str, Any] = json.loads((home_folder() / "runs" / f"{json.loads(done.stdout)['run']}.json").read_text())
    return found


def cases(counts: list[int]) -> dict[str, list[str]]:
    """The words of each case by its name."""
    found = {}
    for count in counts:
        if count == 1:
            found["one worker"] = ["--workers", "1"]
            continue
        for way, flag in WAYS.items():
            found[f"{way} {count}"] = [flag, str(count), "--channel", "queue"]
        found[f"tensor {count}, latency objective"] = [WAYS["tensor"], str(count), "--channel", "queue", "--objective", "latency"]
    return found


def predicted(model: Model, inputs: Any, facts: Facts, words: list[str], tables: list[str], memory_mb: float) -> list[str]:
    """The cells of one case, predicted, in the order of the table."""
    given = dict(zip(words[::2], words[1::2], strict=True))
    shape = Parallel(**{way: int(given[flag]) for way, flag in WAYS.items() if flag in given})
    wanted, costs = plan_batches(model, inputs, None, shape)
    made, _ = find_partition("hypergraph", model, shape.parts, 0, home_folder(), stages=shape.pipeline, costs=costs)
    split = of_partition(facts, made, ExchangePlan(model, made), shape, sizes(inputs.shape[0], None, shape, wanted))
    cells, prices, counts = [], ["-"] * len(TARIFFS), list[str]()
    for table in tables:
        where = place(table, {}, shipped_table(table))
        outline = attrs.evolve(where.outline, cores=lambda _: 1.0)
        for number, tariff in enumerate(TARIFFS if table == "aws" else TARIFFS[:1]):
            platform = Platform(provider=table, outline=outline, table=where.table, tariff=load(tariff), memory_mb=int(memory_mb))
            found = predict(split, platform, given.get("--channel", "queue"), objective=given.get("--objective", "cost"))
            if table == "aws":
                prices[number] = f"*{found.usd:.2g}*"
        cells.append(f"*predicted {found.seconds['p50']:.3g} (to {found.seconds['p95']:.3g})*")
        sent = int(found.bytes_by_rank.sum() / 2) * shape.data  # each byte counts at its sender and its receiver
        counts = counts or [f"*about {sent:,}*" if sent else "*0*", f"*{found.meter['publish_requests']:,}*"]
    return [*cells, *counts, *prices]


def usd(run: dict[str, Any], tariff: str, memory_mb: float) -> float:
    """The bill of a run, in USD, as if its functions had this memory."""
    return bill(attrs.evolve(Usage.of_run(run), memory_mb=memory_mb), load(tariff)).total_usd


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the files of the Graph Challenge")
    parser.add_argument("--model", default="radixnet:1024:120")
    parser.add_argument("--input", default="digits")
    parser.add_argument("--tables", default="aws,gcp,azure")
    parser.add_argument("--seeds", default="1,2,3,4,5")
    parser.add_argument("--workers", default="1,8,42")
    parser.add_argument("--memory-mb", type=float, default=1000)
    parser.add_argument("--only", default="", help="run only these cases: names as in the table, with semicolons between them")
    parser.add_argument("--predict", action="store_true", help="predict these cases, run nothing")
    options = parser.parse_args()
    what = [options.model, options.input]
    if options.data:
        challenge(options.data)  # unpacks the archive of the model
        what = [str(home_folder() / "graphchallenge" / "neuron1024"), str(options.data / FILES[1])]
    tables = options.tables.split(",")
    if options.predict:
        model = open_model(what[0])
        inputs = open_inputs(what[1], model.inputs)
        facts = learn(model, inputs, LEARN_S)
    seconds = (
        "p50, in brackets p95" if options.predict else f"medians over the seeds {options.seeds}, in brackets the lowest and the highest"
    )
    print(f"Seconds: {seconds}. fsd run {' '.join(what)}\n")
    print("| way | " + " | ".join(f"{table}, s" for table in tables) + " | activations, bytes | publishes |", end="")
    print("".join(f" USD, {tariff} |" for tariff in TARIFFS))
    print("| --- |" + " ---: |" * (len(tables) + 2 + len(TARIFFS)))
    for name, words in cases([int(count) for count in options.workers.split(",")]).items():
        if options.only and name not in options.only.split(";"):
            continue
        if options.predict:
            print(f"| {name} | {' | '.join(predicted(model, inputs, facts, words, tables, options.memory_mb))} |", flush=True)
            continue
        command = ["run", *what, *words]
        last = record(command, None)
        cells, prices = [], ["-"] * len(TARIFFS)
        for table in tables:
            runs = [record(command, f"{table},seed={seed}") for seed in options.seeds.split(",")]
            totals = sorted(run["seconds"]["total"] for run in runs)
            cells.append(f"{median(totals):.2f} ({totals[0]:.2f} to {totals[-1]:.2f})")
            if table == "aws":
                prices = [f"{median(usd(run, tariff, options.memory_mb) for run in runs):.6f}" for tariff in TARIFFS]
        meter = last["meter"]
        counts = [f"{last['meter_layers']['payload_bytes_sent']:,}", f"{meter['publish_requests']:,}"]
        print(f"| {name} | " + " | ".join([*cells, *counts, *prices]) + " |", flush=True)
    for name, (total, sent, price) in PAPER.items() if options.data else ():
        cells = [f"{total}" if table == "aws" else "" for table in tables]
        print(f"| {name} | " + " | ".join([*cells, f"{sent:,}", "", "", f"{price}"]) + " |")


if __name__ == "__main__":
    main()
