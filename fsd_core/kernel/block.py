"""The activations of some rows for a batch of samples, in a form that keeps equal samples once.

In a deep sparse network, after a few layers most samples of a batch have the same column of activations as a sample of zeros: zeros
under the Graph Challenge's rule, constants under a positive bias or a sigmoid. A block keeps this column once, as the *base*, and
beside it only the *live* samples, which differ from the base in some row. The base goes through the layers like any other sample, so
that the result is exact for every bias and activation.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

__all__ = ["Block", "merge"]


@attrs.frozen(eq=False)
class Block:
    """``values``: float32 (rows, 1 + live samples). Column 0 is the base, column 1 + i is that of sample ``live[i]``.

    ``live``: int32 (live samples,), the numbers of the live samples, ascending and below ``samples``, the size of the batch.
    """

    values: NDArray[np.float32]
    live: NDArray[np.int32]
    samples: int

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.values)

    def take(self, rows: NDArray[np.int32]) -> Block:
        """The block of the rows with these indices, int32 (n,), with the samples that are live in these rows."""
        return Block(self.values[rows], self.live, self.samples).trimmed()

    def trimmed(self) -> Block:
        """The same block without the samples that are equal to the base in every row."""
        keep = np.empty(self.values.shape[1], bool)
        keep[0] = True
        np.any(self.values[:, 1:] != self.values[:, :1], axis=0, out=keep[1:])
        return self if keep.all() else Block(self.values[:, keep], self.live[keep[1:]], self.samples)

    def columns(self, live: NDArray[np.int32]) -> NDArray[np.intp] | None:
        """The columns of ``values`` that hold the base and then each sample of ``live``, intp (1 + live,). `None`: all columns, in order.

        ``live``: int32 (live,), a superset of this block's. A sample that is not live in this block is in the column of the base, 0.
        """
        if len(live) == len(self.live):
            return None
        columns = np.zeros(1 + len(live), np.intp)
        columns[1 + np.searchsorted(live, self.live)] = np.arange(1, 1 + len(self.live))
        return columns

    def dense(self) -> NDArray[np.float32]:
        """The activations of all samples, float32 (rows, samples)."""
        out = np.repeat(self.values[:, :1], self.samples, axis=1)
        out[:, self.live] = self.values[:, 1:]
        return out


def merge(blocks: Sequence[Block], samples: int) -> tuple[NDArray[np.int32], list[NDArray[np.intp] | None]]:
    """The samples that are live in any of the blocks, int32 (live,), ascending; and `Block.columns` of each block for them."""
    alive = np.zeros(samples, bool)
    for block in blocks:
        alive[block.live] = True
    live = np.flatnonzero(alive).astype(np.int32)
    return live, [block.columns(live) for block in blocks]
