"""The one retry layer: full jitter, within the run's deadline, a budget for the whole process, and a limit on how long a service is away.

Full jitter (a wait uniform in [0, cap]) spreads peers that were throttled together; see "Exponential Backoff And
Jitter", AWS Architecture Blog, 2015. Where the service says how long to wait, as much again is left to chance.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

from fsd_core.driver import Code, Rejected
from fsd_core.errors import DriverError, FsdError
from fsd_core.wrappers.meter import Meter

__all__ = ["OUTAGE_S", "TRANSIENT", "Retry"]

T = TypeVar("T")
TRANSIENT = frozenset({Code.THROTTLED, Code.UNAVAILABLE})  # what the same request may survive a moment later
FIRST_CAP_S = 0.02
LAST_CAP_S = 2.0
OUTAGE_S = 60.0  # how long a service may be unreachable before a run ends
NOTICE_S = 5.0  # how long before people are told, and between two notices


class Classifies(Protocol):
    """What `Retry.call` needs of a driver. Where it has ``service``, the service's name for people, errors name it so."""

    def classify(self, error: BaseException) -> Code:
        """The code of an error that the driver raised."""


class Retry:
    """Calls drivers until they succeed, fail for good, or a limit is reached: deadline, budget, outage. Thread-safe.

    ``deadline`` is in seconds since the epoch; ``stop``, once set, ends every wait; ``budget`` bounds the retries of
    this process, so that a service that is down is not hammered for the whole of a long deadline.

    A call ends when its service has answered nobody for ``outage_s`` seconds, or has refused that one call for so long. ``stall_s()``,
    which a channel sets, is how long the peers wait for this rank: a service that answers nobody for so long ends a call as well.
    ``notice`` gets a line for people, from any thread, every few seconds while a service does not answer.
    """

    def __init__(
        self,
        deadline: float,
        meter: Meter,
        *,
        stop: threading.Event | None = None,
        budget: int = 5000,
        outage_s: float = math.inf,
        notice: Callable[[str], None] | None = None,
    ) -> None:
        self.deadline = deadline
        self.meter = meter
        self.stop = stop or threading.Event()
        self.outage_s = outage_s
        self.stall_s: Callable[[], float] = lambda: math.inf
        self._notice = notice
        self._left = budget
        self._lock = threading.Lock()
        self._random = random.Random()
        self._away: dict[str, float] = {}  # by service: since when (monotonic) no call came back
        self._noticed = 0.0

    def call(self, driver: Classifies, what: str, request: Callable[[], T]) -> T:
        """``request()``, retried while its error is transient. Raises `DriverError` with the SDK's error as cause."""
        service = str(getattr(driver, "service", type(driver).__name__))
        attempt, failing_since = 0, 0.0
        while True:
            try:
                answer = request()
            except FsdError:
                raise
            except Exception as error:
                code = driver.classify(error)
                reason = f"{what}: {type(error).__name__}: {error}"
                if code is not Code.UNAVAILABLE:
                    self._back(service)
                if code not in TRANSIENT:
                    raise DriverError(code, reason) from error
                failing_since = failing_since or time.monotonic()
                if code is Code.UNAVAILABLE and (limit := self._over(service, failing_since)):
                    raise DriverError(code, f"{service} unreachable for {limit:.0f} s; {reason}") from error
                if not self.pause(attempt, getattr(error, "retry_after_s", None) or 0.0):
                    raise DriverError(code, reason) from error
                attempt += 1
            else:
                self._back(service)
                return answer

    def away(self) -> str | None:
        """The line for people about the service that is away for longest; `None` if all answer."""
        with self._lock:
            service, since = min(self._away.items(), key=lambda item: item[1], default=("", 0.0))
        return f"{service} unreachable for {time.monotonic() - since:.0f} s" if service else None

    def _back(self, service: str) -> None:
        """A call came back."""
        if service in self._away:
            with self._lock:
                self._away.pop(service, None)

    def _over(self, service: str, failing_since: float) -> float | None:
        """The seconds after which a call that failed must end, once it or its service is over that limit; says meanwhile what is away."""
        now = time.monotonic()
        with self._lock:
            away = now - self._away.setdefault(service, failing_since)
            notice = away >= NOTICE_S and now - self._noticed >= NOTICE_S
            if notice:
                self._noticed = now
        limit = min(self.outage_s, self.stall_s())
        if away >= limit:
            return away
        if now - failing_since >= self.outage_s:
            return now - failing_since
        if notice and self._notice is not None:
            self._notice(f"{service} unreachable for {away:.0f} s, retrying")
        return None

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
        """A new deadline and budget."""
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
