"""Cuts the samples of a run into micro-batches that fit the memory of a function, and gives each replica its share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs

from fsd_core.driver import InvokeLimits
from fsd_core.errors import InputError
from fsd_core.partition import Parallel, Profile, profile, worthwhile
from fsd_core.plan.memory import LayerSizes, RankMemory, RankSizes

if TYPE_CHECKING:
    from fsd_core.model import Model

__all__ = ["MARGIN", "Batches", "cut", "least_bytes", "plan_batches", "sizes"]


MARGIN = 1.15  # a function gets so many times the memory that is predicted: benchmarks/memory.py measures how exact that is
MORE_BATCHES = 4  # smaller micro-batches may leave room for the weights: so many times as many cost less than to read them again


@attrs.frozen
class Batches:
    """How the samples of a run are cut, and how each rank of a replica uses its memory."""

    samples: list[int]  # of each micro-batch
    ranks: list[RankMemory]

    @property
    def predicted_bytes(self) -> int:
        """The predicted peak memory of the rank that needs most."""
        return max(rank.bytes for rank in self.ranks)

    @property
    def keep(self) -> bool:
        """Whether every rank keeps its weights from one micro-batch to the next."""
        return all(rank.keep for rank in self.ranks)

    @property
    def streamed(self) -> list[int]:
        """The ranks whose weights are larger than their memory."""
        return [number for number, rank in enumerate(self.ranks) if rank.streams]


def sizes(samples: int, batch_size: int | None, parallel: Parallel, wanted: int = 1) -> list[int]:
    """The number of samples of each micro-batch: ``batch_size``, and less in the last one.

    Without ``batch_size``, each replica gets ``wanted`` micro-batches, all of about the same size. Raises `InputError` if a replica gets
    none.
    """
    if samples < parallel.data:
        raise InputError(f"data_parallel {parallel.data}: expected at most {samples}, the number of samples")
    if batch_size is None:
        count = min(samples, parallel.data * wanted)
        return [samples // count + (number < samples % count) for number in range(count)]
    found = [min(batch_size, samples - at) for at in range(0, samples, batch_size)]
    if len(found) < parallel.data:
        raise InputError(
            f"batch_size {batch_size} makes {len(found)} micro-batches of {samples} samples: expected at least {parallel.data}, one for "
            f"each replica; use batch_size {samples // parallel.data} or less"
        )
    return found


def plan_batches(model: Model, inputs: Any, batch_size: int | None, parallel: Parallel) -> tuple[int, Profile | None]:
    """How many micro-batches a replica should get without a ``batch_size``, and what the layers cost; `None` without stages.

    ``inputs``: scipy CSR (samples, inputs). Raises `InputError` like `sizes`.
    """
    if parallel.pipeline == 1:
        sizes(inputs.shape[0], batch_size, parallel)
        return 1, None
    costs = profile(model, inputs)
    costs = attrs.evolve(costs, work_s=costs.work_s / parallel.data)
    wanted = worthwhile(costs, parallel.pipeline, parallel.tensor)
    batches = len(sizes(inputs.shape[0], batch_size, parallel, wanted))
    return wanted, attrs.evolve(costs, batches=-(-batches // parallel.data))


def cut(
    parts: list[RankSizes],
    samples: int,
    batch_size: int | None,
    parallel: Parallel,
    wanted: int,
    limits: InvokeLimits,
    provider: str,
) -> Batches:
    """Cut ``samples`` as `sizes` does, and into smaller batches until the predicted memory fits in a function.

    ``parts``: the layers of each rank of a replica. ``provider`` is named in errors. Raises `InputError` like `sizes`, and if the memory
    does not hold a single sample and a single layer.
    """

    def halved(found: list[int]) -> list[int]:
        if batch_size is None:
            return sizes(samples, None, parallel, -(-2 * len(found) // parallel.data))
        return sizes(samples, -(-max(found) // 2), parallel)

    def ranks(found: list[int]) -> list[RankMemory | None]:
        # In an estimate, equal stages are one object.
        fits = {each: each.fitting(max(found), limits, budget, -(-len(found) // parallel.data)) for each in dict.fromkeys(parts)}
        return [fits[each] for each in parts]

    budget = None if limits.memory_bytes is None else int(limits.memory_bytes / MARGIN)
    found = sizes(samples, batch_size, parallel, wanted)
    while None in ranks(found) and max(found) > 1:
        found = halved(found)
    if None in (chosen := ranks(found)):
        raise InputError(_too_little(parts, limits, parallel, provider))
    if batch_size is None and parallel.tensor == 1 and len(found) > parallel.data:
        # More micro-batches cost little where no rank waits for others in each layer.
        smaller = found
        while max(smaller) > 1 and len(smaller) * 2 <= MORE_BATCHES * len(found) and _reads_again(ranks(smaller)):
            smaller = halved(smaller)
        if not _reads_again(ranks(smaller)):
            found, chosen = smaller, ranks(smaller)
    return Batches(found, [rank for rank in chosen if rank is not None])


def least_bytes(parts: list[RankSizes], limits: InvokeLimits) -> int:
    """The smallest memory of a function that can run the largest of these parts: with one sample, layer by layer."""
    return max(int(MARGIN * each.predicted(1, limits, keep=False, ahead=0).bytes) for each in dict.fromkeys(parts))


def _reads_again(ranks: Sequence[RankMemory | None]) -> bool:
    """Whether a rank reads its weights for each micro-batch, though they are not larger than its memory."""
    return any(rank is None or not (rank.keep or rank.streams) for rank in ranks)


def _too_little(parts: list[RankSizes], limits: InvokeLimits, parallel: Parallel, provider: str) -> str:
    """The error line for a model of which a function cannot hold one layer with one sample."""

    def needs(layer: LayerSizes) -> int:
        return -(-least_bytes([RankSizes((layer,))], limits) // (1 << 20))

    worst = max((each for part in parts for each in part.layers), key=needs)
    memory, needed, idle = (limits.memory_bytes or 0) >> 20, needs(worst), int(MARGIN * limits.process_bytes) >> 20
    line = f"[{provider}] memory_mb = {memory}: layer {worst.number} needs {needed} MB in one of {len(parts)} workers, with one sample"
    line += f" and without the other layers, which is {needed - memory} MB too much: expected at least {needed}"
    if idle >= memory:
        return f"{line}; more workers do not help, because a worker needs {idle} MB before it loads anything"
    widest = max(each.rows for part in parts for each in part.layers) * parallel.tensor
    more = range(parallel.tensor + 1, widest + 1)
    fits = next((ranks for ranks in more if needs(_share(worst, parallel.tensor / ranks)) <= memory), None)
    return f"{line}, or tensor_parallel {fits} ({fits} workers)" if fits else f"{line}; more workers do not help"


def _share(layer: LayerSizes, share: float) -> LayerSizes:
    """What a rank has of a layer if more ranks share it."""
    mine = {name: math.ceil(getattr(layer, name) * share) for name in ("rows", "held", "nonzeros", "indices", "largest")}
    return attrs.evolve(layer, **mine, away=layer.away + layer.held - mine["held"])
