"""Cuts a model into stages of consecutive layers: the largest stage is as small as possible, and few activations cross a cut.

All stages load their weights at the same time. With one micro-batch they compute one after the other, so only loading counts; with m
micro-batches, (m - 1) / m of the largest stage's work adds to the time of the run. `profile` counts the work of a layer: a sample whose
activations equal those of an input of zeros costs nothing, because a worker computes such samples once. `profile` measures no seconds, so
equal arguments give equal cuts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.model import Csr, Model
from fsd_core.model.activation import activate

__all__ = ["Profile", "cut", "profile", "worthwhile"]

LOAD_BYTES_S = 80e6  # bytes that a function loads in a second: 60 to 100 MB/s on the clouds
WORK_S = 2e9  # multiplications with stored weights in a second, on one core
DENSE_SHARE = 1 / 32  # a multiplication of a dense product takes this share of the time of one with a stored weight
ENCODE_S, DECODE_S = 18e-9, 9e-9  # seconds to encode or decode one activation of a live sample, on one core
SAMPLED = 256  # samples that `profile` computes
SAMPLED_WORK = 500_000_000  # multiplications that `profile` may make
SLACK = 1.05  # the largest stage may be so many times as large as necessary if fewer activations cross the cuts
PAYS_S = 0.2  # seconds of work of a stage on one micro-batch that are worth its messages: the time of a message from topic to queue
CELLS = 1 << 22  # costs of stages that `cut` holds at once
FILL = 4  # micro-batches for each stage: stages then wait for at most a fifth of the run, so more micro-batches hardly shorten it


@attrs.frozen(eq=False)
class Profile:
    """What the layers of a model cost, float64 (layers,) each."""

    load_s: NDArray[np.float64]  # seconds to load the weights
    work_s: NDArray[np.float64]  # seconds to compute one layer for all samples of the input
    crossing: NDArray[np.float64]  # activations that leave the layer, of all live samples
    widths: NDArray[np.int64]  # rows
    batches: int = 1  # micro-batches that go through the stages one after another
    live: NDArray[np.float64] | None = None  # the share of the samples that are live before the layer, if a sample was computed

    @property
    def seconds(self) -> NDArray[np.float64]:
        """What each layer adds to the time of a run if its stage is the largest."""
        return self.load_s + self.work_s * self.overlap

    def stage_work_s(self, starts: Sequence[int], tensor: int) -> float:
        """Seconds to compute one micro-batch in the largest stage. ``starts``: the first layer of each stage, 0-based."""
        return float(np.add.reduceat(self.work_s, np.asarray(starts)).max()) / self.batches / tensor

    @property
    def overlap(self) -> float:
        """The share of the largest stage's work that adds to the time of a run."""
        return (self.batches - 1) / self.batches


