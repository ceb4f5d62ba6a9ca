"""Cuts the samples of a run into batches that fit the memory of a function."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from fsd_core.driver import InvokeLimits
from fsd_core.errors import InputError
from fsd_core.protocol.shard import READ_BYTES, predicted_bytes

if TYPE_CHECKING:
    from fsd_core.model import Model
    from fsd_core.partition import ExchangePlan, Partition

__all__ = ["Batches", "cut"]


@attrs.frozen
class Batches:
    """How the samples of a run are cut."""

    samples: list[int]  # of each batch
    predicted_bytes: int  # the peak memory of the worker that needs most, as predicted
    keep: bool  # a worker has the memory to hold its shard for all batches; else it reads the shard again for each batch


def cut(
    model: Model, partition: Partition, plan: ExchangePlan, samples: int, batch_size: int | None, limits: InvokeLimits, provider: str
) -> Batches:
    """Cut ``samples`` into batches of ``batch_size`` (default: all), and halve the size until the predicted memory fits in a function.

    ``provider`` is named in errors. Raises `InputError` if the memory does not hold a single sample.
    """
    size = min(batch_size or samples, samples)
    shard_bytes = 8 * model.nonzeros // partition.workers
    memory = limits.memory_bytes

    def predict(count: int, keep: bool = False) -> int:
        held = shard_bytes if keep else min(shard_bytes, 3 * READ_BYTES)
        ranks = range(partition.workers)
        return limits.process_bytes + held + max(predicted_bytes(model, partition, plan, rank, count) for rank in ranks)

    while memory is not None and predict(size) > memory and size > 1:
        size = -(-size // 2)
    if memory is not None and predict(size) > memory:
        where, needed = f"[{provider}] memory_mb = {memory >> 20}", -(-predict(size) // (1 << 20))
        if limits.process_bytes >= memory:
            idle = f"a worker needs {limits.process_bytes >> 20} MB before it loads anything, and {needed} MB with one sample"
            raise InputError(f"{where}: {idle}: expected at least {needed}; more workers alone do not help")
        raise InputError(
            f"{where}: one sample needs {needed} MB in one of {partition.workers} workers: expected at least {needed}, or more workers"
        )
    keep = size < samples and (memory is None or predict(size, True) <= memory)
    return Batches([min(size, samples - at) for at in range(0, samples, size)], predict(size, keep), keep)
