"""The client's wait for its workers: until rank 0 says that all are done, or somebody fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from fsd_core.channel import explain
from fsd_core.common.sealed import Damaged, unseal
from fsd_core.driver import Code
from fsd_core.errors import RunFailed
from fsd_core.protocol.spawn import Spawner
from fsd_core.storage.keys import RunKeys
from fsd_core.storage.store import Store

__all__ = ["follow"]

FIRST_POLL_S, LAST_POLL_S = 0.02, 1.0
CHECK_S = 1.0
STORE_CHECKS = 5
GRACE_S = 2.0  # past the deadline: workers end themselves then, and say why


def follow(store: Store, keys: RunKeys, spawner: Spawner, deadline: float, timeout: float, tell: Callable[[int, int], None]) -> None:
    """Return once rank 0 has left its record, which it does when every rank has written its output.

    ``tell`` gets the layers done, of how many. Raises `RunFailed` with what a worker or the platform reported, or at the ``deadline``
    (seconds since 1970) of a run of ``timeout`` seconds.
    """
    wait, number, checks = FIRST_POLL_S, 0, 0
    next_check = time.monotonic() + CHECK_S
    while store.find(keys.record(0)) is None:
        _raise_reported(store, keys)
        if time.monotonic() >= next_check:
            spawner.check()
            spawner.listen()
            checks += 1
            if checks % STORE_CHECKS == 0:
                store.get(keys.config)  # where the whole store is gone, no record and no error will ever come
            next_check = time.monotonic() + CHECK_S
        if wait > 0.5 and (report := store.find(keys.progress(number))) is not None:
            with suppress(Damaged, KeyError):  # only progress
                done = unseal(report, "progress")
                tell(done["done"], done["total"])
            number += 1
        if time.time() > deadline + GRACE_S:
            raise RunFailed(Code.DEADLINE, f"the run did not end within its {timeout:g} s: rank 0 left no record")
        time.sleep(wait)
        wait = min(LAST_POLL_S, wait * 1.2)


def _raise_reported(store: Store, keys: RunKeys) -> None:
    data = store.find(keys.error)
    if data is not None:
        raise explain(data).reason
