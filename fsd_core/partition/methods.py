"""The ways to share a model out among ranks, by name."""

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
    """Share the rows of every layer out among ``workers`` ranks.

    ``method``: ``hypergraph`` (few rows travel; see `fsd_core.partition.hypergraph`), ``random`` (a balanced permutation of each layer),
    ``block`` (contiguous rows of equal work), or the path of a partition made before. Equal arguments give equal partitions.
    ``progress(done, layers)`` is called as the hypergraph method gets on. Raises `InputError` where ``workers`` is under 1 or over the
    rows of the largest layer, ``seed`` negative, the method unknown, and where a file does not fit the model or the number of workers.
    """
    largest = max(layer.outputs for layer in arguments.instance("model", model, Model).layers)
    workers, seed = arguments.whole("workers", workers, 1), arguments.whole("seed", seed)
    method = arguments.folder_or_name("method", method, f"one of {', '.join(METHODS)}, or the path of a partition")
    arguments.callback("progress", progress)
    if workers > largest:
        raise InputError(f"workers {workers}: more than the {largest} rows of the largest layer of {model.name}; a rank would own nothing")
    if method == "hypergraph":
        return hypergraph(model, workers, seed, progress)
    if method == "random":
        return random(model, workers, seed)
    if method == "block":
        return block(model, workers)
    if not expanded(method).exists():
        raise InputError(f"partition {method}: neither {', '.join(METHODS)} nor an existing file or folder")
    loaded = Partition.load(method, model)
    if loaded.workers != workers:
        raise InputError(f"{method}: is a partition for {loaded.workers} workers, not for {workers}")
    return loaded
