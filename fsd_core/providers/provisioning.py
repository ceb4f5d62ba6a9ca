"""What every cloud's provisioner does: requests with a deadline, a message through every queue, a launch that ends well."""

from __future__ import annotations

import json
import re
import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from contextvars import ContextVar
from typing import Generic, Self, TypeVar

from fsd_core.common.crew import each
from fsd_core.common.interrupt import leaving
from fsd_core.driver import WORKER, Code, Launch, Message, MessageDriver, Provider, Resources
from fsd_core.errors import DriverError, InputError
from fsd_core.providers.advice import line
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import TRANSIENT, Retry
from fsd_core.storage.store import Store

__all__ = ["LIMIT_S", "PROBE", "AppProvisioner", "Pair", "Requests", "check_app", "check_size", "probe_queues", "telling", "try_out"]

LIMIT_S = 1800.0  # that making an app may take, or removing one, from the first request to the last
PROBE = b"fsd-probe-"  # what a probe's message starts with: core drops one that it should ever see, since it is no frame
_THREADS = 16
_FIRST_S = 15.0  # a service that does not answer the first request in this time is not there
_AGAIN_S = 60.0  # a launch that was neither seen nor given up is made again after this
_READY_S = 180.0
_PAUSE_S = 2.0  # the longest between two looks
_TELL_S = 5.0  # between two lines of what takes long

Tell = Callable[[str], None]
_TELL: ContextVar[Tell] = ContextVar("_TELL", default=lambda text: None)
Pair = tuple[int, int]  # slot, rank
T = TypeVar("T")
R = TypeVar("R")


def check_app(app: str) -> None:
    """Raises `InputError` where an app's name is none that every provider can build its names from."""
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", app):
        raise InputError(f"app {app!r}: must be a lower-case letter, then up to 39 of a-z, 0-9 and '-', not ending in '-'")


def check_size(ranks: int, slots: int) -> None:
    """Raises `InputError` where there are no ranks or no slots."""
    if ranks < 1 or slots < 1:
        raise InputError(f"ranks {ranks}, slots {slots}: both must be at least 1")


@contextmanager
def telling(tell: Tell) -> Iterator[None]:
    """Within the block ``tell`` hears what the provisioners that this thread calls are doing: every 5 s, where it takes so long."""
    token = _TELL.set(tell)
    try:
        yield
    finally:
        _TELL.reset(token)


