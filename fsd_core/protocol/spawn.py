"""Starts functions, checks that they have started, and reports those that died.

On every platform a launch can run late, run twice or get lost. So the process that launches ranks (the client for the first ones, a worker
for its children) checks the claims of these ranks. It launches a rank again if the rank has no claim in time. A second launch of a rank
that has started is harmless, because only one function can create the claim.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import attrs

from fsd_core.common.crew import each
from fsd_core.common.fields import integer, key, number, read, text
from fsd_core.driver import WORKER, Code, Failure, InvokeDriver, InvokeLimits, Launch
from fsd_core.errors import DriverError, FsdError, RunFailed
from fsd_core.storage.keys import RunKeys
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store

__all__ = ["LaunchPayload", "Spawner", "start_limit_s"]

log = logging.getLogger(__name__)

ATTEMPTS = 4
FIRST_CHECK_S = 1.0
LAST_CHECK_S = 4.0
THREADS = 16  # requests to launch functions that are under way at once
FEW = 4  # for more missing claims, one request lists all claims
FAILURES_S = 0.5  # between two requests for failures
OFFER_S = 3.0  # for the launch of a function that the run can do without: a refusal may be over soon
FINAL = frozenset({Code.NOT_FOUND, Code.DENIED, Code.INVALID, Code.TOO_LARGE})  # another launch cannot help


def start_limit_s(limits: InvokeLimits) -> float:
    """The seconds that one rank may take to start before the run fails. Attempt k (from 1) may take k x `InvokeLimits.start_s`."""
    return limits.start_s * sum(range(1, ATTEMPTS + 1))


@attrs.frozen
class LaunchPayload:
    """The payload of a launch. A worker reads everything else from the run's configuration."""

    app: str = key(text())
    slot: int = key(integer(0))
    epoch: int = key(integer(1))  # of the slot's lease
    run: str = key(text())
    rank: int = key(integer(0))
    attempt: int = key(integer(0))  # of launching this incarnation of the rank
    deadline: float = key(number())  # of the run, in seconds since 1970
    incarnation: int = key(integer(0), default=0)  # of the rank
    not_before: float = key(number(), default=0.0)  # when the function may begin, in seconds since 1970: a run with latencies sets it

    def pack(self) -> bytes:
        """Encode the payload as JSON."""
        return json.dumps(attrs.asdict(self, recurse=False)).encode()

    @staticmethod
    def unpack(fields: Mapping[str, Any]) -> LaunchPayload:
        """Convert decoded JSON to a payload. Raises `InputError` if a key is missing or has a wrong value.

        Unknown keys are ignored: the run's configuration, which the worker reads next, names the version of fsd.
        """
        return read(LaunchPayload, fields, "launch payload: ", known=fields.keys())


@attrs.frozen
class _Child:
    payload: LaunchPayload
    launch: Launch
    since: float  # when it was launched, on the monotonic clock
    first: float  # when it was launched for the first time
    spare: bool  # the run can do without it


