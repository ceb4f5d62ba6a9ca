"""The product of one rank's rows of one layer with activations, with bias and activation in the same pass, by the compiled kernel.

Every sum has a fixed order: ``start``, then the terms in the order of the stored weights, each added with one rounding. So the result for
a sample has the same bits in every batch, with every instruction set and number of threads. numpy computes sigmoid and tanh, and numpy's
BLAS multiplies dense weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fsd_core.errors import InputError
from fsd_core.kernel import compiled
from fsd_core.kernel.block import Block, in_order, tile_count
from fsd_core.kernel.compiled import WIDTH
from fsd_core.kernel.multiply import Finish
from fsd_core.model.activation import curve

if TYPE_CHECKING:
    from fsd_core.kernel._kernel import Plan

__all__ = ["Fused", "chain"]

BIAS, NONZERO, RELU = 1, 2, 4  # as in kernel.c
THREAD_TERMS = 1 << 21  # products: fewer are computed in one thread, because a second one takes longer to start
PIECE_BYTES = 1 << 20  # a wide block is cut into tiles in pieces of this size
PIECE_TILES = 4  # or of this many tiles, if that is more
SPAN = 16  # the largest number of layers that a tile goes through before dead samples are dropped


class Fused:
    """The weights of some output rows, float32 of shape (rows, columns). The arguments are those of `Weights`.

    Raises `InputError` if an index is outside the shape, or if arrays do not fit each other.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        csr: tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]] | None,
        dense: NDArray[np.float32] | None,
        own: NDArray[np.int32] | None = None,
        finish: Finish | None = None,
    ) -> None:
        self.shape = shape
        self.rows = shape[0]
        self._own = own if csr is None else None  # a plan has indices of the block's rows and a copy of all that it needs
        self._dense = None if dense is None else np.ascontiguousarray(dense)
        bias = np.zeros(self.rows, np.float32) if finish is None else np.require(finish.bias, np.float32, ["C", "ALIGNED"])
        self._bias = bias if csr is None else None
        self._rule, self._top, self._curve = _rule(finish)
        self.terms = shape[0] * shape[1]
        self.plan: Plan | None = None
        if csr is not None:
            indptr, indices, values = csr
            self.terms = len(indices)
            if len(indices) and not 0 <= indices.min() <= indices.max() < shape[1]:
                wrong = indices.min() if indices.min() < 0 else indices.max()
                raise InputError(f"weights {shape}: index {wrong}: expected indices from 0 to {shape[1] - 1}")
            if own is not None:
                indices = own[indices]
            columns = shape[1] if own is None else int(own.max(initial=-1)) + 1
            pointers = np.require(indptr, np.int64, ["C", "ALIGNED"])
            indices, values = np.require(indices, np.int32, ["C", "ALIGNED"]), np.require(values, np.float32, ["C", "ALIGNED"])
            try:
                self.plan = compiled.LIB.plan(self.rows, columns, pointers, indices, values, bias, self._rule, self._top)
            except ValueError as error:
                raise InputError(f"weights {shape}: {error}") from None

    @property
    def chained(self) -> bool:
        """Whether the compiled kernel computes the whole layer, without numpy, so that it can take a tile on to the next layer."""
        return self.plan is not None and not self._curve

    def forward(self, block: Block, start: Block | None = None) -> Block:
        """Multiply the weights with a block, add ``start`` (a block with the same live samples), and finish the sums."""
        if start is not None:  # the lanes of both have to be the same
            block, start = block.packed(WIDTH), start.packed(WIDTH)
        if self._dense is not None:
            return self._multiply(self._dense, block, start)
        result, live = _run([self], block, start)
        return self._finished(result, live)

    def _multiply(self, dense: NDArray[np.float32], block: Block, start: Block | None) -> Block:
        """`forward` of dense weights."""
        block = block if block.tiles.shape[2] == WIDTH else block.packed(WIDTH)
        tiles = block.tiles if self._own is None else block.tiles[:, self._own]
        z = compiled.aligned((len(tiles), self.rows, WIDTH))
        np.matmul(dense, tiles, out=z)
        if start is not None:
            z += start.tiles
        assert self._bias is not None
        live = np.empty(len(z) * WIDTH, np.uint8)
        compiled.LIB.finish(self.rows, len(z), z, self._bias, self._rule, self._top, live)
        return self._finished(Block.of(z, block.lanes, block.live, block.samples), live)

    def _finished(self, block: Block, live: NDArray[np.uint8]) -> Block:
        if not self._curve:
            return block.kept(live.view(bool))
        curve(block.tiles, self._curve)
        return block.trimmed()


def chain(layers: Sequence[Fused], block: Block) -> Block:
    """Take a block through several layers that are `Fused.chained`. Tiles stay in the cache for up to `SPAN` layers."""
    first, span = 0, 2
    while first < len(layers):
        some = layers[first : first + (SPAN if len(block.live) < WIDTH else span)]  # with one tile, dropped samples save no tile
        before = len(block.live)
        result, live = _run(some, block, None)
        block = result.kept(live.view(bool))
        first += len(some)
        span = min(SPAN, 2 * span) if len(block.live) * 8 >= before * 7 else 2
    return block


def _run(layers: Sequence[Fused], block: Block, start: Block | None) -> tuple[Block, NDArray[np.uint8]]:
    """The result of the layers, and which lanes differ from the base: uint8 (tiles * WIDTH,), 0 or 1."""
    kernel = compiled.active()
    assert kernel is not None
    x = np.ascontiguousarray(block.tiles)
    count, rows, width = x.shape
    lanes = block.lanes
    if width != WIDTH:
        lanes, count = in_order(len(block.live), WIDTH), tile_count(len(block.live), WIDTH)
    y = compiled.aligned((count, layers[-1].rows, WIDTH))
    live = np.empty(count * WIDTH, np.uint8)
    plans = tuple(layer.plan for layer in layers if layer.plan is not None)
    add = None if start is None else np.ascontiguousarray(start.tiles)

    def work(first: int, last: int) -> None:
        compiled.LIB.forward(kernel.number, plans, rows, count, x, add, y, live, first, last)

    def work_in_pieces(first: int, last: int) -> None:
        """Make and multiply a few tiles at a time, so that they are still in the cache, and never all tiles in the memory."""
        most = max(PIECE_TILES, PIECE_BYTES // max(1, 4 * rows * WIDTH))
        room = compiled.aligned((min(most, last - first), rows, WIDTH))
        for at in range(first, last, most):
            end = min(at + most, last)
            piece = room[: end - at]
            some = np.ascontiguousarray(block.lanes[at * (WIDTH - 1) : end * (WIDTH - 1)])
            compiled.LIB.move(rows, width, x, some, None, rows, WIDTH, piece, 0)
            compiled.LIB.forward(kernel.number, plans, rows, end - at, piece, None, y[at:end], live[at * WIDTH : end * WIDTH], 0, end - at)

    terms = sum(layer.terms for layer in layers) * count * WIDTH
    compiled.spread(work if width == WIDTH else work_in_pieces, count, kernel.threads if terms >= THREAD_TERMS else 1)
    return Block.of(y, lanes, block.live, block.samples), live


def _rule(finish: Finish | None) -> tuple[int, float, str]:
    """The rule and the clip that the compiled kernel takes, and the activation that numpy computes after it."""
    if finish is None:
        return 0, 0.0, ""
    rule = BIAS | (NONZERO if finish.challenge else 0) | (RELU if finish.activation == "relu" else 0)
    top = float("inf") if finish.clip is None else finish.clip
    return rule, top, finish.activation if finish.activation in ("sigmoid", "tanh") else ""
