"""Chooses who computes, the compiled kernel or numpy, and takes a block through layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from fsd_core.kernel import compiled
from fsd_core.kernel.block import Block
from fsd_core.kernel.fused import Fused, chain
from fsd_core.kernel.multiply import Finish, Weights

__all__ = ["forward", "weights"]


def weights(
    shape: tuple[int, int],
    csr: tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]] | None,
    dense: NDArray[np.float32] | None,
    own: NDArray[np.int32] | None = None,
    finish: Finish | None = None,
) -> Weights | Fused:
    """The weights of some output rows, ready to multiply by the kernel that computes now. The arguments are those of `Weights`."""
    return Weights(shape, csr, dense, own, finish) if compiled.active() is None else Fused(shape, csr, dense, own, finish)


def forward(layers: Sequence[Weights | Fused], block: Block) -> Block:
    """Take a block through layers, each of which multiplies the rows of the one before."""
    for chained, some in groupby(layers, lambda layer: isinstance(layer, Fused) and layer.chained):
        if chained:
            block = chain([layer for layer in some if isinstance(layer, Fused)], block)
        else:
            for layer in some:
                block = layer.forward(block)
    return block