def profile(model: Model, inputs: Any = None, samples: int = 1000) -> Profile:
    """Count what each layer costs for ``inputs``, a scipy CSR matrix (samples, inputs) float32.

    This function computes some of the samples. Without ``inputs``, or if the model is too large for this, it counts as if ``samples``
    samples were live in all layers.
    """
    layers = model.layers
    samples = samples if inputs is None else inputs.shape[0]
    sizes = np.array([layer.nonzeros for layer in layers], np.float64)
    work = np.minimum(sizes, [DENSE_SHARE * layer.inputs * layer.outputs for layer in layers])
    widths = np.array([layer.outputs for layer in layers], np.int64)
    live, crossing = np.ones(len(layers)), widths.astype(np.float64)
    count = 0 if inputs is None else min(SAMPLED, samples, SAMPLED_WORK // max(1, model.nonzeros))
    if count:
        live, crossing = _sampled(model, inputs[np.arange(count) * samples // count])
    stored = np.array([8 if isinstance(layer.weights, Csr) else 4 for layer in layers])
    work_s, known = work * (1 + live * samples) / WORK_S, live if count else None
    return Profile(stored * sizes / LOAD_BYTES_S, work_s, crossing * samples, widths, live=known)


def _sampled(model: Model, inputs: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each layer: the share of the samples that are live before it, and the activations of a sample that leave it."""
    count = inputs.shape[0]
    x = np.zeros((inputs.shape[1], 1 + count), np.float32)  # column 0 is the input of zeros
    x[:, 1:] = inputs.toarray().T
    live, crossing = [], []
    for layer in model.layers:
        x = x[:, np.concatenate([[True], (x[:, 1:] != x[:, :1]).any(axis=0)])]
        live.append((x.shape[1] - 1) / count)
        matrix = layer.weights.scipy() if isinstance(layer.weights, Csr) else layer.weights
        x = activate(np.asarray(matrix @ x), layer.bias, layer.activation, layer.clip, layer.challenge)
        crossing.append(len(x) * np.count_nonzero((x[:, 1:] != x[:, :1]).any(axis=0)) / count)
    return np.array(live), np.array(crossing)


def cut(costs: Profile, stages: int, tensor: int) -> list[int] | None:
    """Find the first layer (0-based) of each stage, ascending. Returns `None` if there is no way to cut.

    A stage has at least one layer with at least ``tensor`` rows. The cost of the largest stage is at most `SLACK` x the smallest possible
    cost; among the cuts for which this holds, this function takes those that the fewest activations cross.
    """
    layers = len(costs.work_s)
    ends = np.concatenate([[0.0], np.cumsum(costs.seconds)])
    wide = np.concatenate([[0], np.cumsum(costs.widths >= tensor)])
    crossing = np.concatenate([[0.0], costs.crossing[:-1], [0.0]])  # crossing[i]: if a stage begins with layer i
    encode_s, decode_s = crossing * ENCODE_S * costs.overlap, crossing * DECODE_S * costs.overlap

    def stage_costs(some: slice) -> NDArray[np.float64]:
        """The cost of each stage that ends before one of the layers ``some`` (rows) and begins with any layer (columns).

        A stage that is not allowed has an infinite cost.
        """
        last = np.arange(1, layers + 1)[some, None]
        found = ends[last] - ends[:-1] + decode_s[:-1] + encode_s[last]
        return np.where((wide[last] > wide[:-1]) & (np.arange(layers) < last), found, np.inf)

    rows = max(1, CELLS // layers)
    blocks = [slice(at, at + rows) for at in range(0, layers, rows)]
    kept = [stage_costs(block) for block in blocks] if len(blocks) == 1 else None
    largest = np.full(layers + 1, np.inf)
    largest[0] = 0.0
    for _ in range(stages):
        ways = [np.maximum(largest[:-1], table).min(axis=1) for table in kept or map(stage_costs, blocks)]
        largest = np.concatenate([[np.inf], *ways])
    limit = SLACK * largest[layers]
    if not np.isfinite(limit):
        return None
    crossed = np.full(layers + 1, np.inf)
    crossed[0] = 0.0
    firsts = []
    for _ in range(stages):
        first, least = [np.zeros(1, int)], [np.full(1, np.inf)]
        for table in kept or map(stage_costs, blocks):
            passed = np.where(table <= limit, crossed[:-1] + crossing[:-1], np.inf)
            first.append(passed.argmin(axis=1))
            least.append(passed.min(axis=1))
        firsts.append(np.concatenate(first))
        crossed = np.concatenate(least)
    starts, end = [], layers
    for first_layers in reversed(firsts):
        end = int(first_layers[end])
        starts.append(end)
    return starts[::-1]


def worthwhile(costs: Profile, stages: int, tensor: int) -> int:
    """How many micro-batches shorten a run: a stage has at least `PAYS_S` seconds of work on each; at most `FILL` for each stage."""
    return int(max(1, min(FILL * stages, costs.work_s.sum() / stages / tensor / PAYS_S))) if stages > 1 else 1
