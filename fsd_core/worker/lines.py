"""Writes the log lines of a worker into the object store, because a worker that is killed cannot send its lines any more.

A worker that succeeds has its lines in its record. A worker that fails writes the object `RunKeys.log`. A worker that works for more than
`FIRST_S` seconds also writes this object from time to time, because it may be killed: see `first_s`. So a run of a few seconds makes no
request for its lines, and the workers of a large run do not make theirs at the same time.
"""

from __future__ import annotations

import math
import threading
import time
from contextlib import suppress

from fsd_core.common.logs import DEBUG, Journal
from fsd_core.common.sealed import seal
from fsd_core.driver import ObjectDriver
from fsd_core.errors import FsdError
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store

__all__ = ["Lines", "first_s", "leave"]

FIRST_S = 8.0  # from the claim to the first write of rank 0, if there are new lines; most runs end sooner
SPREAD = (math.sqrt(5) - 1) / 2  # the fractions of the multiples of this number are spread evenly, however many there are
SLOWEST_S = 80.0  # the time between two writes doubles up to this
DEBUG_S = 1.0  # the time between two writes at the level debug
JOIN_S = 5.0
LEAVE_S = 2.0  # how long a worker that failed tries to write its lines


def first_s(rank: int) -> float:
    """Seconds from the claim of a rank to its first write: `FIRST_S` to twice as long, evenly spread over the ranks."""
    return FIRST_S * (1 + rank * SPREAD % 1)


class Lines:
    """Writes the lines of ``journal`` of a rank to the object ``key``, in a separate thread, from `start` to `finish`. Ignores errors."""

    def __init__(self, journal: Journal, rank: int, driver: ObjectDriver, key: str, deadline: float, meter: Meter) -> None:
        self._journal = journal
        self._rank = rank
        self._key = key
        self._over = threading.Event()
        self._store = Store(driver, Retry(deadline, meter, stop=self._over))
        self._thread: threading.Thread | None = None

    def start(self, level: str) -> None:
        """Begin. ``level``: the level of the lines, one of `fsd_core.common.logs.LEVELS`."""
        self._thread = threading.Thread(target=self._write, args=(level,), name="lines", daemon=True)
        self._thread.start()

    def _write(self, level: str) -> None:
        written = self._journal.count  # these lines are in the claim
        wait_s = DEBUG_S if level == DEBUG else first_s(self._rank)
        while not self._over.wait(wait_s):
            wait_s = wait_s if level == DEBUG else min(SLOWEST_S, 2 * wait_s)
            count = self._journal.count
            if count > written:
                with suppress(FsdError):
                    self._store.put(self._key, pack(self._journal))
                    written = count

    def finish(self) -> None:
        """End, and wait for a write that is under way: an object that is written later would remain in the store after the run."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(JOIN_S)


def pack(journal: Journal) -> bytes:
    """The content of the object `RunKeys.log`."""
    return seal({"log": journal.lines()})


def leave(journal: Journal, driver: ObjectDriver, key: str, config_key: str, meter: Meter) -> None:
    """Write the lines of a worker that failed, within `LEAVE_S` seconds, unless the client has already removed the run's objects.

    Raises nothing, because another error would hide the reason of the failure.
    """
    store = Store(driver, Retry(time.time() + LEAVE_S, meter))
    with suppress(Exception):
        if store.find(config_key) is not None:
            store.put(key, pack(journal))
