"""The activations of some rows for a batch of samples. A block stores equal samples only once.

After a few layers of a deep sparse network, most samples of a batch have the same column of activations: the column that an input of zeros
gives. Under the Graph Challenge's rule this column is zero; with a positive bias or a sigmoid it has other values. A block stores this
column once, as the *base*, and in addition only the *live* samples, which differ from the base in at least one row. Every layer computes
the base like any other sample, so the result is exact for every bias and activation.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

__all__ = ["Block", "merge"]

NARROW = 64  # columns


@attrs.frozen(eq=False)
class Block:
    """The activations of some rows for a batch of ``samples`` samples.

    ``values`` is float32 (rows, 1 + live samples): column 0 is the base, and column 1 + i belongs to sample ``live[i]``. ``live`` is int32
    (live samples,): the numbers of the live samples (from 0), ascending.
    """

    values: NDArray[np.float32]
    live: NDArray[np.int32]
    samples: int

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.values)

    def take(self, rows: NDArray[np.int32]) -> Block:
        """A block of only the rows with indices ``rows``, int32 (n,). Its live samples are those that are live in at least one of them."""
        return Block(self.values[rows], self.live, self.samples).trimmed()

    def trimmed(self) -> Block:
        """The same block without the samples that are equal to the base in every row."""
        keep = np.empty(self.values.shape[1], bool)
        keep[0] = True
        if self.values.shape[1] < NARROW:  # numpy is slow with short rows
            turned = np.ascontiguousarray(self.values.T)
            (turned[1:] != turned[0]).any(axis=1, out=keep[1:])
        else:
            np.any(self.values[:, 1:] != self.values[:, :1], axis=0, out=keep[1:])
        return self if keep.all() else Block(self.values[:, keep], self.live[keep[1:]], self.samples)

    def columns(self, live: NDArray[np.int32]) -> NDArray[np.intp] | None:
        """The column of ``values`` for the base and for each sample of ``live``, intp (1 + live,). `None` means all columns, in order.

        ``live`` is int32 (live,) and contains all live samples of this block. A sample that is not live in this block gets column 0, the
        base.
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
    """Find the samples that are live in at least one block.

    Returns their numbers, int32 (live,), ascending, and `Block.columns` of each block for these samples.
    """
    alive = np.zeros(samples, bool)
    for block in blocks:
        alive[block.live] = True
    live = np.flatnonzero(alive).astype(np.int32)
    return live, [block.columns(live) for block in blocks]
