"""Starting functions, making sure that they started, and hearing of those that died.

A launch can be late, doubled or lost on every platform. Whoever starts ranks (the client the root, a worker its children)
looks for their claims, and launches again what did not claim in time. A second launch of a rank that did start is
harmless: the claim has one winner.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from fsd_core.driver import WORKER, Code, Failure, InvokeDriver, InvokeLimits, Launch
from fsd_core.errors import InputError, RunFailed
from fsd_core.storage.keys import RunKeys
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store

__all__ = ["LaunchPayload", "Spawner", "start_limit_s"]

ATTEMPTS = 4
FIRST_CHECK_S = 1.0
LISTEN_S = 0.5
FINAL = frozenset({Code.NOT_FOUND, Code.DENIED, Code.INVALID, Code.TOO_LARGE})  # launching again cannot help


def start_limit_s(limits: InvokeLimits) -> float:
    """How long a rank is launched again before it counts as lost, in seconds: attempt k gets k times `InvokeLimits.start_s`."""
    return limits.start_s * sum(range(1, ATTEMPTS + 1))


@dataclass(frozen=True, slots=True)
class LaunchPayload:
    """What a launch carries: all else a worker reads from the run's configuration. ``deadline``: seconds since the epoch."""

    app: str
    slot: int
    epoch: int
    run: str
    rank: int
    attempt: int
    deadline: float

    def pack(self) -> bytes:
        """As JSON."""
        return json.dumps(asdict(self)).encode()

    @staticmethod
    def unpack(fields: dict[str, Any]) -> LaunchPayload:
        """From decoded JSON. Raises `InputError` naming the field that is missing or of the wrong type."""
        for name in LaunchPayload.__slots__:
            if not isinstance(fields.get(name), {"app": str, "run": str, "deadline": float}.get(name, int)):
                raise InputError(f"launch payload: {name} is {fields.get(name)!r}, which a launch never carries")
        return LaunchPayload(**{name: fields[name] for name in LaunchPayload.__slots__})


@dataclass(slots=True)
class _Child:
    payload: LaunchPayload
    launch: Launch
    since: float


class Spawner:
    """Starts ranks, checks their claims, and hands to ``report`` each function of the run that the platform saw die."""

    def __init__(self, invoker: InvokeDriver, store: Store, retry: Retry, keys: RunKeys, report: Callable[[Failure], None]) -> None:
        self._invoker = invoker
        self._store = store
        self._retry = retry
        self._keys = keys
        self._report = report
        self._waiting: list[_Child] = []
        self._claimed: list[_Child] = []
        self._unreported: list[Failure] = []
        self._lock = threading.Lock()

    def start(self, payloads: Iterable[LaunchPayload]) -> None:
        """Launch each."""
        for payload in payloads:
            self._waiting.append(self._launch(payload))

    def _launch(self, payload: LaunchPayload) -> _Child:
        request = partial(self._invoker.invoke, WORKER, payload.pack())
        return _Child(payload, self._retry.call(self._invoker, f"launch of rank {payload.rank}", request), time.monotonic())

    def check(self) -> bool:
        """Look once for the claims that are missing; launch again what is late or refused. `True` once all have claimed.

        Raises `RunFailed` for a rank that did not start after several launches, or whose functions all ended with their host.
        Thread-safe.
        """
        with self._lock:
            self._waiting = [again for child in self._waiting if (again := self._check(child)) is not None]
            if self._invoker.limits.end_with_client:  # only there does what became of a launch say that the function ended
                for child in self._claimed:
                    if (code := child.launch.poll()) is not None:
                        raise RunFailed(code, child.launch.text or "the host of the functions ended")
            return not self._waiting

    def _check(self, child: _Child) -> _Child | None:
        """`None` if the child has claimed, else what to look for next time."""
        payload, waited = child.payload, time.monotonic() - child.since
        if self._store.find(self._keys.claim(payload.rank)) is not None:
            self._claimed.append(child)
            return None
        code = child.launch.poll()
        if code is None and waited < self._invoker.limits.start_s * (1 + payload.attempt):
            return child
        if payload.attempt + 1 >= ATTEMPTS or code in FINAL:
            told = f": {child.launch.text}" if child.launch.text else ""
            why = f"the platform says {code.name}{told}" if code else f"no claim {waited:.0f} s after launch {payload.attempt + 1}"
            raise RunFailed(code or Code.UNAVAILABLE, f"did not start: {why}", rank=payload.rank)
        self._retry.pause(payload.attempt)
        return self._launch(replace(payload, attempt=payload.attempt + 1))

    def watch(self, stop: threading.Event, first_s: float = FIRST_CHECK_S) -> None:
        """`check` with growing waits until all have claimed or the event ``stop`` is set."""
        while not stop.wait(first_s) and time.time() < self._retry.deadline and not self.check():
            first_s = min(2 * first_s, 4.0)

    def listen(self) -> None:
        """Ask the platform once for functions that died, where it says so. Those of runs long over are forgotten on the way.

        What could not be asked or reported is left to the next call.
        """
        if self._invoker.limits.failures == "host":
            return
        with suppress(RunFailed):
            for failure in self._retry.call(self._invoker, "ask for failures", partial(self._invoker.failures, self._is_mine_or_over)):
                if _run_of(failure.payload)[0] == self._keys.run:
                    self._unreported.append(failure)  # the platform has forgotten it by now
        with suppress(RunFailed):
            while self._unreported:
                self._report(self._unreported[0])
                self._unreported.pop(0)

    def keep_listening(self, stop: threading.Event) -> None:
        """`listen` twice a second until the event ``stop`` is set."""
        while not stop.wait(LISTEN_S):
            self.listen()

    def _is_mine_or_over(self, payload: bytes) -> bool:
        run, deadline = _run_of(payload)
        return run == self._keys.run or deadline <= time.time()


def _run_of(payload: bytes) -> tuple[str | None, float]:
    """The run of a launch, and its deadline; of what is no launch, no run and a deadline long over."""
    with suppress(ValueError, TypeError, KeyError):
        fields = json.loads(payload)
        return str(fields["run"]), float(fields["deadline"])
    return None, 0.0
