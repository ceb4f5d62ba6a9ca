"""Runs on this machine under faults that are drawn from a seed: every kind, every way to split, every channel.

``python benchmarks/chaos.py --schedules 200 --seed 0`` prints how many answers were wrong, how many runs lasted past their deadline, and
how many ended with an error (with seed and reason). It also prints how many workers were replaced because they died, or because they were
slow or hung, and the seconds that this cost. A wrong answer is one whose bits differ from those of the run without faults. In two cases, a
run with a worker that hangs has to end with an error, by the stall limit or the deadline: if its objective is cost, or if it has only this
worker. The exit code is 1 after a wrong answer, a run past its deadline, or an error of a run whose objective is latency and in which a
worker hung beside other workers.

``--at-once N`` makes N runs beside each other. The hosts of the functions are forked from one process that has imported the worker: to
start an interpreter for each run would take half of the processors' time.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import multiprocessing
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs
import numpy as np

from fsd_core import Result, run
from fsd_core.errors import RunFailed
from fsd_core.model import radixnet
from fsd_core.model.inputs import open_inputs
from fsd_core.providers.environment import to_environment
from fsd_local.host import Host
from fsd_local.invoke import ONE_THREAD, LocalInvoker
from fsd_local.variables import RESOURCES

SPLITS: tuple[dict[str, int], ...] = (
    {"workers": 1},
    {"tensor_parallel": 2},
    {"tensor_parallel": 4},
    {"pipeline_parallel": 3, "batch_size": 8},
    {"pipeline_parallel": 2, "tensor_parallel": 2, "batch_size": 8},
    {"data_parallel": 2, "tensor_parallel": 2, "batch_size": 8},
)
SERVICES = {"duplicate": 0.3, "reorder": 0.3, "reject": 0.1, "throttle": 0.1, "lost_reply": 0.03, "late": 0.2}
WORKER = ("fsd_core.worker.layers", "fsd_core.worker.mishaps", "fsd_core.wrappers.faults", "fsd_local.messages", "fsd_local.objects")
LAYERS = 6
WAITING = 3  # for each run that computes, so many may wait for a worker that hangs
DEADLINE_S = 120.0
GRACE_S = 15.0  # after the deadline: to report, and to clean up


def main() -> None:
    """Draw the schedules, run them, print the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--schedules", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the first schedule; the others have the next numbers")
    parser.add_argument("--at-once", type=int, default=2, help="runs beside each other")
    arguments = parser.parse_args()
    setattr(LocalInvoker, "_start", lambda invoker, channel: ForkedHost(invoker, channel))  # noqa: B010
    with tempfile.TemporaryDirectory(prefix="fsd-chaos-") as folder:
        summary = Chaos(folder).run(range(arguments.seed, arguments.seed + arguments.schedules), arguments.at_once)
    print("\n".join(summary.lines))
    sys.exit(summary.bad)


def schedule(seed: int) -> tuple[dict[str, int], str, str, str]:
    """The split, channel, objective and faults of a seed."""
    dice = random.Random(seed)
    split, channel, objective = dice.choice(SPLITS), dice.choice(("queue", "object", "hybrid")), dice.choice(("cost", "latency"))
    workers = split.get("workers", 1) * split.get("data_parallel", 1) * split.get("pipeline_parallel", 1) * split.get("tensor_parallel", 1)
    ranks = dice.sample(range(workers), k=min(workers, dice.choice((0, 1, 1, 1, 2))))
    faults = [f"{name}={rate * dice.random():.3f}" for name, rate in SERVICES.items() if dice.random() < 0.4]
    if ranks:
        faults.append("kill=" + "+".join(f"{rank}@{dice.randint(1, LAYERS + 1)}" for rank in ranks))
    if dice.random() < 0.2:  # where such a rank is replaced, it may be slower than the run can wait for
        most = 5.0 if objective == "latency" and workers > 1 else 1.3
        faults.append(f"slow={dice.randrange(workers)}:{10 ** dice.uniform(0, most):.1f}")
    if dice.random() < (0.1 if objective == "latency" else 0.02):  # the others end at their stall limit, after about a minute
        faults.append(f"hang={dice.randrange(workers)}@{dice.randint(1, LAYERS)}")
    if dice.random() < 0.3:
        faults.append(f"delay={dice.randint(1, 50)}ms")
    return split, channel, objective, ",".join([*faults, f"seed={seed}"])


@attrs.frozen
class Summary:
    """The lines to print, and ``bad``: whether the exit code is 1."""

    lines: list[str]
    bad: bool


