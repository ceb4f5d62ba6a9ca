"""Leases of slots: a run takes one by conditional create at the next epoch, and gives it back.

``slots/S/EPOCH`` says who holds slot S since that epoch and until when; ``slots/S/EPOCH.free`` that it was given back. An
epoch only grows. A lease that ran out is taken over at the next one, and whoever still works at the old epoch is fenced
by the messages of the new.
"""

from __future__ import annotations

import json
import random
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from fsd_core.driver import Code
from fsd_core.errors import FsdError, RunFailed
from fsd_core.keys import slot as slot_key
from fsd_core.store import Store

__all__ = ["Lease", "holders", "lease", "release"]

_FREE = ".free"
_KEPT_EPOCHS = 8  # a client that listed long ago must still find the epoch that it wants taken


@dataclass(frozen=True, slots=True)
class Lease:
    """Slot ``slot``, held at ``epoch``."""

    slot: int
    epoch: int


def lease(store: Store, slots: int, run: str, until: float) -> Lease:
    """Take any free slot until the time ``until`` (seconds since the epoch). Raises `RunFailed` naming who holds them."""
    holders = []
    for slot in random.sample(range(slots), slots):
        keys = list(store.keys(slot_key(slot)))
        last = keys[-1] if keys else None
        if last is not None and not last.endswith(_FREE):
            held = _read(store, last)
            if held.get("until", 0) > time.time():
                holders.append(f"slot {slot} by run {held.get('run')} for {held['until'] - time.time():.0f} s more")
                continue
        epoch = 1 + (int(last.removesuffix(_FREE).rsplit("/", 1)[1]) if last else 0)
        if store.create(slot_key(slot, epoch), json.dumps({"run": run, "until": until}).encode()):
            with suppress(FsdError):  # the next run will remove them
                store.delete([key for key in keys if int(key.removesuffix(_FREE).rsplit("/", 1)[1]) <= epoch - _KEPT_EPOCHS])
            return Lease(slot, epoch)
        holders.append(f"slot {slot} by a run that came first")
    raise RunFailed(Code.THROTTLED, f"no free slot: {'; '.join(sorted(holders))}. Wait, or deploy the app with more slots")


def holders(store: Store) -> set[str]:
    """The runs that hold a slot now."""
    last = {key.split("/")[1]: key for key in store.keys("slots/")}  # ascending: the latest epoch of each slot
    leases = [_read(store, key) for key in last.values() if not key.endswith(_FREE)]
    return {lease["run"] for lease in leases if lease.get("until", 0) > time.time()}


def release(store: Store, lease: Lease) -> None:
    """Give the slot back."""
    store.put(slot_key(lease.slot, lease.epoch) + _FREE, b"{}")


def _read(store: Store, key: str) -> dict[str, Any]:
    """What a lease says; one that is gone or damaged says that it ran out."""
    with suppress(ValueError, TypeError):
        return dict(json.loads(store.find(key) or b"{}"))
    return {}
