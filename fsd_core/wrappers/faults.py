"""The faults of a run, and drivers that inject those of real services: duplicates, changes of order, delays, refusals, lost replies, late
launches. The faults of workers (``kill``, ``hang``, ``slow``) are in `fsd_core.worker.mishaps`.

The faults respect the contract of `fsd_core.driver`: no message or object is lost forever. So a run with faults and a run without have the
same output. Each wrapper takes its decisions from one random stream that depends on seed, salt and the wrapper's class: the same calls
in the same order get the same faults. If several threads call a wrapper, the order of their calls decides which call gets which fault.
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
from typing import Any, NoReturn, TypeVar

import attrs

from fsd_core.common.fields import Kind, integer, key, keys, number, plain_digits, plain_number
from fsd_core.driver import Code, Delivery, InvokeDriver, Launch, Message, MessageDriver, ObjectDriver, Page, Rejected
from fsd_core.errors import InputError
from fsd_core.wrappers.around import Around, AroundInvoker, AroundMessages, AroundObjects, Driver

__all__ = ["Faults", "FaultyInvoker", "FaultyMessages", "FaultyObjects", "InjectedError"]

T = TypeVar("T")
LATE_S = (0.5, 1.5)  # the bounds in seconds of the uniform delay of a late launch
_MAX_DELAY_S = 60.0
_LOOK_S = 0.25  # seconds; a waiting receive looks this often for deliveries that another thread's receive has held back


def _seconds(text: str) -> float:
    """Convert a text such as "50ms" or "0.05s" to seconds. Raises `ValueError` for other texts."""
    match = re.fullmatch(r"([^ms]*)(ms|s)", text)
    if not match:
        raise ValueError(text)
    return plain_number(match[1]) / (1000 if match[2] == "ms" else 1)


_RATE = attrs.evolve(number(0, 1), parse=plain_number)
_SEED = attrs.evolve(integer(0, 10**18 - 1), parse=plain_digits)
_DELAY = attrs.evolve(
    number(0, _MAX_DELAY_S), expected=f"a time from 0s to {_MAX_DELAY_S:g}s with its unit, for instance 50ms", parse=_seconds
)


def _by_rank(form: str, sign: str, read: Callable[[str], Any]) -> Kind:
    """Pairs of a rank and what ``read`` makes of the text after ``sign``. ``form`` names such a pair in errors."""

    def parse(text: str) -> tuple[tuple[int, Any], ...]:
        parts = [part.strip().partition(sign) for part in text.split("+")]
        return tuple((plain_digits(rank), read(value)) for rank, _, value in parts)

    def holds(pairs: Any) -> bool:
        return isinstance(pairs, tuple) and all(1 <= value <= _MOST for _, value in pairs)

    return Kind(f"{form}, with {form.partition(sign)[2]} from 1 to {_MOST}; several with a plus between them", holds, parse=parse)


_MOST = 10**6
_AT_LAYER = _by_rank("RANK@LAYER", "@", plain_digits)
_BY_FACTOR = _by_rank("RANK:FACTOR", ":", plain_number)
_OF_WORKERS = {"kill": "@", "hang": "@", "slow": ":"}  # the faults of workers, with what stands behind the rank


class InjectedError(Exception):
    """The error that a wrapper raises in place of an error of the service. `classify` returns its ``code``."""

    def __init__(self, code: Code) -> None:
        super().__init__(f"injected {code.name}")
        self.code = code


@attrs.frozen
class Faults:
    """The faults to inject. The fields are probabilities from 0 to 1, except ``delay`` (seconds), ``seed``, and the faults of workers.

    ``kill`` and ``hang`` are pairs of a rank and a layer (1-based): the rank's first incarnation kills itself, or computes nothing more,
    before its first layer from that one on, else after its last layer. ``slow``: pairs of a rank and a factor of at least 1: its computing
    takes so many times as long.
    """

    duplicate: float = key(_RATE, default=0.0)  # a message or launch is sent twice
    reorder: float = key(_RATE, default=0.0)  # a delivery is held back for a later receive
    delay: float = key(_DELAY, default=0.0)  # the mean of the exponential delay of a delivery, in seconds
    reject: float = key(_RATE, default=0.0)  # an entry of a publish, ack or delete is refused as throttled
    throttle: float = key(_RATE, default=0.0)  # a call is refused and has no effect
    lost_reply: float = key(_RATE, default=0.0)  # a call takes effect and raises
    late: float = key(_RATE, default=0.0)  # a launch is made after `LATE_S`
    seed: int = key(_SEED, default=0)
    kill: tuple[tuple[int, int], ...] = key(_AT_LAYER, default=())
    hang: tuple[tuple[int, int], ...] = key(_AT_LAYER, default=())
    slow: tuple[tuple[int, float], ...] = key(_BY_FACTOR, default=())

    @staticmethod
    def parse(text: str) -> Faults:
        """Read the faults from a text such as ``duplicate=.1,delay=50ms,seed=1``.

        Raises `InputError` if a name is unknown or occurs twice, or if a value is wrong.
        """
        kinds = keys(Faults)
        found: dict[str, Any] = {}
        for part in text.split(","):
            name, _, value = (piece.strip() for piece in part.partition("="))
            if name not in kinds:
                raise InputError(f"faults: {part.strip()!r}: expected NAME=VALUE, NAME one of {', '.join(kinds)}")
            if name in found:
                raise InputError(f"faults: {name} is given twice: expected each name once")
            found[name] = kinds[name].read_text(value, f"faults: {name} = ")
        return Faults(**found)

    def check(self, workers: int) -> None:
        """Raise `InputError` if a fault names a rank that a run of so many workers does not have."""
        for name in _OF_WORKERS:
            for rank, value in getattr(self, name):
                if rank >= workers:
                    last = f"the last one of {workers} workers" if workers > 1 else "the only one"
                    raise InputError(f"faults: {name}={rank}{_OF_WORKERS[name]}{value:g}: expected a rank from 0 to {workers - 1}, {last}")

    def spec(self) -> str:
        """Format the faults as a text that `parse` reads."""
        shown = []
        for name, value in attrs.asdict(self).items():
            if name in _OF_WORKERS:
                if value:
                    shown.append(f"{name}={'+'.join(f'{rank}{_OF_WORKERS[name]}{each!r}' for rank, each in value)}")
            elif value or name == "seed":
                shown.append(f"{name}={value!r}{'s' if name == 'delay' else ''}")
        return ",".join(shown)


class _Dice:
    """One random stream. Thread-safe."""

    def __init__(self, faults: Faults, salt: object, kind: str) -> None:
        self._random = random.Random(f"{faults.seed}/{salt}/{kind}")
        self._lock = threading.Lock()

    def hit(self, rate: float) -> bool:
        """Return True with probability ``rate``. Takes exactly one number from the stream, also for a rate of 0."""
        with self._lock:
            return self._random.random() < rate

    def wait(self, mean: float) -> float:
        """A random number of seconds from the exponential distribution with this ``mean``; 0 if ``mean`` is 0."""
        with self._lock:
            return self._random.expovariate(1 / mean) if mean else 0.0

    def between(self, low: float, high: float) -> float:
        """A random number, uniform from ``low`` to ``high``."""
        with self._lock:
            return self._random.uniform(low, high)

    def shuffle(self, items: list[Delivery]) -> None:
        """Change the order of ``items`` in place."""
        with self._lock:
            self._random.shuffle(items)


class _Faulty(Around[Driver]):
    """The faults that all drivers can have. Wrappers with different values of ``salt`` get different faults."""

    def __init__(self, driver: Driver, faults: Faults, salt: object) -> None:
        super().__init__(driver)
        self._faults = faults
        self._dice = _Dice(faults, salt, type(self).__name__)

    def classify(self, error: BaseException) -> Code:
        """The code of an injected error. For any other error, the code that the wrapped driver gives to it."""
        return error.code if isinstance(error, InjectedError) else super().classify(error)

    def _begin(self) -> bool:
        """Raise if this call is throttled. Returns whether its reply will be lost."""
        if self._dice.hit(self._faults.throttle):
            raise InjectedError(Code.THROTTLED)
        return self._dice.hit(self._faults.lost_reply)

    def _some(self, items: Sequence[T], request: Callable[[list[T]], Sequence[Rejected]]) -> tuple[list[T], list[Rejected]]:
        """Refuse some of ``items`` and call ``request`` with the others. Returns the others, and all refusals with indices of ``items``."""
        ours = [Rejected(i, Code.THROTTLED, "injected") for i in range(len(items)) if self._dice.hit(self._faults.reject)]
        rest = sorted(set(range(len(items))) - {each.index for each in ours})
        sent = [items[i] for i in rest]
        theirs = request(sent) if sent or not items else ()
        return sent, ours + [Rejected(rest[each.index], each.code, each.reason) for each in theirs]


def _lose() -> NoReturn:
    raise InjectedError(Code.UNAVAILABLE)


class FaultyMessages(_Faulty[MessageDriver], AroundMessages):
    """A queue service with all faults except late. If a delivery is held back, a later receive of the same rank returns it."""

    def __init__(self, driver: MessageDriver, faults: Faults, salt: object) -> None:
        super().__init__(driver, faults, salt)
        self._held: dict[int, list[tuple[float, int, Delivery]]] = defaultdict(list)  # by rank: a heap of (visible from, number, delivery)
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
            time.sleep(0.01)  # without this, the loop would use a whole processor if the service rounds a short wait down to 0
        if len(ready) > 1 and self._faults.reorder:
            self._dice.shuffle(ready)
            back = [self._dice.hit(self._faults.reorder) for _ in ready[1:]]  # all but the first: a receive that found messages returns one
            self._hold(rank, [(0.0, each) for each, later in zip(ready[1:], back, strict=True) if later])
            ready = ready[:1] + [each for each, later in zip(ready[1:], back, strict=True) if not later]
        return _lose() if lost else ready

    def ack(self, rank: int, tokens: Sequence[object]) -> Sequence[Rejected]:
        """See `MessageDriver.ack`."""
        lost = self._begin()
        _, refused = self._some(tokens, partial(super().ack, rank))
        return _lose() if lost else refused

    def _once(self, rank: int, limit: int, until: float) -> list[Delivery]:
        """Up to ``limit`` deliveries that are visible after one receive of the service, which ends when a held delivery becomes visible."""
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
        """Up to ``limit`` held deliveries that are visible now, and the monotonic time at which the next one will be."""
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
    """An object store with the faults throttle and lost_reply, and with reject, which refuses keys of a delete."""

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
    """A function platform with the faults throttle, lost_reply, duplicate and late."""

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
        """Close the wrapped driver, and drop the late launches that are still waiting."""
        for timer in self._timers:
            timer.cancel()
        super().close()

    def _later(self, function: str, payload: bytes) -> Launch:
        late = _LateLaunch(self._driver, function, payload)
        timer = threading.Timer(self._dice.between(*LATE_S), late.make)
        timer.daemon = True  # the process does not wait for late launches: the contract allows that a launch never runs
        self._timers.append(timer)
        timer.start()
        return late


class _LateLaunch:
    """A launch that the caller gets at once, and that a timer makes later."""

    def __init__(self, driver: InvokeDriver, function: str, payload: bytes) -> None:
        self._driver, self._function, self._payload = driver, function, payload
        self._launch: Launch | None = None
        self._code: Code | None = None

    def make(self) -> None:
        """Make the launch. If the platform refuses it, `poll` returns the code."""
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
