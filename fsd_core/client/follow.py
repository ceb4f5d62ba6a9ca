"""Waits for the workers of a run: the client's main thread looks for what they write, a second thread looks for failures."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from fsd_core.channel import explain
from fsd_core.client.first_rank import FirstRank
from fsd_core.client.recovery import Restarts
from fsd_core.common.sealed import Damaged, unseal
from fsd_core.driver import Code
from fsd_core.errors import RunFailed
from fsd_core.protocol.spawn import Spawner
from fsd_core.storage.keys import RunKeys
from fsd_core.storage.store import Store

__all__ = ["Follower"]

FIRST_POLL_S, LAST_POLL_S = 0.02, 1.0
POLLS_LATE = 40  # the pause between two polls is at most the time of the run so far divided by this: 0.05 s after 2 s
ERROR_POLL_S = 0.25
CHECK_S = 1.0
STORE_CHECKS = 5
GRACE_S = 2.0  # after the deadline, for workers to end by themselves and to write why


class Follower:
    """Follows a run from its launch on. Within the ``with`` block, a thread looks for failures, and `until` raises what it finds.

    ``restarts`` starts ranks again that were lost; `None` if a lost rank ends the run. ``first`` watches rank 0. ``progress`` is called,
    from that thread, with the number of layers done and of all layers. ``deadline``: seconds since 1970, when the ``timeout_s`` seconds of
    the run end.
    """

    def __init__(
        self,
        store: Store,
        keys: RunKeys,
        spawner: Spawner,
        restarts: Restarts | None,
        first: FirstRank,
        deadline: float,
        timeout_s: float,
        progress: Callable[[int, int], None],
    ) -> None:
        self._store = store
        self._keys = keys
        self._spawner = spawner
        self._restarts = restarts
        self._first = first
        self._deadline = deadline
        self._timeout_s = timeout_s
        self._progress = progress
        self._began = time.monotonic()
        self._answered = False
        self._over = threading.Event()
        self._failed = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._watch, name="fsd-follow", daemon=True)  # an interrupt does not wait for it

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()

    def until(self, look: Callable[[], bool], limit_s: float = math.inf) -> bool:
        """Call ``look`` until it returns `True`. Returns `False` if ``look`` returned no `True` within ``limit_s`` seconds.

        Raises what the thread found: `RunFailed` if a worker or the platform reported a failure, or if the store was removed; or the error
        of ``progress``. Also raises `RunFailed` if the deadline is past.
        """
        since, min_s = time.monotonic(), max(FIRST_POLL_S, self._store.driver.limits.poll_s)
        while not look():
            now = time.monotonic()
            if now - since > limit_s:
                return False
            if time.time() > self._deadline + GRACE_S:
                reason = f"the run did not end within its time limit of {self._timeout_s:g} s: its outputs or records are not complete"
                raise RunFailed(Code.DEADLINE, reason)
            self._failed.wait(min(LAST_POLL_S, max(min_s, (now - self._began) / POLLS_LATE)))
            if self._error is not None:
                raise self._error
        return True

    def answered(self) -> None:
        """Call this once the client has all outputs: then the thread calls ``progress`` no more."""
        self._answered = True

    def _watch(self) -> None:
        try:
            self._look_for_failures()
        except BaseException as error:  # of any class: `until` raises it
            self._error = error
            self._failed.set()

    def _look_for_failures(self) -> None:
        reports = checks = looks = 0
        next_check = time.monotonic() + CHECK_S
        while not self._over.is_set():
            looks += 1
            if self._restarts is not None and looks % 2 == 0:  # in turns, so that recovery makes no further requests
                self._restarts.look(self._answered)
            elif (found := self._store.find(self._keys.error)) is not None:
                raise explain(found).reason
            if time.monotonic() >= next_check:
                self._spawner.check()
                self._spawner.report_deaths()
                checks += 1
                if checks % STORE_CHECKS == 0:
                    self._store.get(self._keys.config)  # raises if the store was removed: then neither an output nor a failure will come
                if not self._answered:
                    self._first.check()
                    if checks % STORE_CHECKS == 0:  # in turns with the progress reports, so that it makes no further requests
                        self._first.look()
                    else:
                        reports += self._report(reports)
                next_check = time.monotonic() + CHECK_S
            self._over.wait(ERROR_POLL_S)

    def _report(self, number: int) -> bool:
        """Call ``progress`` with a progress report, and return `True`, if it is there."""
        report = self._store.find(self._keys.progress(number))
        if report is None:
            return False
        with suppress(Damaged, KeyError):  # a lost progress report does no harm
            done = unseal(report, "the progress report")
            self._progress(done["done"], done["total"])
        return True
