"""Cuts the samples of a run into micro-batches that fit the memory of a function, and gives each replica its share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from fsd_core.driver import InvokeLimits
from fsd_core.errors import InputError
from fsd_core.partition import Parallel, Profile, profile, worthwhile
from fsd_core.protocol.shard import READ_BYTES, LayerSizes, predicted_bytes, stored_bytes, weight_bytes

if TYPE_CHECKING:
    from fsd_core.model import Model

__all__ = ["Batches", "cut", "plan_batches", "sizes"]


@attrs.frozen
class Batches:
    """How the samples of a run are cut."""

    samples: list[int]  # of each batch
    predicted_bytes: int  # the peak memory of the worker that needs most, as predicted
    keep: bool  # a worker has the memory to hold its shard for all batches; else it reads the shard again for each batch


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
            f"each replica; use a batch_size of at most {samples // parallel.data}"
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
    parts: list[list[LayerSizes]],
    samples: int,
    batch_size: int | None,
    parallel: Parallel,
    wanted: int,
    limits: InvokeLimits,
    provider: str,
) -> Batches:
    """Cut ``samples`` as `sizes` does, and into smaller batches until the predicted memory fits in a function.

    ``parts``: the layers of each rank of a replica. ``provider`` is named in errors. Raises `InputError` like `sizes`, and if the memory
    does not hold a single sample.
    """
    found = sizes(samples, batch_size, parallel, wanted)
    memory = limits.memory_bytes

    def predict(count: int, keep: bool = False) -> int:
        held = (weight_bytes(layers) if keep else min(stored_bytes(layers), 3 * READ_BYTES) for layers in parts)
        return limits.process_bytes + max(each + predicted_bytes(layers, count) for each, layers in zip(held, parts, strict=True))

    while memory is not None and predict(max(found)) > memory and max(found) > 1:
        if batch_size is None:
            wanted *= 2
        else:
            batch_size = -(-max(found) // 2)
        found = sizes(samples, batch_size, parallel, wanted)
    largest = max(found)
    if memory is not None and predict(largest) > memory:
        where, needed = f"[{provider}] memory_mb = {memory >> 20}", -(-predict(largest) // (1 << 20))
        if limits.process_bytes >= memory:
            idle = f"a worker needs {limits.process_bytes >> 20} MB before it loads anything, and {needed} MB with one sample"
            raise InputError(f"{where}: {idle}: expected at least {needed}; more workers alone do not help")
        many = f"{len(parts)} workers"
        raise InputError(f"{where}: one sample needs {needed} MB in one of {many}: expected at least {needed}, or more workers")
    keep = len(found) > parallel.data and (memory is None or predict(largest, True) <= memory)
    return Batches(found, predict(largest, keep), keep)
