"""`RowSplit`: how a run of a `Model` is split, and what travels between the ranks, from a computed partition or from an estimate.

An estimate gives each rank contiguous rows. A hypergraph partition moves fewer rows than that where the layers are sparse, so an estimate
is an upper bound there. Bytes come from encoding a part of what `Facts` kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.kernel import compiled
from fsd_core.kernel.fused import SPAN, THREAD_TERMS
from fsd_core.model import Csr
from fsd_core.partition import ExchangePlan, Parallel, Partition
from fsd_core.partition.balance import contiguous, spread
from fsd_core.partition.rows import needs, work
from fsd_core.plan.facts import Facts
from fsd_core.plan.memory import LayerSizes, RankSizes, index_share
from fsd_core.plan.payloads import StepSizes, step_sizes
from fsd_core.plan.split import EMPTY_BYTES, Split, Step
from fsd_core.protocol.shard import HEAD_BYTES, READ_BYTES

__all__ = ["Estimator", "RowSplit", "of_partition"]

ENCODE_COST = 2.0  # about the seconds that a split may take to encode samples of what travels
PAIRS, ESTIMATE_COST, ESTIMATE_SAMPLES = 3, 0.15, 256  # an estimate encodes so many pairs of a layer, of so many live samples
COUNTED_NONZEROS = 4_000_000  # weights that an estimate looks at for one number of ranks; other layers move as much as their neighbours
TOGETHER = 16  # ranks: a plan prices splits over each power of two up to this
MANY_PAIRS = 20_000  # of ranks in all steps: with more, every payload counts as encoded
MOST_CORES = 64.0  # of a function, with which the kernel computes faster
IMBALANCE = 1.05  # the largest share of a layer's work, as a multiple of an equal share
SEGMENT_BYTES, SEGMENT_ROW_BYTES = 900, 4  # of a layer in a shard: its head, and each row that the rank sends


@attrs.frozen(kw_only=True, eq=False)
class RowSplit(Split):
    """A `Split` of the layers of a `Model`."""

    rows: NDArray[np.float64]  # (layers, ranks)
    nonzeros: NDArray[np.float64]  # (layers, ranks)
    inputs: NDArray[np.float64]  # (ranks,) rows of the input that a rank needs
    products: NDArray[np.float64]  # (layers,) of the rank that has most, for all samples
    exact: bool  # from a computed partition
    index_share: float = 1.0  # see `fsd_core.plan.memory.index_share`
    equal: dict[bytes, RankSizes] = attrs.field(factory=dict, repr=False)  # what stages have, one object for equal ones of all estimates

    @cached_property
    def sizes(self) -> list[RankSizes]:
        """What each rank has of each layer in which it owns rows: for the prediction of its memory.

        In an estimate, the ranks of a stage have the same, so each stage has one list: that of the rank which receives most.
        """
        ranks = self.parallel.parts
        away = np.zeros((len(self.rows), ranks))
        for step in self.steps:
            away[step.layer - 1] += np.bincount(step.targets, step.rows, ranks)
        if not self.exact:
            return self._by_stage(away.reshape(len(away), -1, self.parallel.tensor).max(axis=2))
        found: list[list[LayerSizes]] = [[] for _ in range(ranks)]
        for layer, (rows, nonzeros) in enumerate(zip(self.rows, self.nonzeros, strict=True)):
            held = self.inputs if layer == 0 else self.rows[layer - 1]
            for rank in np.flatnonzero(rows):
                here = (rows[rank], held[rank], away[layer, rank], nonzeros[rank], nonzeros[rank] * self.index_share)
                found[rank].append(LayerSizes(*(int(np.ceil(each)) for each in here)))
        return [RankSizes(tuple(each)) for each in found]

    @property
    def threaded(self) -> float:
        """The share of the computing in layers with enough products for several threads, see `fsd_core.kernel.fused`.

        A rank without others in its stage computes several layers together, and their products count as those of one.
        """
        if compiled.active() is None:
            return 0.0
        together = min(SPAN, max(1, self.layers // self.parallel.pipeline)) if self.parallel.tensor == 1 else 1
        enough = self.products * self.share * together >= THREAD_TERMS
        return float(self.work_s[enough].sum() / max(1e-12, self.work_s.sum()))

    def _by_stage(self, away: NDArray[np.float64]) -> list[RankSizes]:
        """What the first rank of each stage has. ``away``: (layers, stages) rows that it receives."""
        found, known = [], self.equal
        for stage, (first, last) in enumerate(self.stages):
            rank, own = stage * self.parallel.tensor, slice(first, last)
            held = np.concatenate([[self.inputs[rank] if first == 0 else 0.0], self.rows[own, rank][:-1]])
            nonzeros = self.nonzeros[own, rank]
            table = np.ceil([self.rows[own, rank], held, away[own, stage], nonzeros, nonzeros * self.index_share]).astype(int)
            key = table.tobytes()
            if key not in known:
                known[key] = RankSizes(tuple(LayerSizes(*column) for column in table.T.tolist()))
            found.append(known[key])
        return found


def of_partition(
    facts: Facts, partition: Partition, plan: ExchangePlan, parallel: Parallel, batches: Sequence[int], encode_s: float = ENCODE_COST
) -> RowSplit:
    """The split of a computed partition of one replica. ``encode_s``: about the seconds that it may take to encode what travels."""
    layers, ranks = len(facts.nonzeros), partition.workers
    raw = [(number, *plan.pairs(number)) for number in range(2, layers + 1)]
    sent: dict[tuple[int, int], dict[int, NDArray[np.int32]]] = {}

    def rows_of(step: int, pair: int) -> NDArray[np.int32]:
        number, sources, targets, _ = raw[step]
        source = int(sources[pair])
        if (number, source) not in sent:
            sent[number, source] = plan.sends(number, source)
        return sent[number, source][int(targets[pair])]

    earlier: list[NDArray[np.int64]] = []  # of each step, (2, pairs): the step before of a pair, -1 if there is none; its number there
    latest = np.full((2, ranks * ranks), -1, np.int64)
    for step, (_, sources, targets, _) in enumerate(raw):
        pairs = sources.astype(np.int64) * ranks + targets
        earlier.append(latest[:, pairs])
        latest[:, pairs] = np.full(len(pairs), step), np.arange(len(pairs))

    def before(step: int, pair: int) -> tuple[int, NDArray[np.int32]] | None:
        found, number = earlier[step][:, pair].tolist()
        return (raw[found][0], rows_of(found, number)) if found >= 0 else None

    counts = [rows.astype(np.float64) for *_, rows in raw]
    sizes = step_sizes(facts, [number for number, *_ in raw], counts, rows_of, before, encode_s)
    steps, few = [], sum(map(len, counts)) <= MANY_PAIRS
    for at, (number, sources, targets, _) in enumerate(raw):
        if len(sources):
            made = _step(facts, number, sources, targets, counts[at], earlier[at][0] >= 0, sizes[at], sizes[at].pairs)
            equal = [(source, rows_of(at, pair).tobytes()) for pair, source in enumerate(sources.tolist())] if few else None
            steps.append(made if equal is None else attrs.evolve(made, packed=_first(equal)))
    rows = np.array([np.bincount(owner, minlength=ranks) for owner in partition.owners[1:]], np.float64)
    inputs = np.array([len(plan.inputs(rank)) for rank in range(ranks)], np.float64)
    loads = plan.loads.astype(np.float64)
    return _split(facts, parallel, batches, partition.starts, steps, rows, loads, inputs, True, _indices(facts))


def _first(keys: Sequence[tuple[int, bytes]]) -> NDArray[np.bool_]:
    """Which of these is the first one of its kind. A rank encodes equal rows once, for all of their targets."""
    first = {key: at for at, key in reversed(list(enumerate(keys)))}
    return np.array([first[key] == at for at, key in enumerate(keys)], bool)


def _indices(facts: Facts) -> float:
    return 1.0 if facts.model is None else index_share(facts.model)


def _step(
    facts: Facts,
    layer: int,
    sources: NDArray[np.int64],
    targets: NDArray[np.int64],
    rows: NDArray[np.float64],
    again: NDArray[np.bool_] | bool,
    sizes: StepSizes,
    pairs: NDArray[np.float64] | None = None,
) -> Step:
    """What travels before a layer. ``again``: whether a pair sent before, in the same micro-batch. ``pairs``: see `StepSizes`."""
    waits = float(rows.sum() / max(1.0, rows.sum() + float(facts.widths[layer - 1])))
    found = np.where(again, sizes.changes, sizes.live) + (sizes.fixed + rows * sizes.row) * (1.0 if pairs is None else pairs) - sizes.fixed
    return Step(layer, sources, targets, rows, found, float(facts.live[layer - 1]), waits, sizes.fixed, coding=facts.codings[layer - 1])


def _split(
    facts: Facts,
    parallel: Parallel,
    batches: Sequence[int],
    starts: Sequence[int],
    steps: Sequence[Step],
    rows: NDArray[np.float64],
    nonzeros: NDArray[np.float64],
    inputs: NDArray[np.float64],
    exact: bool,
    indices: float,
) -> RowSplit:
    """The split whose ranks have these ``rows`` and ``nonzeros`` of each layer, and ``inputs`` rows of the input."""
    shares, last = nonzeros / np.maximum(1, facts.nonzeros)[:, None], rows[-1]
    segments = _segments(facts, shares, rows, steps)
    return RowSplit(
        parallel=parallel,
        samples=facts.samples,
        batches=tuple(batches),
        starts=tuple(starts),
        steps=tuple(steps),
        work_s=shares * facts.work_s[:, None],
        ready_s=shares * facts.ready_s[:, None],
        reads=_all_reads(segments),
        input_bytes=_encoded(facts.whole[0], inputs / float(facts.widths[0])),
        output_bytes=_encoded(facts.whole[1], last / max(1.0, float(last.sum()))),
        input_s=inputs * facts.live[0] * facts.codings[0].decode_s,
        output_s=last * facts.live[-1] * facts.codings[-1].encode_s,
        cores=MOST_CORES,
        python=facts.python,
        live=tuple((facts.live / facts.samples).tolist()),
        error=facts.error,
        notes=tuple(_notes(facts, exact=exact or parallel.tensor == 1)),
        rows=rows,
        nonzeros=nonzeros,
        inputs=inputs,
        products=shares.max(axis=1) * facts.nonzeros * facts.live[:-1],
        exact=exact,
        index_share=indices,
    )


def _encoded(whole: float, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """The bytes of some shares of encoded activations, beyond those of an empty block: above 0 where there are any."""
    return np.where(shares > 0, np.maximum(1.0, whole - EMPTY_BYTES) * shares, 0.0)


def _notes(facts: Facts, *, exact: bool) -> list[str]:
    found = []
    if facts.sampled < facts.samples:
        through = "" if facts.reached == len(facts.nonzeros) else f", through {facts.reached} of {len(facts.nonzeros)} layers"
        found.append(f"{facts.sampled} of {facts.samples} samples were computed{through}: live samples are off by about {facts.error:.0%}")
    if not exact:
        found.append("rows that travel are estimated for contiguous rows; a hypergraph partition moves fewer where layers are sparse")
    return found


def _segments(facts: Facts, shares: NDArray[np.float64], rows: NDArray[np.float64], steps: Sequence[Step]) -> NDArray[np.float64]:
    """The bytes of each layer in the shard of each rank, (layers, ranks); 0 where it has none. ``shares``: of the layer's weights."""
    found: NDArray[np.float64] = shares * facts.stored[:, None] + np.where(rows > 0, SEGMENT_BYTES, 0)
    if steps:
        places = np.concatenate([(step.layer - 1) * found.shape[1] + step.sources for step in steps])
        sends = np.bincount(places, np.concatenate([step.rows for step in steps]) * SEGMENT_ROW_BYTES, found.size).reshape(found.shape)
        heads = (np.bincount(places, minlength=found.size).reshape(found.shape) > 0) & (found == 0)
        found += sends + np.where(heads, SEGMENT_BYTES, 0)
    return found


