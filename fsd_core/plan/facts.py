"""`Facts`: what is known of a model and its input before a run: sizes, and what some samples, computed here for half a second, tell.

A few samples mislead: of the official images of the Graph Challenge, 3.4 % are still live in the last layers. So as many samples are
computed as the time allows, spread over the whole input, and `Facts.error` says how far their number can be off.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.codec import encode
from fsd_core.kernel import Block, Finish, Fused, Weights, compiled, stacked, weights
from fsd_core.model import Csr, Layer, Model
from fsd_core.model.activation import activate
from fsd_core.partition.stages import DENSE_SHARE, WORK_S
from fsd_core.plan.coding import Coding, measured
from fsd_core.plan.pace import python_pace
from fsd_core.plan.split import EMPTY_BYTES

__all__ = ["BUDGET_S", "DENSE_BYTES", "Facts", "described", "fewer", "learn", "order"]

BUDGET_S = 0.5  # seconds that `learn` computes
FIRST_SAMPLES = 64  # of the first pass, which shows how many samples the time allows
FIRST_SHARE = 0.4  # of the time, at most, for the first pass
ONWARD_SAMPLES = 16  # live ones that go on through the layers that the time does not reach: they show how many samples stay live
ONWARD_WORK = 200_000_000  # multiplications with these at most: fewer samples go on through a large model, and none through a huge one
PROBE_SHARE = 0.2  # of the time, to measure the kernel, and as much to measure the codec
KEPT_VALUES = 1 << 26  # activations that are kept, to be encoded: 256 MB
FIRST_VALUES = KEPT_VALUES // 4  # of these for the first layers, which have most live samples; all layers share the rest equally
DENSE_BYTES = 4.0  # of an activation of which nothing is known


@attrs.frozen(eq=False)
class Facts:
    """Arrays have a number for each layer, unless they say otherwise. "Entering" a layer are the activations of the layer before it."""

    model: Model | None  # `None`: dense layers of which only the sizes are known
    samples: int  # of the input
    sampled: int  # of them computed here
    reached: int  # layers through which they were computed; for later ones the last one counts, apart from `live`: see `_onward`
    widths: NDArray[np.int64]  # (layers + 1,) of the input and of each layer
    nonzeros: NDArray[np.int64]
    stored: NDArray[np.int64]  # bytes of the weights and biases in shards
    live: NDArray[np.float64]  # (layers + 1,) samples of the whole input that are live when they enter, and at the end
    work_s: NDArray[np.float64]  # seconds of one core of this machine to compute the layer for all samples
    ready_s: NDArray[np.float64]  # seconds of one core of this machine to make the weights ready to multiply
    blocks: tuple[Block | None, ...]  # (layers + 1,) what enters each layer, and the output, for `sampled` samples or fewer live ones
    shares: NDArray[np.float64]  # (layers + 1,) the share of the live samples of the whole input that the block has
    codings: tuple[Coding, ...]  # (layers + 1,) how long the activations take to encode and to decode
    python: float = 1.0  # see `fsd_core.plan.pace`

    @property
    def error(self) -> float:
        """The relative standard error of counts of live samples, because only some samples were computed; 0 if all were."""
        if self.sampled == self.samples:
            return 0.0
        alive = max(1.0, float(self.live.min()) * self.sampled / self.samples)
        return math.sqrt((1 - self.sampled / self.samples) / alive)

    def encoded(self, number: int) -> float:
        """The bytes of the encoded activations after layer ``number`` (0: of the input), for all samples."""
        block = self.blocks[number]
        if block is None:
            return EMPTY_BYTES + int(self.widths[number]) * float(self.live[number]) * self._dense_bytes
        return EMPTY_BYTES + max(0, len(encode(block)) - EMPTY_BYTES) / float(self.shares[number])

    @cached_property
    def whole(self) -> tuple[float, float]:
        """The bytes of the encoded input and of the encoded output, for all samples."""
        return self.encoded(0), self.encoded(len(self.nonzeros))

    @property
    def _dense_bytes(self) -> float:
        """The bytes of one activation of a live sample in the last layer that was computed."""
        block = self.blocks[self.reached]
        if block is None:
            return DENSE_BYTES
        return max(0, len(encode(block)) - EMPTY_BYTES) / max(1, block.rows * len(block.live))


def learn(model: Model, inputs: Any, budget_s: float = BUDGET_S) -> Facts:
    """Compute some of ``inputs``, a scipy CSR matrix (samples, inputs) float32, for about ``budget_s`` seconds, and return the facts."""
    samples = inputs.shape[0]
    began = time.monotonic()
    first = _pass(model, _some(inputs, min(FIRST_SAMPLES, samples)), began + FIRST_SHARE * budget_s)
    found, left = first, (1 - PROBE_SHARE) * budget_s
    if first.reached == len(model.layers) and first.count < samples:
        _probe(model, first, budget_s * PROBE_SHARE)
        left = 0.8 * (left - (time.monotonic() - began))
        most = min(samples, KEPT_VALUES // model.neurons)  # of the input, too, all activations are in memory
        by_scipy = int(first.count * max(1.0, left / max(sum(first.layer_s), 1e-6)))
        ready_s, kernel_s = (float(each.sum()) for each in _by_kernel(model, first))
        by_kernel = int(first.count * (left - ready_s) / max(kernel_s, 1e-6))
        if compiled.active() is not None and min(by_kernel, most) > by_scipy:
            found = _kernel_pass(model, _some(inputs, min(by_kernel, most)))
        elif min(by_scipy, most) > first.count:
            found = _pass(model, _some(inputs, min(by_scipy, most)), began + 4 * budget_s)
            found = found if found.reached >= first.reached else first
    _onward(model, found)
    if not found.probes:
        _probe(model, found, budget_s * PROBE_SHARE)
    return _facts(model, samples, found, measured(found.blocks, time.monotonic() + budget_s * PROBE_SHARE))


def described(widths: Sequence[int], samples: int) -> Facts:
    """The facts of dense layers of which only the sizes are known: ``widths`` of the input and of each layer.

    Counts as if all samples were live in all layers, and as if each activation took `DENSE_BYTES`.
    """
    sizes = np.array(widths, np.int64)
    nonzeros, layers = sizes[1:] * sizes[:-1], len(sizes) - 1
    work_s = (nonzeros * (1.0 + samples) * DENSE_SHARE / WORK_S).astype(np.float64)
    return Facts(
        model=None,
        samples=samples,
        sampled=samples,
        reached=0,
        widths=sizes,
        nonzeros=nonzeros,
        stored=4 * (nonzeros + sizes[1:]),
        live=np.full(layers + 1, float(samples)),
        work_s=work_s,
        ready_s=(nonzeros / WORK_S).astype(np.float64),
        blocks=(None,) * (layers + 1),
        shares=np.ones(layers + 1),
        codings=(Coding(),) * (layers + 1),
    )


@attrs.define(eq=False)
class _Pass:
    """What one pass found: of each layer that it reached, live samples, seconds, and what enters the layer; and the last output."""

    count: int
    live: list[int] = attrs.field(factory=list)
    later: list[float] = attrs.field(factory=list)  # live samples after the layers that were not reached, as some of them show
    layer_s: list[float] = attrs.field(factory=list)  # by scipy and numpy
    blocks: list[Block] = attrs.field(factory=list)
    left: int = FIRST_VALUES  # values that may be kept beyond those that each layer may have
    probes: list[tuple[int, float, float]] = attrs.field(factory=list)  # layer, seconds to prepare, seconds to compute: by the kernel

    @property
    def reached(self) -> int:
        return len(self.layer_s)

    def add(self, block: Block, layers: int) -> None:
        """Keep what enters the next layer."""
        self.live.append(len(block.live))
        share = (KEPT_VALUES - FIRST_VALUES) // (layers + 1) // max(1, block.rows)  # each block has this, and the first ones more, in turns
        more = max(0, min(len(block.live) - share, self.left // 2 // max(1, block.rows)))
        self.left -= more * block.rows
        self.blocks.append(fewer(block, max(1, share + more)))


def _some(inputs: Any, count: int) -> NDArray[np.float32]:
    """``count`` samples, spread over the input, float32 (inputs, count)."""
    dense: NDArray[np.float32] = inputs[np.arange(count) * inputs.shape[0] // count].toarray().T
    return dense


def _pass(model: Model, x: NDArray[np.float32], until: float) -> _Pass:
    """Send the samples ``x`` (inputs, samples) through the layers until the monotonic time ``until``, at least through one.

    By scipy, which computes at once: the kernel of a worker first prepares its weights, which takes longer than a few samples.
    """
    block = _entering(x)
    found = _Pass(x.shape[1])
    found.add(block, len(model.layers))
    for number, layer in enumerate(model.layers):
        if number and time.monotonic() > until:
            break
        matrix = _matrix(layer)
        began = time.process_time()
        block = _computed(layer, matrix, block)
        found.layer_s.append(time.process_time() - began)
        found.add(block, len(model.layers))
    return found


def _entering(x: NDArray[np.float32]) -> Block:
    """The samples ``x`` (inputs, samples) as they enter the first layer."""
    values = np.zeros((len(x), 1 + x.shape[1]), np.float32)
    values[:, 1:] = x
    return Block(values, np.arange(x.shape[1], dtype=np.int32), x.shape[1]).trimmed()


def _kernel_pass(model: Model, x: NDArray[np.float32]) -> _Pass:
    """As `_pass`, through all layers, by the kernel of a worker, which is faster for many samples."""
    block, found = _entering(x), _Pass(x.shape[1])
    block = stacked([block], block.live)
    found.add(block, len(model.layers))
    for number, layer in enumerate(model.layers):
        block, ready_s, seconds = _forward(layer, block)
        found.layer_s.append(seconds)
        found.probes.append((number, ready_s, seconds))
        found.add(block, len(model.layers))
    return found


def _forward(layer: Layer, block: Block) -> tuple[Block, float, float]:
    """What a layer makes of a block, and the seconds to prepare its weights and to compute, by the kernel of a worker."""
    began = time.process_time()
    ready = _ready(layer)
    prepared = time.process_time()
    made = ready.forward(block)
    return made, prepared - began, time.process_time() - prepared


def _onward(model: Model, found: _Pass) -> None:
    """Send some live samples through the layers that the pass did not reach."""
    layers = model.layers[found.reached :]
    count = min(ONWARD_SAMPLES, ONWARD_WORK // max(1, sum(layer.nonzeros for layer in layers)))
    if not count:
        return
    block = fewer(found.blocks[-1], count)
    each = found.live[-1] / max(1, len(block.live))
    for layer in layers:
        block = _computed(layer, _matrix(layer), block)
        found.later.append(each * len(block.live))


def _matrix(layer: Layer) -> Any:
    """The weights of a layer for `_computed`."""
    return layer.weights.scipy() if isinstance(layer.weights, Csr) else layer.weights


def _computed(layer: Layer, matrix: Any, block: Block) -> Block:
    """The block after a layer, whose weights are ``matrix``."""
    z = np.asarray(matrix @ block.values)
    return Block(activate(z, layer.bias, layer.activation, layer.clip, layer.challenge), block.live, block.samples).trimmed()


def _probe(model: Model, found: _Pass, budget_s: float) -> None:
    """Measure the kernel of a worker in the first, the last and the middle layer that was reached, while time is left."""
    until = time.monotonic() + budget_s
    for number in dict.fromkeys((0, found.reached - 1, found.reached // 2)):
        if number and time.monotonic() > until:
            return
        kept = found.blocks[number]
        block = stacked([kept], kept.live)
        _, ready_s, seconds = _forward(model.layers[number], block)
        # A tile takes as long if few of its lanes are live, and a batch of many samples fills all of them: the time of a lane counts.
        tiles, _, width = block.tiles.shape
        found.probes.append((number, ready_s, seconds * max(1, found.live[number]) / (tiles * max(1, width - 1))))


def _by_kernel(model: Model, found: _Pass) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The seconds in which the kernel of a worker prepares each layer, and computes each one that was reached, as the probes show."""
    probes = sorted(found.probes)
    at = [number for number, _, _ in probes]
    nonzeros = np.array([layer.nonzeros for layer in model.layers], np.int64)
    ready = np.interp(np.arange(len(nonzeros)), at, [ready_s / max(1, nonzeros[number]) for number, ready_s, _ in probes])
    factors = np.interp(np.arange(found.reached), at, [seconds / max(found.layer_s[number], 1e-9) for number, _, seconds in probes])
    return ready * nonzeros, factors * np.maximum(found.layer_s, 1e-9)


