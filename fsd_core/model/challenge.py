"""Generates the networks of the Sparse DNN Graph Challenge.

They are RadiX-Nets (Kepner and Robinett, "RadiX-Net: Structured Sparse Matrices for Deep Neural Networks", 2019). A base network has
log2(b) layers of radix 2 on b = N/16 nodes. A Kronecker product with a 16 x 16 block of ones widens it to N neurons. The network is a
sequence of copies of this base. Layer l (from 0) of the base is I + S, where S connects input node j to output node (j - 2^l) mod b. Each
copy after the first permutes its input rows, with the same permutation in all its layers (checked on the official files for N = 1024).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fsd_core.common import arguments
from fsd_core.errors import InputError
from fsd_core.model.layer import Layer, Model, unchecked

__all__ = ["CHALLENGE_BIAS", "CHALLENGE_CLIP", "radixnet"]

CHALLENGE_BIAS = {1024: -0.30, 4096: -0.35, 16384: -0.40, 65536: -0.45}
CHALLENGE_CLIP = 32.0
_BLOCK = 16  # side of the block of ones
_FAN_IN = 2 * _BLOCK  # inputs of each neuron


def radixnet(neurons: int, layers: int, seed: int = 0, weights: str = "official") -> Model:
    """A RadiX-Net of ``layers`` layers of ``neurons`` neurons (1024, 4096, 16384 or 65536), with 32 nonzeros in each row and column.

    With ``weights="official"`` every value is 1/16, and the bias, rule, relu and clip are those of the challenge. The layers of the first
    copy are equal to the official files; later copies differ from the files only in the permutations, which depend on ``seed``. With
    ``weights="normal"`` the structure is the same, the values are drawn from a normal distribution of variance 2/32 (He et al., 2015, for
    32 inputs) and the bias from one of variance 0.01, both with mean 0, with the plain rule, relu and no clip. Raises InputError for any
    other argument.
    """
    neurons, layers, seed = arguments.whole("neurons", neurons), arguments.whole("layers", layers, 1), arguments.whole("seed", seed)
    arguments.one_of("weights", weights, ("official", "normal"))
    if neurons not in CHALLENGE_BIAS:
        raise InputError(f"{neurons} neurons: expected a size of the Graph Challenge: {', '.join(map(str, CHALLENGE_BIAS))}")
    base = (neurons // _BLOCK).bit_length() - 1
    random = np.random.default_rng(seed)
    indptr = np.arange(0, neurons * _FAN_IN + 1, _FAN_IN, dtype=np.int64)
    values = np.full(neurons * _FAN_IN, 1 / 16, np.float32)  # one array for all layers
    bias = np.full(neurons, CHALLENGE_BIAS[neurons], np.float32)
    for shared in (indptr, values, bias):
        arguments.fresh(shared)
    permutation = np.arange(neurons)
    made = []
    for k in range(layers):
        if k and k % base == 0:
            permutation = random.permutation(neurons)
        indices = _columns(neurons, k % base, permutation)
        if weights == "official":
            made.append(Layer(unchecked(indptr, indices, values, (neurons, neurons)), bias, "relu", CHALLENGE_CLIP, True))
        else:
            values = random.standard_normal(neurons * _FAN_IN, np.float32) * np.float32((2 / _FAN_IN) ** 0.5)
            bias = random.standard_normal(neurons, np.float32) * np.float32(0.1)
            made.append(
                Layer(unchecked(indptr, indices, arguments.fresh(values), (neurons, neurons)), arguments.fresh(bias), "relu", None, False)
            )
    model = Model(tuple(made), f"radixnet-{neurons}x{layers}")
    object.__setattr__(model, "recipe", f"radixnet {neurons} {layers} {seed} {weights}")
    return model


def _columns(neurons: int, level: int, permutation: NDArray[np.int64]) -> NDArray[np.int32]:
    """The inputs of every output neuron, ascending for each, one output after the other: int32 (neurons * 32,)."""
    nodes = neurons // _BLOCK
    own = np.arange(nodes)
    classes = np.stack([own, (own + (1 << level)) % nodes], axis=1)  # output j - 2^l reads input j
    inputs = classes[:, :, None] + nodes * np.arange(_BLOCK)
    indices = np.sort(permutation[inputs.reshape(nodes, _FAN_IN)].astype(np.int32), axis=1)
    return arguments.fresh(np.tile(indices.ravel(), _BLOCK))  # output j + nodes reads what output j reads
