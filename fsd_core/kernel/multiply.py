"""The product of one rank's rows of one layer with activations, computed with numpy: the reference and the fallback of the compiled kernel.

The module has three methods. Rows that read the same inputs form a group: a small dense matrix, which reads each of its inputs once. This
is the fastest method where the weights consist of such groups. Other weights with a share of at least `DENSE_SHARE` nonzeros are
multiplied as one dense matrix: a rank stores only the columns that it needs, so its part is denser than the layer. All other weights take
the gather method, with which tests also check the other two. The choice of the method depends only on the weights, so it is the same in
every run.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.kernel.block import Block
from fsd_core.model.activation import activate

__all__ = ["DENSE_SHARE", "Finish", "Weights"]

DENSE_SHARE = 1 / 32  # measured on one core: BLAS does 32 multiplications in the time that the gather method needs for one
GROUPS_SHARE = 2  # groups may take this many times the memory of the weights: smaller ones are filled up with zeros
GROUP_VALUES = 1 << 18  # the groups are multiplied with pieces of 1 MB, which fit the cache
GATHER_VALUES = 1 << 18  # the gather method works on pieces of 1 MB too
DENSE_BYTES = 256 << 20  # larger weights stay sparse


@attrs.frozen(eq=False)
class Finish:
    """What makes activations of the sums of a layer: the arguments of `fsd_core.model.activation.activate`."""

    bias: NDArray[np.float32]  # (rows,)
    activation: str
    clip: float | None
    challenge: bool


class Weights:
    """The weights of some output rows, float32 of shape (rows, columns).

    The caller passes either ``csr``, a tuple of indptr int64 (rows + 1,), indices int32 (nonzeros,) and values float32 (nonzeros,), or
    ``dense``, float32 (rows, columns). `Weights` makes a copy of CSR weights in groups, or a dense copy if they have a share of at least
    `DENSE_SHARE` nonzeros.

    ``own`` is int32 (columns,): the rows of a block that the columns belong to, by default all, in order. ``finish``: what `forward` does
    with the sums; `None`: nothing.
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
        self._own = own
        self._finish = finish
        self._csr = csr
        self._dense = dense
        self._groups = None if csr is None else _grouped(*csr)
        size = shape[0] * shape[1]
        if dense is None and csr is not None and self._groups is None and len(csr[1]) >= DENSE_SHARE * size > 0 and 4 * size <= DENSE_BYTES:
            self._dense = np.zeros(shape, np.float32)
            rows = np.repeat(np.arange(shape[0]), np.diff(csr[0]))
            np.add.at(self._dense, (rows, csr[1]), csr[2])

    def forward(self, block: Block, start: Block | None = None) -> Block:
        """Multiply the weights with a block, add ``start`` (a block with the same live samples), and finish the sums."""
        x = block.values
        z = self.multiply(x if self._own is None else x[self._own])
        if start is not None:
            z += start.values
        if self._finish is not None:
            activate(z, self._finish.bias, self._finish.activation, self._finish.clip, self._finish.challenge)
        return Block(z, block.live, block.samples).trimmed()

    def multiply(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Multiply the weights with ``x``, float32 (columns, samples). Returns float32 (rows, samples)."""
        if self._groups is not None and self._groups.full:
            return self._groups.multiply(x)
        product: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None
        if self._groups is not None:
            product = self._groups.multiply
        elif self._dense is not None:
            product = self._dense.__matmul__
        if product is not None:
            with np.errstate(invalid="ignore", over="ignore"):
                z = product(x)
            # In a dense form, a zero times an infinite activation is NaN. The sparse form has no such product.
            if self._csr is None or np.isfinite(z).all():
                return z
        return self.gather(x)

    def gather(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Multiply CSR weights by the gather method: take the row of ``x`` for each nonzero, scale it, and sum the rows of each output."""
        assert self._csr is not None
        indptr, indices, values = self._csr
        z = np.zeros((self.shape[0], x.shape[1]), np.float32)
        busy = np.flatnonzero(np.diff(indptr))  # for a row without nonzeros, reduceat would return the next value
        width = max(1, min(x.shape[1], GATHER_VALUES // max(1, int(np.diff(indptr).max(initial=1)))))
        first = 0
        while first < len(busy):
            start = indptr[busy[first]]
            last = first + max(1, int(np.searchsorted(indptr[busy[first:] + 1], start + GATHER_VALUES // width, side="right")))
            some = busy[first:last]
            stop = indptr[some[-1] + 1]
            for left in range(0, x.shape[1], width):
                terms = x[indices[start:stop], left : left + width]
                terms *= values[start:stop, None]
                z[some, left : left + width] = np.add.reduceat(terms, indptr[some] - start, axis=0)
            first = last
        return z


@attrs.frozen(eq=False)
class _Groups:
    """Groups of rows that read the same columns. All have the same size, because zeros fill up the smaller ones."""

    values: NDArray[np.float32]  # (groups, rows of a group, columns of a group)
    columns: NDArray[np.int64]  # (groups, columns of a group); column 0 fills up
    places: NDArray[np.int64]  # (outputs,): the place of each output row among the rows of all groups
    empty: NDArray[np.int64]  # the output rows without weights
    full: bool  # no value is zero, so the product with an infinite activation is that of the sparse form

    def multiply(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        width = max(1, GROUP_VALUES // self.columns.size)
        pieces = [self._piece(x[:, left : left + width]) for left in range(0, x.shape[1], width)]
        z = pieces[0] if len(pieces) == 1 else np.concatenate([np.zeros((len(self.places), 0), np.float32), *pieces], axis=1)
        if len(self.empty):
            z[self.empty] = 0
        return z

    def _piece(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        product = np.matmul(self.values, np.take(x, self.columns, axis=0))
        return np.take(product.reshape(-1, x.shape[1]), self.places, axis=0)


def _grouped(indptr: NDArray[np.int64], indices: NDArray[np.int32], values: NDArray[np.float32]) -> _Groups | None:
    """The groups of CSR weights; `None` if they take more than `GROUPS_SHARE` x the memory of the weights, or have less than two rows each.

    The order of the nonzeros of a row counts: rows of a group have equal ``indices``.
    """
    counts = np.diff(indptr)
    rows = np.flatnonzero(counts)
    if not len(rows):
        return None
    labels = np.random.default_rng(0).integers(2**63, size=int(indices.max()) + 1, dtype=np.uint64)
    terms = labels[indices] * (2 * np.arange(len(indices), dtype=np.uint64) + 1 - np.repeat(indptr[:-1], counts).astype(np.uint64) * 2)
    _, first, group = np.unique(np.add.reduceat(terms, indptr[rows]), return_index=True, return_inverse=True)
    sizes = np.bincount(group)
    groups, tall, wide = len(sizes), int(sizes.max()), int(counts.max())
    if groups * tall * wide > GROUPS_SHARE * len(values) or 2 * groups > len(rows):
        return None
    order = np.argsort(group, kind="stable")
    place = group[order] * tall + np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    within = np.arange(len(values)) - np.repeat(indptr[:-1], counts)  # of each nonzero in its row
    columns = np.zeros((groups, wide), np.int64)
    for number, row in enumerate(rows[first]):
        columns[number, : counts[row]] = indices[indptr[row] : indptr[row + 1]]
    places = np.zeros(len(counts), np.int64)
    places[rows[order]] = place
    row_of = np.repeat(np.arange(len(counts)), counts)
    if not np.array_equal(columns[places[row_of] // tall, within], indices):
        return None  # two different rows have equal sums, which is as good as impossible
    filled = np.zeros((groups * tall, wide), np.float32)
    filled[places[row_of], within] = values
    return _Groups(filled.reshape(groups, tall, wide), columns, places, np.flatnonzero(counts == 0), bool(filled.all()))
