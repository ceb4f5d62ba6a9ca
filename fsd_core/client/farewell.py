"""How a client leaves a run, whatever became of it: workers hear of a failure, its objects go, the slot is given back.

All of it is bounded in time, and what could not be done is named: ``fsd gc`` does the rest. The work is done by a thread of its own,
so that a service that does not answer, or an interrupt, ends the wait and not the work half-way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from fsd_core.common.interrupt import leave_note, remaining
from fsd_core.driver import Code, InvokeDriver, Provider, Resources
from fsd_core.errors import RunFailed
from fsd_core.protocol.abort import abort_peers, tell
from fsd_core.protocol.spawn import LaunchPayload
from fsd_core.storage import slots
from fsd_core.storage.keys import RunKeys
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store

__all__ = ["Farewell"]

INTERRUPTED_S = 1.2  # an interrupted command ends within 2 s, its last words included
FAILED_S = 10.0
ENDED_S = 30.0
GRACE_S = 2.0  # for workers that were told to stop, where the platform does not stop them for us: then they write nothing more


class Farewell:
    """Takes leave of one run. ``queued``: how many ranks have queues on which they hear of an abort."""

    def __init__(
        self, provider: Provider, resources: Resources, store: Store, invoker: InvokeDriver, lease: slots.Lease, queued: int
    ) -> None:
        self._provider = provider
        self._resources = resources
        self._driver = store.driver
        self._meter = store.retry.meter
        self._invoker = invoker
        self._lease = lease
        self._queued = queued
        self._keys = RunKeys(lease.run)
        self._given_back = leave_note(f"slot {lease.slot} of app {resources.app} is held: {self._rest}")

    def ended(self) -> str | None:
        """There is an answer. Returns what could not be done, for people; `None` if all was. An interrupt ends only the waiting."""
        return self._within(ENDED_S, [("remove the run's objects", self._delete), ("give the slot back", self._release)])

    def failed(self, error: BaseException, deadline: float) -> str | None:
        """There is no answer because of ``error``; the run would have ended at ``deadline``. Returns what `ended` returns."""
        interrupted = not isinstance(error, Exception)
        limit_s = INTERRUPTED_S if interrupted else FAILED_S
        if self._invoker.limits.end_with_client:  # then no function is left to hear of it, or to write anything
            end = ("end the functions", lambda store: self._invoker.close())
            return self._within(limit_s, [end, ("remove the run's objects", self._delete), ("give the slot back", self._release)])
        if isinstance(error, RunFailed):
            reason = error
        else:
            reason = RunFailed(Code.UNAVAILABLE, "interrupted by the client" if interrupted else f"the client failed: {error}")

        def abort(store: Store) -> None:
            launch = LaunchPayload(self._resources.app, self._lease.slot, self._lease.epoch, self._lease.run, -1, 0, deadline)
            send = partial(abort_peers, self._provider, self._resources, launch, self._queued, reason, store.retry)
            tell(store, self._keys, reason, send if self._queued else None)

        def delete(store: Store) -> None:
            if not interrupted:
                time.sleep(GRACE_S)
            store.delete([key for key in store.keys(self._keys.prefix) if key != self._keys.error])

        def release(store: Store) -> None:
            slots.release(store, self._lease, leftovers=True)

        steps = [("ask the workers to stop", abort), ("remove the run's objects", delete), ("give the slot back", release)]
        left = self._within(limit_s, steps)
        return left or (f"{self._command} removes what late workers may leave" if interrupted else None)

    def _delete(self, store: Store) -> None:
        store.delete_prefix(self._keys.prefix)

    def _release(self, store: Store) -> None:
        slots.release(store, self._lease)

    def _within(self, seconds: float, steps: Sequence[tuple[str, Callable[[Store], None]]]) -> str | None:
        """Take the steps, each even if one before it failed; after ``seconds`` nobody waits for them."""
        left = [name for name, _ in steps]

        def work() -> None:
            store = Store(self._driver, Retry(time.time() + seconds, self._meter))
            for name, step in steps:
                with suppress(Exception):  # what cannot be done stays in `left`
                    step(store)
                    left.remove(name)

        thread = threading.Thread(target=work, name="fsd-farewell", daemon=True)
        thread.start()
        with suppress(KeyboardInterrupt):
            thread.join(remaining(seconds))
        self._given_back()
        return f"could not {' or '.join(left)}: {self._rest}" if left else None

    @property
    def _rest(self) -> str:
        return f"the slot is free after {slots.LEASE_S:g} s, {self._command} removes what is left"

    @property
    def _command(self) -> str:
        there = " --emulator" if self._provider.stand_in() else ""
        return f"`fsd gc --provider {self._provider.name} --app {self._resources.app}{there}`"
