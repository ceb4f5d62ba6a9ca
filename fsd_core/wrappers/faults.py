"""Drivers that misbehave as real services do, from a seed: duplicates, disorder, delay, refusals, lost replies.

What they do is inside the contract of `fsd_core.driver`: nothing is lost for good, so a run under faults must end with
the same answer. The decisions of one wrapper are one random stream of (seed, salt, kind): calls made in the same order
meet the same faults. Threads that race for calls race for decisions too.
"""

from __future__ import annotations

import heapq
import itertools
import random
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn, TypeVar

import attrs

from fsd_core.driver import Code, Delivery, InvokeDriver, Launch, Message, MessageDriver, ObjectDriver, Page, Rejected
from fsd_core.errors import InputError
from fsd_core.wrappers.around import Around, AroundInvoker, AroundMessages, AroundObjects, Driver

__all__ = ["Faults", "FaultyInvoker", "FaultyMessages", "FaultyObjects", "InjectedError"]

T = TypeVar("T")
LATE_S = (0.5, 1.5)  # how long a late launch is held back: uniform between these
_DELAY_MOST_S = 60.0
_LOOK_S = 0.25  # how long a blocked receive may overlook what another thread's receive held back


class InjectedError(Exception):
    """An error that no service raised; ``code`` is what `classify` makes of it."""

    def __init__(self, code: Code) -> None:
        super().__init__(f"injected {code.name}")
        self.code = code


@attrs.frozen
class Faults:
    """What goes wrong: probabilities from 0 to 1, a mean delay in seconds, a seed."""

    duplicate: float = 0.0  # a message or launch is sent twice
    reorder: float = 0.0  # a delivery is held back for a later receive
    delay: float = 0.0  # mean seconds, exponentially distributed, before a delivery is visible
    reject: float = 0.0  # an entry of a publish, ack or delete is refused as throttled
    throttle: float = 0.0  # a call is refused, without effect
    lost_reply: float = 0.0  # a call has its effect, and raises
    late: float = 0.0  # a launch is made later than asked
    seed: int = 0

    @staticmethod
    def parse(text: str) -> Faults:
        """Faults from ``duplicate=.1,delay=50ms,seed=1``; `InputError` on an unknown name, a wrong value, a name given twice."""
        known = [f.name for f in attrs.fields(Faults)]
        found: dict[str, float] = {}
        for part in text.split(","):
            name, _, value = (piece.strip() for piece in part.partition("="))
            if name not in known:
                raise InputError(f"faults: {part.strip()!r}: must be NAME=VALUE with one of {', '.join(known)}")
            if name in found:
                raise InputError(f"faults: {name} is given twice: give it once")
            found[name] = _seed(value) if name == "seed" else _delay(value) if name == "delay" else _rate(name, value)
        return Faults(**found)  # type: ignore[arg-type]  # seed alone is an int, and _seed made it one

    def spec(self) -> str:
        """The text that `parse` reads back to these faults."""
        shown = (f"{f.name}={getattr(self, f.name)!r}" for f in attrs.fields(Faults) if getattr(self, f.name) or f.name == "seed")
        return ",".join(part + "s" if part.startswith("delay=") else part for part in shown)


def _rate(name: str, text: str) -> float:
    value = _decimal(text)
    if value is None or not 0 <= value <= 1:
        raise InputError(f"faults: {name}={text}: must be a probability from 0 to 1")
    return value


def _delay(text: str) -> float:
    match = re.fullmatch(r"(.*?)(ms|s)", text)
    value = _decimal(match[1]) if match else None
    seconds = value / 1000 if match and value is not None and match[2] == "ms" else value
    if seconds is None or not 0 <= seconds <= _DELAY_MOST_S:
        raise InputError(f"faults: delay={text}: must be a time from 0s to {_DELAY_MOST_S:g}s with its unit, for instance 50ms")
    return seconds


