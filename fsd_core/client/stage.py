"""Putting a run's shards and inputs into the object store, once: their keys are hashes of what they are made from.

A manifest is written after all that it stands for, so that its presence means that nothing needs to be built or uploaded.
Who finds that something is gone or damaged all the same forgets the manifest (`forget`) and stages again. A run that reads
meanwhile what is put once more reads the same: equal shards have equal bytes, and inputs are read in one request.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fsd_core.codec import encode
from fsd_core.common.sealed import Damaged, seal, unseal
from fsd_core.kernel import Block
from fsd_core.protocol import shard
from fsd_core.storage import keys
from fsd_core.storage.store import Store

if TYPE_CHECKING:
    from fsd_core.model import Model
    from fsd_core.partition import ExchangePlan, Partition

__all__ = ["Staged", "forget", "inputs", "shards"]

Tell = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Staged:
    """Keys of what was staged."""

    keys: list[str]


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
    digest = _digest("fsd-inputs-2", content.hexdigest(), model.digest, partition.digest, *map(str, batches))
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


def forget(store: Store, key: str) -> None:
    """Stage anew, next time, all content of the digest to which ``key`` belongs. Thread-safe, and harmless to other clients' runs."""
    store.delete([keys.manifest(key)])


def _stage(store: Store, digest: str, count: int, make: Callable[[int], bytes], pool: ThreadPoolExecutor, tell: Tell) -> Staged:
    """What the manifest stands for, made and uploaded where there is none."""
    names = [f"{keys.content(digest)}{number}" for number in range(count)]
    manifest = keys.manifest(names[0])
    if _whole(store.find(manifest), count):
        tell(count, count)
        return Staged(names)
    uploads = []
    for number, name in enumerate(names):
        uploads.append(pool.submit(store.put, name, make(number)))
        tell(number + 1, count)
        if number >= 8:
            uploads[number - 8].result()  # a few in flight, not all in memory
    for upload in uploads:
        upload.result()
    store.put(manifest, seal({"objects": count}))
    return Staged(names)


def _whole(manifest: bytes | None, count: int) -> bool:
    """Whether a manifest stands for ``count`` objects; one that is damaged counts as none."""
    try:
        return manifest is not None and unseal(manifest, "the manifest") == {"objects": count}
    except Damaged:
        return False
