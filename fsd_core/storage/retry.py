"""The one place that retries requests: within the run's deadline, a budget of retries, and a limit on a service's outage.

The waits have full jitter: they are uniform in [0, cap], so that ranks which were throttled together do not come back together (see
"Exponential Backoff And Jitter", AWS Architecture Blog, 2015). If the service asks for a wait, the wait is uniform from one to two
times as long.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

import attrs

from fsd_core.driver import Code, Rejected
from fsd_core.errors import DriverError, FsdError
from fsd_core.storage.meter import Meter

__all__ = ["OUTAGE_S", "TRANSIENT", "Retry"]

T = TypeVar("T")
TRANSIENT = frozenset({Code.THROTTLED, Code.UNAVAILABLE})  # the same request may succeed later
FIRST_CAP_S = 0.02  # of the wait before the first retry; the cap doubles with each retry
LAST_CAP_S = 2.0
OUTAGE_S = 60.0  # a run ends when a service was unreachable for so long
NOTICE_S = 5.0  # the user gets a notice after a service was unreachable for so long, and again after as long


class Classifies(Protocol):
    """The part of a driver that `Retry.call` needs. Errors name the service by the attribute ``service``, if there is one."""

    def classify(self, error: BaseException) -> Code:
        """The code of an error that the driver raised."""


@attrs.define(eq=False)
class _Call:
    """A call that has not returned yet. ``began``: monotonic seconds. ``failed``: a try of it got no answer from the service."""

    service: str
    began: float
    failed: bool = False


class Retry:
    """Repeats a request until it succeeds, fails with an error that a retry cannot help, or reaches a limit. Thread-safe.

    The limits are:

    - ``deadline``, in seconds since 1970.
    - ``stop``: once this event is set, every wait ends and no retry begins.
    - ``budget``: the number of retries of this object, so that a service that is down does not get requests for hours.
    - ``outage_s``: a call fails when its service has answered no call of this object for so many seconds, or this call alone.
    - ``stall_s()``: how many seconds the other ranks wait for this one. A call also fails when its service has answered no call for so
      long. A channel sets this attribute.
    """

    def __init__(
        self, deadline: float, meter: Meter, *, stop: threading.Event | None = None, budget: int = 5000, outage_s: float = math.inf
    ) -> None:
        self.deadline = deadline
        self.meter = meter
        self.stop = stop or threading.Event()
        self.outage_s = outage_s
        self.stall_s: Callable[[], float] = lambda: math.inf
        self._budget = budget
        self._lock = threading.Lock()
        self._random = random.Random()
        self._calls: set[_Call] = set()
        self._answered: dict[str, float] = {}  # by service: the monotonic time of its last answer, refusals included

    def call(self, driver: Classifies, what: str, request: Callable[[], T]) -> T:
        """The result of ``request()``, which is repeated while its error is one of `TRANSIENT`.

        ``what``: the request's name in errors. Raises `DriverError` with the SDK's error as its cause, and an `FsdError` unchanged.
        """
        call = _Call(str(getattr(driver, "service", type(driver).__name__)), time.monotonic())
        with self._lock:
            self._calls.add(call)
        attempt = 0
        try:
            while True:
                try:
                    answer = request()
                except FsdError:
                    raise
                except Exception as error:
                    code = driver.classify(error)
                    reason = f"{what}: {type(error).__name__}: {error}"
                    if code is not Code.UNAVAILABLE:
                        self._answered[call.service] = time.monotonic()
                    if code not in TRANSIENT:
                        raise DriverError(code, reason) from error
                    call.failed |= code is Code.UNAVAILABLE
                    if (over_s := self._over(call)) is not None:
                        raise DriverError(code, f"{call.service} unreachable for {over_s:.0f} s; {reason}") from error
                    if not self.pause(attempt, getattr(error, "retry_after_s", None) or 0.0):
                        raise DriverError(code, reason) from error
                    attempt += 1
                else:
                    self._answered[call.service] = time.monotonic()
                    return answer
        finally:
            with self._lock:
                self._calls.discard(call)

    def unreachable(self, *, hanging: bool = False) -> tuple[str, float] | None:
        """The service that has not answered for the longest time, and that time in seconds; `None` if all services answer.

        Counts calls of which a try failed; with ``hanging``, also calls that wait for their first answer. A long poll would count then.
        """
        with self._lock:
            silent = [(call.service, self._silent_s(call)) for call in self._calls if call.failed or hanging]
        return max(silent, key=lambda item: item[1], default=None)

    def report(self, notice: Callable[[str], None], over: threading.Event) -> None:
        """Call ``notice`` with a line for the user every `NOTICE_S` seconds while a service does not answer, until ``over`` is set."""
        while not over.wait(NOTICE_S):
            if (silent := self.unreachable(hanging=True)) and silent[1] >= NOTICE_S:
                notice(f"{silent[0]} unreachable for {silent[1]:.0f} s, retrying")

    def _silent_s(self, call: _Call) -> float:
        """Seconds since the call began or since its service last answered any call, whichever is less."""
        return time.monotonic() - max(call.began, self._answered.get(call.service, 0.0))

    def _over(self, call: _Call) -> float | None:
        """The seconds without an answer that end a failed call, or `None` while it and its service are within the limits."""
        if not call.failed:
            return None
        if (silent_s := self._silent_s(call)) >= min(self.outage_s, self.stall_s()):
            return silent_s
        failing_s = time.monotonic() - call.began
        return failing_s if failing_s >= self.outage_s else None

    def entries(self, driver: Classifies, what: str, items: Sequence[T], request: Callable[[Sequence[T]], Sequence[Rejected]]) -> None:
        """Call ``request(items)``, and repeat it with the rejected items until all took effect.

        Raises `DriverError` if an item is rejected with a code that is not in `TRANSIENT`, or at a limit.
        """
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
        """Set a new deadline and budget."""
        with self._lock:
            self.deadline = deadline
            self._budget = budget

    def pause(self, attempt: int, min_s: float = 0.0) -> bool:
        """Count a retry and wait before it, for at least ``min_s`` seconds. ``attempt``: the number of earlier retries.

        Returns `False`, without a full wait, if there may be no retry: ``stop`` is set, or the deadline or budget would be exceeded.
        """
        with self._lock:
            self._budget -= 1
            wait = min_s + self._random.uniform(0, max(min_s, min(LAST_CAP_S, FIRST_CAP_S * 2 ** min(attempt, 16))))
            if self._budget < 0 or time.time() + wait >= self.deadline:
                return False
        if self.stop.wait(wait):
            return False
        self.meter.add("retries")
        return True
