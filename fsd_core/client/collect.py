"""Collects what the workers of a run wrote: each rank's slice of the output of each batch, and each rank's record."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fsd_core.client.work import Work
from fsd_core.codec import CodecError
from fsd_core.common.crew import each
from fsd_core.common.sealed import Damaged
from fsd_core.driver import Code
from fsd_core.errors import FsdError, RunFailed
from fsd_core.protocol import records
from fsd_core.storage.keys import RunKeys
from fsd_core.storage.store import Store

if TYPE_CHECKING:
    from fsd_core.protocol.runconfig import RunConfig

__all__ = ["Outputs", "Records", "lines", "ranks"]

AT_ONCE = 8  # slices that the client gets at once
LOST_CHECK_S = 2.0  # the client checks this often whether a slice that it waits for is lost
LINE_THREADS = 16


class Outputs:
    """The output of a run. Each rank of ``config.last`` writes its slice of the output of each batch; `look` gets the written slices."""

    def __init__(self, store: Store, keys: RunKeys, work: Work, config: RunConfig, pool: ThreadPoolExecutor) -> None:
        self._store = store
        self._keys = keys
        self._work = work
        self._config = config
        self._pool = pool
        self._missing = [(batch, writer) for batch in range(len(config.batches)) for writer in range(len(config.last))]
        self._slices: dict[tuple[int, int], Any] = {}
        self._next_check = time.monotonic() + LOST_CHECK_S

    def look(self) -> bool:
        """Get the slices that are written. Returns `True` once the client has all. Raises `RunFailed` if a slice is damaged.

        Gets one slice, then several at once, until one is missing, so that a call makes few requests for slices that do not exist yet.
        """
        at_once = 1
        while self._missing:
            window = self._missing[:at_once]
            slices = [self._slice(window[0])] if at_once == 1 else list(self._pool.map(self._slice, window))
            self._slices |= {piece: found for piece, found in zip(window, slices, strict=True) if found is not None}
            self._missing = [piece for piece in self._missing if piece not in self._slices]
            if any(found is None for found in slices):
                self._raise_if_lost()
                return False
            at_once = AT_ONCE
        return True

    def _raise_if_lost(self) -> None:
        """Raise `DriverError` if a slice is missing although rank 0 has written its record, which it does after all slices are written."""
        if time.monotonic() < self._next_check:
            return
        self._next_check = time.monotonic() + LOST_CHECK_S
        if self._store.find(self._keys.record(0)) is not None:
            batch, writer = self._missing[0]
            self._store.get(self._keys.output(batch, self._config.writers(batch)[writer]))

    def _slice(self, piece: tuple[int, int]) -> Any:
        batch, writer = piece
        rank = self._config.writers(batch)[writer]
        data = self._store.find(self._keys.output(batch, rank))
        try:
            return None if data is None else self._work.slice(data, writer, self._config.batches[batch])
        except CodecError as error:
            raise RunFailed(Code.INVALID, f"the output slice of batch {batch + 1} is damaged: {error}", rank=rank) from error

    def assemble(self, progress: Callable[[int, int], None]) -> Any:
        """The output from all slices. ``progress`` is called with the number of batches done and of all batches."""
        slices = [[self._slices[batch, writer] for writer in range(len(self._config.last))] for batch in range(len(self._config.batches))]
        return self._work.assemble(slices, self._config.batches, progress)


class Records:
    """The workers' records; each has the worker's log lines under the key ``log``. `look` gets the written records."""

    def __init__(self, store: Store, keys: RunKeys, workers: int, pool: ThreadPoolExecutor) -> None:
        self._store = store
        self._keys = keys
        self._pool = pool
        self.missing = list(range(workers))  # ranks whose record the client does not have yet
        self._found: dict[int, dict[str, Any] | None] = {}
        self._requests: dict[int, Future[tuple[bool, dict[str, Any] | None]]] = {}  # by rank: those that have no answer yet

    def look(self, until: float = math.inf) -> bool:
        """Get the records that are written. Returns `True` once the client has all.

        Waits for answers of the store until ``until``, in seconds of `time.monotonic`. The next call uses answers that come later.
        """
        for rank in self.missing:
            if rank not in self._requests:
                self._requests[rank] = self._pool.submit(self._record, rank)
        wait(self._requests.values(), max(0.0, min(until - time.monotonic(), threading.TIMEOUT_MAX)))
        for rank in [rank for rank, request in self._requests.items() if request.done()]:
            final, record = self._requests.pop(rank).result()
            if final:
                self._found[rank] = record
        self.missing = [rank for rank in self.missing if rank not in self._found]
        return not self.missing

    @property
    def readable(self) -> list[dict[str, Any]]:
        """The records by rank, without those that are missing or damaged."""
        return [record for _, record in sorted(self._found.items()) if record is not None]

    def _record(self, rank: int) -> tuple[bool, dict[str, Any] | None]:
        """Whether this result is final, and the record of the rank: `None` if it is not written yet (not final) or damaged (final)."""
        try:
            record = records.find(self._store, self._keys.record(rank))
            return record is not None, record
        except (FsdError, Damaged):
            return True, None


def lines(store: Store, keys: RunKeys, listed: Collection[str], found: dict[int, list[Any]]) -> None:
    """Put the log lines of each rank of a failed run into ``found``: from its record, else from its log, else from its claim.

    ``listed``: the keys of the run that exist. Makes one get for each rank of `ranks`. Leaves out ranks whose object is gone or damaged.
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
