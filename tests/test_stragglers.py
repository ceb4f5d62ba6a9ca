"""Slow and hanging workers: how a rank finds them, which of them the client replaces, who of two functions stays, and whole runs."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

import fsd_core.client.apps
import fsd_core.client.follow
import fsd_core.client.job
from dying_functions import TRAP, DyingProvider
from fsd_core import Result, run
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
from fsd_core.client import stragglers
from fsd_core.client.first_rank import FirstRank
from fsd_core.client.job import Job
from fsd_core.client.recovery import Restarts
from fsd_core.client.stragglers import Stragglers
from fsd_core.common.sealed import seal
from fsd_core.driver import Code, Resources
from fsd_core.errors import RunFailed
from fsd_core.model import radixnet
from fsd_core.model.inputs import open_inputs
from fsd_core.protocol.runconfig import RunConfig
from fsd_core.protocol.spawn import LaunchPayload
from fsd_core.storage.keys import RunKeys
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store
from fsd_core.worker.recovery import Recovery
from fsd_local import PROVIDER
from test_launch import CONFIG
from waiting import claims

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


# Which of them the client replaces


def of_run(channel: str, **more: Any) -> RunConfig:
    """The configuration of a pipeline of four stages."""
    return attrs.evolve(CONFIG, channel=channel, **({"workers": 4, "pipeline": 4, "last": [3]} | more))


@pytest.fixture
def at_work(store: Store, monkeypatch: pytest.MonkeyPatch) -> Stragglers:
    """Ranks 0 to 3 have started."""
    monkeypatch.setattr(stragglers, "GATHER_LIST_S", 0.0)
    for rank in range(4):
        store.put(KEYS.claim(rank), b"")
    return Stragglers(store, KEYS, of_run("object"))


@pytest.mark.parametrize(
    ("news", "expected"),
    [
        ([slow(2, by=3), slow(1, by=2), slow(0, by=1)], [0]),  # a pipeline: the first one alone
        ([slow(1, by=0), slow(2, by=0), slow(1, by=3)], [1, 2]),
        ([slow(1, by=0), slow(0, by=1)], []),  # each waits for the other: a message may be late
        ([slow(1, by=0, incarnation=1)], []),  # of which nobody knows
        ([slow(4, by=0), slow(1, by=0)], [1]),  # rank 4 has not started
        ([], []),
    ],
)
def test_the_rank_that_waits_for_nobody_is_replaced(at_work: Stragglers, news: list[News], expected: list[int]) -> None:
    for each in news:
        at_work.hear(each)
    assert [each.rank for each in at_work.found({})] == expected
    assert at_work.found({}) == []


def test_who_is_not_replaced(at_work: Stragglers, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that has ended, one that died meanwhile, one in its last incarnation, and one that was replaced as slow before."""
    store.put(KEYS.record(0), b"")
    store.put(KEYS.claim(2, 2), b"")
    store.put(KEYS.claim(3, 1), b"")
    for each in (slow(0, by=3), slow(1, by=3), slow(2, by=3, incarnation=2)):
        at_work.hear(each)
    assert at_work.found({1: 1, 2: 2}) == []
    for incarnation in (0, 1):
        at_work.hear(slow(3, by=1, incarnation=incarnation))
        assert len(at_work.found({3: incarnation})) == 1 - incarnation
    monkeypatch.setattr(stragglers, "GATHER_LIST_S", 60.0)
    at_work.hear(slow(1, by=3))
    assert at_work.found({}) == []  # others may still say for whom they wait


def test_a_rank_stays_if_a_second_function_could_not_get_what_it_needs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """With queues, a source that has ended and left nothing would end the run."""
    monkeypatch.setattr(stragglers, "GATHER_S", 0.0)
    for rank in (1, 2):
        store.put(KEYS.claim(rank), b"")
    for left, expected in ((False, []), (True, [1])):
        store.put(KEYS.record(0), seal({"rank": 0, "left": left}))
        some = Stragglers(store, KEYS, of_run("queue"))
        some.hear(slow(1, by=2))
        assert [each.rank for each in some.found({})] == expected


def test_the_sources_of_a_rank_are_those_that_send_to_it() -> None:
    config = of_run("queue", workers=4, pipeline=2, last=[2, 3])
    assert [config.sources(rank) for rank in range(4)] == [[1, 2, 3], [0], [0, 1, 3], [0, 1, 2]]


