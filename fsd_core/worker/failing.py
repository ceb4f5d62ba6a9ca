"""How a worker fails: it finds the cause, writes it into the object store for the client and the other ranks, and aborts these ranks."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from fsd_core.channel import Aborted, describe
from fsd_core.driver import Code, ObjectDriver
from fsd_core.errors import FsdError, RunFailed
from fsd_core.protocol.abort import end_run
from fsd_core.storage.keys import RunKeys
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store

__all__ = ["failure", "report"]

_SendAbort = Callable[[RunFailed, Retry], None]
REPORT_S = 5.0  # how long a worker that failed tries to report it


def failure(error: BaseException, rank: int, layer: int | None) -> RunFailed:
    """Make ``error`` a `RunFailed` with a rank and a layer (1-based). A rank and a layer that it already has stay."""
    if isinstance(error, MemoryError):
        error = RunFailed(Code.TOO_LARGE, "out of memory")
    elif not isinstance(error, RunFailed):
        error = RunFailed(Code.UNKNOWN, f"{type(error).__name__}: {error}")
    error.rank = rank if error.rank is None else error.rank
    if error.layer is None and error.rank == rank:  # the layer of this rank is not the layer of another rank
        error.layer = layer
    return error


def report(error: RunFailed, claim: tuple[str, bytes], objects: ObjectDriver, meter: Meter, keys: RunKeys, send_abort: _SendAbort) -> int:
    """Write ``error`` into the object store and call ``send_abort`` with it. Returns what `handle` returns.

    ``claim``: key and content of the claim that this worker wrote. If the deadline passed and the claim is no longer in the store, a
    sentence about this is added to the error.

    Raises ``error`` if it could not be written or sent. The platform then reports that the function died.
    """
    retry = Retry(time.time() + REPORT_S, meter)  # a new one, because the run's own may be stopped or past its deadline
    store = Store(objects, retry)
    if isinstance(error, Aborted):  # another rank failed; if nobody wrote its failure, the client would wait for this rank
        with suppress(FsdError):
            if store.find(keys.error) is None and store.find(keys.config) is not None:
                store.create(keys.error, describe(error))
        return 0
    with suppress(FsdError):
        if error.code is Code.DEADLINE and store.find(claim[0]) != claim[1]:
            error.message += "; the claim of this rank was lost, so a second worker of the rank may have taken its messages"
    try:
        if store.find(keys.config) is None:  # the run is over, and another run may have its slot
            return 1
        end_run(store, keys, error, partial(send_abort, error, retry))
    except FsdError as second:
        raise error from second
    return 1
