"""Computes a whole model in one process. Every distributed run has to give the same output."""

from __future__ import annotations

from typing import Any

import numpy as np

from fsd_core.common import arguments
from fsd_core.model.activation import activate, softmax
from fsd_core.model.layer import Csr, Model

__all__ = ["serial"]


def serial(model: Model, inputs: Any, batch: int = 1024) -> Any:
    """Compute the output of ``model`` for ``inputs``: a ``scipy.sparse.csr_matrix`` (samples, model.outputs) float32.

    ``inputs`` is any array or matrix (samples, model.inputs) that `fsd_core.run` takes; this function does not change it. It computes
    ``batch`` samples at a time. Raises InputError for a wrong argument.
    """
    from scipy.sparse import csr_matrix, vstack

    batch = arguments.whole("batch", batch, 1)
    inputs = arguments.matrix("inputs", inputs, arguments.instance("model", model, Model).inputs)
    weights = [layer.weights.scipy() if isinstance(layer.weights, Csr) else layer.weights for layer in model.layers]
    zero_stays = all(layer.challenge and layer.activation in ("identity", "relu", "tanh") for layer in model.layers)
    blocks = [csr_matrix((0, model.outputs), dtype=np.float32)]
    for start in range(0, inputs.shape[0], batch):
        x = np.ascontiguousarray(inputs[start : start + batch].toarray().T)
        alive = np.arange(x.shape[1])
        for layer, matrix in zip(model.layers, weights, strict=True):
            x = activate(matrix @ x, layer.bias, layer.activation, layer.clip, layer.challenge)
            if zero_stays and not (kept := x.any(axis=0)).all():  # a sample with only zeros has only zeros in all later layers
                x, alive = np.ascontiguousarray(x[:, kept]), alive[kept]
        output = np.zeros((min(batch, inputs.shape[0] - start), model.outputs), np.float32)
        output[alive] = softmax(x.T) if model.layers[-1].activation == "softmax" else x.T
        blocks.append(csr_matrix(output))
    return vstack(blocks, format="csr", dtype=np.float32)
