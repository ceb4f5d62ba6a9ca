"""Functions that die at a place of a test's choice. The host runs this module instead of `fsd_core.worker`: the same worker with traps.

The environment variable ``FSD_TEST_TRAP`` holds JSON: ``rank`` and ``at`` (one of `PLACES`): signal 9 kills that rank there. ``quiet``:
nobody reports that a function died. ``lease``: seconds between renewals of the lease, and seconds that a lease lasts.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from functools import wraps
from typing import Any

import attrs

from fsd_core.client import collect
from fsd_core.driver import InvokeDriver, Provider, Resources
from fsd_core.protocol import abort
from fsd_core.storage import slots
from fsd_core.worker import program
from fsd_core.worker.layers import LayerLoop
from fsd_core.worker.rank import Worker
from fsd_local import LocalProvider
from fsd_local.invoke import LocalInvoker
from waiting import until

TRAP = "FSD_TEST_TRAP"
# The method at whose beginning a worker dies: "done" is after all ranks have written their outputs, "record" after the worker has also
# sent that it is done.
PLACES: dict[str, tuple[type, str]] = {
    "claim": (Worker, "_claim"),
    "children": (Worker, "_start_children"),
    "load": (Worker, "_open_channel"),
    "layers": (LayerLoop, "_layer"),
    "output": (Worker, "_write_outputs"),
    "done": (Worker, "_gather"),
    "record": (Worker, "_write_record"),
}


class DyingProvider(LocalProvider):
    """The local provider, with the ``start_s`` of the trap."""

    def invoker(self, resources: Resources) -> InvokeDriver:
        invoker = LocalInvoker(resources, __name__)
        if start_s := json.loads(os.environ[TRAP]).get("start_s"):
            invoker.limits = attrs.evolve(invoker.limits, start_s=start_s)
        return invoker


def _trapped(method: Callable[..., Any], place: str, rank: int) -> Callable[..., Any]:
    @wraps(method)
    def trap(self: Any, *arguments: Any) -> Any:
        if self.rank == rank:
            if place in ("done", "record"):  # other ranks may be slower than this one
                slices = self.config.workers * len(self.config.batches)
                until(lambda: collect.complete(self.store, self.keys, slices))
            os.kill(os.getpid(), signal.SIGKILL)
        return method(self, *arguments)

    return trap


def handle(payload: bytes, provider: Provider, *, nonce: str, note: Callable[[int], None]) -> int:
    order = json.loads(os.environ[TRAP])
    if "at" in order:
        owner, name = PLACES[order["at"]]
        setattr(owner, name, _trapped(getattr(owner, name), order["at"], order["rank"]))
    if "lease" in order:
        slots.RENEW_S, slots.LEASE_S = order["lease"]
    return program.handle(payload, DyingProvider(), nonce=nonce, note=note)


def report_exit(payload: bytes, provider: Provider, reason: str, *, nonce: str, layer: int | None) -> None:
    if not json.loads(os.environ[TRAP]).get("quiet"):
        abort.report_exit(payload, provider, reason, nonce=nonce, layer=layer)
