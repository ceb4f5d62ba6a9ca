"""`handle`, which a platform's handler calls with each launch.

A worker imports numpy, attrs, zstandard and what its provider needs, nothing else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import closing

from fsd_core.driver import Provider
from fsd_core.errors import FsdError
from fsd_core.protocol.spawn import LaunchPayload
from fsd_core.worker import probe
from fsd_core.worker.cold import Start
from fsd_core.worker.failing import log
from fsd_core.worker.rank import Worker

__all__ = ["handle"]

START = Start()


def handle(payload: bytes, provider: Provider, *, nonce: str | None = None, note: Callable[[int], None] | None = None) -> int:
    """Run one launch.

    ``nonce`` identifies this invocation, where the platform has an id for it. ``note`` is called with the layer (1-based) that the
    worker begins, so that a host can say in which layer a function died.

    Returns 0 where the work is done, or where the worker stopped on purpose (it was late, the run was aborted, another function has
    claimed the rank), and 1 where it failed and reported that. Raises the failure where it could not be reported: the platform then sees
    a function that died, and its host or launcher reports that (see `report_exit`).
    """
    try:
        fields = json.loads(payload)
        resources = provider.attach(str(fields["app"]))
        if "probe" in fields:
            with closing(provider.objects(resources)) as objects:
                return probe.run(fields["probe"], objects)
        launch = LaunchPayload.unpack(fields)
    except (FsdError, ValueError, KeyError, TypeError) as error:
        log(f"{type(error).__name__}: {error}")
        return 1
    with closing(Worker(launch, provider, resources, nonce or os.urandom(8).hex(), note, START.take())) as worker:
        return worker.run()
