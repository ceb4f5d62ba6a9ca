"""The end of a run: the client stops the workers after a failure, removes the run's objects and gives the slot back.

All steps together take a bounded time. If the client cannot do a step, a warning names the step, and ``fsd gc`` does it later. The steps
run on a thread. An interrupt or a service that does not answer ends the client's wait for this thread, but not the step that the thread
is executing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from fsd_core.channel import RankIdentity
from fsd_core.client import collect
from fsd_core.common.interrupt import leave_note, remaining
from fsd_core.driver import Code, InvokeDriver, Provider, Resources
from fsd_core.errors import FsdError, RunFailed
from fsd_core.protocol.abort import abort_peers, end_run
from fsd_core.storage import slots
from fsd_core.storage.keys import RunKeys
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store

__all__ = ["Cleanup"]

INTERRUPTED_S = 1.2  # an interrupted command ends within 2 s, with its last lines printed
FAILED_S = 10.0
ENDED_S = 30.0
LINES_S, LINES_INTERRUPTED_S = 3.0, 0.3  # for getting the workers' log lines
LAST_LINES_S = 1.0  # where functions end with their client: for workers to write their log lines
POLL_S = 0.02
GRACE_S = 2.0  # for workers that the platform does not stop: this long after an abort they write nothing more

Step = tuple[str, Callable[[Store], None]]


class Cleanup:
    """The end of one run.

    ``queued``: the number of ranks that have queues; they receive an abort through their queues. ``frame_key``: signs the abort. After a
    failure, ``lines`` holds the log lines of each rank, by rank.
    """

    def __init__(
        self,
        provider: Provider,
        resources: Resources,
        store: Store,
        invoker: InvokeDriver,
        lease: slots.Lease,
        queued: int = 0,
        frame_key: bytes = b"",
    ) -> None:
        self._provider = provider
        self._resources = resources
        self._driver = store.driver
        self._meter = store.retry.meter
        self._invoker = invoker
        self._lease = lease
        self._queued = queued
        self._frame_key = frame_key
        self.lines: dict[int, list[Any]] = {}
        self._keys = RunKeys(lease.run)
        self._remove_note = leave_note(f"slot {lease.slot} of app {resources.app} is held: {self._hint}")

    def after_answer(self, *, late: bool) -> str | None:
        """Clean up after a run with an answer. Returns a line that names the steps not done, or `None`. An interrupt ends the wait.

        ``late``: a worker may still write its record. The next run on the slot removes this record.
        """
        return self._within(ENDED_S, self._last_steps(leftovers=late))

    def after_failure(self, error: BaseException) -> str | None:
        """Stop the workers and clean up after ``error`` ended the run. Returns a line like `after_answer`."""
        interrupted = not isinstance(error, Exception)
        limit_s = INTERRUPTED_S if interrupted else FAILED_S

        lines_s = LINES_INTERRUPTED_S if interrupted else LINES_S
        if self._invoker.limits.end_with_client:  # then no function survives that could receive an abort or write anything
            end: Step = ("end the functions", lambda store: self._invoker.close())
            _at_most(lines_s, partial(self._last_lines, interrupted))
            return self._within(limit_s, [end, *self._last_steps(leftovers=False)])
        if isinstance(error, RunFailed):
            reason = error
        else:
            reason = RunFailed(Code.UNAVAILABLE, "interrupted by the client" if interrupted else f"the client failed: {error}")

        def abort(store: Store) -> None:
            end_run(store, self._keys, reason, partial(send, store) if self._queued else None)

        def send(store: Store) -> None:
            lease = self._lease
            client = RankIdentity(lease.run, lease.epoch, -1, self._queued, store.retry.deadline, key=self._frame_key)
            abort_peers(self._provider, self._resources, lease.slot, client, reason, store.retry)

        def remove(store: Store) -> None:
            if not interrupted:
                time.sleep(GRACE_S)
            listed = set(store.keys(self._keys.prefix))
            _at_most(lines_s, partial(collect.lines, store, self._keys, listed, self.lines))
            store.delete(sorted(listed - {self._keys.error}))

        release = partial(self._release, leftovers=True)
        steps: list[Step] = [("ask the workers to stop", abort), ("remove the run's objects", remove), ("give the slot back", release)]
        undone = self._within(limit_s, steps)
        return undone or (f"{self._command} removes what late workers may leave" if interrupted else None)

    def _last_lines(self, interrupted: bool) -> None:
        """Get the workers' lines where workers end with the client. If the run has an error, wait for their last lines."""
        store = Store(self._driver, Retry(time.time() + LINES_S, self._meter))
        until = time.monotonic() + LAST_LINES_S
        with suppress(FsdError):
            while True:
                listed = set(store.keys(self._keys.prefix))
                silent = [
                    rank for rank in collect.ranks(self._keys, listed) if not {self._keys.log(rank), self._keys.record(rank)} & listed
                ]
                if interrupted or self._keys.error not in listed or not silent or time.monotonic() >= until:
                    break
                time.sleep(POLL_S)
            collect.lines(store, self._keys, listed, self.lines)

    def _last_steps(self, *, leftovers: bool) -> list[Step]:
        return [("remove the run's objects", self._remove_objects), ("give the slot back", partial(self._release, leftovers=leftovers))]

    def _remove_objects(self, store: Store) -> None:
        store.delete_prefix(self._keys.prefix)

    def _release(self, store: Store, *, leftovers: bool) -> None:
        slots.release(store, self._lease, leftovers=leftovers)

    def _within(self, seconds: float, steps: Sequence[Step]) -> str | None:
        """Do all steps, also after one of them failed, and wait for ``seconds`` at most. Returns a line that names the steps not done."""
        undone = [name for name, _ in steps]

        def work() -> None:
            store = Store(self._driver, Retry(time.time() + seconds, self._meter))
            for name, step in steps:
                with suppress(Exception):  # the name of a step that fails stays in `undone`
                    step(store)
                    undone.remove(name)

        thread = threading.Thread(target=work, name="fsd-cleanup", daemon=True)
        with suppress(KeyboardInterrupt, RuntimeError):  # RuntimeError: the system has no more threads, and the answer must not be lost
            thread.start()
            thread.join(remaining(seconds))
        self._remove_note()
        return f"could not {' or '.join(undone)}: {self._hint}" if undone else None

    @property
    def _hint(self) -> str:
        return f"the slot is free after {slots.LEASE_S:g} s, {self._command} removes the rest"

    @property
    def _command(self) -> str:
        emulator = " --emulator" if self._provider.stand_in() else ""
        return f"`fsd gc --provider {self._provider.name} --app {self._resources.app}{emulator}`"


def _at_most(seconds: float, task: Callable[[], None]) -> None:
    """Run ``task`` on a thread, and wait for it at most ``seconds``. An interrupt ends the wait."""
    thread = threading.Thread(target=task, name="fsd-lines", daemon=True)
    with suppress(KeyboardInterrupt, RuntimeError):
        thread.start()
        thread.join(remaining(seconds))
