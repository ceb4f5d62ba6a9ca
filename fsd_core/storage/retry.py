"""The only place that retries requests, up to the run's deadline, a number of retries, and a maximum time without an answer.

The waits have full jitter: each is uniform in [0, cap], so that ranks that were throttled at the same time retry at different times (see
"Exponential Backoff And Jitter", AWS Architecture Blog, 2015). If the service requests a wait of w seconds, the wait is uniform in
[w, w + max(w, cap)].
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

import attrs

from fsd_core.common.logs import masked
from fsd_core.driver import Code, Rejected
from fsd_core.errors import DriverError, FsdError
from fsd_core.storage.meter import Meter

__all__ = ["OUTAGE_S", "TRANSIENT", "Retry"]

log = logging.getLogger(__name__)

T = TypeVar("T")
TRANSIENT = frozenset({Code.THROTTLED, Code.UNAVAILABLE})  # the same request may succeed later
FIRST_CAP_S = 0.02  # of the wait before the first retry; the cap doubles with each retry
LAST_CAP_S = 2.0
OUTAGE_S = 60.0  # a run ends after a service was unreachable for this many seconds
NOTICE_S = 5.0  # while a service is unreachable, the user gets a notice every this many seconds


class Classifies(Protocol):
    """The part of a driver that `Retry.call` needs. If the driver has the attribute ``service``, errors call the service by that name."""

    def classify(self, error: BaseException) -> Code:
        """The code of an error that the driver raised."""


@attrs.define(eq=False)
class _Call:
    """A call that has not returned yet. ``began`` is in monotonic seconds. ``failed``: at least one try got no answer from the service."""

    service: str
    began: float
    failed: bool = False


class Retry:
    """Repeats a request until it succeeds, fails with an error that is not transient, or reaches a limit. Thread-safe.

    The limits are:

    - ``deadline``: seconds since 1970. No retry starts after it.
    - ``stop``: an event. After it is set, every wait ends and no retry starts.
    - ``budget``: the maximum number of retries of this object, so that a service that is down does not get requests for hours.
    - ``outage_s``: seconds. If a try of a call got no answer, the call fails when this time has passed since its start.
    - ``stall_s()``: seconds that the other ranks wait for this rank; a channel sets it. Such a call also fails if its service has answered
      no call of this object for this time, counted from the start of the call at the earliest.
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
        """Return the result of ``request()``. Repeats the call while the code of its error is in `TRANSIENT`.

        Raises `DriverError` with the SDK's error as its cause; the error line calls the request ``what``. An `FsdError` passes unchanged.
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
                    if not self.pause(attempt, getattr(error, "retry_after_s", None) or 0.0, f"{code.name}: {reason}"):
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

        Considers only calls with a failed try. With ``hanging``, also considers calls that wait for their first answer; these include
        receives that wait for messages.
        """
        with self._lock:
            silent = [(call.service, self._silent_s(call)) for call in self._calls if call.failed or hanging]
        return max(silent, key=lambda item: item[1], default=None)

    def report(self, notice: Callable[[str], None], over: threading.Event) -> None:
        """Until ``over`` is set: while a service does not answer, call ``notice`` every `NOTICE_S` seconds with a line for the user."""
        while not over.wait(NOTICE_S):
            if (silent := self.unreachable(hanging=True)) and silent[1] >= NOTICE_S:
                notice(f"{silent[0]} unreachable for {silent[1]:.0f} s, retrying")

    def _silent_s(self, call: _Call) -> float:
        """The smaller of: seconds since the call began, and seconds since its service last answered any call."""
        return time.monotonic() - max(call.began, self._answered.get(call.service, 0.0))

    def _over(self, call: _Call) -> float | None:
        """The seconds without an answer if they exceed a limit, so that the call has to end; else `None`."""
        if not call.failed:
            return None
        if (silent_s := self._silent_s(call)) >= min(self.outage_s, self.stall_s()):
            return silent_s
        failing_s = time.monotonic() - call.began
        return failing_s if failing_s >= self.outage_s else None

    def entries(self, driver: Classifies, what: str, items: Sequence[T], request: Callable[[Sequence[T]], Sequence[Rejected]]) -> None:
        """Call ``request(items)``, and repeat it with the rejected items until the service has accepted all items.

        Raises `DriverError` if the service rejects an item with a code that is not in `TRANSIENT`, or if a limit is reached.
        """
        attempt = 0
        while items:
            rejected = self.call(driver, what, partial(request, items))
            for entry in rejected:
                if entry.code not in TRANSIENT:
                    raise DriverError(entry.code, f"{what}: {entry.reason}")
            items = [items[entry.index] for entry in rejected]
            if items and not self.pause(attempt, why=f"{rejected[0].code.name}: {what}: {len(items)} refused: {rejected[0].reason}"):
                raise DriverError(rejected[0].code, f"{what}: {len(items)} entries still refused: {rejected[0].reason}")
            attempt += 1

    def renew(self, deadline: float, budget: int = 1000) -> None:
        """Set a new deadline and budget."""
        with self._lock:
            self.deadline = deadline
            self._budget = budget

    def pause(self, attempt: int, min_s: float = 0.0, why: str = "") -> bool:
        """Count a retry and wait before it, for at least ``min_s`` seconds. ``attempt`` is the number of earlier retries.

        The log line of the retry gives ``why`` as its reason; without it there is no line.
        Returns `False` if no retry is allowed: ``stop`` is set (this also ends the wait), the budget is used up, or the wait would end
        after the deadline.
        """
        with self._lock:
            self._budget -= 1
            wait = min_s + self._random.uniform(0, max(min_s, min(LAST_CAP_S, FIRST_CAP_S * 2 ** min(attempt, 16))))
            if self._budget < 0 or time.time() + wait >= self.deadline:
                return False
        if why:
            log.info("retry %d in %.2f s: %s", attempt + 1, wait, masked(why))
        if self.stop.wait(wait):
            return False
        self.meter.add("retries")
        return True
