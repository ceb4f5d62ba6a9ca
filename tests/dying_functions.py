"""Functions that die, or lose their client, where a test says: in the place of `fsd_core.worker`, the same worker with traps in it.

What to do is in the environment variable ``FSD_TEST_TRAP``, as JSON: ``rank`` and ``at`` (one of `PLACES`): there that rank is killed by
signal 9. ``quiet``: nobody reports a function's death. ``lease``: seconds between renewals, and of the lease.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from functools import wraps
from typing import Any

from attrs import evolve

from fsd_core.driver import InvokeDriver, Provider, Resources
from fsd_core.protocol import abort
from fsd_core.storage import slots
from fsd_core.worker import program as worker
from fsd_local import LocalProvider
from fsd_local.invoke import LocalInvoker

TRAP = "FSD_TEST_TRAP"
# The method of a worker at whose beginning it dies: "done" is when its output is written, "record" when it has said so.
PLACES = {
    "claim": "_claim", "children": "_start_children", "load": "_open_channel", "layers": "_layer", "output": "_write_outputs",
    "done": "_gather", "record": "_write_record",
}  # fmt: skip


class DyingProvider(LocalProvider):
    """The local provider; ``start_s`` as a test wants it."""

    def invoker(self, resources: Resources) -> InvokeDriver:
        invoker = LocalInvoker(resources, __name__)
        if start_s := json.loads(os.environ[TRAP]).get("start_s"):
            invoker.limits = evolve(invoker.limits, start_s=start_s)
        return invoker


def _trapped(method: Callable[..., Any], rank: int) -> Callable[..., Any]:
    @wraps(method)
    def trap(self: Any, *arguments: Any) -> Any:
        if self.rank == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        return method(self, *arguments)

    return trap


def handle(payload: bytes, provider: Provider, *, nonce: str, note: Callable[[int], None]) -> int:
    order = json.loads(os.environ[TRAP])
    if "at" in order:
        name = PLACES[order["at"]]
        setattr(worker._Worker, name, _trapped(getattr(worker._Worker, name), order["rank"]))
    if "lease" in order:
        slots.RENEW_S, slots.LEASE_S = order["lease"]
    return worker.handle(payload, DyingProvider(), nonce=nonce, note=note)


def report_exit(payload: bytes, provider: Provider, reason: str, *, nonce: str, layer: int | None) -> None:
    if not json.loads(os.environ[TRAP]).get("quiet"):
        abort.report_exit(payload, provider, reason, nonce=nonce, layer=layer)
