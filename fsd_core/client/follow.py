"""How the client waits for its workers: until rank 0 writes its record, or until a worker or the platform reports a failure."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from fsd_core.channel import explain
from fsd_core.client.collect import complete
from fsd_core.common.sealed import Damaged, unseal
from fsd_core.driver import Code
from fsd_core.errors import RunFailed
from fsd_core.protocol.spawn import Spawner
from fsd_core.storage.keys import RunKeys
from fsd_core.storage.store import Store

__all__ = ["follow"]

FIRST_POLL_S, LAST_POLL_S = 0.02, 1.0
POLLS_LATE = 25  # a poll sees the end of a run at most this part of its time late: 0.1 s after 2.5 s
ERROR_POLL_S = 0.25
CHECK_S = 1.0
STORE_CHECKS = 5
OUTPUT_CHECKS = 60  # each lists the outputs, so a run of less than a minute lists none
RECORD_S = 60.0  # after the last output: rank 0 may learn late that all ranks are done, as when replies of its queue were lost
GRACE_S = 2.0  # after the deadline: workers end by themselves then, and write why


def follow(
    store: Store, keys: RunKeys, spawner: Spawner, slices: int, deadline: float, timeout_s: float, progress: Callable[[int, int], None]
) -> None:
    """Return once rank 0 has written its record. It does so after all ranks have written their output, ``slices`` objects together.

    ``progress`` is called with the number of layers done and of all layers. Raises `RunFailed` in three cases: a worker or the platform
    reported a failure; the time is past ``deadline`` (seconds since 1970), at which the ``timeout_s`` seconds of the run end; or rank 0
    wrote no record within `RECORD_S` after the last output.
    """
    number = checks = 0
    complete_at: float | None = None
    began = next_error = time.monotonic()
    next_check = began + CHECK_S
    while store.find(keys.record(0)) is None:
        if time.monotonic() >= next_error:
            _raise_reported(store, keys)
            next_error = time.monotonic() + ERROR_POLL_S
        if time.monotonic() >= next_check:
            spawner.check()
            spawner.report_deaths()
            checks += 1
            if checks % STORE_CHECKS == 0:
                store.get(keys.config)  # raises if the store was removed: then neither a record nor a failure will come
            if checks % OUTPUT_CHECKS == 0 and complete_at is None and complete(store, keys, slices):
                complete_at = time.monotonic()
            if complete_at is not None and time.monotonic() - complete_at > RECORD_S:
                reason = f"every rank has written its output, but rank 0 left no record within {RECORD_S:g} s after that"
                raise RunFailed(Code.NOT_FOUND, reason, rank=0)
            if (report := store.find(keys.progress(number))) is not None:
                with suppress(Damaged, KeyError):  # a lost progress report does no harm
                    found = unseal(report, "the progress report")
                    progress(found["done"], found["total"])
                number += 1
            next_check = time.monotonic() + CHECK_S
        if time.time() > deadline + GRACE_S:
            raise RunFailed(Code.DEADLINE, f"the run did not end within its time limit of {timeout_s:g} s: rank 0 wrote no record")
        time.sleep(min(LAST_POLL_S, max(FIRST_POLL_S, (time.monotonic() - began) / POLLS_LATE)))


def _raise_reported(store: Store, keys: RunKeys) -> None:
    """Raise the failure that a worker or a host has written, if any."""
    data = store.find(keys.error)
    if data is not None:
        raise explain(data).reason
