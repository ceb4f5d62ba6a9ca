"""Runs on this machine under the tables of latencies, for several seeds: medians of the seconds by phase.

    python benchmarks/latency.py [--data FOLDER] [--tables aws,gcp,azure] [--seeds 1,2,3,4,5] [--workers 8] [--partition hypergraph]
    python benchmarks/latency.py --tables aws -- run model/ input.npz --workers 16 --channel object     # any command `fsd run`

Without a command of your own it runs the three channels. With --data, or with the variable GRAPHCHALLENGE, it takes the official N = 1024
model of the Graph Challenge and its first 10,000 images; otherwise a generated network. The first run of each command, without a latency,
is not measured: it stages the model and computes the partition. Let nothing else run meanwhile: real time counts. On a busy machine,
--scale 10 makes all latencies ten times as long and divides the seconds by ten: then real time counts a tenth.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

from fsd_core.common.home import home_folder
from graphchallenge import FILES, load

PHASES = ("total", "stage", "launch", "load", "compute", "exchange", "cleanup")


def seconds(words: list[str], latency: str | None, scale: float = 1.0) -> dict[str, float]:
    """The seconds of one run of ``fsd``, divided by ``scale``. Ends this program if the run fails."""
    command = [sys.executable, "-m", "fsd_core.cli", *words, *(["--latency", latency] if latency else []), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)} --latency {latency}: exit code {done.returncode}: {done.stderr.splitlines()[-1:]}")
    return {phase: found / scale for phase, found in json.loads(done.stdout)["seconds"].items()}


def commands(options: argparse.Namespace) -> dict[str, list[str]]:
    """The words after ``fsd`` by the name of the case."""
    if options.command:
        return {"given command": options.command}
    data = options.data or os.environ.get("GRAPHCHALLENGE")
    what = [options.model, options.input]
    if data:
        load(Path(data))  # unpacks the archive of the model
        what = [str(home_folder() / "graphchallenge" / "neuron1024"), str(Path(data) / FILES[1])]
    more = ["--tensor-parallel", str(options.workers), "--partition", options.partition]
    return {channel: ["run", *what, *more, "--channel", channel] for channel in ("queue", "object", "hybrid")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with the files of the Graph Challenge")
    parser.add_argument("--model", default="radixnet:1024:120")
    parser.add_argument("--input", default="digits")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--partition", default="hypergraph")
    parser.add_argument("--tables", default="aws,gcp,azure")
    parser.add_argument("--seeds", default="1,2,3,4,5")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("command", nargs="*", help="after --: a command fsd run with its words")
    options = parser.parse_args()
    cases = commands(options)
    for name, words in cases.items():
        print(f"{name}: fsd {' '.join(words)}")
    print(f"\nMedians over the seeds {options.seeds}, in seconds; in brackets the lowest and the highest total")
    print(f"{'':22}" + "".join(f"{phase:>10}" for phase in PHASES))
    for name, words in cases.items():
        seconds(words, None)
        for table in options.tables.split(","):
            scale = "" if options.scale == 1 else f",scale={options.scale:g}"
            runs = [seconds(words, f"{table},seed={seed}{scale}", options.scale) for seed in options.seeds.split(",")]
            shown = "".join(f"{median(run[phase] for run in runs):10.2f}" for phase in PHASES)
            totals = sorted(run["total"] for run in runs)
            print(f"{table + ' ' + name:22}{shown}   ({totals[0]:.2f} to {totals[-1]:.2f})", flush=True)


if __name__ == "__main__":
    main()
