"""Slow and hanging workers as the other ranks see them: how a rank finds slow sources, and which of two functions stays."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fsd_core.channel import (
    ChannelConfig,
    News,
    NewsList,
    ObjectChannel,
    Patience,
    QueueChannel,
    RankIdentity,
    SlowSources,
    Superseded,
    limits,
    objects,
)
from fsd_core.channel.frames import KEY_BYTES
from fsd_core.driver import Code, Resources
from fsd_core.errors import RunFailed
from fsd_core.storage.keys import RunKeys
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store
from fsd_core.worker.recovery import Recovery
from fsd_local import PROVIDER

RUN = "0b" * 8
KEYS = RunKeys(RUN)
Calls = list[tuple[int, Sequence[int], bool]]


@pytest.fixture
def resources(tmp_path: Path) -> Resources:
    return PROVIDER.provisioner({"root": str(tmp_path)}).ensure("slow", 3, 1)


@pytest.fixture
def store(resources: Resources) -> Store:
    return Store(PROVIDER.objects(resources), Retry(time.time() + 60, Meter()))


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def config(pool: ThreadPoolExecutor, rank: int, incarnation: int, expected: dict[int, list[int]], **options: Any) -> ChannelConfig:
    me = RankIdentity(RUN, 5, rank, 3, time.time() + 60, incarnation, key=bytes(KEY_BYTES))
    return ChannelConfig(me, expected, Retry(me.deadline, Meter()), pool, **options)


def slow(rank: int, by: int, incarnation: int = 0, **fields: Any) -> News:
    return News(kind="slow", rank=rank, incarnation=incarnation, by=by, **fields)


def nobody(step: int, sources: Sequence[int], again: bool) -> None:
    """Where a rank calls nobody slow, or nobody asks."""


# How a rank finds slow sources


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def patient(min_s: float = 5.0, start_s: float = 0.0) -> tuple[Patience, Clock]:
    clock = Clock()
    return Patience(min_s, start_s, clock), clock


def test_patience_is_three_times_the_own_slowest_step() -> None:
    patience, _ = patient()
    assert [patience.is_over(1, waited) for waited in (4.9, 5.1)] == [False, True]
    patience.step_began(4.0)
    patience.arrived(1, 100.0)  # what others took does not make it longer
    patience.step_began(1.0)
    assert patience.seconds == 12.0
    patience.batch_ended(106.0)  # of which this rank worked for 6 s
    assert patience.seconds == 18.0


def test_waits_for_one_source_in_a_row_of_steps_count_together() -> None:
    patience, _ = patient()
    for _ in range(2):
        patience.step_began(0.1)
        patience.arrived(2, 0.01)
        patience.arrived(1, 2.0)
    patience.step_began(0.1)
    assert [patience.is_over(source, 1.2) for source in (1, 2)] == [True, False]
    patience.arrived(1, 0.9)  # shorter than a fifth of the shortest patience
    patience.step_began(0.1)
    assert not patience.is_over(1, 1.2)


def test_patience_is_longer_while_ranks_start_and_after_one_was_lost() -> None:
    patience, clock = patient(start_s=30.0)
    assert patience.seconds == 30.0
    clock.now = 31.0
    assert patience.seconds == 5.0
    patience.restart()
    assert patience.seconds == 61.0


@pytest.mark.parametrize(("stages", "ended_at", "seconds"), [(1, 100.0, 5.0), (3, 4.0, 15.0), (3, 100.0, 200.0)])
def test_a_rank_that_has_ended_waits_for_the_stages_after_it(stages: int, ended_at: float, seconds: float) -> None:
    patience, clock = patient()
    clock.now = ended_at
    patience.work_ended(stages)
    assert patience.seconds == seconds


def test_a_source_is_called_slow_once_each_time_that_the_wait_has_doubled() -> None:
    patience, _ = patient()
    calls: Calls = []
    sources = SlowSources(patience, lambda *call: calls.append(call))
    sources.begins(0.1)
    assert [waited for waited in np.arange(0.0, 25.0, 0.5) if sources.look(7, [1, 2], waited)] == [5.5]
    assert calls == [(7, [1, 2], False), (7, [1, 2], True), (7, [1, 2], True)]
    sources.arrived(1, 25.0)
    assert not sources.look(7, [2], 4.0)
    assert sources.look(7, [2], 5.5)


def test_a_rank_that_waits_and_is_called_slow_names_its_source() -> None:
    """Also if its own steps are longer than those of the rank that waits for it."""
    patience, _ = patient()
    calls: Calls = []
    sources = SlowSources(patience, lambda *call: calls.append(call))
    sources.begins(4.0)
    sources.doubt()
    assert not sources.look(7, [1], 5.9)
    assert sources.look(7, [1], 6.1)
    assert not sources.look(7, [1], 6.3)
    assert calls == [(7, [1], True)]
    sources.doubt()
    sources.begins(4.0)  # it is not called slow for what it waited before
    assert not sources.look(8, [1], 6.1)


class Blind(Patience):
    """It calls nobody slow by itself."""

    def is_over(self, source: int, waited: float) -> bool:
        return False


def test_a_queue_brings_a_rank_the_news_that_it_is_slow(resources: Resources, pool: ThreadPoolExecutor) -> None:
    calls: Calls = []
    with ExitStack() as stack:

        def make(rank: int, expected: dict[int, list[int]]) -> QueueChannel:
            sources = SlowSources(Blind(0.2, 0.0), called)
            channel = QueueChannel(PROVIDER.messages(resources, 0), config(pool, rank, 0, expected, slow=sources))
            stack.callback(channel.close)
            return channel

        def called(*call: Any) -> None:
            calls.append(call)
            source.send(0, [(1, b"late")])

        source, waiting, behind = make(2, {}), make(1, {0: [2]}), make(0, {})
        behind.say(slow(1, by=0), [1])
        assert list(waiting.receive(0)) == [(2, b"late")]
    assert calls == [(0, [2], True)]


class Hasty(Patience):
    """It calls a rank slow after 0.1 s, however long its own steps take on a busy machine."""

    def is_over(self, source: int, waited: float) -> bool:
        return waited > 0.1


def test_without_a_client_the_stall_limit_ends_the_run(store: Store, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calling a rank slow makes the limit longer once, not without end."""
    for module in (limits, objects):
        monkeypatch.setattr(module, "MIN_LIMIT_S", 0.3)
    calls: Calls = []
    sources = SlowSources(Hasty(0.1, 0.0), lambda *call: calls.append(call))
    channel = ObjectChannel(store, config(pool, 0, 0, {0: [1]}, slow=sources, start_s=0.3))
    with pytest.raises(RunFailed, match="longer than the stall limit, for rank 1") as caught:
        list(channel.receive(0))
    channel.close()
    assert caught.value.code is Code.DEADLINE
    assert calls[0] == (0, [1], False)


