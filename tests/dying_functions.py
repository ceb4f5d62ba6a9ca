"""Functions that die at a place of a test's choice. The host runs this module instead of `fsd_core.worker`: the same worker with traps.

The environment variable ``FSD_TEST_TRAP`` holds JSON: ``rank`` and ``at`` (one of `PLACES`): signal 9 kills that rank there, or with
``raises`` an error of this text is raised there; with ``first`` only in first incarnations, with ``later`` only in the others. ``lines``:
seconds until a worker first writes what it said. ``quiet``: nobody reports that a function died. ``lease``: seconds between renewals of the
lease, and seconds that a lease lasts.

In an emulator of a cloud the warm parent of all functions calls `preload`. The order is then in the file that ``FSD_TEST_TRAP_FILE``
names, and each function reads it anew. It may hold more: ``launches``: only that many launches of the rank die; ``object`` and
``damage``: see `damaging`.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from fnmatch import fnmatch
from functools import wraps
from pathlib import Path
from typing import Any

import attrs

from fsd_core.driver import InvokeDriver, Provider, Resources
from fsd_core.protocol import abort
from fsd_core.storage import slots
from fsd_core.storage.store import Store
from fsd_core.worker import lines, program
from fsd_core.worker.layers import LayerLoop
from fsd_core.worker.rank import Worker
from fsd_local import LocalProvider
from fsd_local.invoke import LocalInvoker
from waiting import until

TRAP_FILE = "FSD_TEST_TRAP_FILE"
TRAP = "FSD_TEST_TRAP"
# The method at whose beginning a worker dies: "done" is after all ranks have written their outputs, "record" after the worker has also
# sent that it is done.
PLACES: dict[str, tuple[type, str]] = {
    "claim": (Worker, "_claim"),
    "children": (Worker, "_start_children"),
    "load": (Worker, "_open_channel"),
    "layers": (LayerLoop, "_layers"),
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


def _trapped(method: Callable[..., Any], place: str, rank: int, raises: str | None) -> Callable[..., Any]:
    @wraps(method)
    def trap(self: Any, *arguments: Any) -> Any:
        if self.rank == rank:
            if place in ("done", "record"):  # other ranks may be slower than this one
                slices = self.config.slices
                until(lambda: len(list(self.store.keys(self.keys.outputs))) == slices)
            if raises:
                raise ValueError(raises)
            os.kill(os.getpid(), signal.SIGKILL)
        return method(self, *arguments)

    return trap


def handle(payload: bytes, provider: Provider, *, nonce: str, note: Callable[[int], None]) -> int:
    order = json.loads(os.environ[TRAP])
    later = json.loads(payload)["incarnation"] > 0
    if "at" in order and not (order.get("first") and later) and not (order.get("later") and not later):
        owner, name = PLACES[order["at"]]
        setattr(owner, name, _trapped(getattr(owner, name), order["at"], order["rank"], order.get("raises")))
    if "lines" in order:
        lines.FIRST_S = order["lines"]
    if "lease" in order:
        slots.RENEW_S, slots.LEASE_S = order["lease"]
    return program.handle(payload, DyingProvider(), nonce=nonce, note=note)


def report_exit(payload: bytes, provider: Provider, reason: str, *, nonce: str, layer: int | None, said: Any) -> None:
    if not json.loads(os.environ[TRAP]).get("quiet"):
        abort.report_exit(payload, provider, reason, nonce=nonce, layer=layer, said=said)


def preload() -> None:
    """Set every trap in this process, whose forks are functions, for the orders of the file."""
    file = Path(os.environ[TRAP_FILE])

    def set_off(method: Callable[..., Any], place: str) -> Callable[..., Any]:
        @wraps(method)
        def trap(self: Any, *arguments: Any) -> Any:
            order = json.loads(file.read_text())
            if order.get("at") == place and order["rank"] == self.rank and self.launch.attempt < order.get("launches", 99):
                os.kill(os.getpid(), signal.SIGKILL)
            changed = damaging(order["object"], order["damage"]) if "object" in order else (PUT, CREATE, PUT_ONCE)
            Store.put, Store.create, Store.put_once = changed  # type: ignore[method-assign]  # anew: a warm function had others
            return method(self, *arguments)

        return trap

    for place, (cls, name) in PLACES.items():
        setattr(cls, name, set_off(getattr(cls, name), place))


PUT, CREATE, PUT_ONCE = Store.put, Store.create, Store.put_once


def damaging(pattern: str, damage: str) -> tuple[Callable[..., None], Callable[..., bool], Callable[..., None]]:
    """`Store.put`, `create` and `put_once` that lose (``damage``: removed), cut or flip what is written under a key like ``pattern``."""

    def spoiled(key: str, body: bytes) -> bytes:
        if not fnmatch(key, pattern):
            return body
        half = len(body) // 2
        return body[:half] + (b"" if damage == "cut" else bytes([body[half] ^ 4]) + body[half + 1 :])

    def lost(key: str) -> bool:
        return damage == "removed" and fnmatch(key, pattern)

    def put(store: Store, key: str, body: bytes) -> None:
        if not lost(key):
            PUT(store, key, spoiled(key, body))

    def create(store: Store, key: str, body: bytes) -> bool:
        return lost(key) or CREATE(store, key, spoiled(key, body))

    def put_once(store: Store, key: str, body: bytes) -> None:
        if not lost(key):
            PUT_ONCE(store, key, spoiled(key, body))

    return put, create, put_once
