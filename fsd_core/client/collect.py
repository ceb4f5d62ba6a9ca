"""Collects what the workers of a run wrote: each rank's slice of the output of each batch, and each rank's record."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from fsd_core.codec import CodecError, decode
from fsd_core.common.crew import each
from fsd_core.common.sealed import Damaged, unseal
from fsd_core.driver import Code
from fsd_core.errors import FsdError, RunFailed
from fsd_core.kernel import Block
from fsd_core.storage.keys import RunKeys
from fsd_core.storage.store import Store

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from fsd_core.model import Layer
    from fsd_core.partition import Partition
    from fsd_core.protocol.runconfig import RunConfig

__all__ = ["complete", "lines", "output", "ranks", "records"]

RECORDS_S = 5.0  # how long the client waits for records: workers write them after they have sent that they are done
LINE_THREADS = 16
_POLL_S = 0.05


def complete(store: Store, keys: RunKeys, slices: int) -> bool:
    """Whether all ``slices`` of the output are written."""
    return len(list(store.keys(keys.outputs))) == slices


def output(
    store: Store,
    keys: RunKeys,
    partition: Partition,
    config: RunConfig,
    last: Layer,
    pool: ThreadPoolExecutor,
    progress: Callable[[int, int], None],
) -> csr_matrix:
    """The output, float32 (samples, outputs), assembled from all slices. Raises `RunFailed` if a slice is damaged.

    ``last``: the model's last layer. ``progress`` is called with the number of batches
    done and of all batches.
    """
    from scipy.sparse import csr_matrix, vstack

    rows = [np.flatnonzero(partition.owners[-1] == part) for part in config.last]

    def piece(batch: int, writer: int) -> Block:
        rank = config.writers(batch)[writer]
        try:
            return decode(store.get(keys.output(batch, rank)), len(rows[writer]), config.batches[batch])
        except CodecError as error:
            raise RunFailed(Code.INVALID, f"the output slice of batch {batch + 1} is damaged: {error}", rank=rank) from error

    outputs = []
    for batch, count in enumerate(config.batches):
        blocks = list(pool.map(partial(piece, batch), range(len(rows))))
        outputs.append(_assemble(blocks, rows, (count, last.outputs), last.activation))
        progress(batch + 1, len(config.batches))
    return csr_matrix(vstack(outputs, "csr")) if len(outputs) > 1 else outputs[0]


def records(store: Store, keys: RunKeys, workers: int, pool: ThreadPoolExecutor, wait_s: float = RECORDS_S) -> list[dict[str, Any]]:
    """The workers' records by rank, with what each said under the key ``log``.

    Those that are damaged, or still missing after ``wait_s`` seconds, are left out.
    """
    found: dict[int, dict[str, Any] | None] = {}
    until = time.monotonic() + wait_s
    while True:
        missing = [rank for rank in range(workers) if rank not in found]
        for rank, (final, record) in zip(missing, pool.map(partial(_record, store, keys), missing), strict=True):
            if final:
                found[rank] = record
        if len(found) == workers or time.monotonic() >= until:
            return [record for _, record in sorted(found.items()) if record is not None]
        time.sleep(_POLL_S)


def lines(store: Store, keys: RunKeys, listed: Collection[str], found: dict[int, list[Any]]) -> None:
    """Put into ``found`` what each rank of a failed run said: from its record, else from its log, else from its claim.

    ``listed``: the keys of the run that exist. One get for each rank that is there. Leaves out ranks whose object is gone or damaged.
    """

    def fetch(rank: int) -> None:
        for key in (keys.record(rank), keys.log(rank), keys.claim(rank)):
            if key in listed:
                with suppress(FsdError, Damaged):
                    found[rank] = unseal(store.get(key), key).get("log", [])
                    return

    each(fetch, ranks(keys, listed), LINE_THREADS)


def ranks(keys: RunKeys, listed: Collection[str]) -> list[int]:
    """The ranks that left a claim, a log or a record among the ``listed`` keys of the run."""
    found = (re.fullmatch(rf"{keys.prefix}(?:claim|log|record)/(\d+)", key) for key in listed)
    return sorted({int(each[1]) for each in found if each})


def _record(store: Store, keys: RunKeys, rank: int) -> tuple[bool, dict[str, Any] | None]:
    """Whether it is useless to look again for a rank's record, and the record: `None` if it is not written yet, or damaged."""
    try:
        data = store.find(keys.record(rank))
        return data is not None, None if data is None else unseal(data, f"the record of rank {rank}")
    except (FsdError, Damaged):
        return True, None


def _assemble(blocks: list[Block], rows: list[Any], shape: tuple[int, int], activation: str) -> csr_matrix:
    """One batch's output from each rank's block of its rows: float32 (samples, outputs)."""
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
