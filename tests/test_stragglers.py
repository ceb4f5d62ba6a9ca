"""Slow and hanging workers as the client sees them: which of them it replaces, and what comes of their functions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from fsd_core.channel import News, NewsList
from fsd_core.client import stragglers
from fsd_core.client.first_rank import FirstRank
from fsd_core.client.recovery import Restarts
from fsd_core.client.stragglers import Stragglers
from fsd_core.common.sealed import seal
from fsd_core.driver import Code, Resources
from fsd_core.errors import RunFailed
from fsd_core.protocol.runconfig import RunConfig
from fsd_core.protocol.spawn import LaunchPayload
from fsd_core.storage.keys import RunKeys
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store
from fsd_local import PROVIDER
from test_launch import CONFIG

RUN = "0b" * 8
KEYS = RunKeys(RUN)


@pytest.fixture
def resources(tmp_path: Path) -> Resources:
    return PROVIDER.provisioner({"root": str(tmp_path)}).ensure("slow", 3, 1)


@pytest.fixture
def store(resources: Resources) -> Store:
    return Store(PROVIDER.objects(resources), Retry(time.time() + 60, Meter()))


def slow(rank: int, by: int, incarnation: int = 0, **fields: Any) -> News:
    return News(kind="slow", rank=rank, incarnation=incarnation, by=by, **fields)


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
    restarts = Restarts(NewsList(store, KEYS), spawner, first, informed.append, some)  # type: ignore[arg-type]  # `Launched` is no `Spawner`
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
