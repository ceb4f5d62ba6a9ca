"""Finds the results that depend on the order of float32 additions: sums that may be zero, and samples that may have a nonzero output."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsd_core.errors import InputError
from fsd_core.model.layer import Csr, Layer, Model

__all__ = ["cancelling", "categories"]

UNIT = 2.0**-24  # the maximum relative error of a float32 sum or product
TINY = 2.0**-149  # the maximum absolute error of a product below the normal float32 numbers


def cancelling(model: Model, inputs: Any) -> list[int]:
    """The layers (1-based) that may add positive and negative terms for ``inputs``, a scipy sparse matrix (samples, model.inputs) float32.

    A sum with terms of both signs may be zero in one order and nonzero in another. A sum with terms of one sign is zero only if all its
    terms are zero.
    """
    found = []
    signed = inputs.nnz > 0 and inputs.data.min() < 0
    for number, layer in enumerate(model.layers, 1):
        values = _values(layer)
        if signed or values.min(initial=0) < 0 < values.max(initial=0):
            found.append(number)
        signed = layer.activation in ("identity", "tanh")
    return found


def categories(model: Model, inputs: Any, batch: int = 1024) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Find the samples whose output is nonzero.

    Returns two bool arrays (samples,). The first is true if the output is nonzero for every order of the additions, the second if it may
    be nonzero for some order.

    ``inputs`` is a scipy sparse matrix (samples, model.inputs) float32. For a sample with equal values in both arrays, the result does not
    depend on the partition, the number of workers or the kernel. The function computes a lower and an upper bound of every activation,
    layer by layer, for ``batch`` samples at a time. The bounds hold because a float32 sum of n products of at least 0 differs from the
    exact sum by at most n roundings in every order, and because bias, relu and clip are monotonic. Raises `InputError` if a weight or an
    input is negative, or if an activation is not relu.
    """
    if (inputs.nnz and inputs.data.min() < 0) or any(
        _values(each).min(initial=0) < 0 or each.activation != "relu" for each in model.layers
    ):
        raise InputError("the bounds need sums without cancellation: expected weights and inputs of at least 0, and activation relu")
    found = np.zeros((2, inputs.shape[0]), bool)
    exact = [(layer.weights.scipy() if isinstance(layer.weights, Csr) else layer.weights).astype(np.float64) for layer in model.layers]
    for start in range(0, inputs.shape[0], batch):
        low = high = np.ascontiguousarray(inputs[start : start + batch].toarray().T.astype(np.float64))
        alive = start + np.arange(low.shape[1])
        for layer, weights in zip(model.layers, exact, strict=True):
            low, high = _activated(layer, weights @ low, -1), _activated(layer, weights @ high, +1)
            if layer.challenge and not (kept := high.any(axis=0)).all():  # the other samples stay zero
                low, high, alive = np.ascontiguousarray(low[:, kept]), np.ascontiguousarray(high[:, kept]), alive[kept]
        found[:, alive] = low.any(axis=0), high.any(axis=0)
    return found[0], found[1]


def _activated(layer: Layer, z: NDArray[np.float64], sign: int) -> NDArray[np.float64]:
    """The lower (``sign`` -1) or upper (``sign`` +1) bound of the float32 activations of exact sums ``z`` >= 0, (outputs, samples)."""
    terms = np.diff(layer.weights.indptr) if isinstance(layer.weights, Csr) else np.full(layer.outputs, layer.inputs)
    off = (terms[:, None] + 2) * UNIT  # n roundings, plus 2: for their product, and for the float64 arithmetic here
    z = np.where(z > 0, np.maximum(z * (1 + sign * off) + sign * terms[:, None] * TINY, 0), 0)
    sums = z + layer.bias[:, None]
    sums += sign * 2 * UNIT * np.abs(sums)
    if layer.challenge:
        sums[z == 0] = 0
    return np.clip(sums, 0, layer.clip)


def _values(layer: Layer) -> NDArray[np.float32]:
    return layer.weights.values if isinstance(layer.weights, Csr) else layer.weights
