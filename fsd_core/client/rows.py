"""`Rows`: the work of this project's own engine. The parts share the rows of the layers as a `Partition` says."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.client.result import Result
from fsd_core.client.work import Cut, Pieces
from fsd_core.codec import CODEC, decode, encode
from fsd_core.driver import InvokeLimits
from fsd_core.kernel import Block
from fsd_core.partition import ExchangePlan, Parallel, Partition, find_partition
from fsd_core.plan.batches import Batches, plan_batches
from fsd_core.plan.batches import cut as cut_batches
from fsd_core.plan.memory import RankSizes, layer_sizes
from fsd_core.plan.row_workload import RowWorkload
from fsd_core.plan.split import Split
from fsd_core.plan.traffic import of_partition
from fsd_core.protocol import shard

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from fsd_core.model import Model

__all__ = ["Rows", "inputs", "rows_work", "shards"]

LEARN_S, ENCODE_S = 0.2, 0.2  # for the prediction of a run that has ended: about the seconds to compute and to encode samples


@attrs.frozen(kw_only=True, eq=False)
class Rows:
    """The work on a `Model`; see `fsd_core.client.work.Work`.

    ``workload``: the model and its samples as the planner sees them. ``partition``: the partition of one replica. ``wanted``: how many
    micro-batches a replica should have if the caller gave no ``batch_size``.
    """

    engine: ClassVar = "rows"
    result: ClassVar = Result
    workload: RowWorkload
    parallel: Parallel
    partition: Partition
    label: str
    batch_size: int | None
    wanted: int
    stage_s: float
    live: NDArray[np.float64] | None  # the share of the samples that are live before each layer, if a sample was computed

    @property
    def model(self) -> Model:
        """The model."""
        return self.workload.model

    @property
    def rows(self) -> csr_matrix:
        """The samples, scipy CSR float32 (samples, inputs)."""
        return self.workload.inputs

    @property
    def digest(self) -> str:
        """The digest of the model."""
        return self.model.digest

    @property
    def given(self) -> csr_matrix:
        """The samples."""
        return self.rows

    @property
    def samples(self) -> int:
        """The number of samples."""
        return int(self.rows.shape[0])

    @property
    def neurons(self) -> int:
        """The neurons of the largest layer."""
        return self.model.neurons

    @property
    def layers(self) -> int:
        """The number of layers."""
        return len(self.model.layers)

    @property
    def last(self) -> list[int]:
        """The parts that own rows of the last layer."""
        found: list[int] = np.unique(self.partition.owners[-1]).tolist()
        return found

    @cached_property
    def plan(self) -> ExchangePlan:
        """Which rows travel between which parts."""
        return ExchangePlan(self.model, self.partition)

    def split(self, batches: Sequence[int]) -> Split:
        """What the parts load, compute and send. Computes some samples on this machine, if the planner has not."""
        facts = self.workload.learned(LEARN_S)
        return of_partition(facts, self.partition, self.plan, self.parallel, batches, ENCODE_S)

    def batches(self, limits: InvokeLimits, provider: str) -> Batches:
        """Cut the samples into micro-batches that fit a function."""
        return cut_batches(self._sizes, self.samples, self.batch_size, self.parallel, self.wanted, limits, provider)

    def needs(self, cut: Cut, limits: InvokeLimits, live: Sequence[float] | None) -> list[int]:
        """The memory that each part is expected to need. ``cut`` counts all samples as live if no sample was computed before the run."""
        if live is None or self.live is not None:
            return [rank.bytes for rank in cut.ranks]
        largest, batches = max(cut.samples), -(-len(cut.samples) // self.parallel.data)
        return [
            each.predicted(largest, limits, keep=rank.keep, ahead=rank.ahead, batches=batches, live=live).bytes
            for each, rank in zip(self._sizes, cut.ranks, strict=True)
        ]

    @cached_property
    def _sizes(self) -> list[RankSizes]:
        return layer_sizes(self.model, self.partition, self.plan, self.live)

    def shards(self) -> Pieces:
        """One shard for each part."""
        return shards(self.model, self.partition, self.plan)

    def inputs(self, batches: Sequence[int]) -> tuple[Pieces, list[list[int | None]]]:
        """The input rows that each part needs."""
        return inputs(self.rows, batches, self.model, self.partition, self.plan)

    @cached_property
    def _written(self) -> list[Any]:
        """The rows of the output that each part of ``last`` writes."""
        return [np.flatnonzero(self.partition.owners[-1] == part) for part in self.last]

    def slice(self, data: bytes, writer: int, samples: int) -> Block:
        """The rows that a part wrote."""
        return decode(data, len(self._written[writer]), samples)

    def assemble(self, slices: Sequence[Sequence[Block]], batches: Sequence[int], progress: Callable[[int, int], None]) -> csr_matrix:
        """The output, scipy CSR float32 (samples, outputs)."""
        from scipy.sparse import csr_matrix, vstack

        outputs, last = [], self.model.layers[-1]
        for batch, count in enumerate(batches):
            outputs.append(_assemble(slices[batch], self._written, (count, last.outputs), last.activation))
            progress(batch + 1, len(batches))
        return csr_matrix(vstack(outputs, "csr")) if len(outputs) > 1 else outputs[0]


def rows_work(
    workload: RowWorkload,
    parallel: Parallel,
    batch_size: int | None,
    partition: str | os.PathLike[str] | Partition,
    seed: int,
    home: Path,
    progress: Callable[[int, int], None],
) -> Rows:
    """The work of a `Model` on the samples of ``workload``.

    ``partition``: a `Partition`, the path of one, or a method; for a method, the partition is read from ``home`` or computed here.
    ``progress`` is called with the number of layers that are partitioned and of all layers. Raises `InputError` if ``parallel`` or
    ``partition`` does not fit the model.
    """
    model = workload.model
    wanted, costs = plan_batches(model, workload.inputs, batch_size, parallel)
    parts, label = find_partition(partition, model, parallel.parts, seed, home, progress, stages=parallel.pipeline, costs=costs)
    stage_s = costs.stage_work_s(parts.starts, parts.tensor) if costs else 0.0
    return Rows(
        workload=workload,
        parallel=parallel,
        partition=parts,
        label=label,
        batch_size=batch_size,
        wanted=wanted,
        stage_s=stage_s,
        live=costs.live if costs else None,
    )


def shards(model: Model, partition: Partition, plan: ExchangePlan) -> Pieces:
    """One shard for each rank of a replica."""
    digest = _digest(shard.FORMAT, model.digest, partition.digest)
    return Pieces(digest, partition.workers, lambda rank: shard.build(model, partition, plan, rank))


def inputs(
    samples: Any, batches: Sequence[int], model: Model, partition: Partition, plan: ExchangePlan
) -> tuple[Pieces, list[list[int | None]]]:
    """The input rows that each rank of a replica needs: one object for each micro-batch and rank.

    Returns the objects, and the number of the object for each micro-batch and rank; `None` if the rank needs no input. ``samples``: scipy
    CSR (samples, inputs) float32. ``batches``: the number of samples of each micro-batch.
    """
    hashed = hashlib.sha256(repr(samples.shape).encode())
    for array in (samples.indptr.astype(np.int64), samples.indices.astype(np.int32), samples.data):
        hashed.update(np.ascontiguousarray(array).data)
    digest = _digest(f"fsd-inputs-{CODEC}-1", hashed.hexdigest(), model.digest, partition.digest, *map(str, batches))
    starts = np.concatenate([[0], np.cumsum(batches)])
    readers = [rank for rank in range(partition.workers) if len(plan.inputs(rank))]
    rows = cache(lambda: samples.T.tocsr())  # (inputs, samples); only made if something has to be staged

    def build(number: int) -> bytes:
        batch, rank = number // len(readers), readers[number % len(readers)]
        part = rows()[plan.inputs(rank)][:, starts[batch] : starts[batch + 1]]
        values = np.zeros((part.shape[0], 1 + part.shape[1]), np.float32)
        values[:, 1:] = part.toarray()
        return encode(Block(values, np.arange(part.shape[1], dtype=np.int32), part.shape[1]))

    found: list[list[int | None]] = [[None] * partition.workers for _ in batches]
    for number in range(len(batches) * len(readers)):
        found[number // len(readers)][readers[number % len(readers)]] = number
    return Pieces(digest, len(batches) * len(readers), build), found


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _assemble(blocks: Sequence[Block], rows: list[Any], shape: tuple[int, int], activation: str) -> csr_matrix:
    """The output of one micro-batch from the blocks of all parts: float32 (samples, outputs). ``rows``: the rows of each block."""
    from scipy.sparse import coo_matrix, csr_matrix

    if activation == "softmax":
        from fsd_core.model.activation import softmax

        dense = np.empty(shape, np.float32)
        for block, own in zip(blocks, rows, strict=True):
            dense[:, own] = block.dense().T
        return csr_matrix(softmax(dense))
    samples, neurons, values = [], [], []
    for block, own in zip(blocks, rows, strict=True):
        part, live = (block.dense(), np.arange(block.samples)) if block.values[:, 0].any() else (block.values[:, 1:], block.live)
        row, column = np.nonzero(part)
        samples.append(live[column])
        neurons.append(own[row])
        values.append(part[row, column])
    return coo_matrix((np.concatenate(values), (np.concatenate(samples), np.concatenate(neurons))), shape).tocsr()