class Launched:
    """A spawner that notes what it starts. With ``full``, the platform has no function to spare."""

    def __init__(self) -> None:
        self.started: list[tuple[int, int]] = []
        self.full = False
        self.refused: list[LaunchPayload] = []

    def start(self, payloads: Sequence[LaunchPayload]) -> None:
        self.started += [(each.rank, each.incarnation) for each in payloads]

    def offer(self, payload: LaunchPayload) -> bool:
        if not self.full:
            self.start([payload])
        return not self.full

    def given_up(self) -> list[LaunchPayload]:
        found, self.refused = self.refused, []
        return found


@attrs.define
class Client:
    """The client's part, with its looks."""

    restarts: Restarts
    spawner: Launched
    news: NewsList
    informed: list[News]
    first: LaunchPayload

    def look(self, *news: News, answered: bool = False) -> None:
        """What it does about new entries."""
        for each in news:
            self.news.add(each)
        self.restarts.look(answered)


@pytest.fixture(params=["object", "queue"])
def client(request: pytest.FixtureRequest, at_work: Stragglers, store: Store, monkeypatch: pytest.MonkeyPatch) -> Client:
    """That of a run with ranks 0 to 3. Another object of the store lists the news."""
    monkeypatch.setattr(stragglers, "GATHER_S", 0.0)
    spawner, informed = Launched(), list[News]()
    first = LaunchPayload("app", 0, 1, RUN, 0, 0, time.time() + 60)
    some = Stragglers(store, KEYS, of_run(request.param))
    restarts = Restarts(NewsList(store, KEYS), spawner, first, informed.append, some)  # type: ignore[arg-type]
    return Client(restarts, spawner, NewsList(store, KEYS), informed, first)


KILLED = News(kind="lost", rank=1, incarnation=0, reason="killed")


def test_a_second_function_starts_beside_the_first(client: Client) -> None:
    """The client sends no entry: with queues, the hello of the second function ends the first one."""
    client.look(slow(1, by=0, layer=3))
    client.look()
    assert (client.spawner.started, client.informed) == ([(1, 1)], [])
    assert [each.kind for each in client.news.read()] == ["slow"]
    assert [(each["rank"], each["layer"], each["reason"]) for each in client.restarts.recovered([])] == [(1, 3, "slow")]
    assert client.restarts.left_over([]) is not None  # the other function may still be at work
    client.look(News(kind="hello", rank=1, incarnation=1))
    assert (client.restarts.left_over([]) is not None) == client.restarts._stragglers.beside
    client.look(KILLED)  # the slow one, which nobody needs any more
    client.look(attrs.evolve(KILLED, incarnation=1))
    client.look(slow(2, by=0), answered=True)  # too late: nobody needs it
    assert client.spawner.started == [(1, 1), (1, 2)]


def test_a_slow_rank_goes_on_where_no_second_function_starts(client: Client) -> None:
    client.spawner.full = True
    client.look(slow(1, by=0, layer=3))
    assert (client.spawner.started, client.informed, client.restarts.recovered([]), client.restarts.left_over([])) == ([], [], [], None)
    assert [each.kind for each in client.news.read()] == ["slow"]
    client.look(KILLED)
    assert (client.spawner.started, len(client.informed)) == ([(1, 1)], 1)


@pytest.mark.parametrize("dies", ["before", "after"])
def test_a_slow_rank_goes_on_where_the_platform_refuses_its_second_function_later(client: Client, dies: str) -> None:
    """It can be replaced once it dies, before or after that."""
    client.look(slow(1, by=0, layer=3))
    if dies == "before":
        client.look(KILLED)
    client.spawner.refused = [attrs.evolve(client.first, rank=1, incarnation=1)]
    client.look()
    if dies == "after":
        assert client.restarts.recovered([]) == []
        client.look(KILLED)
    assert client.spawner.started == [(1, 1), (1, 1)]
    assert [(each["rank"], each["reason"]) for each in client.restarts.recovered([])] == [(1, "killed")]


