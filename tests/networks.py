"""Small random networks for property tests: sparse and dense layers, every activation, both bias rules, biases of both signs."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import scipy.sparse as sp
from hypothesis import strategies as st

from fsd_core.model import Csr, Layer, Model
from fsd_core.model.challenge import radixnet
from fsd_core.model.inputs import open_inputs
from fsd_core.plan.facts import Facts, learn

SAMPLES = 120  # of `learned`


@st.composite
def networks(draw: st.DrawFn, max_rows: int = 24) -> Model:
    """A model of 1 to 5 layers of 1 to ``max_rows`` neurons."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    widths = draw(st.lists(st.integers(1, max_rows), min_size=2, max_size=6))
    layers = []
    for number, (inputs, outputs) in enumerate(itertools.pairwise(widths), 1):
        last = number == len(widths) - 1
        activation = draw(st.sampled_from(["identity", "relu", "sigmoid", "tanh", *(["softmax"] if last else [])]))
        dense = (rng.standard_normal((outputs, inputs)) / np.sqrt(inputs) * 1.5).astype(np.float32)
        sparse = draw(st.booleans())
        if sparse:
            dense[rng.random(dense.shape) < draw(st.sampled_from([0.3, 0.8, 1.0]))] = 0
        rows, columns = np.nonzero(dense)
        layers.append(
            Layer(
                weights=Csr.build(rows, columns, dense[rows, columns], dense.shape) if sparse else dense,
                bias=(rng.standard_normal(outputs) * draw(st.sampled_from([0.0, 0.5]))).astype(np.float32),
                activation=activation,
                clip=draw(st.sampled_from([None, 0.7])) if activation == "relu" else None,
                challenge=draw(st.booleans()),
            )
        )
    return Model(tuple(layers), "random")


def some_inputs(model: Model, samples: int, seed: int = 0) -> sp.csr_matrix:
    """float32 (samples, inputs); about a third of the samples are all zero."""
    rng = np.random.default_rng(seed)
    dense = rng.standard_normal((samples, model.inputs)).astype(np.float32)
    dense[rng.random(dense.shape) < 0.5] = 0
    dense[rng.random(samples) < 0.33] = 0
    return sp.csr_matrix(dense)


def dense(layers: int, inputs: int, outputs: int) -> Model:
    """Layers of one matrix: a large model in little memory."""
    weights = np.random.default_rng(0).standard_normal((outputs, inputs)).astype(np.float32) / np.float32(np.sqrt(inputs))
    layer = Layer(weights=weights, bias=np.zeros(outputs, np.float32), activation="relu", clip=None, challenge=False)
    return Model((layer,) * layers, "large")


@cache
def learned() -> tuple[Model, Facts]:
    """A network of the Graph Challenge, and the facts of all its `SAMPLES` samples."""
    model = radixnet(1024, 6)
    return model, learn(model, open_inputs(f"random:{SAMPLES}:0.2", model.inputs), 60.0)
