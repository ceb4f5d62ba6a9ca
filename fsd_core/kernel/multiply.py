"""The product of one rank's rows of one layer, sparse or dense float32 weights, with a dense matrix of activations.

The module has two methods. Weights with a share of at least `DENSE_SHARE` nonzeros are multiplied as a dense matrix: a rank stores only the
columns that it needs, so its part is denser than the layer, and BLAS is faster than the gather method. All other weights take the gather
method, with which tests also check the dense method. The choice depends only on the weights, so a rank takes the same method in every run.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["DENSE_SHARE", "Weights"]

DENSE_SHARE = 1 / 32  # measured on one core: BLAS does 32 multiplications in the time that the gather method needs for one
GATHER_VALUES = 1 << 18  # the gather method works on pieces of 1 MB, which fit the cache
DENSE_BYTES = 256 << 20  # larger weights stay sparse


class Weights:
    """The weights of some output rows, float32 of shape (rows, columns).

    The caller passes either ``csr``, a tuple of indptr int64 (rows + 1,), indices int32 (nonzeros,) and values float32 (nonzeros,), or
    ``dense``, float32 (rows, columns). `Weights` makes a dense copy of CSR weights with a share of at least `DENSE_SHARE` nonzeros.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        csr: tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]] | None,
        dense: NDArray[np.float32] | None,
    ) -> None:
        self.shape = shape
        self._csr = csr
        self._dense = dense
        size = shape[0] * shape[1]
        if dense is None and csr is not None and len(csr[1]) >= DENSE_SHARE * size > 0 and 4 * size <= DENSE_BYTES:
            self._dense = np.zeros(shape, np.float32)
            rows = np.repeat(np.arange(shape[0]), np.diff(csr[0]))
            np.add.at(self._dense, (rows, csr[1]), csr[2])

    def multiply(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Multiply the weights with ``x``, float32 (columns, samples). Returns float32 (rows, samples)."""
        if self._dense is not None:
            with np.errstate(invalid="ignore", over="ignore"):
                z = self._dense @ x
            # In the dense form, a zero times an infinite activation is NaN. The sparse form has no such product.
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