def second_dies(client: Client, *numbers: int) -> None:
    """Rank 1 is slow, and its later functions die before they say hello."""
    client.look(slow(1, by=0, incarnation=numbers[0] - 1, layer=3))
    for number in numbers:
        client.look(attrs.evolve(KILLED, incarnation=number))


@pytest.mark.parametrize("client", ["queue"], indirect=True)
def test_a_slow_rank_goes_on_if_its_later_functions_die_before_they_take_its_place(client: Client) -> None:
    """The client tells nobody of their deaths, and starts no fourth function. The slow one may end its work."""
    second_dies(client, 1, 2)
    assert (client.spawner.started, client.informed, client.restarts.recovered([])) == ([(1, 1), (1, 2)], [], [])
    client.look(slow(1, by=2), attrs.evolve(KILLED, incarnation=2))  # two reports of one death
    assert client.restarts.left_over([], [{"rank": 1, "incarnation": 0}]) is None
    assert client.restarts.left_over([1]) is not None
    with pytest.raises(RunFailed, match=r"killed \(3 functions of this rank were lost\)"):
        client.look(KILLED)
    assert client.spawner.started == [(1, 1), (1, 2)]


@pytest.mark.parametrize("client", ["queue"], indirect=True)
def test_the_second_incarnation_goes_on_if_the_last_one_dies_before_it_takes_its_place(client: Client, store: Store) -> None:
    store.put(KEYS.claim(1, 1), b"")
    client.look(KILLED, News(kind="hello", rank=1, incarnation=1))
    second_dies(client, 2)
    assert client.spawner.started == [(1, 1), (1, 2)]
    assert [each["reason"] for each in client.restarts.recovered([])] == ["killed"]
    client.look(News(kind="hello", rank=1, incarnation=1, step=4))  # it asks again
    assert client.restarts.left_over([], [{"rank": 1, "incarnation": 1}]) is None
    with pytest.raises(RunFailed, match="3 functions"):
        client.look(attrs.evolve(KILLED, incarnation=1))


@pytest.mark.parametrize("client", ["queue"], indirect=True)
def test_the_last_function_that_took_the_place_of_a_slow_one_may_not_die(client: Client) -> None:
    second_dies(client, 1)
    client.look(News(kind="hello", rank=1, incarnation=2))
    assert [each["reason"] for each in client.restarts.recovered([])] == ["slow", "killed"]
    with pytest.raises(RunFailed, match="3 functions"):
        client.look(attrs.evolve(KILLED, incarnation=2))


@pytest.mark.parametrize("client", ["queue"], indirect=True)
def test_a_slow_rank_whose_second_function_died_is_replaced_once_it_dies(client: Client) -> None:
    """By an incarnation that has no claim yet."""
    second_dies(client, 1)
    client.spawner.refused = [attrs.evolve(client.first, rank=1, incarnation=2)]
    client.look()
    assert client.restarts.recovered([]) == []
    client.look(KILLED)
    assert client.spawner.started == [(1, 1), (1, 2), (1, 2)]
    assert [each["reason"] for each in client.restarts.recovered([])] == ["killed"]
    client.look(News(kind="hello", rank=1, incarnation=2), KILLED)
    assert client.restarts.left_over([], [{"rank": 1, "incarnation": 2}]) is None


@pytest.mark.parametrize("client", ["queue"], indirect=True)
def test_a_second_function_that_dies_after_the_answer_costs_no_answer(client: Client) -> None:
    client.look(slow(1, by=0))
    client.look(attrs.evolve(KILLED, incarnation=1), answered=True)
    assert client.spawner.started == [(1, 1)]


@pytest.mark.parametrize("client", ["queue"], indirect=True)
def test_a_rank_that_has_ended_needs_no_further_function(client: Client, store: Store) -> None:
    """The first function may end before its second one takes its place. Then the death of a later one costs nothing."""
    client.look(slow(1, by=0))
    store.put(KEYS.record(1), b"")
    client.look(attrs.evolve(KILLED, incarnation=1))
    assert (client.spawner.started, client.restarts.recovered([])) == ([(1, 1)], [])
    assert client.restarts.left_over([], [{"rank": 1, "incarnation": 0}]) is None


