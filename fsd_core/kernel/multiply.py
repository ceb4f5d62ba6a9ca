"""The multiply of one rank's rows of one layer: sparse or dense float32 weights times a dense batch of columns.

Two paths, chosen from the weights alone, so that a rank takes the same one in every run. A block of weights that is
not very sparse is multiplied as a dense matrix: with the columns that a rank does not need left out, BLAS needs less
time than gathering rows does. Everything else takes the plain path, which is also what the dense one is tested with.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["DENSE_SHARE", "Weights"]

DENSE_SHARE = 1 / 32  # measured on one core: BLAS does 32 multiplications in the time that the gather takes for one
GATHER_VALUES = 1 << 18  # the plain path works on pieces of 1 MB, so that they stay in the cache
DENSE_BYTES = 256 << 20


class Weights:
    """float32 weights of some output rows, (rows, columns), as CSR arrays or dense."""

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
        """Weights times ``x``: (columns, samples) -> (rows, samples), float32."""
        if self._dense is not None:
            with np.errstate(invalid="ignore", over="ignore"):
                z = self._dense @ x
            # Zero weights that the sparse form does not have turn an infinite activation into NaN here.
            if self._csr is None or np.isfinite(z).all():
                return z
        return self.gather(x)

    def gather(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """The plain path: gather the rows that the nonzeros name, scale, sum by output row. Of CSR weights only."""
        assert self._csr is not None
        indptr, indices, values = self._csr
        z = np.zeros((self.shape[0], x.shape[1]), np.float32)
        busy = np.flatnonzero(np.diff(indptr))  # reduceat would give an empty row its neighbour's first value
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
