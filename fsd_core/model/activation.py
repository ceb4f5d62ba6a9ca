"""Turns pre-activations into activations: bias, then activation, then clip. It imports numpy only, since workers compute with it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fsd_core.errors import InputError

__all__ = ["activate", "curve", "softmax"]

PIECE_VALUES = 1 << 16

Floats = NDArray[np.float32]


def activate(z: Floats, bias: Floats, activation: str, clip: float | None, challenge: bool) -> Floats:
    """Turn the pre-activations ``z`` float32 (rows, samples) into activations in place, and return ``z``. ``bias`` is float32 (rows,).

    With ``challenge`` (the rule of the Graph Challenge) the bias is added to nonzero entries only, otherwise to every entry. ``clip`` is
    the upper bound of relu. For the activation softmax, this function only adds the bias; the caller has to call `softmax` when it has all
    outputs of a sample. Raises InputError for an unknown activation.
    """
    if challenge and not (activation == "relu" and (bias <= 0).all()):  # in that case the bias leaves a zero a zero
        step = max(1, PIECE_VALUES // max(1, z.shape[1]))
        for first in range(0, len(z), step):  # in pieces that fit the cache; a product is faster than an addition with ``where``
            piece = z[first : first + step]
            piece += np.multiply(piece != 0, bias[first : first + step, None])
    else:
        z += bias[:, None]
    if activation == "relu":
        np.clip(z, 0, clip, out=z)
    elif activation in ("sigmoid", "tanh"):
        curve(z, activation)
    elif activation not in ("identity", "softmax"):
        raise InputError(f"activation {activation!r}: expected one of identity, relu, sigmoid, tanh, softmax")
    return z


def curve(z: Floats, activation: str) -> None:
    """Apply sigmoid, or else tanh, to every value of ``z``, float32 of any shape, in place."""
    if activation == "sigmoid":
        _sigmoid(z)
    else:
        np.tanh(z, out=z)


def _sigmoid(z: Floats) -> None:
    """1 / (1 + exp(-z)) in place, from e = exp(-|z|), which cannot overflow: 1 / (1 + e) where z >= 0 and e / (1 + e) elsewhere."""
    positive = z >= 0
    with np.errstate(under="ignore"):
        np.exp(-np.abs(z), out=z)
        np.divide(np.where(positive, np.float32(1), z), z + 1, out=z)


def softmax(rows: Floats) -> Floats:
    """exp(x) / sum(exp(x)) of each row of ``rows`` (samples, outputs) float32, as a new array.

    It subtracts the maximum of a row first, so that exp cannot overflow.
    """
    with np.errstate(under="ignore"):
        powers: Floats = np.exp(rows - rows.max(axis=1, keepdims=True))
        powers /= powers.sum(axis=1, keepdims=True)
    return powers
