"""The progress of a run, which rank 0 reports to the client."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from fsd_core.common.sealed import seal
from fsd_core.errors import FsdError
from fsd_core.storage.keys import RunKeys
from fsd_core.storage.store import Store

__all__ = ["Progress"]

INTERVAL_S = 2.0
REPORTS = 10  # of a run at most: one for each tenth of the layers


class Progress:
    """Writes each report at its own key: at most one in 2 s, and at most one for each tenth of ``total``, the layers of all batches."""

    def __init__(self, store: Store, keys: RunKeys, pool: ThreadPoolExecutor, total: int) -> None:
        self._store = store
        self._keys = keys
        self._pool = pool
        self._total = total
        self._reports: list[Future[None]] = []
        self._reported_at = time.monotonic()

    def report(self, done: int) -> None:
        """``done`` layers are computed. Returns before the report is written."""
        number = len(self._reports)
        if time.monotonic() - self._reported_at >= INTERVAL_S and done >= self._total * (number + 1) / REPORTS:
            body = seal({"done": done, "total": self._total})
            self._reports.append(self._pool.submit(self._store.put, self._keys.progress(number), body))
            self._reported_at = time.monotonic()

    def finish(self) -> None:
        """Wait until all reports are written: a report that is written later would remain in the store after the run."""
        for report in self._reports:
            with suppress(FsdError):
                report.result()
