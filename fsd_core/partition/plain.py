"""The partitioners that need no solver: `random` and `block`."""

from __future__ import annotations

import numpy as np

from fsd_core.model import Model
from fsd_core.partition.balance import contiguous, spread
from fsd_core.partition.owners import Partition
from fsd_core.partition.rows import widths, work

__all__ = ["block", "random"]


def random(model: Model, workers: int, seed: int = 0) -> Partition:
    """Give each rank random rows of the input and of each layer: the same number, plus or minus one. The ``seed`` decides which."""
    generator = np.random.default_rng(seed)
    return Partition(workers, tuple(generator.permutation(spread(width, workers)) for width in widths(model)), "random")


def block(model: Model, workers: int) -> Partition:
    """Give each rank contiguous rows: of the input the same number, plus or minus one; of a layer about the same work (nonzeros)."""
    owners = [spread(model.layers[0].inputs, workers), *(contiguous(work(layer), workers) for layer in model.layers)]
    return Partition(workers, tuple(owners), "block")