class Requests:
    """A provisioner's requests: core's retry layer, a deadline, many at a time, errors that say what to do. A context manager.

    ``unset``: the SDK's errors that mean that nothing is set up on this machine (credentials, a region): they become `InputError`.
    ``advise``: what a person can do about an error, if anything. ``closing`` closes at the end what was registered there: the clients.
    ``tell``: see `telling`.
    """

    def __init__(
        self,
        classify: Callable[[BaseException], Code],
        advise: Callable[[BaseException], str | None],
        unset: tuple[type[BaseException], ...] = (),
    ) -> None:
        self._stop = threading.Event()
        self.retry = Retry(time.time() + _FIRST_S, Meter(), stop=self._stop)
        self.closing = ExitStack()
        self._classify, self._advise, self._unset = classify, advise, unset
        self._late: str | None = None  # what to say where the deadline ends it
        self.tell, self._began, self._told = _TELL.get(), time.monotonic(), time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        self.closing.close()

    def classify(self, error: BaseException) -> Code:
        """The code of an error of a request."""
        return self._classify(error)

    def within(self, seconds: float, late: str | None = None) -> None:
        """Set the deadline of what follows; before the first call it is 15 s. ``late``: what an error says first where that ends it."""
        self.retry.deadline = time.time() + seconds
        self._late = late

    def left(self) -> float:
        """Seconds until the deadline; at least 0."""
        return max(0.0, self.retry.deadline - time.time())

    def late(self, what: str) -> DriverError:
        """The error of a deadline that ended ``what``."""
        return DriverError(Code.DEADLINE, f"{self._late}: {what}" if self._late else f"{what}: not within its time")

    def repeat(self, what: str, request: Callable[[], T]) -> T:
        """``request()``, again while its error is transient. Raises `DriverError`, or `InputError` where nothing is set up."""
        self._doing(what)
        try:
            return self.retry.call(self, what, request)
        except DriverError as error:
            cause = error.__cause__
            tip = self._advise(cause) if cause else None
            if isinstance(cause, self._unset):
                raise InputError(line(cause, tip)) from cause
            text = error.message if tip is None else f"{error.message}: {tip}"
            if self._late and error.code in TRANSIENT and self.left() <= 2 * _PAUSE_S:  # there was no time for another pause
                raise self.late(text) from cause
            if tip is None:
                raise
            raise DriverError(error.code, text) from cause

    def unless(self, code: Code, what: str, request: Callable[[], T]) -> T | None:
        """Like `repeat`; None where the error is one of ``code``."""
        try:
            return self.repeat(what, request)
        except DriverError as error:
            if error.code is code:
                return None
            raise

    def each(self, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """``work`` of every item, many at a time; the first error is raised."""
        return each(work, items, _THREADS)

    def until(self, what: str, check: Callable[[], T | None]) -> T:
        """Ask until ``check`` gives something. Raises `DriverError` of DEADLINE."""
        wait = 0.05
        while (found := check()) is None:
            self._doing(what)
            if self.left() <= wait or self._stop.wait(wait):
                raise self.late(what)
            wait = min(_PAUSE_S, 1.5 * wait)
        return found

    def _doing(self, what: str) -> None:
        """Tell it, if that is due."""
        now = time.monotonic()
        if now - self._told >= _TELL_S:
            self._told = now
            self.tell(f"{now - self._began:.0f} s: {what}")


A = TypeVar("A", bound=Requests)


class AppProvisioner(ABC, Generic[A]):
    """Implements `fsd_core.driver.Provisioner` where the function is the record of its app: what its environment says, there is.

    ``ensure`` is one request where everything is there. A subclass says how the rest is made and removed.
    """

    def ensure(self, app: str, ranks: int, slots: int) -> Resources:
        """Make what is missing for ``slots`` slots of ``ranks`` ranks; what there is may be more. Minutes the first time.

        Raises `InputError` where a setting, a name or the set-up of credentials is wrong, `DriverError` where a service refuses.
        """
        check_size(ranks, slots)
        with self._asking(app) as api:
            had, wanted = self.read(api, app), self.wanted()
            if had and had.ranks:
                self.check(had, wanted)
            if had and had.ranks >= ranks and had.slots >= slots and wanted.items() <= had.names.items():
                return had
            _limit(api, "provisioning", "`fsd deploy` goes on where it stopped")
            api.tell(f"making what app {app} needs: this may take minutes")
            with leaving(f"app {app} is made in part: `fsd deploy` goes on where it stopped, `fsd destroy` removes it"):
                return self.make(api, app, ranks, slots, had, wanted)

    def find(self, app: str) -> Resources | None:
        """What `ensure` made, if it ended."""
        with self._asking(app) as api:
            found = self.read(api, app)
            return found if found and found.ranks else None

    def sweep(self, app: str) -> Sequence[str]:
        """Remove queues that no `ensure` will take up: those of another generation than the function's; a line for each."""
        with self._asking(app) as api:
            had = self.read(api, app)
            _limit(api, "removing queues", "`fsd gc` goes on where it stopped")
            return self.remove_queues(api, app, had.names["generation"] if had else None)

    def destroy(self, app: str) -> Sequence[str]:
        """Remove everything of every generation of the app; a line for each thing."""
        with self._asking(app) as api:
            had = self.read(api, app)
            _limit(api, "removing the app", "`fsd destroy` goes on where it stopped")
            with leaving(f"app {app} is removed in part: `fsd destroy` removes the rest"):
                return self.remove(api, app, had)

    def _asking(self, app: str) -> A:
        check_app(app)
        return self.requests()

    @abstractmethod
    def requests(self) -> A:
        """The way to the services. Raises `InputError` where nothing is set up on this machine."""

    @abstractmethod
    def read(self, api: A, app: str) -> Resources | None:
        """What the function says of its app, with no ranks as long as it is not all made; None where there is no function."""

    @abstractmethod
    def wanted(self) -> dict[str, str]:
        """What the settings decide of `Resources.names`; the rest is as it was found or made."""

    def check(self, had: Resources, wanted: dict[str, str]) -> None:
        """Raises `InputError` where a setting says otherwise than what the app was made with, and cannot be changed."""

    @abstractmethod
    def make(self, api: A, app: str, ranks: int, slots: int, had: Resources | None, wanted: dict[str, str]) -> Resources:
        """Make or change what is missing, try it out, and say so in the function's environment last."""

    @abstractmethod
    def remove(self, api: A, app: str, had: Resources | None) -> list[str]:
        """Remove everything: the function first, the rest by its names."""

    @abstractmethod
    def remove_queues(self, api: A, app: str, keep: str | None) -> list[str]:
        """Remove the queues of an app but those of generation ``keep``."""


def _limit(api: Requests, what: str, onward: str) -> None:
    """Bound what follows, and say so where that ends it."""
    api.within(LIMIT_S, f"{what} took longer than {LIMIT_S:g} s; {onward}")


def probe_queues(provider: Provider, resources: Resources, pairs: Iterable[Pair], requests: Requests) -> None:
    """Return once a message got to the queue of every pair, and was removed. Raises `DriverError` naming what does not deliver."""
    by_slot = defaultdict(set)
    for slot, rank in pairs:
        by_slot[slot].add(rank)
    for slot, ranks in by_slot.items():
        with closing(provider.messages(resources, slot)) as driver:
            _probe_slot(driver, slot, ranks, requests)


def _probe_slot(driver: MessageDriver, slot: int, missing: set[int], requests: Requests) -> None:
    body, limits, wait_s = PROBE + secrets.token_hex(8).encode(), driver.limits, 1.0
    most = min(limits.batch_messages, limits.batch_bytes // (len(body) + limits.overhead_bytes))

    def arrived(rank: int) -> bool:
        what = f"probe of queue {slot}-{rank}"
        got = requests.repeat(what, lambda: driver.receive(rank, limits.receive_messages, min(wait_s, limits.wait_s)))
        tokens = [each.token for each in got if each.body.startswith(PROBE)]
        for at in range(0, len(tokens), limits.batch_messages):
            requests.retry.entries(driver, what, tokens[at : at + limits.batch_messages], lambda some: driver.ack(rank, some))
        return any(each.body == body for each in got)

    def publish(ranks: Sequence[int]) -> None:
        requests.retry.entries(driver, f"probe of slot {slot}", [Message(rank, body) for rank in ranks], driver.publish)

    def check() -> bool | None:
        nonlocal wait_s
        ranks, routes = sorted(missing), defaultdict(list)
        for rank in ranks:
            routes[driver.route(rank)].append(rank)
        requests.each(publish, [some[at : at + most] for some in routes.values() for at in range(0, len(some), most)])
        missing.difference_update(rank for rank, there in zip(ranks, requests.each(arrived, ranks), strict=True) if there)
        wait_s = min(5.0, 2 * wait_s)  # the next probe goes out only then
        return None if missing else True

    requests.until(f"slot {slot}, ranks {', '.join(map(str, sorted(missing)))}: a message to each queue", check)


def try_out(provider: Provider, resources: Resources, requests: Requests, where: str, patience_s: float | None = None) -> None:
    """Return once the function ran and wrote to the object store: its code imports, and what it may do is known everywhere.

    Raises `DriverError` where it does not; ``where``: what tells why, for instance "log group NAME"; ``patience_s``: how long what the
    function may do can take to be known, three minutes unless the provider says.
    """
    key = f"probe/deploy-{secrets.token_hex(8)}"
    payload = json.dumps({"app": resources.app, "probe": {"key": key}}).encode()
    until = min(requests.retry.deadline, time.time() + (_READY_S if patience_s is None else patience_s))
    with closing(provider.invoker(resources)) as invoker, closing(provider.objects(resources)) as objects:
        store, wait = Store(objects, requests.retry), 0.0
        launch: Launch | None = None
        launched, said = 0.0, ""
        while not any(name.startswith(f"{key}/ended-") for name in store.keys(f"{key}/")):
            requests.repeat("failures of the function", lambda: invoker.failures(lambda told: told == payload))  # which `poll` may wait for
            code = launch.poll() if launch else None
            said = f" ({code.value})" if code else said
            if time.time() >= until:
                text = f"app {resources.app!r}: the function was started and did not end well{said}: {where} says why"
                raise DriverError(Code.UNAVAILABLE, text) if requests.left() else requests.late(text)
            if launch is None or code or time.time() - launched >= _AGAIN_S:
                launch, launched = requests.repeat("launch of the function", lambda: invoker.invoke(WORKER, payload)), time.time()
            time.sleep(wait := min(1.0, 0.05 + 1.5 * wait))
        store.delete_prefix(f"{key}/")
