"""The computation of one rank for one layer: blocks of activations, and the product of the rank's weights with a block."""

from fsd_core.kernel.block import Block, merge
from fsd_core.kernel.multiply import DENSE_SHARE, Weights

__all__ = ["DENSE_SHARE", "Block", "Weights", "merge"]
