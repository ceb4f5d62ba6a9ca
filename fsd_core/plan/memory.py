"""The memory that each rank of a run needs, as predicted from what it has of each layer. `cut` in `fsd_core.plan.batches` uses it.

A rank keeps the weights of its stage in the form that the kernel multiplies, or it reads them again for each micro-batch, some layers at a
time, and forgets each when it is computed. Beside the weights it has the activations that come in and go out of a layer, what the codec
makes of those that travel, and the layers that it loads ahead: all of them, where it waits for an earlier stage and has the memory.

One formula gives two figures. Before a run, it counts all samples as live, unless some samples were computed to find stages: the run is cut
so that this bound fits in a function. In the result, it counts the live samples that the prediction of the run found.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.channel.kept import KEPT_BYTES
from fsd_core.driver import InvokeLimits
from fsd_core.kernel import DENSE_SHARE, compiled
from fsd_core.model import Csr
from fsd_core.protocol.shard import HEAD_BYTES, READ_BYTES, READS

if TYPE_CHECKING:
    from fsd_core.model import Layer, Model
    from fsd_core.partition import ExchangePlan, Partition

__all__ = ["LayerSizes", "RankMemory", "RankSizes", "index_share", "layer_sizes"]

SAMPLED_NONZEROS = 400_000  # weights that `layer_sizes` looks at to learn how many rows read the same inputs
ROW_BYTES = 16  # of a row in the kernel's form: bias, number, place and height
LAYER_BYTES = 4096  # of a layer ready to multiply: its objects
CODED = 2.5  # arrays of the size of what is encoded or decoded that the codec has at once
HEAP_BYTES = 4 << 20  # of the activations that were freed stay in the process, as measured


@attrs.frozen
class LayerSizes:
    """What one rank has of one layer, in numbers of rows and of stored weights. ``number``: of the layer, from 1; 0 if nobody asks.

    ``held``: rows of the layer before that the rank owns; of the first layer: inputs that it gets. ``away``: rows that it receives.
    ``indices``: of the weights that the kernel stores, since rows that read the same inputs share them. ``sends``, ``largest``: rows that
    the rank sends before the layer, to all ranks, and to the one that gets the most. ``live``: the share of the samples that differ from
    an input of zeros before the layer.
    """

    rows: int
    held: int
    away: int
    nonzeros: int
    indices: int = attrs.field(default=attrs.Factory(lambda self: self.nonzeros, takes_self=True))
    number: int = 0
    sends: int = 0
    largest: int = 0
    live: float = 1.0

    @property
    def is_output(self) -> bool:
        """Whether this is no layer: it stands for the output, which the rank encodes."""
        return not self.rows and not self.sends

    @property
    def stored_bytes(self) -> int:
        """About the bytes in the shard."""
        each = 4 if self._dense else 8
        return each * self.nonzeros + (4 if self._dense else 4 + 8 * (1 + bool(self.away))) * self.rows + 4 * self.sends

    @property
    def ready_bytes(self) -> int:
        """The memory of the weights ready to multiply, by the kernel that computes on this machine."""
        if self._dense:  # as they were read
            return self.stored_bytes + LAYER_BYTES
        if compiled.active() is not None:
            return 4 * (self.nonzeros + self.indices) + ROW_BYTES * self.rows * (1 + bool(self.away)) + LAYER_BYTES
        size = self.rows * (self.held + self.away)
        grouped = 2 * self.indices <= self.nonzeros
        more = 4 * self.nonzeros + 8 * self.indices if grouped else 4 * size if self.nonzeros >= DENSE_SHARE * size / 2 else 0
        return self.stored_bytes + more + LAYER_BYTES

    @property
    def copied_bytes(self) -> int:
        """The bytes of the shard that are in memory beside the weights while these are made: none where the weights are these bytes."""
        return 0 if self._dense or compiled.active() is None else self.stored_bytes

    @property
    def _dense(self) -> bool:
        return 0 < self.rows * (self.held + self.away) <= self.nonzeros

    @property
    def active_rows(self) -> float:
        """So many rows of activations are in memory while the layer is computed."""
        encoded = CODED * self.largest + self.sends
        if compiled.active() is None:
            return max(self.held + self.rows + encoded, 2 * self.held + 2 * self.away + 4 * self.rows)
        both: float
        if not self.away:  # what goes into a stretch of layers, in tiles, and what comes out; or the staged input, which is decoded
            both = max(2 * self.held + self.rows, CODED * self.held)
        elif not self.held:  # the first layer of a stage: the next micro-batch may have arrived too
            both = 3 * self.away + self.rows
        else:  # received rows, apart and in one block; sums of its own rows, at first, in all lanes, and complete; rows it still sends
            both = self.held + 2 * self.away + 3 * self.rows + self.sends
        return max(self.held + self.rows + encoded, both) * compiled.WIDTH / (compiled.WIDTH - 1)


@attrs.frozen
class RankMemory:
    """How one rank uses its memory. ``bytes``: its predicted peak. ``keep``: it keeps its weights from one micro-batch to the next.

    ``ahead``: so many requests' layers are loaded while it computes or waits. ``streams``: its weights are larger than the memory of a
    function, so it never has all of them.
    """

    bytes: int
    keep: bool
    ahead: int = READS
    streams: bool = False


@attrs.frozen(eq=False)
class RankSizes:
    """What one rank has of all its layers."""

    layers: tuple[LayerSizes, ...]
    _known: dict[tuple[int, bool, int, int], int] = attrs.field(factory=dict, init=False, repr=False)

    @cached_property
    def _table(self) -> NDArray[np.float64]:
        """(7, layers): bytes in the shard; bytes ready to multiply, and of these the ones that are copied; rows of activations, those that
        go in, and those that arrive; share of live samples."""
        rows = [
            (each.stored_bytes, each.ready_bytes, each.copied_bytes, each.active_rows, each.held, each.away, each.live)
            for each in self.layers
        ]
        return np.array(rows, np.float64).reshape(-1, 7).T

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """The first layer (from 0) of each request: one for the first layer, then one for each `READ_BYTES`."""
        found, size = [0], 0.0
        for at, stored in enumerate(self._table[0].tolist()):
            size += stored
            if at == 1 or (at > 1 and size > READ_BYTES):
                found.append(at)
                size = stored
        return np.array(found)

    @property
    def _begins_later(self) -> bool:
        """Whether the rank waits for all of its input, because it is not of the first stage: then it has the time to load its layers."""
        return bool(self.layers) and self.layers[0].away > 0 and not self.layers[0].held

    def predicted(
        self,
        samples: int,
        limits: InvokeLimits,
        *,
        keep: bool,
        ahead: int = READS,
        batches: int = 1,
        live: Sequence[float] | None = None,
    ) -> RankMemory:
        """Predict the memory of the rank for ``batches`` micro-batches of ``samples`` samples.

        ``limits`` has the memory of an idle worker. ``keep``, ``ahead``: as in `RankMemory`. ``live``: the share of live samples before
        each layer of the model, and at the end; default: as the layers say.
        """
        if not self.layers:
            return RankMemory(limits.process_bytes + HEAD_BYTES, keep, ahead)
        key = samples, keep, ahead, batches
        if live is not None or key not in self._known:  # at several providers, a plan asks for the same
            self._known[key] = self._needed(samples, keep, ahead, batches, live)
        return RankMemory(limits.process_bytes + self._known[key], keep, ahead)

    def _needed(self, samples: int, keep: bool, ahead: int, batches: int, live: Sequence[float] | None) -> int:
        """The bytes beyond those of an idle worker."""
        stored, ready, copied, rows, held, away, share = self._table
        if live is not None:
            share = np.array([live[layer.number - 1] for layer in self.layers])
        lane, starts = 4 * (1 + share * samples), self._starts
        active = np.maximum.reduceat(rows * lane, starts)
        each, raw = np.add.reduceat(ready, starts), np.add.reduceat(copied, starts)
        ends, here = np.cumsum(each), np.arange(len(starts))
        weights = ends if keep else each
        furthest = np.minimum(here + ahead, len(starts) - 1)
        # All requests under way have their bytes, and all but the last of several also have their weights.
        reads = np.minimum(READS, furthest - here)
        loading = np.maximum(0, reads * raw.max() - np.where(reads > 1, each[furthest], 0))
        computing = weights + ends[furthest] - ends + active + loading
        # The rank waits for its first layer, whose bytes are joined to those with the head, and for all that it does not load ahead.
        made = np.concatenate([stored[:1], raw[1:]])
        waiting = (weights + made + (held * lane)[starts])[: 1 if ahead else None].max()
        waiting += max(0, min(READS, ahead, len(starts)) - 1) * raw.max()
        peak = int(max(computing.max(), waiting))
        if keep:
            peak = max(peak, int(ready.sum() + active.max()))
        # What arrives for a layer is put between what is in use, and leaves gaps in the heap: about the mean of the layers.
        peak += int((away * lane)[1:].sum() / len(self.layers))
        last = self.layers[-1]
        outputs = int(lane[-1] * last.held) * (batches - 1) if last.is_output else 0  # encoded, until the last one is there
        return HEAD_BYTES + outputs + peak + min(HEAP_BYTES, int(active.max()))

    def fitting(self, samples: int, limits: InvokeLimits, budget: int | None, batches: int) -> RankMemory | None:
        """How the rank uses its memory for ``batches`` micro-batches of ``samples`` samples.

        It keeps its weights if they fit and it needs them more than once; else it loads ahead as much as is of use and fits. More than
        `READS` ahead leave `KEPT_BYTES` for what the rank keeps for lost ranks, or half of the rest of its memory if that is less. `None`
        if no way needs at most ``budget`` bytes (`None`: any).
        """
        again, all_ahead = batches > 1, max(READS, len(self._starts)) if self.layers else READS
        most = all_ahead if self._begins_later else READS

        def way(keep: bool, ahead: int) -> RankMemory:
            return self.predicted(samples, limits, keep=keep, ahead=ahead, batches=batches)

        if budget is None:
            return way(again, all_ahead if again else most)
        streams = self.predicted(1, limits, keep=True).bytes > budget
        rest = max(0, budget - way(False, READS).bytes)
        aheads = [most >> halved for halved in range(most.bit_length()) if most >> halved > READS]
        ways = [(True, all_ahead, budget)] * (again and not streams)
        ways += [(False, ahead, budget - min(KEPT_BYTES, rest // 2)) for ahead in aheads]
        ways += [(False, ahead, budget) for ahead in range(READS, -1, -1)]
        best = next((found for keep, ahead, limit in ways if (found := way(keep, ahead)).bytes <= limit), None)
        return None if best is None else attrs.evolve(best, streams=streams)


def layer_sizes(model: Model, partition: Partition, plan: ExchangePlan, live: NDArray[np.float64] | None = None) -> list[RankSizes]:
    """What each rank of a replica has of each layer in which it owns or sends rows. ``live``: the share of samples before each layer."""
    ranks, layers = partition.workers, len(model.layers)
    share = _shares(model, partition)
    found: list[list[LayerSizes]] = [[] for _ in range(ranks)]
    held = np.array([len(plan.inputs(rank)) for rank in range(ranks)])
    for number in range(1, layers + 1):
        rows = np.bincount(partition.owners[number], minlength=ranks)
        away, sends, largest = np.zeros((3, ranks), np.int64)
        if number > 1:
            sources, targets, counts = plan.pairs(number)
            np.add.at(away, targets, counts)
            np.add.at(sends, sources, counts)
            np.maximum.at(largest, sources, counts)
        for rank in np.flatnonzero((rows > 0) | (sends > 0)).tolist():
            nonzeros = int(plan.loads[number - 1, rank])
            sizes = LayerSizes(
                number=number,
                rows=int(rows[rank]),
                held=int(held[rank]),
                away=int(away[rank]),
                nonzeros=nonzeros,
                indices=int(nonzeros * share[number - 1, rank]),
                sends=int(sends[rank]),
                largest=int(largest[rank]),
                live=1.0 if live is None else float(live[number - 1]),
            )
            found[rank].append(sizes)
        held = rows
    after = 1.0 if live is None else float(live[-1])
    for rank, rows in enumerate(held.tolist()):
        if rows:  # what it encodes at the end is its output
            found[rank].append(LayerSizes(0, rows, 0, 0, number=layers + 1, largest=rows, live=after))
    return [RankSizes(tuple(each)) for each in found]


def index_share(model: Model) -> float:
    """The indices that the kernel stores for each weight of a model whose layers are not divided: from 1/8 to 1."""
    every = max(1, -(-model.nonzeros // SAMPLED_NONZEROS))
    return float(np.mean([_share(layer, np.zeros(layer.outputs, np.int32), 1)[0] for layer in model.layers[::every]]))


def _shares(model: Model, partition: Partition) -> NDArray[np.float64]:
    """For each layer and rank: the indices that the kernel stores for each weight. Counted in some layers, the others are like these."""
    layers, tensor = model.layers, partition.tensor
    every = max(1, -(-model.nonzeros // SAMPLED_NONZEROS))
    counted: list[tuple[int, NDArray[np.float64]]] = [
        (at, _share(layers[at], partition.owners[at + 1] % tensor, tensor)) for at in range(0, len(layers), every)
    ]
    found = np.ones((len(layers), tensor))
    for at in range(len(layers)):
        found[at] = counted[at // every][1]
    return np.tile(found, (1, partition.workers // tensor))


def _share(layer: Layer, owner: NDArray[np.integer], tensor: int) -> NDArray[np.float64]:
    """Of one layer, for each rank of its stage: the indices that the kernel stores for each weight, from 1/8 to 1."""
    weights = layer.weights
    if not isinstance(weights, Csr):
        return np.ones(tensor)
    counts = np.diff(weights.indptr)
    busy = np.flatnonzero(counts)
    found, nonzeros = np.zeros(tensor), np.zeros(tensor)
    if len(busy):
        labels = np.random.default_rng(0).integers(2**63, size=layer.inputs, dtype=np.uint64)
        sums = np.add.reduceat(labels[weights.indices], weights.indptr[busy])  # equal for rows that read the same inputs
        _, first, equal = np.unique(sums + owner[busy].astype(np.uint64), return_index=True, return_counts=True)
        lists = equal // 8 + sum((equal >> bit) & 1 for bit in range(3))  # the kernel has blocks of 8, 4, 2 and 1 rows
        np.add.at(found, owner[busy[first]], lists * counts[busy[first]])
        np.add.at(nonzeros, owner[busy], counts[busy])
    return np.where(nonzeros > 0, found / np.maximum(1, nonzeros), 1.0)