class Chaos:
    """The runs, in apps below ``folder``."""

    def __init__(self, folder: str) -> None:
        self._folder, self._lanes = folder, itertools.count()
        self._lane = threading.local()  # each thread has an app, so that the slots of one suffice
        self._options = {
            "home": folder,
            "partition": "block",
            "timeout": DEADLINE_S,
        }
        self._model, self._inputs = radixnet(1024, LAYERS), open_inputs("random:32:0.4:1", 1024)
        self._undisturbed: dict[str, Result] = {}

    def run(self, seeds: Sequence[int], at_once: int) -> Summary:
        """Run the schedules."""
        for split in SPLITS:
            self._undisturbed[repr(split)] = self._start(split)
        wrong, hung, failed, unrecovered, lost = list[str](), list[str](), list[str](), list[str](), list[float]()
        deaths = slow = 0
        # a run with a worker that hangs waits for a minute or two: it takes no place of another run
        with ThreadPoolExecutor(at_once) as working, ThreadPoolExecutor(WAITING * at_once) as waiting:
            runs = [(waiting if "hang=" in schedule(seed)[3] else working).submit(self._outcome, seed) for seed in seeds]
            for number, each in enumerate(runs):
                seed, ended, seconds = each.result()
                split, channel, objective, faults = schedule(seed)
                if isinstance(ended, RunFailed):
                    recovers = "hang=" in faults and objective == "latency" and split != {"workers": 1}
                    (unrecovered if recovers else failed).append(f"  seed {seed} ({split}, {channel}, {objective}, {faults}): {ended}")
                else:
                    slow += sum(each["reason"] == "slow" for each in ended.recovered)
                    deaths += sum(each["reason"] != "slow" for each in ended.recovered)
                    lost += [each["seconds"] for each in ended.recovered]
                    if not self._right(ended, split):
                        wrong.append(f"  seed {seed}: {split}, {channel}, {objective}, {faults}")
                if seconds > DEADLINE_S + GRACE_S:
                    hung.append(f"  seed {seed}: {seconds:.0f} s")
                if number % 20 == 19:
                    counts = f"{len(wrong)} wrong, {len(hung)} past the deadline, {len(failed + unrecovered)} failed"
                    print(f"{number + 1} of {len(seeds)}: {counts}, {deaths} deaths, {slow} slow or hanging", flush=True)
        counts = f"{len(wrong)} wrong answers, {len(hung)} past the deadline, {len(unrecovered)} hanging workers not replaced"
        lines = [f"{len(seeds)} schedules from seed {seeds[0]}, {deaths} deaths, {slow} slow or hanging workers replaced: {counts}"]
        if lost:
            median, most = statistics.median(lost), max(lost)
            lines.append(f"from a report to where the rank was lost or slow: median {median:.2f} s, at most {most:.2f} s")
        for name, found in (("wrong", wrong), ("past the deadline", hung), ("not replaced", unrecovered)):
            lines += [f"{name}:", *found] if found else []
        return Summary([*lines, f"{len(failed)} ended with another error", *failed], bool(wrong or hung or unrecovered))

    def _outcome(self, seed: int) -> tuple[int, Result | RunFailed, float]:
        """The seed, what its run returned or raised, and after how many seconds."""
        split, channel, objective, faults = schedule(seed)
        began = time.monotonic()
        try:
            ended: Result | RunFailed = self._start(split, channel=channel, objective=objective, faults=faults)
        except RunFailed as error:
            ended = error
        return seed, ended, time.monotonic() - began

    def _start(self, split: dict[str, int], **more: Any) -> Result:
        if not hasattr(self._lane, "settings"):
            self._lane.settings = {"root": f"{self._folder}/root{next(self._lanes)}", "lease_s": 2.0}
        return run(self._model, self._inputs, settings=self._lane.settings, **(self._options | split | more))

    def _right(self, result: Result, split: dict[str, int]) -> bool:
        """Whether the output has the bits of the run without faults."""
        expected = self._undisturbed[repr(split)].output
        return all(np.array_equal(getattr(result.output, part), getattr(expected, part)) for part in ("indptr", "indices", "data"))


class ForkedHost:
    """The host of a run's functions as `LocalInvoker` knows it, forked from a process that all hosts of this benchmark share."""

    _context = multiprocessing.get_context("forkserver")

    def __init__(self, invoker: LocalInvoker, channel: socket.socket) -> None:
        variables = {RESOURCES: to_environment(invoker._resources)}
        self._process = self._context.Process(target=serve, args=(channel, invoker._functions, variables))
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """The exit code; None while the host runs."""
        self._process.join(0)
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end. Raises `subprocess.TimeoutExpired` where it does not come within ``timeout`` seconds."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("the host", timeout or 0)
        return self._process.exitcode

    def kill(self) -> None:
        """Kill the host."""
        self._process.kill()


def serve(channel: socket.socket, functions: str, variables: dict[str, str]) -> None:
    """The process of a forked host: what ``python -m fsd_local.host`` does."""
    os.setsid()
    os.environ.update(variables)
    os.dup2(2, 1)
    host = Host(channel, functions)
    try:
        host.run()
    finally:
        host.end()


if __name__ == "__main__":
    os.environ.update(ONE_THREAD)
    # each forked process executes this module again: by its name, what it imports is there already
    ForkedHost._context.set_forkserver_preload(["__main__", *WORKER, "chaos"])
    main()
elif __name__ == "chaos":  # in the process that forks the hosts: what it has imported is no garbage
    gc.collect()
    gc.freeze()
