"""Leases of slots: a run takes a slot, its client renews the lease during the run, and the client releases the slot at the end.

The object ``slots/S/EPOCH`` is the lease of slot S. It names the run that holds the slot at this epoch, and the time at which the lease
ends. A run takes a slot by creating this object at the next epoch; only one of several runs can create it. The client writes the object
again every `RENEW_S` seconds. If the client did not write it for `LEASE_S` seconds, the client counts as dead: its workers stop, and
another run may take the slot.

The object ``slots/S/EPOCH.free`` shows that the run has released the slot. If the run failed, ``slots/S/EPOCH.left`` takes its place: late
workers may still write objects of the failed run, and the next run on the slot removes these objects.

Epochs only grow. A worker that still works at an old epoch stops when it receives a message of a newer epoch.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from concurrent.futures import Future
from contextlib import suppress

import attrs

from fsd_core.common.crew import begin
from fsd_core.common.fields import key, number, read, text
from fsd_core.common.sealed import Damaged, seal, unseal
from fsd_core.driver import Code
from fsd_core.errors import FsdError, InputError, RunFailed
from fsd_core.storage.keys import RunKeys
from fsd_core.storage.keys import slot as slot_key
from fsd_core.storage.store import Store

__all__ = ["LEASE_S", "RENEW_S", "Lease", "Look", "holders", "lease", "look", "newest_epoch", "release", "renew", "watch"]

log = logging.getLogger(__name__)

RENEW_S = 20.0
LEASE_S = 60.0  # three renewals
_FREE, _LEFT = ".free", ".left"
_KEPT_EPOCHS = 8  # old leases stay, so that a client with an outdated listing cannot create one of their epochs again


@attrs.frozen
class Lease:
    """Run ``run`` holds slot ``slot`` (from 0) at ``epoch`` (from 1)."""

    slot: int
    epoch: int
    run: str


@attrs.frozen
class _Holder:
    """The content of a lease. ``until`` is its end in seconds since 1970."""

    run: str = key(text())
    until: float = key(number(-math.inf))


@attrs.frozen
class Look:
    """A request for the leases of one slot that is under way. ``keys``: all lease keys of the slot, ascending."""

    slot: int
    keys: Future[list[str]]


def look(store: Store, slots: int) -> Look:
    """Begin to look at one of ``slots`` slots, while the caller does something else. Changes nothing."""
    slot = random.randrange(slots)
    return Look(slot, begin(lambda: list(store.keys(slot_key(slot)))))


def lease(store: Store, slots: int, run: str, lease_s: float = LEASE_S, first: Look | None = None) -> Lease:
    """Take one free slot of ``slots`` slots, for ``lease_s`` seconds from now. Tries the slot of the `Look` ``first`` first.

    Removes the objects of the slot's last run if that run failed or its client died. Raises `RunFailed` (`Code.THROTTLED`) if no slot is
    free; the error line names the runs that hold the slots.
    """
    taken: dict[int, str] = {}
    tries: list[tuple[int, list[str] | None]] = [(slot, None) for slot in random.sample(range(slots), slots)]
    if first is not None:
        tries.insert(0, (first.slot, first.keys.result()))  # this slot comes twice: its holder may have released it since ``first``
    for slot, listed in tries:
        keys = list(store.keys(slot_key(slot))) if listed is None else listed
        last = keys[-1] if keys else None
        before: _Holder | None = None  # the last run, if its objects may still exist
        if last is not None and not last.endswith(_FREE):
            before = _read(store, slot_key(slot, _epoch(last)))
            if before and not last.endswith(_LEFT) and before.until > time.time():
                taken[slot] = f"slot {slot} by run {before.run} for {before.until - time.time():.0f} s more"
                continue
        held = Lease(slot, 1 + (_epoch(last) if last else 0), run)
        if not store.create(slot_key(slot, held.epoch), _body(held, lease_s)):
            taken[slot] = f"slot {slot} by a run that took it at the same time"
            continue
        with suppress(FsdError):  # if this fails, the next run on the slot tries again
            if before:
                store.delete_prefix(RunKeys(before.run).prefix)
            store.delete([each for each in keys if _epoch(each) <= held.epoch - _KEPT_EPOCHS])
        log.info("run %s leases slot %d at epoch %d", run, slot, held.epoch)
        return held
    held_by = "; ".join(taken[slot] for slot in sorted(taken))
    raise RunFailed(Code.THROTTLED, f"no free slot: {held_by}; try again later, or deploy the app with more slots")


def renew(store: Store, lease: Lease, stop: threading.Event) -> None:
    """Write the lease again every `RENEW_S` seconds, until the event ``stop`` is set. Ignores errors: the next renewal may succeed."""
    while not stop.wait(RENEW_S):
        try:
            store.put(slot_key(lease.slot, lease.epoch), _body(lease, LEASE_S))
            log.debug("renewed the lease of slot %d", lease.slot)
        except FsdError as error:
            log.warning("the lease of slot %d is not renewed: %s", lease.slot, error)


def watch(store: Store, slot: int, epoch: int, stop: threading.Event) -> None:
    """Watch the lease from a worker until the event ``stop`` is set.

    Raises `RunFailed` if the lease is gone, or if the client did not renew it for `LEASE_S` seconds. This machine's clock measures the time
    since the lease last changed, so that the clocks of client and worker may differ.
    """
    seen, changed_at = b"", time.monotonic()
    while not stop.wait(RENEW_S):
        found = store.find(slot_key(slot, epoch))
        if found is None:
            raise RunFailed(Code.PRECONDITION, f"lease lost: slot {slot} has no lease of epoch {epoch}: expected this run's lease")
        if found != seen:
            seen, changed_at = found, time.monotonic()
        elif time.monotonic() - changed_at >= LEASE_S:
            raise RunFailed(Code.DEADLINE, f"the client is gone: it has not renewed the lease of slot {slot} for {LEASE_S:g} s")


def newest_epoch(store: Store, slot: int) -> int:
    """The epoch of the slot's last lease, by one request; 0 if it has none."""
    return max(map(_epoch, store.keys(slot_key(slot))), default=0)


