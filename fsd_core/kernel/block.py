"""The activations of some rows for a batch of samples. A block stores equal samples only once.

After a few layers of a deep sparse network, most samples of a batch have the same column of activations: the column that an input of zeros
gives. Under the Graph Challenge's rule this column is zero; with a positive bias or a sigmoid it has other values. A block stores this
column once, as the *base*, and in addition only the *live* samples, which differ from the base in at least one row. Every layer computes
the base like any other sample, so the result is exact for every bias and activation.

A block stores its columns in *tiles*, float32 (rows, width). Lane 0 of each tile is the base, the other lanes are samples. numpy computes
with one tile, as wide as the block. The compiled kernel computes with tiles of 32 lanes, each of which stays in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.kernel import compiled

__all__ = ["Block", "in_order", "stacked", "tile_count", "union"]

NARROW = 64  # columns
SAVED_TILES = 16  # tiles are filled up again if this saves one of this many


@attrs.frozen(eq=False, init=False)
class Block:
    """The activations of some rows for a batch of ``samples`` samples.

    ``tiles`` is float32 (tiles, rows, width): lane 0 of each tile is the base. ``live`` is int32 (live samples,): the numbers of the live
    samples (from 0), ascending. ``lanes`` is int32 (live samples,): where the column of each live sample is; lane i of tile t has the
    number t * width + i. A number may occur twice, and 0 means the base. Other lanes have no meaning.

    ``Block(values, live, samples)`` makes a block of one tile from ``values``, float32 (rows, 1 + live samples): column 0 is the base, and
    column 1 + i belongs to sample ``live[i]``. It does not copy ``values``.
    """

    tiles: NDArray[np.float32]
    lanes: NDArray[np.int32]
    live: NDArray[np.int32]
    samples: int

    def __init__(self, values: NDArray[np.float32], live: NDArray[np.int32], samples: int) -> None:
        self.__attrs_init__(values[None], np.arange(1, 1 + len(live), dtype=np.int32), live, samples)

    @classmethod
    def of(cls, tiles: NDArray[np.float32], lanes: NDArray[np.int32], live: NDArray[np.int32], samples: int) -> Block:
        """The block of these tiles. It does not copy them."""
        block: Any = cls.__new__(cls)
        block.__attrs_init__(tiles, lanes, live, samples)
        return block  # type: ignore[no-any-return]

    @property
    def rows(self) -> int:
        """The number of rows."""
        return int(self.tiles.shape[1])

    @property
    def values(self) -> NDArray[np.float32]:
        """The base and the live samples as one array, float32 (rows, 1 + live samples): a copy, or a view of a block of one such tile."""
        found: NDArray[np.float32] = self.packed(1 + len(self.live)).tiles[0]
        return found

    def packed(self, width: int) -> Block:
        """The same block in tiles of ``width`` lanes that have the live samples one after another. Copies only if it has to."""
        lanes = in_order(len(self.live), width)
        if self.tiles.shape[0::2] == (tile_count(len(lanes), width), width) and np.array_equal(self.lanes, lanes):
            return self
        return Block.of(_moved([self], self.lanes, width, None), lanes, self.live, self.samples)

    def take(self, rows: NDArray[np.int32]) -> Block:
        """A block of only the rows with indices ``rows``, int32 (n,). Its live samples are those that are live in at least one of them."""
        width = 1 + len(self.live)
        return Block(_moved([self], self.lanes, width, rows)[0], self.live, self.samples).trimmed()

    def trimmed(self) -> Block:
        """The same block without the samples that are equal to the base in every row."""
        return self.kept(_differing(self.tiles))

    def kept(self, keep: NDArray[np.bool_]) -> Block:
        """The same block without the samples in whose lanes ``keep``, bool (tiles * width,), is false.

        The tiles are filled up again if this saves some of them.
        """
        some = keep[self.lanes]
        if some.all():
            return self
        block = Block.of(self.tiles, self.lanes[some], self.live[some], self.samples)
        tiles, _, width = self.tiles.shape
        if tiles == 1 and width != compiled.WIDTH:
            return block.packed(1 + len(block.live))
        return block.packed(width) if (tiles - tile_count(len(block.live), width)) * SAVED_TILES >= tiles else block

    def over(self, live: NDArray[np.int32]) -> Block:
        """The same block with the live samples ``live``, int32 (live,), ascending: all of this block, and others. Copies no activations."""
        if len(live) == len(self.live):
            return self
        lanes = np.zeros(len(live), np.int32)  # a sample that is not live in this block has the base
        lanes[np.searchsorted(live, self.live)] = self.lanes
        return Block.of(self.tiles, lanes, live, self.samples)

    def dense(self) -> NDArray[np.float32]:
        """The activations of all samples, float32 (rows, samples)."""
        values = self.values
        if len(self.live) == self.samples:
            return values[:, 1:]
        out = np.repeat(values[:, :1], self.samples, axis=1)
        out[:, self.live] = values[:, 1:]
        return out


def union(blocks: Sequence[Block], samples: int) -> NDArray[np.int32]:
    """The numbers of the samples that are live in at least one block, int32 (live,), ascending."""
    alive = np.zeros(samples, bool)
    for block in blocks:
        alive[block.live] = True
    return np.flatnonzero(alive).astype(np.int32)


def stacked(blocks: Sequence[Block], live: NDArray[np.int32]) -> Block:
    """The rows of all blocks, one block after another, with the live samples ``live``, in the tiles that the kernel multiplies."""
    width = 1 + len(live) if compiled.active() is None else compiled.WIDTH
    if len(blocks) == 1:
        return blocks[0].over(live).packed(width)
    tiles = _moved([block.over(live) for block in blocks], None, width, None)
    return Block.of(tiles, in_order(len(live), width), live, blocks[0].samples)


def tile_count(live: int, width: int) -> int:
    """The number of tiles of ``width`` lanes that ``live`` samples fill: at least 1, because a block has its base."""
    return max(1, -(-live // max(1, width - 1)))


def in_order(live: int, width: int) -> NDArray[np.int32]:
    """The lanes of ``live`` samples that fill tiles of ``width`` lanes one after another, int32 (live,)."""
    order = np.arange(live, dtype=np.int32)
    return order + 1 + order // np.int32(max(1, width - 1))


def _moved(blocks: Sequence[Block], lanes: NDArray[np.int32] | None, width: int, rows: NDArray[np.int32] | None) -> NDArray[np.float32]:
    """New tiles of ``width`` lanes with the columns in ``lanes`` (default: those of each block) and the rows ``rows`` (default: all)."""
    height = len(rows) if rows is not None else sum(block.rows for block in blocks)
    live = len(blocks[0].lanes if lanes is None else lanes)
    tiles = compiled.aligned((tile_count(live, width), height, width))
    first = 0
    for block in blocks:
        wanted = block.lanes if lanes is None else lanes
        count = block.rows if rows is None else height
        if compiled.active() is not None:
            picked = None if rows is None else np.ascontiguousarray(rows, np.int32)
            source = np.ascontiguousarray(block.tiles)
            compiled.LIB.move(block.rows, source.shape[2], source, np.ascontiguousarray(wanted), picked, height, width, tiles, first)
        else:
            _move(block.tiles, wanted, rows, tiles[:, first : first + count])
        first += count
    return tiles


def _move(source: NDArray[np.float32], lanes: NDArray[np.int32], rows: NDArray[np.int32] | None, target: NDArray[np.float32]) -> None:
    """What the compiled kernel's move does, with numpy."""
    tiles, _, width = target.shape
    filled = np.zeros((tiles, max(1, width - 1)), np.int32)
    filled.reshape(-1)[: len(lanes)] = lanes
    every = np.concatenate([np.zeros((tiles, 1), np.int32), filled], axis=1)[:, :width]
    for tile, each in zip(target, every, strict=True):
        if len(source) == 1:
            tile[:] = source[0][:, each] if rows is None else source[0][np.ix_(rows, each)]
        else:
            part = source[each // source.shape[2], :, each % source.shape[2]].T
            tile[:] = part if rows is None else part[rows]


def _differing(tiles: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which lanes differ from the base in at least one row: bool (tiles * width,)."""
    count, rows, width = tiles.shape
    if compiled.active() is not None and width == compiled.WIDTH:
        live = np.empty(count * width, np.uint8)
        compiled.LIB.finish(rows, count, np.require(tiles, requirements=["C", "W"]), np.zeros(rows, np.float32), 0, 0.0, live)
        return live.view(bool)
    if width < NARROW:  # numpy is slow with short rows
        turned = np.ascontiguousarray(tiles.transpose(0, 2, 1))
        differs: NDArray[np.bool_] = (turned != turned[:, :1]).any(axis=2)
    else:
        differs = (tiles != tiles[:, :, :1]).any(axis=1)
    return differs.reshape(-1)
