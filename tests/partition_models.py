"""Small models of every kind for the tests of `fsd_core.partition`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from fsd_core.model import Csr, Layer, Model


def layer(mask: NDArray[np.bool_], dense: bool = False) -> Layer:
    """A layer with a weight of 1 wherever ``mask`` (outputs, inputs) is true; a dense layer also has the zeros."""
    if dense:
        weights: Csr | NDArray[np.float32] = mask.astype(np.float32)
    else:
        rows, columns = np.nonzero(mask)
        indptr = np.searchsorted(rows, np.arange(len(mask) + 1)).astype(np.int64)
        weights = Csr(indptr, columns.astype(np.int32), np.ones(len(rows), np.float32), mask.shape)
    return Layer(weights, np.zeros(len(mask), np.float32), "relu", None, False)


def sparse(sizes: Sequence[int], density: float, seed: int = 0) -> Model:
    """A sparse model with layers between ``sizes`` neurons."""
    random = np.random.default_rng(seed)
    shapes = zip(sizes[1:], sizes[:-1], strict=True)
    return Model(tuple(layer(random.random(shape) < density) for shape in shapes), f"sparse-{seed}")


@st.composite
def models(draw: st.DrawFn) -> Model:
    """Models of 1 to 5 sparse and dense layers of 1 to 24 neurons, empty rows and columns included."""
    sizes = draw(st.lists(st.integers(1, 24), min_size=2, max_size=6))
    density, seed = draw(st.sampled_from([0.0, 0.1, 0.4, 1.0])), draw(st.integers(0, 1000))
    random = np.random.default_rng(seed)
    shapes = zip(sizes[1:], sizes[:-1], strict=True)
    return Model(tuple(layer(random.random(shape) < density, dense=draw(st.booleans())) for shape in shapes), "drawn")