@pytest.mark.parametrize("client", ["queue"], indirect=True)
def test_the_death_of_the_last_function_of_a_rank_that_has_ended_ends_no_run(client: Client, store: Store) -> None:
    second_dies(client, 1)
    client.look(News(kind="hello", rank=1, incarnation=2))
    store.put(KEYS.record(1), b"")  # of the first function, which had not heard of the hello
    client.look(attrs.evolve(KILLED, incarnation=2))
    assert client.spawner.started == [(1, 1), (1, 2)]
    assert client.restarts.left_over([], [{"rank": 1, "incarnation": 0}]) is None


@pytest.mark.parametrize("client", ["queue"], indirect=True)
@pytest.mark.parametrize("full", [True, False])
def test_a_second_function_may_say_hello_after_the_report_of_its_death(client: Client, full: bool) -> None:
    """It was taken for dead, and lives: the first function stops because of the hello, and the second one because of the report."""
    client.look(slow(1, by=0))
    client.spawner.full = full
    client.look(attrs.evolve(KILLED, incarnation=1), News(kind="hello", rank=1, incarnation=1))
    assert client.spawner.started == [(1, 1), (1, 2)]
    with pytest.raises(RunFailed, match="3 functions"):  # none is left
        client.look(attrs.evolve(KILLED, incarnation=2))


class Alone:
    """Rank 0 of a run of three, whose others have ended. The run took 2 s until then."""

    def __init__(self, store: Store, **more: Any) -> None:
        self.restarts, self.called = self, list[News]()
        self.incarnation = 0
        config = of_run("object", workers=3, pipeline=1, start_s=1.0, layers=12, started=time.time() - 2.0, **more)
        self.first = FirstRank(store, KEYS, config, self)  # type: ignore[arg-type]
        for rank in (1, 2):
            self.first.look()
            assert self.first._since is None
            store.put(KEYS.record(rank), b"")
        self.first.look()

    def newest(self, rank: int) -> int:
        return self.incarnation

    def call_slow(self, news: News) -> None:
        self.called.append(news)

    def waits(self, seconds: float) -> None:
        """It has been alone for so long."""
        self.first._since = time.monotonic() - seconds
        self.first.check()


def test_the_client_calls_rank_0_slow_once_it_works_alone(store: Store) -> None:
    alone = Alone(store, slow_s=0.4)
    alone.waits(0.45)  # three of its layers took longer
    assert alone.called == []
    alone.waits(0.9)
    alone.waits(1.0)
    assert [(each.kind, each.rank, each.incarnation) for each in alone.called] == [("slow", 0, 0)]
    alone.incarnation = 1
    alone.waits(1000.0)  # the next incarnation gets the same time
    with pytest.raises(RunFailed, match=r"rank 0 still works 1000 s after all other ranks have ended, longer than the stall limit"):
        alone.waits(1000.0)
    store.put(KEYS.record(0), b"")
    alone.waits(1000.0)  # the client still reads what it wrote


def test_rank_0_gets_its_time_again_if_a_launch_that_was_given_up_is_repeated(store: Store) -> None:
    """The platform refused the second function of rank 0, and starts it after the death of the first one."""
    alone = Alone(store, slow_s=0.4)
    for alone.incarnation in (1, 0):
        alone.waits(1.5)
    alone.incarnation = 1
    alone.waits(1000.0)
    with pytest.raises(RunFailed, match="rank 0 still works 1000 s"):
        alone.waits(1000.0)


def test_rank_0_that_works_alone_has_a_limit_where_slow_ranks_stay(store: Store) -> None:
    alone = Alone(store, slow_s=0.0)
    alone.waits(1.9)  # as long as the run has taken
    with pytest.raises(RunFailed, match="longer than the stall limit") as caught:
        alone.waits(60.0)
    assert (alone.called, caught.value.code, caught.value.rank) == ([], Code.DEADLINE, 0)


def test_rank_0_may_have_one_more_micro_batch_than_the_others(store: Store) -> None:
    alone = Alone(store, slow_s=0.4, data=3, last=[0], batches=[1] * 4)
    alone.waits(2.3)  # one more micro-batch takes 2 s
    assert alone.called == []
    alone.waits(2.9)
    assert len(alone.called) == 1


