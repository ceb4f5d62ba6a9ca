"""Measures what additional micro-batches cost: seconds summed over the workers, with one micro-batch and with many, in turns.

    python benchmarks/micro_batches.py --data FOLDER [--pipeline 8] [--batches 16] [--times 3] [--latency aws,seed=1]
    python benchmarks/micro_batches.py --model radixnet:1024:120 --input random:10000

With --data it takes the official N = 1024 model of the Graph Challenge and its first 10,000 images. Load and compute do not include the
time in which a worker had no processor (`starved`). So other programs, or more workers than processors, hardly change them. The first run
of each kind is not measured: it stages the model and the inputs.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from fsd_core.common.home import home_folder
from graphchallenge import FILES, load

SUMS = ("load", "compute", "send", "other", "exchange", "starved")


def answer(words: list[str]) -> dict[str, Any]:
    """The JSON that one run of ``fsd`` prints. Ends this program if the run fails."""
    done = subprocess.run([sys.executable, "-m", "fsd_core.cli", *words, "--json"], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: exit code {done.returncode}: {done.stderr.splitlines()[-1:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with the files of the Graph Challenge")
    parser.add_argument("--model", default="radixnet:1024:120")
    parser.add_argument("--input", default="random:10000:0.13")
    parser.add_argument("--channel", default="queue")
    parser.add_argument("--pipeline", type=int, default=8)
    parser.add_argument("--batches", type=int, default=16)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--latency")
    options = parser.parse_args()
    what = [options.model, options.input]
    if options.data:
        load(Path(options.data))  # unpacks the archive of the model
        what = [str(home_folder() / "graphchallenge" / "neuron1024"), str(Path(options.data) / FILES[1])]
    words = ["run", *what, "--pipeline-parallel", str(options.pipeline), "--channel", options.channel]
    samples = answer(words)["samples"]
    latency = ["--latency", options.latency] if options.latency else []
    sizes = [samples, math.ceil(samples / options.batches)]
    answer([*words, "--batch-size", str(sizes[1])])
    print(f"fsd {' '.join([*words, *latency])} --batch-size {sizes[0]} and {sizes[1]}; {options.times} runs of each in turns, medians")
    print("\nSeconds summed over workers; total: of the run")
    print(f"{'micro-batches':15}" + "".join(f"{name:>10}" for name in (*SUMS, "total")))
    runs: dict[int, list[dict[str, Any]]] = {}
    for _ in range(options.times):
        for size in sizes:
            run = answer([*words, *latency, "--batch-size", str(size)])
            runs.setdefault(run["micro_batches"], []).append(run)
    work = []
    for batches, found in runs.items():
        sums = {name: median(run["seconds_sum"][name] for run in found) for name in SUMS}
        work.append(median(run["seconds_sum"]["load"] + run["seconds_sum"]["compute"] for run in found))
        total = median(run["seconds"]["total"] for run in found)
        print(f"{batches:<15}" + "".join(f"{value:10.2f}" for value in (*sums.values(), total)))
    print(f"\nload and compute: {work[0]:.2f} and {work[-1]:.2f} s, {100 * (work[-1] / work[0] - 1):+.0f} %")


if __name__ == "__main__":
    main()