def _ready(layer: Layer) -> Weights | Fused:
    """The weights of a layer as a worker has them that owns all of its rows."""
    finish = Finish(layer.bias, layer.activation, layer.clip, layer.challenge)
    if isinstance(layer.weights, Csr):
        return weights(layer.weights.shape, (layer.weights.indptr, layer.weights.indices, layer.weights.values), None, None, finish)
    return weights(layer.weights.shape, None, layer.weights, None, finish)


def fewer(block: Block, columns: int) -> Block:
    """The block with the first ``columns`` of its live samples by `order`, if it has more: blocks of several layers have the same ones."""
    if columns >= len(block.live):
        return block
    chosen = np.sort(np.argpartition(order(block.live), columns)[:columns])
    return Block.of(block.tiles, block.lanes[chosen], block.live[chosen], block.samples).packed(1 + columns)


def order(samples: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """A number in [0, 1) for each of these samples: those below any bound are spread over all."""
    spread: NDArray[np.float64] = (samples.astype(np.uint32) * np.uint32(2654435769)) / 2.0**32
    return spread


def _facts(model: Model, samples: int, found: _Pass, codings: Sequence[Coding]) -> Facts:
    layers, scale, reached = model.layers, samples / found.count, found.reached
    nonzeros = np.array([layer.nonzeros for layer in layers], np.int64)
    rows = np.array([layer.outputs for layer in layers], np.int64)
    sparse = np.array([isinstance(layer.weights, Csr) for layer in layers])
    # In a shard: indices and values, and two arrays of row starts (own and received columns); or the dense values. And biases.
    stored = np.where(sparse, 8 * nonzeros + 16 * rows, 4 * nonzeros) + 4 * rows
    live = np.array([*found.live, *found.later], np.float64) * scale
    live = np.concatenate([live, np.full(len(layers) + 1 - len(live), live[-1])])
    # Later layers cost what the last one costs.
    work_s = np.empty(len(layers))
    ready_s, computed_s = _by_kernel(model, found)
    work_s[:reached] = computed_s * scale
    pace = work_s[reached - 1] / max(1.0, nonzeros[reached - 1] * (scale + live[reached - 1]))
    work_s[reached:] = pace * nonzeros[reached:] * (scale + live[reached:-1])
    counts = [len(block.live) for block in found.blocks]
    shares = np.ones(len(layers) + 1)
    shares[: len(counts)] = [count / alive if alive else 1.0 for count, alive in zip(counts, live, strict=False)]
    return Facts(
        model=model,
        samples=samples,
        sampled=found.count,
        reached=reached,
        widths=np.array([layers[0].inputs, *rows], np.int64),
        nonzeros=nonzeros,
        stored=stored,
        live=live,
        work_s=work_s,
        ready_s=ready_s,
        blocks=(*found.blocks, *[None] * (len(layers) + 1 - len(found.blocks))),
        shares=np.maximum(shares, 1e-9),
        codings=(*codings, *[codings[-1]] * (len(layers) + 1 - len(codings))),
        python=python_pace(),
    )
