"""The computation of one rank for one layer: blocks of activations, and the product of the rank's weights with a block."""

from fsd_core.kernel.block import Block, stacked, union
from fsd_core.kernel.fused import Fused
from fsd_core.kernel.layer import forward, weights
from fsd_core.kernel.multiply import DENSE_SHARE, Finish, Weights

__all__ = ["DENSE_SHARE", "Block", "Finish", "Fused", "Weights", "forward", "stacked", "union", "weights"]
