"""The network of ``fsd demo``: it recognises handwritten digits, is trained here, and pruned to a tenth of its weights.

The data is real: the 1,797 images of 8 x 8 pixels that scikit-learn contains (Alpaydin and Kaynak, "Optical Recognition of
Handwritten Digits", 1998). One half is for training; the other half, which training never sees, measures the accuracy.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.common import arguments
from fsd_core.errors import InputError
from fsd_core.model import Csr, Layer, Model

__all__ = ["DENSITY", "Digits", "accuracy", "digits", "network", "train"]

_log = logging.getLogger(__name__)
WIDTHS = (64, 384, 384, 384, 384, 10)
DENSITY = 0.1  # share of the weights of every layer that are not pruned
EPOCHS = 80
PRUNING = 0.6  # share of the epochs in which weights are pruned; the other epochs train the remaining weights
BATCH = 64
RATE = 2e-3

Weights = list[NDArray[np.float32]]


@attrs.frozen(eq=False)
class Digits:
    """Images float32 (samples, 64) from 0 to 1, and labels int64 (samples,): ``seen`` are for training, ``held`` are for the accuracy."""

    seen: NDArray[np.float32]
    seen_labels: NDArray[np.int64]
    held: NDArray[np.float32]
    held_labels: NDArray[np.int64]


def digits(seed: int = 0) -> Digits:
    """The data in two halves; ``seed`` decides which image is in which half. Raises `InputError` where scikit-learn is missing."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError("the digits are part of scikit-learn, which is not installed: pip install 'fsd-inference[demo]'") from None
    data = load_digits()
    images, labels = (data.data / 16).astype(np.float32), data.target.astype(np.int64)
    order = np.random.default_rng(arguments.whole("seed", seed)).permutation(len(images))
    seen, held = np.split(order, [len(images) // 2])
    return Digits(images[seen], labels[seen], images[held], labels[held])


def network(home: str | os.PathLike[str], progress: Callable[[int, int], None] | None = None) -> tuple[Model, Path]:
    """The trained model and its folder below ``home / "demo"``. Trains it at its first use, or if it is damaged or this file changed.

    ``progress`` is called with the number of epochs done and of all epochs. Raises `InputError` where scikit-learn is missing.
    """
    from fsd_core.model import load, save

    folder = arguments.path("home", home) / "demo" / f"digits-{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]}"
    if folder.exists():
        try:
            return load(folder), folder
        except InputError as error:
            _log.warning("%s; the model of an earlier demo is trained again", error)
            shutil.rmtree(folder, ignore_errors=True)
    from threadpoolctl import threadpool_limits  # scikit-learn depends on it

    data = digits()
    with threadpool_limits(1):  # these matrices are too small for several threads, which would spin while they wait for each other
        model = train(data, progress=progress)
    try:
        save(model, folder)
    except InputError:
        if not folder.exists():  # else another demo made it meanwhile
            raise
    return load(folder), folder


def train(data: Digits, seed: int = 0, progress: Callable[[int, int], None] | None = None) -> Model:
    """A sparse network for ``data``: 64 inputs, four hidden layers of 384 neurons with relu, 10 outputs with softmax.

    Adam (Kingma and Ba, 2015) minimises the cross-entropy of images that are shifted at random. Meanwhile the smallest weights are set to
    zero and stay zero, on the cubic schedule of Zhu and Gupta ("To prune, or not to prune", 2017). ``progress`` is called after each
    epoch with the number of epochs done and of all epochs. Raises `InputError` where an argument is wrong.
    """
    random = np.random.default_rng(arguments.whole("seed", seed))
    arguments.callback("progress", progress)
    layers = len(WIDTHS) - 1
    weights: Weights = [
        (random.standard_normal((outputs, inputs)) * np.sqrt(2 / inputs)).astype(np.float32) for inputs, outputs in pairwise(WIDTHS)
    ]
    biases: Weights = [np.zeros(outputs, np.float32) for outputs in WIDTHS[1:]]
    masks = [np.ones(w.shape, np.bool_) for w in weights]
    step = _adam(weights + biases)
    for epoch in range(EPOCHS):
        unpruned = max(0.0, 1 - epoch / (PRUNING * EPOCHS))
        for w, mask in zip(weights, masks, strict=True):
            _prune(w, mask, DENSITY + (1 - DENSITY) * unpruned**3)
        order = random.permutation(len(data.seen))
        for first in range(0, len(order), BATCH):
            batch = order[first : first + BATCH]
            gradients = _gradients(weights, biases, _shifted(data.seen[batch], random), data.seen_labels[batch])
            for k in range(layers):
                gradients[k] *= masks[k]
            step(gradients, RATE * (1 - epoch / EPOCHS))
            for w, mask in zip(weights, masks, strict=True):
                w *= mask
        if progress:
            progress(epoch + 1, EPOCHS)
    activations = ["relu"] * (layers - 1) + ["softmax"]
    sparse = [_csr(w) for w in weights]
    return Model(tuple(Layer(w, b, a, None, False) for w, b, a in zip(sparse, biases, activations, strict=True)), "digits")


def accuracy(output: Any, labels: NDArray[np.int64]) -> float:
    """The share of samples, from 0 to 1, whose largest output is at their label. ``output``: (samples, 10), sparse or dense."""
    dense = output if isinstance(output, np.ndarray) else output.toarray()
    return float(np.mean(dense.argmax(axis=1) == labels))


def _csr(weights: NDArray[np.float32]) -> Csr:
    rows, columns = np.nonzero(weights)
    return Csr.build(rows, columns, weights[rows, columns], (weights.shape[0], weights.shape[1]))


def _prune(weights: NDArray[np.float32], mask: NDArray[np.bool_], density: float) -> None:
    """Set all weights except the largest to zero, in place, and clear their entries of the mask."""
    excess = weights.size - int(density * weights.size)
    if excess:
        mask &= np.abs(weights) > np.partition(np.abs(weights), excess - 1, axis=None)[excess - 1]
        weights *= mask


def _shifted(images: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    """The images, each moved by -1, 0 or 1 pixel along both axes."""
    padded = np.pad(images.reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
    rows, columns = random.integers(0, 3, (2, len(images), 1)) + np.arange(8)
    moved: NDArray[np.float32] = padded[np.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]]
    return moved.reshape(images.shape)


def _gradients(weights: Weights, biases: Weights, images: NDArray[np.float32], labels: NDArray[np.int64]) -> Weights:
    """The gradients of the mean cross-entropy: those by the weights of each layer, then those by the bias of each layer."""
    layers = len(weights)
    x = [images]
    for k in range(layers):
        z = x[-1] @ weights[k].T + biases[k]
        x.append(np.maximum(z, 0) if k < layers - 1 else z)
    delta = np.exp(x[-1] - x[-1].max(axis=1, keepdims=True))
    delta /= delta.sum(axis=1, keepdims=True)
    delta[np.arange(len(labels)), labels] -= 1
    delta /= len(labels)
    of_weights, of_biases = [], []
    for k in reversed(range(layers)):
        of_weights.append(delta.T @ x[k])
        of_biases.append(delta.sum(axis=0))
        if k:
            delta = (delta @ weights[k]) * (x[k] > 0)
    return of_weights[::-1] + of_biases[::-1]


def _adam(parameters: Weights, beta1: float = 0.9, beta2: float = 0.999) -> Callable[[Weights, float], None]:
    """A function that takes gradients and a rate, and updates ``parameters`` in place."""
    first = [np.zeros_like(p) for p in parameters]
    second = [np.zeros_like(p) for p in parameters]
    steps = 0

    def step(gradients: Weights, rate: float) -> None:
        nonlocal steps
        steps += 1
        scale = rate * np.sqrt(1 - beta2**steps) / (1 - beta1**steps)
        for p, g, m, v in zip(parameters, gradients, first, second, strict=True):
            m += np.float32(1 - beta1) * (g - m)
            v += np.float32(1 - beta2) * (g * g - v)
            p -= np.float32(scale) * m / (np.sqrt(v) + np.float32(1e-8))

    return step
