"""The partitioners that look at no weights: `random` and `block`."""

from __future__ import annotations

import numpy as np

from fsd_core.model import Model
from fsd_core.partition.balance import contiguous, spread
from fsd_core.partition.owners import Partition, widths
from fsd_core.partition.plan import work

__all__ = ["block", "random"]


def random(model: Model, workers: int, seed: int = 0) -> Partition:
    """Each layer's rows in a random order, dealt out evenly: every rank owns the same number, plus or minus one."""
    generator = np.random.default_rng(seed)
    return Partition(workers, tuple(generator.permutation(spread(width, workers)) for width in widths(model)), "random")


def block(model: Model, workers: int) -> Partition:
    """Contiguous rows: rank r owns those whose middle falls into the r-th equal part of the layer's work (nonzeros; inputs: neurons)."""
    owners = [spread(model.layers[0].inputs, workers), *(contiguous(work(layer), workers) for layer in model.layers)]
    return Partition(workers, tuple(owners), "block")
