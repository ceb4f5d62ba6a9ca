"""Stages the shards and inputs of a run in the object store once: their keys are hashes of the content from which they are made.

The client writes a manifest after all the objects that it covers. So if a manifest exists, the client builds and uploads nothing. If
objects are missing or damaged although a manifest exists, the client removes the manifest (`forget`) and stages again. While one client
writes an object again, a run that reads it gets the same bytes, because equal content has equal bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fsd_core.codec import CODEC, encode
from fsd_core.common.crew import begin
from fsd_core.common.sealed import Damaged, seal, unseal
from fsd_core.kernel import Block
from fsd_core.protocol import shard
from fsd_core.storage import keys
from fsd_core.storage.store import Store

if TYPE_CHECKING:
    from fsd_core.model import Model
    from fsd_core.partition import ExchangePlan, Partition

__all__ = ["Content", "forget", "inputs", "shards"]

UPLOADS = 8  # under way at a time: the objects need not all be in memory at once
Progress = Callable[[int, int], None]  # called with the number of objects staged and of all objects


class Content:
    """The shards or the inputs of a run. ``names`` are the keys of their objects.

    The request that looks whether they are staged already starts at once; `stage` waits for its answer. ``build`` makes the object of a
    number. ``again``: `stage` uploads the objects even if they are staged already.
    """

    def __init__(
        self, store: Store, digest: str, count: int, build: Callable[[int], bytes], pool: ThreadPoolExecutor, *, again: bool = False
    ) -> None:
        self.names = [f"{keys.content(digest)}{number}" for number in range(count)]
        self._store = store
        self._build = build
        self._pool = pool
        self._found = None if again or not count else begin(self._manifest)

    def stage(self, progress: Progress) -> None:
        """Upload the objects, unless a manifest covers them."""
        count = len(self.names)
        if not count:
            return
        if self._found is None:  # again
            forget(self._store, self.names[0])
        if _covers(self._manifest() if self._found is None else self._found.result(), count):
            progress(count, count)
            return
        uploads = []
        for number, name in enumerate(self.names):
            uploads.append(self._pool.submit(self._store.put, name, self._build(number)))
            progress(number + 1, count)
            if number >= UPLOADS:
                uploads[number - UPLOADS].result()
        for upload in uploads:
            upload.result()
        self._store.put(keys.manifest(self.names[0]), seal({"objects": count}))

    def _manifest(self) -> bytes | None:
        return self._store.find(keys.manifest(self.names[0]))


def shards(
    store: Store, model: Model, partition: Partition, plan: ExchangePlan, pool: ThreadPoolExecutor, *, again: bool = False
) -> Content:
    """One shard for each rank of a replica."""
    digest = _digest(shard.FORMAT, model.digest, partition.digest)
    return Content(store, digest, partition.workers, lambda rank: shard.build(model, partition, plan, rank), pool, again=again)


def inputs(
    store: Store,
    samples: Any,
    batches: Sequence[int],
    model: Model,
    partition: Partition,
    plan: ExchangePlan,
    pool: ThreadPoolExecutor,
    *,
    again: bool = False,
) -> tuple[Content, list[list[str | None]]]:
    """The input rows that each rank of a replica needs: one object for each batch and rank, and their keys by batch and rank.

    The key of a rank that needs no input is `None`. ``samples``: scipy CSR (samples, inputs) float32. ``batches``: the number of samples of
    each batch.
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

    content = Content(store, digest, len(batches) * len(readers), build, pool, again=again)
    found: list[list[str | None]] = [[None] * partition.workers for _ in batches]
    for number, name in enumerate(content.names):
        found[number // len(readers)][readers[number % len(readers)]] = name
    return content, found


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def forget(store: Store, key: str) -> None:
    """Remove the manifest that covers ``key``, so that its content is staged again. Thread-safe, and harmless to runs of other clients."""
    store.delete([keys.manifest(key)])


def _covers(manifest: bytes | None, count: int) -> bool:
    """Whether a manifest covers ``count`` objects; a damaged one covers none."""
    try:
        return manifest is not None and unseal(manifest, "the manifest") == {"objects": count}
    except Damaged:
        return False
