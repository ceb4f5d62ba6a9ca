"""`handle`, which a platform's handler calls with each launch.

A worker imports only numpy, attrs, zstandard and the packages that its provider needs.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from contextlib import closing, suppress

from fsd_core.common.logs import Journal, include, kept
from fsd_core.driver import Provider, Resources
from fsd_core.errors import FsdError
from fsd_core.protocol.spawn import LaunchPayload
from fsd_core.storage.keys import RunKeys
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store
from fsd_core.worker import memory, probe
from fsd_core.worker.cold import Start
from fsd_core.worker.rank import Worker

__all__ = ["handle"]

log = logging.getLogger(__name__)
START = Start()
LOOK_S = 5.0  # a function that may not begin yet checks once in this time whether the run has failed


def handle(payload: bytes, provider: Provider, *, nonce: str | None = None, note: Callable[[int], None] | None = None) -> int:
    """Run one launch.

    ``nonce`` identifies this invocation, if the platform has an id for it. ``note`` is called with each layer (1-based) that the worker
    begins, so that a host can report in which layer a function died.

    Returns 0 if the worker did its work, or stopped on purpose: the deadline had passed, the run was aborted, or another function had
    claimed the rank. Returns 1 if the worker failed and reported its failure. Raises the failure if the worker could not report it: the
    platform then sees that the function died, and its host or launcher reports this (see `report_exit`).
    """
    memory.begin()
    journal = Journal()
    include(type(provider).__module__)
    with kept(journal):
        try:
            fields = json.loads(payload)
            resources = provider.attach(str(fields["app"]))
            if "probe" in fields:
                with closing(provider.objects(resources)) as objects:
                    return probe.run(fields["probe"], objects)
            if "measure" in fields:
                from fsd_core.worker import measuring  # no other launch needs it

                return measuring.measure(fields["measure"], provider, resources, cold=START.take() > 0)
            launch = LaunchPayload.unpack(fields)
        except (FsdError, ValueError, KeyError, TypeError) as error:
            log.error("the launch cannot be read: %s: %s", type(error).__name__, error)
            return 1
        looks = _wait(launch, provider, resources)
        if looks is None:
            return 0
        with closing(Worker(launch, provider, resources, nonce or os.urandom(8).hex(), note, START.take(), journal)) as worker:
            worker.meter.add("object_gets", looks)
            return worker.run()


def _wait(launch: LaunchPayload, provider: Provider, resources: Resources) -> int | None:
    """Wait until the function may begin. Looks meanwhile whether the run has failed: returns `None` if so, else the number of looks."""
    if launch.not_before:  # the run has latencies: while this function seems to start, it loads what only such a run needs
        import fsd_core.wrappers.latency  # noqa: F401
    looks, until = 0, min(launch.not_before, launch.deadline)
    while (left := until - time.time()) > 0:
        time.sleep(min(left, LOOK_S))
        if left > LOOK_S:
            with closing(provider.objects(resources)) as objects, suppress(FsdError):
                if Store(objects, Retry(until, Meter())).find(RunKeys(launch.run).error) is not None:
                    log.info("rank %d does not start: the run has failed", launch.rank)
                    return None
            looks += 1
    return looks