def _all_reads(segments: NDArray[np.float64]) -> tuple[tuple[float, ...], ...]:
    """`_reads` of each rank; often, several ranks have equal segments."""
    known: dict[bytes, tuple[float, ...]] = {}
    found = []
    for each in np.ascontiguousarray(segments.T):
        key = each.tobytes()
        if key not in known:
            known[key] = _reads(each[each > 0].tolist())
        found.append(known[key])
    return tuple(found)


def _reads(sizes: list[float]) -> tuple[float, ...]:
    """The bytes of each read of a shard whose layers have these sizes.

    The head, with the first bytes; what it has not of the first layer; then groups of up to `READ_BYTES`.
    """
    if not sizes:
        return (0.0,)
    found, position, group = [min(HEAD_BYTES, sum(sizes))], sizes[0], 0.0
    if sizes[0] > HEAD_BYTES:
        found.append(sizes[0] - HEAD_BYTES)
    for size in sizes[1:]:
        if group and group + size > READ_BYTES:
            found.append(min(group, max(0.0, position - HEAD_BYTES)))
            group = 0.0
        group += size
        position += size
    if group:
        found.append(min(group, max(0.0, position - HEAD_BYTES)))
    return tuple(each for number, each in enumerate(found) if each > 0 or not number)


@attrs.define(eq=False)
class Estimator:
    """Estimates splits of one workload without a computed partition: each rank of a stage has contiguous rows of about equal work."""

    facts: Facts
    _moves: dict[tuple[int, int], NDArray[np.float64]] = attrs.field(factory=dict, init=False)
    _pairs: dict[tuple[int, int, bool], tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = attrs.field(
        factory=dict, init=False
    )
    _sizes: dict[int, list[StepSizes]] = attrs.field(factory=dict, init=False)
    _splits: dict[tuple[tuple[int, ...], int], RowSplit] = attrs.field(factory=dict, init=False)
    _equal: dict[bytes, RankSizes] = attrs.field(factory=dict, init=False)

    def split(self, parallel: Parallel, starts: Sequence[int], batches: Sequence[int]) -> RowSplit:
        """The estimate of a split whose stages begin with the layers ``starts``, 0-based."""
        key = tuple(starts), parallel.tensor
        if key not in self._splits:
            self._splits[key] = self._made(parallel, starts, batches)
        return attrs.evolve(self._splits[key], parallel=parallel, batches=tuple(batches))

    def _made(self, parallel: Parallel, starts: Sequence[int], batches: Sequence[int]) -> RowSplit:
        facts, tensor = self.facts, parallel.tensor
        layers, ranks = len(facts.nonzeros), parallel.parts
        sizes = self._step_sizes(tensor)
        rows, nonzeros = np.zeros((layers, ranks)), np.zeros((layers, ranks))
        steps = []
        for stage, (first, last) in enumerate(zip(starts, [*starts[1:], layers], strict=True)):
            own = slice(stage * tensor, (stage + 1) * tensor)
            rows[first:last, own] = facts.widths[first + 1 : last + 1, None] / tensor
            nonzeros[first:last, own] = facts.nonzeros[first:last, None] / tensor * (IMBALANCE if tensor > 1 else 1.0)
            for layer in range(first, last):
                if layer == 0 or (layer > first and tensor == 1):
                    continue
                sources, targets, counts = self._sent(layer, tensor, layer > first)
                if not len(sources):
                    continue
                before = own.start - (tensor if layer == first else 0)
                steps.append(_step(facts, layer + 1, sources + before, targets + own.start, counts, layer > first + 1, sizes[layer - 1]))
        inputs = np.zeros(ranks)
        inputs[:tensor] = self._moved(0, tensor).sum(axis=0)
        made = _split(facts, parallel, batches, starts, steps, rows, nonzeros, inputs, False, self._index_share)
        return attrs.evolve(made, equal=self._equal)

    @cached_property
    def _index_share(self) -> float:
        return _indices(self.facts)

    def _step_sizes(self, tensor: int) -> list[StepSizes]:
        """Of the steps before layers 1 to L-1 (0-based), between stages of ``tensor`` ranks."""
        if tensor not in self._sizes:
            layers = range(1, len(self.facts.nonzeros))
            counts = [np.full(min(PAIRS, tensor), self.facts.widths[layer] / tensor) for layer in layers]

            def rows_of(step: int, pair: int) -> NDArray[np.int32]:
                owner = spread(int(self.facts.widths[step + 1]), tensor)
                return np.flatnonzero(owner == pair * tensor // min(PAIRS, tensor)).astype(np.int32)

            def before(step: int, pair: int) -> tuple[int, NDArray[np.int32]] | None:
                return (step + 1, rows_of(step - 1, pair)) if step else None

            numbers = [layer + 1 for layer in layers]
            self._sizes[tensor] = step_sizes(self.facts, numbers, counts, rows_of, before, ESTIMATE_COST, ESTIMATE_SAMPLES)
        return self._sizes[tensor]

    def _sent(self, layer: int, tensor: int, inside: bool) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """The pairs of ranks of which one sends the other rows before a layer, and how many; ``inside``: no rank sends itself any."""
        key = layer, tensor, inside
        if key not in self._pairs:
            moved = self._moved(layer, tensor).copy()
            if inside:
                np.fill_diagonal(moved, 0.0)
            sources, targets = np.nonzero(moved)
            self._pairs[key] = sources, targets, moved[sources, targets]
        return self._pairs[key]

    def _moved(self, layer: int, tensor: int) -> NDArray[np.float64]:
        """The rows that each rank (rows of the table) sends to each rank (columns) before a layer, with those that stay; 0-based."""
        if (layer, tensor) not in self._moves:
            nearest = self._counted_layer(layer)
            if (nearest, tensor) not in self._moves:
                self._moves |= {(nearest, ranks): moved for ranks, moved in self._counted(nearest, tensor).items()}
            scale = self.facts.widths[layer] / self.facts.widths[nearest]
            self._moves[layer, tensor] = self._moves[nearest, tensor] * scale
        return self._moves[layer, tensor]

    def _counted_layer(self, layer: int) -> int:
        """The layer whose rows are counted for this one: itself in a small model."""
        total, layers = int(self.facts.nonzeros.sum()), len(self.facts.nonzeros)
        every = max(1, min(layers, -(-total // COUNTED_NONZEROS)))
        return min(layers - 1, layer // every * every + (1 if every > 1 and layer else 0)) if layer else 0

    def _counted(self, layer: int, tensor: int) -> dict[int, NDArray[np.float64]]:
        """By ``tensor``: the rows that each of so many ranks sends to each one before a layer.

        One look at the weights tells it for all powers of two up to `TOGETHER`: a rank of 4 has the rows of two ranks of 8, one after
        the other.
        """
        model, width = self.facts.model, int(self.facts.widths[layer])

        def sources(ranks: int) -> NDArray[np.int32]:
            return spread(width, ranks) if layer == 0 or model is None else contiguous(work(model.layers[layer - 1]), ranks)

        if model is None or not isinstance((weights := model.layers[layer]).weights, Csr):
            return {tensor: np.repeat(np.bincount(sources(tensor), minlength=tensor)[:, None], tensor, axis=1).astype(np.float64)}
        ranks = TOGETHER if tensor in (1, 2, 4, 8) else tensor
        found, need, owner = {}, needs(weights, contiguous(work(weights), ranks), ranks), sources(ranks)
        while True:
            bounds = np.searchsorted(owner, np.arange(ranks + 1))
            found[ranks] = np.array([np.count_nonzero(need[at:end], axis=0) for at, end in pairwise(bounds)], np.float64)
            if ranks % 2:
                return found
            # Two flags of a byte each are one number, which is not 0 if one of them is set.
            need, owner, ranks = need.view(np.uint16) != 0, owner // 2, ranks // 2
