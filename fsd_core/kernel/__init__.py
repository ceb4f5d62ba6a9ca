"""What one rank computes for one layer: blocks of activations, and the multiply of its rows."""

from fsd_core.kernel.block import Block, merge
from fsd_core.kernel.multiply import DENSE_SHARE, Weights

__all__ = ["DENSE_SHARE", "Block", "Weights", "merge"]
