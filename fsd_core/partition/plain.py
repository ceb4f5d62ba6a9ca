"""The partitioners that need no solver: `random` and `block`."""

from __future__ import annotations

import numpy as np

from fsd_core.model import Model
from fsd_core.partition.balance import contiguous, spread
from fsd_core.partition.owners import Partition
from fsd_core.partition.rows import widths, work

__all__ = ["block", "random"]


def random(model: Model, workers: int, seed: int = 0) -> Partition:
    """Give each rank random rows of the input and of each layer. ``seed`` is the seed of the random order.

    In each layer, the ranks' numbers of rows differ by at most one.
    """
    generator = np.random.default_rng(seed)
    return Partition(workers, tuple(generator.permutation(spread(width, workers)) for width in widths(model)), "random")


def block(model: Model, workers: int) -> Partition:
    """Give each rank contiguous rows of the input and of each layer.

    Of the input, the ranks' numbers of rows differ by at most one. Of each layer, all ranks get about the same work (number of nonzeros).
    """
    owners = [spread(model.layers[0].inputs, workers), *(contiguous(work(layer), workers) for layer in model.layers)]
    return Partition(workers, tuple(owners), "block")
