"""Leases of slots: a run takes one by conditional create at the next epoch, renews it while its client lives, and gives it back.

``slots/S/EPOCH`` says who holds slot S since that epoch and until when; the client writes it anew every `RENEW_S` seconds, so
that a client that died is known to be gone after `LEASE_S`: its workers stop, and the slot is free. ``slots/S/EPOCH.free`` says
that the slot was given back, ``slots/S/EPOCH.left`` that it was given back by a run that failed: the next run on the slot removes
what late workers of that one may still have written.

An epoch only grows. A lease that ran out is taken over at the next one, and whoever still works at the old epoch is fenced by the
messages of the new.
"""

from __future__ import annotations

import random
import threading
import time
from contextlib import suppress
from typing import Any

import attrs

from fsd_core.common.sealed import Damaged, seal, unseal
from fsd_core.driver import Code
from fsd_core.errors import FsdError, RunFailed
from fsd_core.storage.keys import RunKeys
from fsd_core.storage.keys import slot as slot_key
from fsd_core.storage.store import Store

__all__ = ["LEASE_S", "RENEW_S", "Lease", "holders", "lease", "release", "renew", "watch"]

RENEW_S = 20.0
LEASE_S = 60.0  # three renewals that did not come
_FREE, _LEFT = ".free", ".left"
_KEPT_EPOCHS = 8  # a client that listed long ago must still find the epoch that it wants taken


@attrs.frozen
class Lease:
    """Slot ``slot``, held at ``epoch`` by ``run``."""

    slot: int
    epoch: int
    run: str


def lease(store: Store, slots: int, run: str, lease_s: float = LEASE_S) -> Lease:
    """Take any free slot for ``lease_s`` seconds from now. Raises `RunFailed` naming who holds them.

    What the slot's last run could not remove, since it failed or its client died, is removed.
    """
    taken = []
    for slot in random.sample(range(slots), slots):
        keys = list(store.keys(slot_key(slot)))
        last = keys[-1] if keys else None
        before: dict[str, Any] = {}  # the lease of a run that may have left something
        if last is not None and not last.endswith(_FREE):
            before = _read(store, slot_key(slot, _epoch(last)))
            if not last.endswith(_LEFT) and before.get("until", 0) > time.time():
                taken.append(f"slot {slot} by run {before.get('run')} for {before['until'] - time.time():.0f} s more")
                continue
        held = Lease(slot, 1 + (_epoch(last) if last else 0), run)
        if not store.create(slot_key(slot, held.epoch), _body(held, lease_s)):
            taken.append(f"slot {slot} by a run that came first")
            continue
        with suppress(FsdError):  # the next run will try again
            if "run" in before:
                store.delete_prefix(RunKeys(before["run"]).prefix)
            store.delete([key for key in keys if _epoch(key) <= held.epoch - _KEPT_EPOCHS])
        return held
    raise RunFailed(Code.THROTTLED, f"no free slot: {'; '.join(sorted(taken))}. Wait, or deploy the app with more slots")


def renew(store: Store, lease: Lease, stop: threading.Event) -> None:
    """Write the lease anew every `RENEW_S` seconds, until the event ``stop`` is set. A renewal that fails is left to the next."""
    while not stop.wait(RENEW_S):
        with suppress(FsdError):
            store.put(slot_key(lease.slot, lease.epoch), _body(lease, LEASE_S))


def watch(store: Store, slot: int, epoch: int, stop: threading.Event) -> None:
    """For a worker: return when the event ``stop`` is set. Raises `RunFailed` once the client has not renewed its lease for `LEASE_S`.

    The time that counts is this machine's, since it last saw the lease change: the two clocks need not agree.
    """
    seen, changed_at = b"", time.monotonic()
    while not stop.wait(RENEW_S):
        found = store.find(slot_key(slot, epoch))
        if found is None:
            raise RunFailed(Code.PRECONDITION, f"lease lost: slot {slot} has no lease of epoch {epoch} any more")
        if found != seen:
            seen, changed_at = found, time.monotonic()
        elif time.monotonic() - changed_at >= LEASE_S:
            raise RunFailed(Code.DEADLINE, f"the client is gone: it has not renewed the lease of slot {slot} for {LEASE_S:g} s")


def holders(store: Store) -> set[str]:
    """The runs that hold a slot now."""
    last = {key.split("/")[1]: key for key in store.keys("slots/")}  # ascending: the latest epoch of each slot
    leases = [_read(store, key) for key in last.values() if not key.endswith((_FREE, _LEFT))]
    return {lease["run"] for lease in leases if lease.get("until", 0) > time.time()}


def release(store: Store, lease: Lease, *, left: bool = False) -> None:
    """Give the slot back. ``left``: objects of the run may still be there, or come, which the slot's next run is to remove."""
    store.put(slot_key(lease.slot, lease.epoch) + (_LEFT if left else _FREE), b"{}")


def _body(lease: Lease, lease_s: float) -> bytes:
    return seal({"run": lease.run, "until": time.time() + lease_s})


def _epoch(key: str) -> int:
    return int(key.rsplit("/", 1)[1].partition(".")[0])


def _read(store: Store, key: str) -> dict[str, Any]:
    """What a lease says; one that is gone says nothing. A damaged one is written anew by its client, if that lives: it gets time to."""
    until = time.monotonic() + 1.5 * RENEW_S
    while (data := store.find(key)) is not None:
        try:
            found = unseal(data, "a lease")
        except Damaged:
            if time.monotonic() >= until or store.retry.stop.wait(1.0):
                break
            continue
        return found if isinstance(found.get("run"), str) and isinstance(found.get("until"), int | float) else {}
    return {}