def _seed(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise InputError(f"faults: seed={text}: must be a whole number, 0 or more")
    return int(text)


def _decimal(text: str) -> float | None:
    return float(text) if re.fullmatch(r"(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?", text, re.ASCII) else None


class _Dice:
    """One random stream, shared by threads."""

    def __init__(self, faults: Faults, salt: object, kind: str) -> None:
        self._random = random.Random(f"{faults.seed}/{salt}/{kind}")
        self._lock = threading.Lock()

    def hit(self, rate: float) -> bool:
        """True with probability ``rate``. Always takes one number from the stream."""
        with self._lock:
            return self._random.random() < rate

    def wait(self, mean: float) -> float:
        """Seconds, exponentially distributed; 0 where the mean is."""
        with self._lock:
            return self._random.expovariate(1 / mean) if mean else 0.0

    def between(self, low: float, high: float) -> float:
        """A number from ``low`` to ``high``."""
        with self._lock:
            return self._random.uniform(low, high)

    def shuffle(self, items: list[Delivery]) -> None:
        """Shuffle in place."""
        with self._lock:
            self._random.shuffle(items)


class _Faulty(Around[Driver]):
    """The faults that all drivers share."""

    def __init__(self, driver: Driver, faults: Faults, salt: object) -> None:
        super().__init__(driver)
        self._faults = faults
        self._dice = _Dice(faults, salt, type(self).__name__)

    def classify(self, error: BaseException) -> Code:
        """The code of an injected error; for any other, the wrapped driver's."""
        return error.code if isinstance(error, InjectedError) else super().classify(error)

    def _begin(self) -> bool:
        """Raise where this call is throttled; whether its reply will be lost."""
        if self._dice.hit(self._faults.throttle):
            raise InjectedError(Code.THROTTLED)
        return self._dice.hit(self._faults.lost_reply)

    def _some(self, items: Sequence[T], request: Callable[[list[T]], Sequence[Rejected]]) -> tuple[list[T], list[Rejected]]:
        """Refuse some of ``items``, request the others: those requested, and all refusals in terms of ``items``."""
        ours = [Rejected(i, Code.THROTTLED, "injected") for i in range(len(items)) if self._dice.hit(self._faults.reject)]
        rest = sorted(set(range(len(items))) - {each.index for each in ours})
        sent = [items[i] for i in rest]
        theirs = request(sent) if sent or not items else ()
        return sent, ours + [Rejected(rest[each.index], each.code, each.reason) for each in theirs]


def _lose() -> NoReturn:
    raise InjectedError(Code.UNAVAILABLE)


class FaultyMessages(_Faulty[MessageDriver], AroundMessages):
    """A queue service with `Faults`. Deliveries that it holds back come with a later receive of their rank, or again after their lease."""

    def __init__(self, driver: MessageDriver, faults: Faults, salt: object) -> None:
        super().__init__(driver, faults, salt)
        self._held: dict[int, list[tuple[float, int, Delivery]]] = defaultdict(list)  # rank -> heap by the time it is visible
        self._order = itertools.count()
        self._lock = threading.Lock()

    def publish(self, messages: Sequence[Message]) -> Sequence[Rejected]:
        """See `MessageDriver.publish`."""
        lost = self._begin()
        sent, refused = self._some(messages, super().publish)
        if twice := [each for each in sent if self._dice.hit(self._faults.duplicate)]:
            super().publish(twice)
        return _lose() if lost else refused

    def receive(self, rank: int, limit: int, wait_s: float) -> Sequence[Delivery]:
        """See `MessageDriver.receive`."""
        lost = self._begin()
        until = time.monotonic() + wait_s
        while not (ready := self._once(rank, limit, until)) and time.monotonic() < until:
            time.sleep(0.01)  # a service that rounds a short wait down to none is not asked in a tight loop
        if len(ready) > 1 and self._faults.reorder:
            self._dice.shuffle(ready)
            back = [self._dice.hit(self._faults.reorder) for _ in ready[1:]]  # never all: a receive that found something returns something
            self._hold(rank, [(0.0, each) for each, later in zip(ready[1:], back, strict=True) if later])
            ready = ready[:1] + [each for each, later in zip(ready[1:], back, strict=True) if not later]
        return _lose() if lost else ready

    def ack(self, rank: int, tokens: Sequence[object]) -> Sequence[Rejected]:
        """See `MessageDriver.ack`."""
        lost = self._begin()
        _, refused = self._some(tokens, partial(super().ack, rank))
        return _lose() if lost else refused

    def _once(self, rank: int, limit: int, until: float) -> list[Delivery]:
        """What is visible after one look at the service, at most ``limit``; waits no longer than to the next held delivery."""
        ready, next_due = self._due(rank, limit)
        if len(ready) < limit:
            wait = 0.0 if ready else max(0.0, min(until, next_due) - time.monotonic())
            if self._faults.reorder or self._faults.delay:
                wait = min(wait, _LOOK_S)
            came = super().receive(rank, limit - len(ready), wait)
            if not self._faults.delay:
                return ready + list(came)
            now = time.monotonic()
            self._hold(rank, [(now + self._dice.wait(self._faults.delay), each) for each in came])
            ready += self._due(rank, limit - len(ready))[0]
        return ready

    def _due(self, rank: int, limit: int) -> tuple[list[Delivery], float]:
        """Held deliveries whose time came, at most ``limit``, and when the next one is due."""
        with self._lock:
            held, now, ready = self._held[rank], time.monotonic(), list[Delivery]()
            while held and held[0][0] <= now and len(ready) < limit:
                ready.append(heapq.heappop(held)[2])
            return ready, held[0][0] if held else float("inf")

    def _hold(self, rank: int, deliveries: Sequence[tuple[float, Delivery]]) -> None:
        with self._lock:
            for due, delivery in deliveries:
                heapq.heappush(self._held[rank], (due, next(self._order), delivery))


class FaultyObjects(_Faulty[ObjectDriver], AroundObjects):
    """An object store with `Faults`: throttle, lost_reply, and reject for the keys of a delete."""

    def put(self, key: str, body: bytes | bytearray | memoryview, *, if_absent: bool = False) -> None:
        """See `ObjectDriver.put`."""
        lost = self._begin()
        super().put(key, body, if_absent=if_absent)
        if lost:
            _lose()

    def get(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        """See `ObjectDriver.get`."""
        lost = self._begin()
        body = super().get(key, start, end)
        return _lose() if lost else body

    def list(self, prefix: str, page: str | None = None) -> Page:
        """See `ObjectDriver.list`."""
        lost = self._begin()
        found = super().list(prefix, page)
        return _lose() if lost else found

    def delete(self, keys: Sequence[str]) -> Sequence[Rejected]:
        """See `ObjectDriver.delete`."""
        lost = self._begin()
        _, refused = self._some(keys, super().delete)
        return _lose() if lost else refused


class FaultyInvoker(_Faulty[InvokeDriver], AroundInvoker):
    """A function platform with `Faults`: throttle, lost_reply, duplicate and late launches."""

    def __init__(self, driver: InvokeDriver, faults: Faults, salt: object) -> None:
        super().__init__(driver, faults, salt)
        self._timers: list[threading.Timer] = []

    def invoke(self, function: str, payload: bytes) -> Launch:
        """See `InvokeDriver.invoke`."""
        lost = self._begin()
        twice, late = self._dice.hit(self._faults.duplicate), self._dice.hit(self._faults.late)
        launch = self._later(function, payload) if late else super().invoke(function, payload)
        if twice:
            super().invoke(function, payload)
        return _lose() if lost else launch

    def close(self) -> None:
        """Close the wrapped driver; launches that were not made yet never are."""
        for timer in self._timers:
            timer.cancel()
        super().close()

    def _later(self, function: str, payload: bytes) -> Launch:
        late = _LateLaunch(self._driver, function, payload)
        timer = threading.Timer(self._dice.between(*LATE_S), late.make)
        timer.daemon = True  # a process that ends takes its late launches with it: a launch may run never
        self._timers.append(timer)
        timer.start()
        return late


class _LateLaunch:
    """A launch that is accepted now and made when the timer calls."""

    def __init__(self, driver: InvokeDriver, function: str, payload: bytes) -> None:
        self._driver, self._function, self._payload = driver, function, payload
        self._launch: Launch | None = None
        self._code: Code | None = None

    def make(self) -> None:
        """Make the launch; where it is refused, `poll` says so."""
        try:
            self._launch = self._driver.invoke(self._function, self._payload)
        except Exception as error:
            self._code = self._driver.classify(error)

    def poll(self) -> Code | None:
        """See `Launch.poll`."""
        return self._launch.poll() if self._launch else self._code

    @property
    def text(self) -> str:
        """See `Launch.text`."""
        return self._launch.text if self._launch else ""
