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

import attrs

from fsd_core.driver import Code, Rejected
from fsd_core.errors import DriverError, FsdError
from fsd_core.storage.meter import Meter

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


@attrs.define(eq=False)
class _Call:
    """A call under way. ``failed``: it was answered by nobody once, and is tried again."""

    service: str
    began: float
    failed: bool = False


class Retry:
    """Calls drivers until they succeed, fail for good, or a limit is reached: deadline, budget, outage. Thread-safe.

    ``deadline`` is in seconds since the epoch; ``stop``, once set, ends every wait; ``budget`` bounds the retries of
    this process, so that a service that is down is not hammered for the whole of a long deadline.

    A call ends when its service has answered nobody for ``outage_s`` seconds, or has refused that one call for so long. ``stall_s()``,
    which a channel sets, is how long the peers wait for this rank: a service that answers nobody for so long ends a call as well.
    """

    def __init__(
        self, deadline: float, meter: Meter, *, stop: threading.Event | None = None, budget: int = 5000, outage_s: float = math.inf
    ) -> None:
        self.deadline = deadline
        self.meter = meter
        self.stop = stop or threading.Event()
        self.outage_s = outage_s
        self.stall_s: Callable[[], float] = lambda: math.inf
        self._left = budget
        self._lock = threading.Lock()
        self._random = random.Random()
        self._calls: set[_Call] = set()
        self._answered: dict[str, float] = {}  # by service: when (monotonic) it answered last, if only by a refusal

    def call(self, driver: Classifies, what: str, request: Callable[[], T]) -> T:
        """``request()``, retried while its error is transient. Raises `DriverError` with the SDK's error as cause."""
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

    def away(self, *, hanging: bool = False) -> tuple[str, float] | None:
        """The service that has answered nobody for longest, and for how many seconds; `None` if all answer.

        Only calls that failed count, or, with ``hanging``, those that wait for their first answer too: not where there are long polls.
        """
        with self._lock:
            silent = [(call.service, self._silent_s(call)) for call in self._calls if call.failed or hanging]
        return max(silent, key=lambda item: item[1], default=None)

    def report(self, notice: Callable[[str], None], over: threading.Event) -> None:
        """Give ``notice`` a line for people every `NOTICE_S` seconds while a service does not answer, until the event ``over`` is set."""
        while not over.wait(NOTICE_S):
            if (away := self.away(hanging=True)) and away[1] >= NOTICE_S:
                notice(f"{away[0]} unreachable for {away[1]:.0f} s, retrying")

    def _silent_s(self, call: _Call) -> float:
        """How long the service of a call has answered nobody."""
        return time.monotonic() - max(call.began, self._answered.get(call.service, 0.0))

    def _over(self, call: _Call) -> float | None:
        """The seconds after which a call that failed must end, once it or its service is over its limit."""
        if not call.failed:
            return None
        if (silent_s := self._silent_s(call)) >= min(self.outage_s, self.stall_s()):
            return silent_s
        failing_s = time.monotonic() - call.began
        return failing_s if failing_s >= self.outage_s else None

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
