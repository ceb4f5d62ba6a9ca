"""Putting a run's shards and inputs into the object store, once: their keys are hashes of what they are made from.

A manifest is written after all that it names, so that its presence means that nothing needs to be built or uploaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from fsd_core import keys, shard
from fsd_core.codec import encode
from fsd_core.kernel import Block
from fsd_core.store import Store

if TYPE_CHECKING:
    from fsd_core.model import Model
    from fsd_core.partition import ExchangePlan, Partition

__all__ = ["Staged", "inputs", "shards"]

Tell = Callable[[int, int], None]


class Staged:
    """Keys of what was staged, and the sizes in bytes."""

    def __init__(self, keys: list[str], sizes: list[int]) -> None:
        self.keys = keys
        self.sizes = sizes


def shards(
    store: Store, model: Model, partition: Partition, plan: Callable[[], ExchangePlan], pool: ThreadPoolExecutor, tell: Tell
) -> Staged:
    """One shard a rank. ``plan`` is asked for only where something must be built."""
    digest = _digest(shard.FORMAT, model.digest, partition.digest)
    return _stage(store, digest, partition.workers, lambda rank: shard.build(model, partition, plan(), rank), pool, tell)


def inputs(
    store: Store,
    samples: Any,
    batches: Sequence[int],
    model: Model,
    partition: Partition,
    plan: Callable[[], ExchangePlan],
    pool: ThreadPoolExecutor,
    tell: Tell,
) -> Staged:
    """The input rows that each rank needs, one object a batch and rank. ``samples``: scipy CSR (samples, inputs) float32."""
    content = hashlib.sha256(repr(samples.shape).encode())
    for array in (samples.indptr.astype(np.int64), samples.indices.astype(np.int32), samples.data):
        content.update(np.ascontiguousarray(array).data)
    digest = _digest("fsd-inputs-1", content.hexdigest(), model.digest, partition.digest, *map(str, batches))
    rows = samples.T.tocsr()  # (inputs, samples)
    starts = np.concatenate([[0], np.cumsum(batches)])

    def block(batch: int, rank: int) -> bytes:
        part = rows[plan().inputs(rank)][:, starts[batch] : starts[batch + 1]]
        values = np.zeros((part.shape[0], 1 + part.shape[1]), np.float32)
        values[:, 1:] = part.toarray()
        return encode(Block(values, np.arange(part.shape[1], dtype=np.int32), part.shape[1]))

    return _stage(store, digest, len(batches) * partition.workers, lambda n: block(*divmod(n, partition.workers)), pool, tell)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _stage(store: Store, digest: str, count: int, make: Callable[[int], bytes], pool: ThreadPoolExecutor, tell: Tell) -> Staged:
    """What the manifest names, made and uploaded where there is none."""
    prefix = keys.content(digest)
    names = [f"{prefix}{number}" for number in range(count)]
    with suppress(ValueError, KeyError, TypeError):  # a manifest that cannot be read counts as none
        staged = Staged(names, json.loads(store.find(f"{prefix}manifest") or b"")["sizes"])
        tell(count, count)
        return staged
    sizes, uploads = [], []
    for number, name in enumerate(names):
        body = make(number)
        sizes.append(len(body))
        uploads.append(pool.submit(store.put, name, body))
        tell(number + 1, count)
        if number >= 8:
            uploads[number - 8].result()  # a few in flight, not all in memory
    for upload in uploads:
        upload.result()
    store.put(f"{prefix}manifest", json.dumps({"sizes": sizes}).encode())
    return Staged(names, sizes)
