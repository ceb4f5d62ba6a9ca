"""Measures the cost of a lost worker, and of recovery without a loss: runs of eight workers, with one worker killed and with none.

    python benchmarks/kills.py [--draws 200] [--seed 0]
    python benchmarks/kills.py --provider aws --emulator --draws 12
    python benchmarks/kills.py --overhead [--times 5] [--split 1x8x1] [--channel object] [--latency aws]

A draw kills one rank at one layer, of a pipeline, of workers that share layers, or of both, over one of the three channels. Its answer has
to have the bits of the undisturbed run, and the run may last longer by the seconds of launch, load and compute of the undisturbed run, and
3 s more. With --overhead no worker is killed: runs with and without recovery take turns, and the command prints the medians of their
seconds and requests. The exit code is 1 if an answer is wrong, a run failed, or with --overhead if the runs with recovery make more
requests than allowed: 2 %, or one for each worker. Let nothing else run meanwhile, because this measures seconds.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from itertools import product
from statistics import median
from typing import Any

import numpy as np

from emulated import where
from fsd_core import Result, run
from fsd_core.errors import FsdError
from fsd_core.model import radixnet
from fsd_core.model.inputs import open_inputs

LAYERS = 12
SPLITS: dict[str, dict[str, Any]] = {
    "1x8x1": {"pipeline_parallel": 8},
    "1x1x8": {"tensor_parallel": 8},
    "2x2x2": {"data_parallel": 2, "pipeline_parallel": 2, "tensor_parallel": 2},
    "1x4x2": {"pipeline_parallel": 4, "tensor_parallel": 2, "batch_size": 16},
}
CHANNELS = ("queue", "object", "hybrid")
SLACK_S = 3.0
WORKERS = 8
MORE_REQUESTS = 0.02  # of an undisturbed run with recovery, as a part of those without; or one for each worker, if that is more


class Runs:
    """Runs of one model in one app. ``same``: provider and settings."""

    def __init__(self, same: dict[str, Any], home: str) -> None:
        self._same = {"home": home, "partition": "block", **same}
        self._model, self._inputs = radixnet(1024, LAYERS), open_inputs("random:64:0.4:1", 1024)
        self._calm: dict[tuple[str, str], Result] = {}

    def start(self, split: str, channel: str, **more: Any) -> Result:
        """One run."""
        return run(self._model, self._inputs, channel=channel, **SPLITS[split], **self._same, **more)

    def calm(self, split: str, channel: str) -> Result:
        """An undisturbed run; a first one stages the model and starts what the provider keeps warm."""
        if (split, channel) not in self._calm:
            self.start(split, channel)
            self._calm[split, channel] = self.start(split, channel)
        return self._calm[split, channel]


def same_bits(one: Result, other: Result) -> bool:
    """Whether two outputs are equal, bit by bit."""
    return all(np.array_equal(getattr(one.output, part), getattr(other.output, part)) for part in ("indptr", "indices", "data"))


def killed(runs: Runs, draws: int, seed: int) -> int:
    """Print a line for each draw that is wrong, failed or late, and a summary. Returns how many are wrong or failed."""
    dice = random.Random(seed)
    wrong = failed = late = deaths = 0
    lost = []
    for number in range(draws):
        split, channel, rank, layer = dice.choice(list(SPLITS)), dice.choice(CHANNELS), dice.randrange(8), dice.randint(1, LAYERS)
        words = f"{split} {channel}, kill={rank}@{layer}"
        calm = runs.calm(split, channel)
        try:
            found = runs.start(split, channel, faults=f"kill={rank}@{layer},seed={seed}")
        except FsdError as error:
            failed += 1
            print(f"failed: {words}: {error}", flush=True)
            continue
        deaths += len(found.recovered)
        if not same_bits(found, calm):
            wrong += 1
            print(f"wrong: {words}", flush=True)
        lost.append(found.seconds["total"] - calm.seconds["total"])
        allowed = sum(calm.seconds[name] for name in ("launch", "load", "compute")) + SLACK_S
        if lost[-1] > allowed:
            late += 1
            print(f"late: {words}: {lost[-1]:.2f} s lost, {allowed:.2f} s are allowed", flush=True)
        if number % 20 == 19:
            print(f"{number + 1} of {draws}: {deaths} replaced, {wrong} wrong, {failed} failed, {late} late", flush=True)
    print(f"{draws} draws from seed {seed}, {deaths} ranks replaced: {wrong} wrong, {failed} failed, {late} later than allowed; ", end="")
    print(f"seconds lost: median {median(lost or [0]):.2f}, at most {max(lost, default=0):.2f}")
    return wrong + failed


def requests(one: Result) -> int:
    """All requests of a run."""
    return sum(
        count for name, count in one.meter.items() if name.endswith(("_requests", "_gets", "_puts", "_lists")) or name == "invocations"
    )


def overhead(runs: Runs, splits: Sequence[str], channels: Sequence[str], times: int) -> int:
    """Print seconds and requests with and without recovery. Returns in how many ways recovery makes more requests than allowed."""
    print("| split | channel | seconds, on | seconds, off | ratio | requests, on | requests, off | more | allowed |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    ratios, too_many = [], 0
    for split, channel in product(splits, channels):
        runs.calm(split, channel)
        seconds: dict[bool, list[float]] = {True: [], False: []}
        counts: dict[bool, list[int]] = {True: [], False: []}
        for number in range(times):
            for on in (True, False) if number % 2 else (False, True):
                found = runs.start(split, channel, recovery="on" if on else "off")
                seconds[on].append(found.seconds["total"])
                counts[on].append(requests(found))
        with_s, without_s = median(seconds[True]), median(seconds[False])
        made, without = median(counts[True]), median(counts[False])
        allowed = max(MORE_REQUESTS * without, WORKERS)
        too_many += made - without > allowed
        ratios.append(with_s / without_s)
        cells = [f"{with_s:.2f}", f"{without_s:.2f}", f"{ratios[-1]:.2f}", f"{made:.0f}", f"{without:.0f}"]
        print(f"| {split} | {channel} | {' | '.join(cells)} | {made - without:+.0f} | {allowed:.0f} |", flush=True)
    print(f"\nmedian of the ratios of seconds: {median(ratios):.3f}; more requests than allowed: {too_many} of {len(ratios)} ways")
    return too_many


def main() -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--provider", default="local")
    parser.add_argument("--emulator", nargs="?", const="", help="use the provider's emulator (of this name)")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overhead", action="store_true", help="compare undisturbed runs with and without recovery")
    parser.add_argument("--times", type=int, default=5, help="runs of each kind, with --overhead")
    parser.add_argument("--split", choices=SPLITS, help="only this one, with --overhead")
    parser.add_argument("--channel", choices=CHANNELS, help="only this one, with --overhead")
    parser.add_argument("--latency", help="the table of latencies of all runs, see fsd run --help")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fsd-kills-") as home, where(arguments.provider, arguments.emulator) as (same, _):
        if arguments.provider == "local":
            same["settings"] = {"root": f"{home}/root"}
        runs = Runs(same | {"latency": arguments.latency}, home)
        if arguments.overhead:
            splits = [arguments.split] if arguments.split else list(SPLITS)
            channels = [arguments.channel] if arguments.channel else CHANNELS
            wrong = overhead(runs, splits, channels, arguments.times)
        else:
            wrong = killed(runs, arguments.draws, arguments.seed)
        sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
