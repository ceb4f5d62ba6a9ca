"""The methods of partitioning by name: hypergraph, random, block, or a file."""

from __future__ import annotations

import os
from collections.abc import Callable

from fsd_core.common import arguments
from fsd_core.common.home import expanded
from fsd_core.errors import InputError
from fsd_core.model import Model
from fsd_core.partition.hypergraph import hypergraph
from fsd_core.partition.owners import Partition
from fsd_core.partition.plain import block, random

__all__ = ["METHODS", "partition"]

METHODS = ("hypergraph", "random", "block")


def partition(
    model: Model,
    workers: int,
    method: str | os.PathLike[str] = "hypergraph",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Partition:
    """Distribute the rows of every layer over ``workers`` ranks.

    ``method`` is ``hypergraph`` (few rows travel; see `fsd_core.partition.hypergraph`), ``random`` (each rank gets random rows, about
    equally many), ``block`` (each rank gets contiguous rows of about equal work), or the path of a saved partition. Equal arguments give
    equal partitions. The hypergraph method calls ``progress(done, layers)`` after each layer. Raises `InputError` for fewer than 1 worker,
    more workers than the largest layer has rows, a negative ``seed``, an unknown method, and a file for another model or number of workers.
    """
    largest = max(layer.outputs for layer in arguments.instance("model", model, Model).layers)
    workers, seed = arguments.whole("workers", workers, 1), arguments.whole("seed", seed)
    method = arguments.folder_or_name("method", method, f"one of {', '.join(METHODS)}, or the path of a partition")
    arguments.callback("progress", progress)
    if workers > largest:
        raise InputError(f"workers {workers}: expected at most {largest}, the number of rows of the largest layer of {model.name}")
    if method == "hypergraph":
        return hypergraph(model, workers, seed, progress)
    if method == "random":
        return random(model, workers, seed)
    if method == "block":
        return block(model, workers)
    if not expanded(method).exists():
        raise InputError(f"partition {method}: expected {', '.join(METHODS)}, or an existing file or folder")
    loaded = Partition.load(method, model)
    if loaded.workers != workers:
        raise InputError(f"{method}: is a partition for {loaded.workers} workers: expected {workers}")
    return loaded
