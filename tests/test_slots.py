"""Leases: a slot has one holder, epochs only grow, an expired lease is taken over, and a refusal names the holders."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flips import flips
from fsd_core.driver import Code
from fsd_core.errors import RunFailed
from fsd_core.storage import slots
from fsd_core.storage.keys import RunKeys, slot
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.slots import holders, lease, release, renew, watch
from fsd_core.storage.store import Store
from fsd_core.wrappers.faults import Faults, FaultyObjects
from fsd_local import PROVIDER
from waiting import until


@pytest.fixture
def store(tmp_path: Path) -> Store:
    resources = PROVIDER.provisioner({"root": str(tmp_path)}).ensure("test", 1, 1)
    return Store(PROVIDER.objects(resources), Retry(time.time() + 60, Meter()))


def test_epochs_grow_and_old_leases_do_not_pile_up(store: Store) -> None:
    for epoch in range(1, 21):
        held = lease(store, 1, f"run{epoch}")
        assert (held.slot, held.epoch) == (0, epoch)
        release(store, held)
    left = {int(key.rsplit("/", 1)[1].partition(".")[0]) for key in store.keys("slots/")}
    assert left == set(range(13, 21))  # a client that listed some runs ago still finds taken what it wants


def test_a_refusal_names_the_holders(store: Store) -> None:
    for run in ("one", "two"):
        lease(store, 2, run)
    with pytest.raises(RunFailed, match=r"no free slot: slot 0 by run (one|two) .* slot 1 by run (one|two)") as caught:
        lease(store, 2, "three")
    assert caught.value.code is Code.THROTTLED


def test_a_slot_that_was_released_after_the_first_look_is_free(store: Store) -> None:
    held = lease(store, 1, "one")
    first = slots.look(store, 1)
    first.keys.result()
    release(store, held)
    assert lease(store, 1, "two", first=first).epoch == held.epoch + 1
    with pytest.raises(RunFailed, match=r"no free slot: slot 0 by run two for \d+ s more; try again later"):  # the slot is named once
        lease(store, 1, "three", first=first)


def test_an_expired_lease_is_taken_over_at_the_next_epoch(store: Store) -> None:
    dead = lease(store, 1, "dead", -1)
    assert lease(store, 1, "next").epoch == dead.epoch + 1


def test_of_many_runs_at_once_each_slot_goes_to_one(store: Store) -> None:
    def attempt(number: int) -> tuple[int, int] | None:
        try:
            held = lease(store, 3, f"run{number}")
        except RunFailed:
            return None
        return held.slot, held.epoch

    with ThreadPoolExecutor(12) as pool:
        won = [one for one in pool.map(attempt, range(12)) if one]
    assert sorted(won) == [(0, 1), (1, 1), (2, 1)]


def test_a_create_whose_reply_was_lost_still_wins(store: Store) -> None:
    lost = Store(FaultyObjects(store.driver, Faults.parse("lost_reply=.5,seed=2"), 0), store.retry)
    for number in range(20):
        assert lost.create(f"claim/{number}", b"mine")
        assert not store.create(f"claim/{number}", b"other")


def left_by(store: Store, run: str) -> list[str]:
    return list(store.keys(RunKeys(run).prefix))


def test_the_next_run_removes_the_objects_of_a_failed_run_or_dead_client(store: Store) -> None:
    for run, end in (("ab" * 8, "failed"), ("cd" * 8, "died"), ("ef" * 8, "ended")):
        held = lease(store, 1, run, -1 if end == "died" else 60)
        store.put(RunKeys(run).error, b"why")
        if end == "failed":
            release(store, held, leftovers=True)
        elif end == "ended":
            release(store, held)
        assert left_by(store, run)
        lease(store, 1, "next", -1)
        assert bool(left_by(store, run)) == (end == "ended")  # a run that ended well has removed its objects itself
        store.delete([slot(0, held.epoch + 1)])


def test_a_lease_is_renewed_until_its_run_is_over(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "RENEW_S", 0.05)
    held, over = lease(store, 1, "run", -1), threading.Event()
    assert holders(store) == set()
    with ThreadPoolExecutor(1) as pool:
        renewing = pool.submit(renew, store, held, over)
        until(lambda: holders(store) == {"run"})
        over.set()
        renewing.result(60)


def test_a_worker_measures_the_renewals_by_its_own_clock(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "RENEW_S", 0.05)
    held, over = lease(store, 1, "run", -1e6), threading.Event()  # the client's clock is far behind
    written = {store.get(slot(0, 1))}

    def renewals() -> int:
        written.add(store.get(slot(0, 1)))
        return len(written) - 1

    with ThreadPoolExecutor(2) as pool:
        watching, renewing = pool.submit(watch, store, 0, 1, over), pool.submit(renew, store, held, over)
        until(lambda: renewals() >= 5)
        assert not watching.done()
        over.set()
        watching.result(60)
        renewing.result(60)
    monkeypatch.setattr(slots, "LEASE_S", 0.5)
    began = time.monotonic()
    with pytest.raises(RunFailed, match=r"the client is gone: it has not renewed the lease of slot 0 for 0.5 s") as caught:
        watch(store, 0, 1, threading.Event())
    assert caught.value.code is Code.DEADLINE
    assert time.monotonic() - began < 30
    with pytest.raises(RunFailed, match="lease lost: slot 0 has no lease of epoch 7"):
        watch(store, 0, 7, threading.Event())


def test_a_damaged_lease_is_held_until_its_client_had_time_to_renew_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    held = lease(store, 1, "run")
    body = store.get(slot(0, 1))
    (damaged,) = flips(body, 1)
    store.put(slot(0, 1), damaged)
    threading.Timer(0.2, store.put, (slot(0, 1), body)).start()
    with pytest.raises(RunFailed, match="slot 0 by run run"):  # it waits for longer than a renewal takes
        lease(store, 1, "other")
    monkeypatch.setattr(slots, "RENEW_S", 0.5)
    store.put(slot(0, 1), damaged)
    assert lease(store, 1, "other").epoch == held.epoch + 1