def holders(store: Store) -> set[str]:
    """The ids of the runs that hold a slot now."""
    last = {each.split("/")[1]: each for each in store.keys("slots/")}  # keys are ascending: the latest epoch of each slot stays
    found = [_read(store, each) for each in last.values() if not each.endswith((_FREE, _LEFT))]
    return {holder.run for holder in found if holder and holder.until > time.time()}


def release(store: Store, lease: Lease, *, leftovers: bool = False) -> None:
    """Release the slot. With ``leftovers``, late workers may still write objects of the run: the next run on the slot removes them."""
    store.put(slot_key(lease.slot, lease.epoch) + (_LEFT if leftovers else _FREE), b"{}")
    log.info("run %s gives slot %d back", lease.run, lease.slot)


def _body(lease: Lease, lease_s: float) -> bytes:
    return seal(attrs.asdict(_Holder(lease.run, time.time() + lease_s)))


def _epoch(lease_key: str) -> int:
    return int(lease_key.rsplit("/", 1)[1].partition(".")[0])


def _read(store: Store, lease_key: str) -> _Holder | None:
    """Read a lease. Returns `None` if the lease does not exist or stays damaged.

    If the client lives, its next renewal replaces a damaged lease. So this function waits for longer than the time between two renewals.
    """
    until = time.monotonic() + 1.5 * RENEW_S
    while (data := store.find(lease_key)) is not None:
        try:
            found = unseal(data, "a lease")
            return read(_Holder, found, "a lease: ", known=found.keys())
        except InputError:  # of another form: waiting would not help
            return None
        except Damaged:
            if time.monotonic() >= until or store.retry.stop.wait(1.0):
                break
    return None
