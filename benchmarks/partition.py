"""Measures each partitioning method: rows moved, imbalance and seconds.

    python benchmarks/partition.py radixnet:1024:120 --workers 8,42
    python benchmarks/partition.py FOLDER --workers 8 --methods hypergraph,PATH

MODEL is a model as `fsd run` takes it. A method may also be the path of a partition: an .npz, or a published folder with files conn.*.
"""

from __future__ import annotations

import argparse
import time

from fsd_core.model import open_model
from fsd_core.partition import METHODS, ExchangePlan, partition


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--workers", default="8", help="numbers of ranks, separated by commas")
    parser.add_argument("--methods", default=",".join(METHODS), help="methods or paths, separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    model = open_model(arguments.model)
    print(f"{model.name}: {len(model.layers)} layers, {model.nonzeros} nonzeros")
    print(
        f"{'workers':>7} {'method':12} {'rows moved':>11} {'per source':>10} {'max sent':>9} {'imbalance':>9} {'seconds':>8} {'plan s':>7}"
    )
    for workers in map(int, arguments.workers.split(",")):
        for method in arguments.methods.split(","):
            start = time.perf_counter()
            made = partition(model, workers, method, arguments.seed)
            partitioned = time.perf_counter()
            figures = ExchangePlan(model, made).figures()
            planned = time.perf_counter()
            print(
                f"{workers:7} {method[-12:]:12} {figures['rows_moved']:11} {figures['rows_per_source_row']:10.2f} {figures['max_sent']:9}"
                f" {figures['imbalance']:9.3f} {partitioned - start:8.2f} {planned - partitioned:7.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
