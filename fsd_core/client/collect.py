"""Collects what the workers of a run wrote: each rank's slice of the output of each batch, and each rank's record."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from fsd_core.codec import CodecError, decode
from fsd_core.common.crew import each
from fsd_core.common.sealed import Damaged
from fsd_core.driver import Code
from fsd_core.errors import FsdError, RunFailed
from fsd_core.kernel import Block
from fsd_core.protocol import records
from fsd_core.storage.keys import RunKeys
from fsd_core.storage.store import Store

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from fsd_core.model import Layer
    from fsd_core.partition import Partition
    from fsd_core.protocol.runconfig import RunConfig

__all__ = ["Outputs", "Records", "lines", "ranks"]

AT_ONCE = 8  # slices that the client gets at once
LOST_CHECK_S = 2.0  # so often the client looks whether a slice that it waits for is lost
LINE_THREADS = 16


class Outputs:
    """The output of a run. Each rank writes its slice of the output of each batch; `look` gets those that are there."""

    def __init__(self, store: Store, keys: RunKeys, partition: Partition, config: RunConfig, pool: ThreadPoolExecutor) -> None:
        self._store = store
        self._keys = keys
        self._config = config
        self._pool = pool
        self._rows = [np.flatnonzero(partition.owners[-1] == part) for part in config.last]
        self._missing = [(batch, writer) for batch in range(len(config.batches)) for writer in range(len(config.last))]
        self._blocks: dict[tuple[int, int], Block] = {}
        self._next_check = time.monotonic() + LOST_CHECK_S

    def look(self) -> bool:
        """Get the slices that are there, and return `True` once all are. Raises `RunFailed` if a slice is damaged.

        Gets one slice, then several at once, until one is missing: so a call makes few requests in vain.
        """
        at_once = 1
        while self._missing:
            window = self._missing[:at_once]
            blocks = [self._block(window[0])] if at_once == 1 else list(self._pool.map(self._block, window))
            self._blocks |= {piece: block for piece, block in zip(window, blocks, strict=True) if block is not None}
            self._missing = [piece for piece in self._missing if piece not in self._blocks]
            if None in blocks:
                self._raise_if_lost()
                return False
            at_once = AT_ONCE
        return True

    def _raise_if_lost(self) -> None:
        """Raise `DriverError` if a slice is missing although all are written: rank 0 writes its record after them."""
        if time.monotonic() < self._next_check:
            return
        self._next_check = time.monotonic() + LOST_CHECK_S
        if self._store.find(self._keys.record(0)) is not None:
            batch, writer = self._missing[0]
            self._store.get(self._keys.output(batch, self._config.writers(batch)[writer]))

    def _block(self, piece: tuple[int, int]) -> Block | None:
        batch, writer = piece
        rank = self._config.writers(batch)[writer]
        data = self._store.find(self._keys.output(batch, rank))
        try:
            return None if data is None else decode(data, len(self._rows[writer]), self._config.batches[batch])
        except CodecError as error:
            raise RunFailed(Code.INVALID, f"the output slice of batch {batch + 1} is damaged: {error}", rank=rank) from error

    def assemble(self, last: Layer, progress: Callable[[int, int], None]) -> csr_matrix:
        """The output, float32 (samples, outputs), from all slices. ``last``: the model's last layer.

        ``progress`` is called with the number of batches done and of all batches.
        """
        from scipy.sparse import csr_matrix, vstack

        outputs = []
        for batch, count in enumerate(self._config.batches):
            blocks = [self._blocks[batch, writer] for writer in range(len(self._rows))]
            outputs.append(_assemble(blocks, self._rows, (count, last.outputs), last.activation))
            progress(batch + 1, len(self._config.batches))
        return csr_matrix(vstack(outputs, "csr")) if len(outputs) > 1 else outputs[0]


class Records:
    """The workers' records, with what each said under the key ``log``. `look` gets those that are there."""

    def __init__(self, store: Store, keys: RunKeys, workers: int, pool: ThreadPoolExecutor) -> None:
        self._store = store
        self._keys = keys
        self._pool = pool
        self.missing = list(range(workers))  # ranks that have not written theirs
        self._found: dict[int, dict[str, Any] | None] = {}

    def look(self) -> bool:
        """Get the records that are there, and return `True` once all are."""
        for rank, (final, record) in zip(self.missing, self._pool.map(self._record, self.missing), strict=True):
            if final:
                self._found[rank] = record
        self.missing = [rank for rank in self.missing if rank not in self._found]
        return not self.missing

    @property
    def readable(self) -> list[dict[str, Any]]:
        """The records by rank, without those that are missing or damaged."""
        return [record for _, record in sorted(self._found.items()) if record is not None]

    def _record(self, rank: int) -> tuple[bool, dict[str, Any] | None]:
        """Whether it is useless to look again for a rank's record, and the record: `None` if it is not written yet, or damaged."""
        try:
            record = records.find(self._store, self._keys.record(rank))
            return record is not None, record
        except (FsdError, Damaged):
            return True, None


def lines(store: Store, keys: RunKeys, listed: Collection[str], found: dict[int, list[Any]]) -> None:
    """Put into ``found`` what each rank of a failed run said: from its record, else from its log, else from its claim.

    ``listed``: the keys of the run that exist. One get for each rank that is there. Leaves out ranks whose object is gone or damaged.
    """

    def fetch(rank: int) -> None:
        for key in (keys.record(rank), keys.log(rank), keys.claim(rank)):
            if key in listed:
                with suppress(FsdError, Damaged):
                    found[rank] = (records.find(store, key) or {}).get("log", [])
                    return

    each(fetch, ranks(keys, listed), LINE_THREADS)


def ranks(keys: RunKeys, listed: Collection[str]) -> list[int]:
    """The ranks that left a claim, a log or a record among the ``listed`` keys of the run."""
    found = (re.fullmatch(rf"{keys.prefix}(?:claim|log|record)/(\d+)", key) for key in listed)
    return sorted({int(each[1]) for each in found if each})


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
