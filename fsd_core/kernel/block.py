"""Activations of some rows over a batch, where samples that all look alike are kept once.

In a deep sparse network most samples of a batch soon have the same column of activations as a sample of zeros would
(all zero under the Graph Challenge's rule; some constant under a positive bias or a sigmoid). So a block keeps that
column once, the *base*, and beside it only the *live* samples: those that differ from it somewhere. The base goes
through the layers like any sample, which makes dropping the others exact for every bias and activation.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

__all__ = ["Block", "merge"]


@attrs.frozen(eq=False)
class Block:
    """``values``: float32 (rows, 1 + live), column 0 the base, column 1 + i that of sample ``live[i]``.

    ``live``: int32 (live,), ascending sample numbers below ``samples``.
    """

    values: NDArray[np.float32]
    live: NDArray[np.int32]
    samples: int

    @property
    def rows(self) -> int:
        """How many rows."""
        return len(self.values)

    def take(self, rows: NDArray[np.int32]) -> Block:
        """The block of some of the rows, with the samples that are live in them."""
        return Block(self.values[rows], self.live, self.samples).trimmed()

    def trimmed(self) -> Block:
        """The same block without the samples that equal the base in every row."""
        keep = np.empty(self.values.shape[1], bool)
        keep[0] = True
        np.any(self.values[:, 1:] != self.values[:, :1], axis=0, out=keep[1:])
        return self if keep.all() else Block(self.values[:, keep], self.live[keep[1:]], self.samples)

    def columns(self, live: NDArray[np.int32]) -> NDArray[np.intp] | None:
        """Which column of ``values`` holds each of ``live`` (a superset of the own), base first; `None` if they are the same."""
        if len(live) == len(self.live):
            return None
        columns = np.zeros(1 + len(live), np.intp)
        columns[1 + np.searchsorted(live, self.live)] = np.arange(1, 1 + len(self.live))
        return columns

    def dense(self) -> NDArray[np.float32]:
        """float32 (rows, samples)."""
        out = np.repeat(self.values[:, :1], self.samples, axis=1)
        out[:, self.live] = self.values[:, 1:]
        return out


def merge(blocks: Sequence[Block], samples: int) -> tuple[NDArray[np.int32], list[NDArray[np.intp] | None]]:
    """The samples live in any block, ascending, and for each block what `Block.columns` says of them."""
    alive = np.zeros(samples, bool)
    for block in blocks:
        alive[block.live] = True
    live = np.flatnonzero(alive).astype(np.int32)
    return live, [block.columns(live) for block in blocks]
