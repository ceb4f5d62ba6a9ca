"""Measures each partitioning method: rows moved, imbalance, seconds, CPU seconds with those of the solver, and memory beyond the model.

    python benchmarks/partition.py radixnet:1024:120 --workers 8,42
    python benchmarks/partition.py radixnet:16384:120 --workers 42 --methods hypergraph,estimate
    python benchmarks/partition.py FOLDER --workers 8 --methods hypergraph,PATH

MODEL is a model as `fsd run` takes it. A method may also be `estimate`, or the path of a partition: an .npz,
or a published folder with files conn.*.
"""

from __future__ import annotations

import argparse
import os
import resource
import time

from fsd_core.model import open_model
from fsd_core.partition import METHODS, ExchangePlan, estimate, partition


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--workers", default="8", help="numbers of ranks, separated by commas")
    parser.add_argument("--methods", default=",".join(METHODS), help="methods or paths, separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    model = open_model(arguments.model)
    print(
        f"{model.name}: {len(model.layers)} layers, {model.nonzeros} nonzeros; {_peak_mb():.0f} MB with the model, {os.cpu_count()} cores"
    )
    print(
        f"{'workers':>7} {'method':12} {'rows moved':>11} {'per source':>10} {'max sent':>9} {'imbalance':>9} {'seconds':>8} {'CPU s':>7}"
        f" {'peak MB':>8} {'plan s':>7}"
    )
    for workers in map(int, arguments.workers.split(",")):
        for method in arguments.methods.split(","):
            start, cpu = time.perf_counter(), _cpu_s()
            if method == "estimate":
                found = estimate(model, workers, arguments.seed)
                print(
                    f"{workers:7} {method:12} {found.rows_moved:11} {'':10} {'':9} {'':9} {time.perf_counter() - start:8.2f}"
                    f" {_cpu_s() - cpu:7.2f} {_peak_mb():8.0f}",
                    flush=True,
                )
                continue
            made = partition(model, workers, method, arguments.seed)
            partitioned, cpu, peak = time.perf_counter(), _cpu_s() - cpu, _peak_mb()
            figures = ExchangePlan(model, made).figures()
            planned = time.perf_counter()
            print(
                f"{workers:7} {method[-12:]:12} {figures['rows_moved']:11} {figures['rows_per_source_row']:10.2f} {figures['max_sent']:9}"
                f" {figures['imbalance']:9.3f} {partitioned - start:8.2f} {cpu:7.2f} {peak:8.0f} {planned - partitioned:7.2f}",
                flush=True,
            )


def _cpu_s() -> float:
    """CPU seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _peak_mb() -> float:
    """The peak memory of this process plus twice that of the largest child so far: two solvers run at the same time."""
    own, child = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return (own + 2 * child) / 1024


if __name__ == "__main__":
    main()
