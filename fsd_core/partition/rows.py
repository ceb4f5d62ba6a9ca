"""Facts about the rows of a model: the number of rows of each layer, the work of each row, and the ranks that need it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsd_core.model import Layer, Model

__all__ = ["needs", "widths", "work"]


def widths(model: Model) -> list[int]:
    """The number of neurons of the input, then of each layer: L+1 numbers."""
    return [model.layers[0].inputs, *(layer.outputs for layer in model.layers)]


def work(layer: Layer) -> NDArray[np.int64]:
    """The number of stored weights of each output row, int64 (outputs,). Stored zeros count. A dense row stores all its weights."""
    if isinstance(layer.weights, np.ndarray):
        return np.full(layer.outputs, layer.inputs, np.int64)
    return np.diff(layer.weights.indptr)


def needs(layer: Layer, owner: NDArray[np.integer[Any]], workers: int) -> NDArray[np.bool_]:
    """A table, bool (inputs, workers): true if the rank needs the input row. ``owner`` (outputs,) is the owner of each output row."""
    if isinstance(layer.weights, np.ndarray):
        present = np.bincount(owner, minlength=workers) > 0
        return np.repeat(present[None, :], layer.inputs, axis=0)
    need = np.zeros(layer.inputs * workers, np.bool_)
    need[layer.weights.indices * np.int64(workers) + np.repeat(owner, work(layer))] = True
    return need.reshape(layer.inputs, workers)
