"""The one retry layer: full jitter, within the run's deadline and a budget for the whole process.

Full jitter (a wait uniform in [0, cap]) spreads peers that were throttled together; see "Exponential Backoff And
Jitter", AWS Architecture Blog, 2015. Where the service says how long to wait, as much again is left to chance.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

from fsd_core.driver import Code, Rejected
from fsd_core.errors import DriverError, FsdError
from fsd_core.wrappers.meter import Meter

__all__ = ["TRANSIENT", "Retry"]

T = TypeVar("T")
TRANSIENT = frozenset({Code.THROTTLED, Code.UNAVAILABLE})  # what the same request may survive a moment later
FIRST_CAP_S = 0.02
LAST_CAP_S = 2.0


class Classifies(Protocol):
    """What `Retry.call` needs of a driver."""

    def classify(self, error: BaseException) -> Code:
        """The code of an error that the driver raised."""


class Retry:
    """Calls drivers until they succeed, fail for good, or the deadline or the budget is used up. Thread-safe.

    ``deadline`` is in seconds since the epoch; ``stop``, once set, ends every wait; ``budget`` bounds the retries of
    this process, so that a service that is down is not hammered for the whole of a long deadline.
    """

    def __init__(self, deadline: float, meter: Meter, *, stop: threading.Event | None = None, budget: int = 5000) -> None:
        self.deadline = deadline
        self.meter = meter
        self.stop = stop or threading.Event()
        self._left = budget
        self._lock = threading.Lock()
        self._random = random.Random()

    def call(self, driver: Classifies, what: str, request: Callable[[], T]) -> T:
        """``request()``, retried while its error is transient. Raises `DriverError` with the SDK's error as cause."""
        attempt = 0
        while True:
            try:
                return request()
            except FsdError:
                raise
            except Exception as error:
                code = driver.classify(error)
                if code not in TRANSIENT or not self.pause(attempt, getattr(error, "retry_after_s", None) or 0.0):
                    raise DriverError(code, f"{what}: {type(error).__name__}: {error}") from error
                attempt += 1

    def entries(self, driver: Classifies, what: str, items: Sequence[T], request: Callable[[Sequence[T]], Sequence[Rejected]]) -> None:
        """``request(items)``, and again with only those that were rejected for a transient reason, until all took effect."""
        attempt = 0
        while items:
            rejected = self.call(driver, what, partial(request, items))
            for entry in rejected:
                if entry.code not in TRANSIENT:
                    raise DriverError(entry.code, f"{what}: {entry.reason}")
            items = [items[entry.index] for entry in rejected]
            if items and not self.pause(attempt):
                raise DriverError(rejected[0].code, f"{what}: {len(items)} entries still refused: {rejected[0].reason}")
            attempt += 1

    def renew(self, deadline: float, budget: int = 1000) -> None:
        """A new deadline and budget: what must still be said when the old ones are used up."""
        with self._lock:
            self.deadline = deadline
            self._left = budget

    def pause(self, attempt: int, asked_s: float = 0.0) -> bool:
        """Count a retry and wait before it, ``asked_s`` at least. `False` if there must be none: stopped, out of time or of budget."""
        with self._lock:
            self._left -= 1
            wait = asked_s + self._random.uniform(0, max(asked_s, min(LAST_CAP_S, FIRST_CAP_S * 2 ** min(attempt, 16))))
            if self._left < 0 or time.time() + wait >= self.deadline:
                return False
        if self.stop.wait(wait):
            return False
        self.meter.add("retries")
        return True