def test_one_rank_of_several_that_wait_adds_the_news(store: Store, pool: ThreadPoolExecutor) -> None:
    def recovery(rank: int) -> Recovery:
        some = Recovery(store, KEYS, rank, 0, pool)
        some.on = some.beside = True
        some.begin(ObjectChannel(store, config(pool, rank, 0, {})), 3, [])
        return some

    NewsList(store, KEYS).add(News(kind="hello", rank=2, incarnation=1))
    first, second = recovery(0), recovery(2)
    first.call_slow(3, [1], False)  # it learns now that a rank was replaced, on which rank 1 may wait
    assert [each.kind for each in NewsList(store, KEYS).read()] == ["hello"]
    first.reached(4)
    first.call_slow(3, [1], False)
    second.call_slow(3, [1], False)
    assert [(each.rank, each.by, each.layer) for each in NewsList(store, KEYS).read()[1:]] == [(1, 0, 4)]
    second.call_slow(3, [1], True)
    assert [each.by for each in NewsList(store, KEYS).read()[1:]] == [0, 2]


# Who stays


@pytest.mark.parametrize(("incarnation", "there", "stays"), [
    (0, [], True),  # its own put wrote the object, and only the reply to this put was lost
    (0, ["claim/1.1"], False),  # the next one got ahead
    (1, [], True),  # it is still behind
    (1, ["record/1"], False),  # the first one has ended
    (1, ["claim/1"], True),
])  # fmt: skip
def test_of_two_functions_the_first_to_get_ahead_stays(
    store: Store, pool: ThreadPoolExecutor, incarnation: int, there: list[str], stays: bool
) -> None:
    channel = ObjectChannel(store, config(pool, 1, incarnation, {}, slow=SlowSources(Patience(5.0, 5.0), nobody)))
    for key in there:
        store.put(KEYS.prefix + key, b"")
    store.put(KEYS.exchange(0, 1), b"of the other one")
    channel.send(0, [(0, b"mine")])
    if stays:
        channel.finish()
    else:
        with pytest.raises(Superseded):
            channel.finish()
    channel.close()
    assert store.get(KEYS.exchange(0, 1)) == b"of the other one"


def test_only_a_death_ends_a_function_that_shares_no_queue(store: Store, pool: ThreadPoolExecutor) -> None:
    for beside in (True, False):
        some = Recovery(store, KEYS, 1, 0, pool)
        some.on, some.beside = True, beside
        if beside:
            NewsList(store, KEYS).add(News(kind="hello", rank=1, incarnation=1))
            some.look()
            assert some.has_successor(RunFailed(Code.DEADLINE, "waited"), store)  # which may live: the run does not end
            continue
        with pytest.raises(Superseded):
            some.look()
    NewsList(store, KEYS).add(News(kind="lost", rank=1, incarnation=0))
    some.beside = True
    with pytest.raises(Superseded):
        some.look()


def test_a_function_goes_on_if_a_later_one_dies_before_it_takes_its_place(
    resources: Resources, store: Store, pool: ThreadPoolExecutor
) -> None:
    """With queues. Others still send to the one that works, and it asks for what the later one may have taken."""
    listed = NewsList(store, KEYS)
    first, other = Recovery(store, KEYS, 1, 0, pool), QueueChannel(PROVIDER.messages(resources, 0), config(pool, 0, 0, {}, kept_bytes=9))
    mine = QueueChannel(PROVIDER.messages(resources, 0), config(pool, 1, 0, {}))
    first.on = True
    first.begin(mine, 3, [])
    for number in (1, 2):
        listed.add(death := News(kind="lost", rank=1, incarnation=number))
        first.look()
        assert mine.unread
        other.heed(death)
        assert other.incarnations.get(1, 0) == 0
    assert not first.has_successor(RunFailed(Code.DEADLINE, "waited"), store)
    listed.add(hello := News(kind="hello", rank=1, incarnation=2))
    other.heed(hello)
    assert other.incarnations[1] == 2
    for looks in (first.look, lambda: mine.heed(hello)):
        with pytest.raises(Superseded):
            looks()
    assert first.has_successor(RunFailed(Code.DEADLINE, "waited"), store)
    for channel in (mine, other):
        channel.close()
