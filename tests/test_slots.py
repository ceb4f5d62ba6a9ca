"""Slots: one holder each, epochs only grow, what ran out is taken over, and a refusal names the holders."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fsd_core.driver import Code
from fsd_core.errors import RunFailed
from fsd_core.retry import Retry
from fsd_core.slots import lease, release
from fsd_core.store import Store
from fsd_core.wrappers.faults import Faults, FaultyObjects
from fsd_core.wrappers.meter import Meter
from fsd_local import PROVIDER


@pytest.fixture
def store(tmp_path: Path) -> Store:
    resources = PROVIDER.provisioner({"root": str(tmp_path)}).ensure("test", 1, 1)
    return Store(PROVIDER.objects(resources), Retry(time.time() + 60, Meter()))


def test_epochs_grow_and_old_leases_do_not_pile_up(store: Store) -> None:
    for epoch in range(1, 21):
        held = lease(store, 1, f"run{epoch}")
        assert (held.slot, held.epoch) == (0, epoch)
        release(store, held)
    assert len(list(store.keys("slots/"))) <= 2 * 9


def test_a_refusal_names_who_holds_what(store: Store) -> None:
    for run in ("one", "two"):
        lease(store, 2, run)
    with pytest.raises(RunFailed, match=r"no free slot: slot 0 by run (one|two) .* slot 1 by run (one|two)") as caught:
        lease(store, 2, "three")
    assert caught.value.code is Code.THROTTLED


def test_what_ran_out_is_taken_over_at_the_next_epoch(store: Store) -> None:
    dead = lease(store, 1, "dead", -1)
    assert lease(store, 1, "next").epoch == dead.epoch + 1


def test_of_many_at_once_each_slot_goes_to_one(store: Store) -> None:
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
