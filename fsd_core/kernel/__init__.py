"""What one rank computes for one layer: blocks of activations, and the multiply of its rows."""

from fsd_core.kernel.block import Block, merge
from fsd_core.kernel.multiply import Weights

__all__ = ["Block", "Weights", "merge"]