class Spawner:
    """Starts ranks and checks their claims. Calls ``report`` with each `Failure` of this run that the platform reports."""

    def __init__(self, invoker: InvokeDriver, store: Store, retry: Retry, keys: RunKeys, report: Callable[[Failure], None]) -> None:
        self._invoker = invoker
        self._store = store
        self._retry = retry
        self._keys = keys
        self._report = report
        self._waiting: list[_Child] = []
        self._claimed: list[_Child] = []
        self._given_up: list[LaunchPayload] = []
        self._unreported: list[Failure] = []
        self._lock = threading.Lock()

    def start(self, payloads: Iterable[LaunchPayload]) -> None:
        """Launch a function for each payload, with up to `THREADS` requests at once."""
        self._waiting += each(self._launch, payloads, THREADS)

    def offer(self, payload: LaunchPayload) -> bool:
        """Launch a function that the run can do without. Returns `False` if the platform does not accept it within `OFFER_S` seconds.

        If the platform accepts the launch, and then does not start the function, the payload is in `given_up`.
        """
        try:
            self._waiting.append(self._launch(payload, spare=True))
        except DriverError as error:
            log.warning("rank %d gets no second function: %s", payload.rank, error)
            return False
        return True

    def given_up(self) -> list[LaunchPayload]:
        """The payloads that `offer` accepted, and whose functions did not start. Returns each once."""
        with self._lock:
            found, self._given_up = self._given_up, []
        return found

    def _launch(self, payload: LaunchPayload, *, first: float | None = None, spare: bool = False) -> _Child:
        log.info("launches rank %d, attempt %d", payload.rank, payload.attempt)
        request, retry = partial(self._invoker.invoke, WORKER, payload.pack()), self._retry
        if spare:
            retry = Retry(min(retry.deadline, time.time() + OFFER_S), retry.meter, stop=retry.stop)
        launch = retry.call(self._invoker, f"launch of rank {payload.rank}", request)
        now = time.monotonic()
        return _Child(payload, launch, now, now if first is None else first, spare)

    def check(self) -> bool:
        """Look once for each missing claim. Launch a rank again if it is late or its launch was refused, up to `THREADS` ranks at once.

        Of the ranks whose launches the platform throttled, one call launches at most `THREADS` again, the next call the next ones.
        Returns `True` if all ranks have claims. Raises `RunFailed` if a rank did not start after `ATTEMPTS` launches, if the platform
        had no function to spare for `start_limit_s` seconds, if another launch cannot help, or if the host of all functions ended.
        A rank that was only offered is given up then. Thread-safe.
        """
        with self._lock:
            listed = set(self._store.keys(self._keys.claims)) if len(self._waiting) > FEW else None
            claimed = [self._has_claim(child.payload, listed) for child in self._waiting]
            waiting, late, throttled = list[_Child](), list[_Child](), list[_Child]()
            for child, found in zip(self._waiting, claimed, strict=True):
                code = None if found else child.launch.poll()
                if found:
                    self._claimed.append(child)
                    log.debug("rank %d has claimed its rank, seen %.1f s after its launch", child.payload.rank, _waited(child))
                elif not self._is_late(child, code):
                    waiting.append(child)
                elif (error := self._too_late(child, code)) is not None:
                    self._give_up(child, error)
                else:
                    (throttled if code is Code.THROTTLED else late).append(child)
            now, later = throttled[:THREADS], throttled[THREADS:]  # not all of them at every check: the platform has no function to spare
            again = each(self._launch_again, late + now, THREADS)
            self._waiting = later + waiting + [child for child in again if child is not None]
            if self._invoker.limits.end_with_client:  # only then does the state of a launch show that the function ended
                for child in self._claimed:
                    if (code := child.launch.poll()) is not None:
                        raise RunFailed(code, child.launch.text or "the host of the functions ended")
            return not self._waiting

    def _has_claim(self, payload: LaunchPayload, listed: set[str] | None) -> bool:
        key = self._keys.claim(payload.rank, payload.incarnation)
        return key in listed if listed is not None else self._store.find(key) is not None

    def _is_late(self, child: _Child, code: Code | None) -> bool:
        """Whether a child without a claim has no time left, or its launch was refused with ``code``."""
        return code is not None or _waited(child) >= self._invoker.limits.start_s * (1 + child.payload.attempt)

    def _too_late(self, child: _Child, code: Code | None) -> RunFailed | None:
        """The reason why a late child is not launched again; `None` if it is. ``code``: of the refusal, `None` if there was none."""
        attempt, text = child.payload.attempt, child.launch.text
        over = attempt + 1 >= ATTEMPTS or code in FINAL
        if code is Code.THROTTLED:  # other functions use the quota, and may end soon
            over = over and time.monotonic() - child.first >= start_limit_s(self._invoker.limits)
        if not over:
            return None
        detail = f": {text}" if text else ""
        why = f"the platform reports {code.name}{detail}" if code else f"no claim {_waited(child):.0f} s after launch {attempt + 1}"
        return RunFailed(code or Code.UNAVAILABLE, f"did not start: {why}", rank=child.payload.rank)

    def _launch_again(self, child: _Child) -> _Child | None:
        """Launch a late child again after a pause. Returns `None` if this fails, and the run can do without the child."""
        payload, code = child.payload, child.launch.poll()
        refused = f"the platform reports {code.name} {child.launch.text}" if code else "no claim"
        log.warning("rank %d: %s %.1f s after launch %d: launches it again", payload.rank, refused, _waited(child), payload.attempt + 1)
        self._retry.pause(payload.attempt)
        again = attrs.evolve(payload, attempt=min(payload.attempt + 1, ATTEMPTS - 1))
        try:
            return self._launch(again, first=child.first, spare=child.spare)
        except DriverError as error:
            self._give_up(child, error)
            return None

    def _give_up(self, child: _Child, error: FsdError) -> None:
        """Raise ``error``, because of which a rank does not start. If the run can do without it, put its payload into `given_up`."""
        if not child.spare:
            raise error
        log.warning("rank %d gets no second function: %s", child.payload.rank, error)
        self._given_up.append(child.payload)

    def watch(self, stop: threading.Event, first_s: float = FIRST_CHECK_S) -> None:
        """Call `check` after ``first_s`` seconds, then at growing intervals of up to `LAST_CHECK_S` seconds.

        Returns when all ranks have claims, the event ``stop`` is set, or the deadline has passed.
        """
        while not stop.wait(first_s) and time.time() < self._retry.deadline and not self.check():
            first_s = min(2 * first_s, LAST_CHECK_S)

    def report_deaths(self) -> None:
        """Request new failures from the platform once, and report those of this run. Does nothing if `InvokeLimits.failures` is "host".

        The request also removes the failures of runs whose deadline has passed. If the request or a report fails, the next call repeats it.
        """
        if self._invoker.limits.failures == "host":
            return
        with suppress(RunFailed):
            found = self._retry.call(self._invoker, "ask for failures", partial(self._invoker.failures, self._is_ours_or_over))
            for failure in found.taken:
                if _run_of(failure.payload)[0] == self._keys.run:
                    log.warning("a function of this run died: %s", failure.reason)
                    self._unreported.append(failure)  # stored here, because the platform has removed it
        with suppress(RunFailed):
            while self._unreported:
                self._report(self._unreported[0])
                self._unreported.pop(0)

    def keep_reporting_deaths(self, stop: threading.Event) -> None:
        """Call `report_deaths` twice a second until the event ``stop`` is set."""
        while not stop.wait(FAILURES_S):
            self.report_deaths()

    def _is_ours_or_over(self, payload: bytes) -> bool:
        run, deadline = _run_of(payload)
        return run == self._keys.run or deadline <= time.time()


def _waited(child: _Child) -> float:
    """The seconds since the last launch of a child."""
    return time.monotonic() - child.since


def _run_of(payload: bytes) -> tuple[str | None, float]:
    """The run and the deadline (seconds since 1970) of a launch. If the payload is not a launch: `None` and 0."""
    with suppress(ValueError, TypeError, KeyError):
        fields = json.loads(payload)
        return str(fields["run"]), float(fields["deadline"])
    return None, 0.0
