"""Starting functions and making sure that they started: a launch can be late, doubled or lost on every platform.

Whoever starts ranks (the client the root, a worker its children) looks for their claims, and launches again what did not
claim in time. A second launch of a rank that did start is harmless: the claim has one winner.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from fsd_core.driver import WORKER, Code, InvokeDriver, Launch
from fsd_core.errors import InputError, RunFailed
from fsd_core.keys import RunKeys
from fsd_core.retry import Retry
from fsd_core.store import Store

__all__ = ["LaunchPayload", "Spawner"]

ATTEMPTS = 4
FIRST_CHECK_S = 1.0
START_LIMIT_S = 5.0  # doubled with each attempt


@dataclass(frozen=True, slots=True)
class LaunchPayload:
    """What a launch carries: all else a worker reads from the run's configuration. ``deadline``: seconds since the epoch."""

    app: str
    slot: int
    epoch: int
    run: str
    rank: int
    attempt: int
    depth: int
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
    """Starts ranks and checks their claims."""

    def __init__(self, invoker: InvokeDriver, store: Store, retry: Retry, keys: RunKeys) -> None:
        self._invoker = invoker
        self._store = store
        self._retry = retry
        self._keys = keys
        self._waiting: list[_Child] = []

    def start(self, payloads: Iterable[LaunchPayload]) -> None:
        """Launch each."""
        for payload in payloads:
            request = partial(self._invoker.invoke, WORKER, payload.pack())
            launch = self._retry.call(self._invoker, f"launch of rank {payload.rank}", request)
            self._waiting.append(_Child(payload, launch, time.monotonic()))

    def check(self) -> bool:
        """Look once for the claims that are missing; launch again what is late or refused. `True` once all have claimed.

        Raises `RunFailed` for a rank that did not start after several launches.
        """
        late = []
        for child in self._waiting:
            if self._store.find(self._keys.claim(child.payload.rank)) is not None:
                continue
            code = child.launch.poll()
            if code is None and time.monotonic() - child.since < START_LIMIT_S * 2**child.payload.attempt:
                late.append(child)
            elif child.payload.attempt + 1 >= ATTEMPTS or code in (Code.NOT_FOUND, Code.DENIED, Code.INVALID, Code.TOO_LARGE):
                why = (
                    f"the platform says {code.name}"
                    if code
                    else f"no claim {time.monotonic() - child.since:.0f} s after launch {child.payload.attempt + 1}"
                )
                raise RunFailed(code or Code.UNAVAILABLE, f"did not start: {why}", rank=child.payload.rank)
            else:
                self._retry.pause(child.payload.attempt)
                again = replace(child.payload, attempt=child.payload.attempt + 1)
                launch = self._invoker.invoke(WORKER, again.pack())
                late.append(_Child(again, launch, time.monotonic()))
        self._waiting = late
        return not late

    def watch(self, stop: threading.Event) -> None:
        """`check` with growing waits until all have claimed or the event ``stop`` is set."""
        wait = FIRST_CHECK_S
        while not stop.wait(wait) and not self.check():
            wait = min(2 * wait, 4.0)