def test_a_slow_rank_that_died_after_the_answer_gets_no_function(client: Client) -> None:
    client.look(slow(1, by=0), answered=False)
    client.look(KILLED)
    client.spawner.refused = [attrs.evolve(client.first, rank=1, incarnation=1)]
    with pytest.raises(RunFailed, match="killed"):
        client.look(answered=True)
    assert client.spawner.started == [(1, 1)]


def test_a_launch_that_was_given_up_may_run_late(client: Client) -> None:
    client.look(slow(1, by=0))
    client.spawner.refused = [attrs.evolve(client.first, rank=1, incarnation=1)]
    client.look()
    client.look(News(kind="hello", rank=1, incarnation=1), attrs.evolve(KILLED, incarnation=1))
    assert client.spawner.started == [(1, 1), (1, 2)]


# Who stays


@pytest.mark.parametrize(("incarnation", "there", "stays"), [
    (0, [], True),  # the reply of its own put was lost
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


# Whole runs

Start = Callable[..., Result]
PIPELINE, TENSOR = {"pipeline_parallel": 3, "batch_size": 7}, {"workers": 3}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    folder, model, inputs = tmp_path_factory.mktemp("runs"), radixnet(1024, 6), open_inputs("random:28:0.4:1", 1024)

    def start(**options: Any) -> Result:
        same: dict[str, Any] = {"partition": "block", "timeout": 100.0, "settings": {"root": str(folder / "root")}}
        return run(model, inputs, home=folder, **(same | options))

    return start


@pytest.fixture(scope="module")
def undisturbed(start: Start) -> Callable[..., Any]:
    """The output of a split without faults, computed once."""
    known: dict[str, Any] = {}

    def undisturbed(**split: Any) -> Any:
        if (name := repr(split)) not in known:
            known[name] = start(**split).output
        return known[name]

    return undisturbed


@pytest.mark.timeout(600)  # on a busy machine, ranks that wait for the processor are called slow too, and then a wait has to double
@pytest.mark.parametrize(
    ("faults", "split", "channel", "more"),
    [
        ("hang=1@3", TENSOR, "queue", {"objective": "latency"}),
        ("slow=0:200000", PIPELINE, "object", {"objective": "latency"}),  # whose successors wait too
        ("slow=1:200000", TENSOR, "hybrid", {"recovery": "stragglers"}),
        ("hang=0@4+2@4", TENSOR, "object", {"recovery": "stragglers"}),
        ("hang=0@99", TENSOR, "queue", {"recovery": "stragglers"}),  # once all other ranks have ended
    ],
)
def test_a_slow_or_hanging_rank_changes_no_bit(
    start: Start,
    undisturbed: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    faults: str,
    split: dict[str, Any],
    channel: str,
    more: dict[str, str],
) -> None:
    expected = undisturbed(**split)
    monkeypatch.setattr(fsd_core.client.job, "SLOW_S", 0.5)
    monkeypatch.setattr(fsd_core.client.follow, "STORE_CHECKS", 2)
    for name in ("GATHER_S", "GATHER_LIST_S"):
        monkeypatch.setattr(stragglers, name, 0.5)
    result = start(faults=faults, channel=channel, timeout=500.0, **split, **more)
    for name in ("indptr", "indices", "data"):
        assert np.array_equal(getattr(result.output, name), getattr(expected, name)), name
    slow_ranks = [int(each[0]) for each in faults.partition("=")[2].split("+")]
    assert {each["reason"] for each in result.recovered} == {"slow"}
    assert {each["rank"] for each in result.recovered} >= set(slow_ranks)  # and a rank without a processor, on a busy machine
    assert result.missing_ranks == []
    if "hang" in faults:
        assert {result.ranks[rank]["incarnation"] for rank in slow_ranks} == {1}


@pytest.mark.parametrize(
    ("faults", "line"),
    [("hang=1@3", "longer than the stall limit"), ("hang=0@99", "rank 0 still works .* after all other ranks have ended, longer than the")],
)
def test_where_money_counts_a_rank_that_hangs_ends_the_run(start: Start, monkeypatch: pytest.MonkeyPatch, faults: str, line: str) -> None:
    monkeypatch.setattr(fsd_core.client.job, "SLOW_S", 0.5)
    monkeypatch.setattr(fsd_core.client.job, "start_limit_s", lambda limits: 0.0)  # the stall limit of 65 s becomes one of 5 s
    monkeypatch.setattr(fsd_core.client.job, "START_MARGIN_S", 4.0)
    monkeypatch.setattr(fsd_core.client.follow, "STORE_CHECKS", 2)
    with pytest.raises(RunFailed, match=line):
        start(faults=faults, channel="object", objective="cost", **TENSOR)


@pytest.mark.parametrize(
    ("recovery", "objective", "replaces"),
    [
        ("on", "latency", (True, True)),
        ("on", "cost", (True, False)),
        ("stragglers", "cost", (True, True)),
        ("deaths", "latency", (True, False)),
        ("off", "latency", (False, False)),
    ],
)
def test_the_setting_and_the_objective_say_who_is_replaced(
    start: Start, monkeypatch: pytest.MonkeyPatch, recovery: str, objective: str, replaces: tuple[bool, bool]
) -> None:
    found: list[tuple[bool, bool]] = []

    def execute(job: Job, *_: Any, **__: Any) -> Result:
        found.append((job.recovery, job.stragglers))
        raise RunFailed(Code.UNAVAILABLE, "enough")

    monkeypatch.setattr(Job, "execute", execute)
    with pytest.raises(RunFailed, match="enough"):
        start(recovery=recovery, objective=objective, **TENSOR)
    assert found == [replaces]


@pytest.mark.parametrize(
    ("workers", "line"),
    [
        (1, "the run has one worker, so no other one notices that it is slow; expected at least 2"),
        (3, "the platform may run 3 functions at once, and the run has 3 workers, so none is left: expected at least 4; use fewer workers"),
    ],
)
def test_who_asks_for_replacements_hears_that_none_can_be_made(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch, workers: int, line: str
) -> None:
    def execute(*_: Any, **__: Any) -> Result:
        raise RunFailed(Code.UNAVAILABLE, "enough")

    monkeypatch.setattr(Job, "execute", execute)
    table = {"root": str(tmp_path), "concurrency": 3}
    with (
        pytest.warns(UserWarning, match=f"^recovery stragglers: no slow worker of this run can be replaced: {line}"),
        pytest.raises(RunFailed),
    ):
        start(recovery="stragglers", workers=workers, settings=table)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for fine in (
            {"workers": workers, "objective": "latency"},
            {"workers": 2, "recovery": "stragglers"},
        ):  # nobody asks for it; one is left
            with pytest.raises(RunFailed, match="enough"):
                start(settings=table, **fine)


def test_a_slow_rank_goes_on_alone_if_both_later_functions_die_at_their_start(
    start: Start, undisturbed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The first function of rank 1 is stopped until both are dead."""
    expected = undisturbed(**TENSOR)
    monkeypatch.setattr(fsd_core.client.job, "SLOW_S", 0.5)
    monkeypatch.setattr(stragglers, "GATHER_S", 0.5)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setattr(fsd_core.client.apps, "find", lambda name: DyingProvider())
    monkeypatch.setenv(TRAP, json.dumps({"rank": 1, "at": "load", "later": True}))
    settings = {"root": str(tmp_path)}
    resources = PROVIDER.provisioner(settings).ensure("fsd", 3, 1)
    store = Store(PROVIDER.objects(resources), Retry(time.time() + 600, Meter()))

    def pause() -> None:
        pid = claims(store)[1]["pid"]
        os.kill(pid, signal.SIGSTOP)
        (configuration,) = (key for key in store.keys("") if key.endswith("/config"))
        listed, dead = NewsList(store, RunKeys(configuration.split("/")[0])), list[int]()
        while len(dead) < 2:
            dead += [each.incarnation for each in listed.read() if each.kind == "lost" and each.rank == 1]
            time.sleep(0.1)
        os.kill(pid, signal.SIGCONT)

    pauser = threading.Thread(target=pause, daemon=True)  # if the run fails, the deaths do not come
    pauser.start()
    faults = {"faults": "delay=150ms,seed=1"}
    result = start(channel="queue", objective="latency", settings=settings, timeout=500.0, **TENSOR, **faults)
    pauser.join()
    for name in ("indptr", "indices", "data"):
        assert np.array_equal(getattr(result.output, name), getattr(expected, name)), name
    assert result.ranks[1]["incarnation"] == 0
    assert 1 not in [each["rank"] for each in result.recovered]
