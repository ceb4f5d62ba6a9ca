"""Recovery without processes: the news, incarnations in a channel, who decides. See also `test_left` and `test_recovery_run`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import pytest

from fsd_core.channel import (
    ChannelConfig,
    News,
    NewsList,
    ObjectChannel,
    QueueChannel,
    RankIdentity,
    StallLimit,
    Superseded,
    hybrid,
)
from fsd_core.channel.frames import KEY_BYTES, Frame, Kind
from fsd_core.channel.kept import Kept, Sent
from fsd_core.channel.mailbox import Duplicate, Mailbox
from fsd_core.client.recovery import Restarts
from fsd_core.client.stragglers import Stragglers
from fsd_core.common.sealed import seal
from fsd_core.driver import Code, Resources
from fsd_core.errors import DriverError, RunFailed
from fsd_core.protocol import records
from fsd_core.protocol.spawn import LaunchPayload
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store
from fsd_core.worker.recovery import Recovery
from fsd_local import PROVIDER
from recovering import KEYS, RUN, Ends, Make, begin, channels, ended, hello, lost, steps
from test_launch import CONFIG
from waiting import until


@pytest.fixture
def resources(tmp_path: Path) -> Resources:
    """Queues whose leases do not end while a test runs."""
    return PROVIDER.provisioner({"root": str(tmp_path), "lease_s": 3600}).ensure("recovery", 3, 1)


@pytest.fixture
def store(resources: Resources) -> Store:
    return Store(PROVIDER.objects(resources), Retry(time.time() + 60, Meter()))


@pytest.fixture
def make(resources: Resources, store: Store) -> Iterator[Make]:
    with channels(resources, store) as make:
        yield make


def slow(rank: int, incarnation: int) -> News:
    return News(kind="slow", rank=rank, incarnation=incarnation)


# The news


def test_all_read_the_same_news(store: Store) -> None:
    writers = [NewsList(store, KEYS) for _ in range(3)]
    sent = [lost(number, layer=number, reason="why") for number in range(3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda pair: pair[0].add(pair[1]), zip(writers, sent, strict=True)))
    found = [writer.read() for writer in writers]
    assert found[0] == found[1] == found[2]
    assert sorted(found[0], key=lambda news: news.rank) == sent
    assert writers[0].read() == []


def test_damaged_news_end_the_run(store: Store) -> None:
    store.put(KEYS.news(0), lost(1).pack()[:-2])
    with pytest.raises(RunFailed, match="the news of the run is damaged") as caught:
        NewsList(store, KEYS).read()
    assert caught.value.code is Code.INVALID


# Incarnations


def piece(number: int, of: int, incarnation: int, body: bytes = b"x") -> Frame:
    return Frame(Kind.PAYLOAD, RUN, 5, 0, 1, number, of, body, incarnation)


def test_pieces_of_two_incarnations_are_never_joined() -> None:
    mailbox = Mailbox({0: [1], 1: [1]})
    assert mailbox.add(piece(0, 2, 0, b"old")) is None
    assert mailbox.add(piece(1, 3, 1, b"b")) is None  # another number of pieces: not an error, since it is another incarnation
    with pytest.raises(Duplicate):
        mailbox.add(piece(1, 2, 0, b"old"))
    assert mailbox.add(piece(0, 3, 1, b"a")) is None
    assert (mailbox.first_missing(1), mailbox.awaited) == (0, 2)
    assert mailbox.add(piece(2, 3, 1, b"c")) == b"abc"
    assert (mailbox.first_missing(1), mailbox.first_missing(2), mailbox.awaited) == (1, None, 1)
    with pytest.raises(Duplicate):  # whole, but not delivered yet: a newer incarnation does not make it count twice
        mailbox.add(piece(0, 1, 2, b"abc"))
    assert mailbox.awaited == 1


def test_the_stall_limit_starts_anew() -> None:
    now = [0.0]
    limit = StallLimit(clock=lambda: now[0], start_s=10.0)
    now[0] = 30.0
    assert limit.seconds == 5.0
    limit.restart()
    assert limit.seconds == 40.0  # to start, and to compute what the run has computed so far
    now[0] = 71.0
    assert limit.seconds == 5.0


def test_a_hello_is_answered_with_what_was_sent(make: Make) -> None:
    """What was received and never acknowledged comes again, and so does what was acknowledged; the source waits for nobody."""
    source = make(1)
    source.send(0, [(0, b"zero"), (2, b"other")])
    source.send(1, [(0, b"one")])
    before = make(0, {0: [1], 1: [1]})
    assert list(before.receive(0)) == [(1, b"zero")]  # its lease does not end while this test runs
    before.close()
    source.heed(lost(0))
    news = hello(0, 1)
    source.heed(news)
    after = make(0, {0: [1], 1: [1]}, 1)
    assert [list(after.receive(step)) for step in (0, 1)] == [[(1, b"zero")], [(1, b"one")]]
    source.finish_sends()
    sent = source.meter.snapshot()["payload_bytes_sent"]
    source.heed(news)  # a copy of it changes nothing
    source.heed(hello(0, 0))  # nor does one of an incarnation before
    assert source.meter.snapshot()["payload_bytes_sent"] == sent
    after.finish()


def test_two_ranks_that_are_each_others_sources_come_back(make: Make) -> None:
    one, two = make(0, {0: [1]}, 1), make(1, {0: [0]}, 1)
    one.send(0, [(1, b"from 0")])
    for channel, rank in ((one, 1), (two, 0)):
        channel.heed(lost(rank))
        channel.heed(hello(rank, 1))
    two.send(0, [(0, b"from 1")])
    assert (list(one.receive(0)), list(two.receive(0))) == ([(1, b"from 1")], [(0, b"from 0")])


def test_a_lost_hello_is_repeated(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing arrives: the new incarnation asks again, and takes what came as an answer."""
    monkeypatch.setattr("fsd_core.channel.channel.ASK_S", 0.05)
    source = make(1)
    source.send(0, [(0, b"zero")])
    assert list(make(0, {0: [1]}).receive(0)) == [(1, b"zero")]  # the incarnation before has it
    asked: list[tuple[int, Sequence[int]]] = []

    def ask(step: int, ranks: Sequence[int]) -> None:
        asked.append((step, ranks))
        if len(asked) == 2:
            source.heed(hello(0, 1, step))

    after = make(0, {0: [1]}, 1, ask=ask)
    assert list(after.receive(0)) == [(1, b"zero")]
    assert asked[:2] == [(0, [1]), (0, [1])]


def test_a_receiver_says_what_it_lacks(make: Make) -> None:
    """The next incarnation of a source does not send again what its target has."""
    first, target = make(1), make(0, {0: [1], 1: [1], 2: [1]})
    first.send(0, [(0, b"zero")])
    assert list(target.receive(0)) == [(1, b"zero")]
    again = make(1, {9: [0]}, 1)
    again.say(hello(1, 1), [0])
    target.prepare(1)
    again.prepare(9)
    until(lambda: again._lacked.get(0) == 1)
    for step in range(3):
        again.send(step, [(0, b"%d" % step)])
    assert [list(target.receive(step)) for step in (1, 2)] == [[(1, b"1")], [(1, b"2")]]
    assert target.meter.snapshot()["duplicates_dropped"] == 0
    assert steps(again.kept, 0, 0) == [0, 1, 2]  # it may be needed yet


def test_a_paused_function_that_wakes_up_takes_nothing(make: Make, resources: Resources) -> None:
    """Its successor gets the message: it is not acknowledged."""
    source = make(1)
    source.heed(lost(0))
    source.send(0, [(0, b"for the next incarnation")])
    old = make(0, {0: [1]})
    with pytest.raises(Superseded, match="incarnation 1 of this rank has replaced this worker"):
        list(old.receive(0))
    assert not old._tokens
    assert old.meter.snapshot()["ack_requests"] == 0
    with pytest.raises(Superseded):
        old.heed(lost(0))
    make(0, {}, 1).heed(lost(0))  # the new incarnation knows that already


def test_a_source_without_budget_ends_the_run(make: Make) -> None:
    source = make(1, kept=3)
    source.send(0, [(0, b"long")])
    with pytest.raises(RunFailed, match="rank 0 was lost, and this rank no longer keeps what it sent to rank 0: the budget"):
        source.heed(hello(0, 1))


def test_the_hybrid_channel_keeps_notices_of_what_is_in_the_store(make: Make) -> None:
    source, large = make(1, hybrid=True), bytes(range(256)) * 4096
    source.send(0, [(0, large), (2, b"small")])
    source.finish_sends()
    assert source.kept.peak_bytes < 100
    source.heed(hello(0, 1))
    again = make(1, {}, 1, hybrid=True)
    again.send(0, [(0, large), (2, b"small")])  # it finds the object there
    again.finish_sends()
    target = make(0, {0: [1]}, 1, hybrid=True)
    assert list(target.receive(0)) == [(1, large)]


# A worker's part


def test_a_look_makes_no_more_requests_than_without_recovery(store: Store) -> None:
    store.driver = counting = Ends(store.driver)
    store.put(KEYS.config, b"there")
    with ThreadPoolExecutor(1) as pool:
        some = Recovery(store, KEYS, 0, 0, pool)
        requests = []
        for on in (False, True):
            some.on, counting.got = on, []
            assert not any(some.over() for _ in range(4))
            requests.append(len(counting.got))
        assert requests == [8, 8]
        store.put(KEYS.error, b"why")
        assert any([some.over(), some.over()])
        store.delete([KEYS.error, KEYS.config])
        assert any([some.over(), some.over()])


def test_a_finished_source_left_what_it_sent(make: Make, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It need not stay alive; and if it left nothing, the run ends soon with the reason."""
    monkeypatch.setattr("fsd_core.channel.channel.ASK_S", 0.05)
    kept = Kept(1000)
    kept.add(Sent(0, 0, Kind.PAYLOAD, b"zero"))
    kept.add(Sent(2, 0, Kind.PAYLOAD, b"other"))
    store.put(KEYS.record(1), records.join(seal({"rank": 1, "incarnation": 0, "shelved": 0}), ended(kept)[1]))
    store.put(KEYS.record(2), seal({"rank": 2, "incarnation": 0, "shelved": 0}))
    NewsList(store, KEYS).add(lost(0, reason="killed"))
    with ThreadPoolExecutor(2) as pool:
        some = Recovery(store, KEYS, 0, 1, pool)
        some.on = True
        channel = make(0, {0: [1], 1: [2]}, 1, ask=some.ask)
        some.begin(channel, 3, [1, 2])
        assert list(channel.receive(0)) == [(1, b"zero")]
        began = time.monotonic()
        with pytest.raises(RunFailed, match=r"this rank was lost \(killed\), and rank 2 has ended without keeping its payloads"):
            list(channel.receive(1))
        assert time.monotonic() - began < 60
        assert [news.kind for news in NewsList(store, KEYS).read()][:2] == ["lost", "hello"]


def test_a_large_payload_of_a_finished_source_may_take_long_to_read(make: Make, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the hybrid channel, the record has only its notice. A slow store must not end the run."""
    monkeypatch.setattr("fsd_core.channel.channel.ASK_S", 0.05)
    source, large, asked = make(1, hybrid=True), bytes(range(256)) * 4096, threading.Semaphore(0)
    source.send(0, [(0, large)])
    source.finish_sends()
    store.put(KEYS.record(1), records.join(seal({"rank": 1, "incarnation": 0, "shelved": 0}), ended(source.kept)[1]))
    fetch = hybrid.fetch

    def late(*arguments: Any) -> bytes:
        for _ in range(3):
            assert asked.acquire(timeout=60)
        return fetch(*arguments)

    monkeypatch.setattr(hybrid, "fetch", late)
    with ThreadPoolExecutor(2) as pool:
        some = Recovery(store, KEYS, 0, 1, pool)
        some.on = True

        def ask(step: int, ranks: Sequence[int]) -> None:
            try:
                some.ask(step, ranks)
            finally:
                asked.release()

        channel = make(0, {0: [1]}, 1, ask=ask, hybrid=True)
        some.begin(channel, 3, [1])
        try:
            assert list(channel.receive(0)) == [(1, large)]
        finally:
            asked.release(3)


@pytest.mark.parametrize(
    ("news", "number"),
    [
        ([lost(0, 0), lost(0, 1)], 1),
        ([slow(0, 0), lost(0, 1), lost(0, 0)], 2),  # the slow one went on after the death of its second function
        ([lost(0, 0), slow(0, 1), slow(0, 1)], 1),
        ([lost(0, 0), lost(0, 1), lost(1, 1)], 1),
    ],
)
def test_the_last_incarnation_knows_whose_work_it_repeats(make: Make, store: Store, news: Sequence[News], number: int) -> None:
    """The time until it has done this is in the result."""
    for each in news:
        NewsList(store, KEYS).add(each)
    some = begin(store, make(0, {}, 2), [])
    assert some._lost == news[number]
    NewsList(store, KEYS).add(lost(0, 0))  # it comes too late
    some.look()
    assert some._lost == news[number]


def test_a_rank_that_polls_makes_as_many_requests_without_recovery(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fsd_core.channel.objects._ABORT_CHECK_S", 0.0)
    store.driver = counting = Ends(store.driver)
    me = RankIdentity(RUN, 5, 0, 3, time.time() + 60, key=bytes(KEY_BYTES))
    requests = []
    for look in (None, lambda: store.find(KEYS.news(0))):
        with ThreadPoolExecutor(1) as pool:
            channel = ObjectChannel(store, ChannelConfig(me, {}, Retry(me.deadline, Meter()), pool, look=look))
            counting.got = []
            for _ in range(4):
                channel._look_for_abort()
            channel.close()
        requests.append(counting.got)
    assert requests == [[KEYS.error] * 4, [KEYS.error, KEYS.news(0)] * 2]


def test_a_function_that_was_taken_for_dead_does_not_end_the_run(store: Store) -> None:
    error = RunFailed(Code.DEADLINE, "waited too long")
    with ThreadPoolExecutor(1) as pool:
        old, new = (Recovery(store, KEYS, 0, incarnation, pool) for incarnation in (0, 1))
        old.on = new.on = True
        assert not old.has_successor(error, store)
        NewsList(store, KEYS).add(lost(0))
        assert [each.has_successor(error, store) for each in (old, new)] == [True, False]
        with pytest.raises(Superseded):
            old.look()


# What is damaged on its way


@pytest.fixture
def pair(make: Make, store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[QueueChannel, QueueChannel]]]:
    """Rank 1, whose payload of step 0 for rank 0 was damaged on its way, and rank 0, which asks for it after a look."""
    monkeypatch.setattr("fsd_core.channel.channel.ASK_S", 0.05)
    with ThreadPoolExecutor(2) as pool:

        def pair(**options: Any) -> tuple[QueueChannel, QueueChannel]:
            source, mine, theirs = make(1, **options), Recovery(store, KEYS, 0, 0, pool), Recovery(store, KEYS, 1, 0, pool)
            mine.on = theirs.on = True
            theirs.begin(source, 3, [])
            (message,) = source.outgoing(Sent(0, 0, Kind.PAYLOAD, b"zero"))
            source.publish([attrs.evolve(message, body=message.body[:-1] + b"?")])

            def ask(step: int, ranks: Sequence[int]) -> None:
                mine.ask(step, ranks)
                theirs.look()

            target = make(0, {0: [1], 1: [1]}, ask=ask)
            mine.begin(target, 3, [1])
            return source, target

        yield pair


def test_a_damaged_payload_is_sent_again(pair: Callable[..., tuple[QueueChannel, QueueChannel]], store: Store) -> None:
    """Nobody was lost: the rank that dropped it asks its source once more."""
    source, target = pair()
    assert list(target.receive(0)) == [(1, b"zero")]
    source.send(1, [(0, b"one")])
    assert list(target.receive(1)) == [(1, b"one")]
    assert target.meter.snapshot()["frames_dropped"] == 1
    assert {news.kind for news in NewsList(store, KEYS).read()} == {"hello"}


def test_a_damaged_payload_of_a_rank_that_has_ended_is_in_its_record(
    pair: Callable[..., tuple[QueueChannel, QueueChannel]], store: Store
) -> None:
    source, target = pair()
    store.put(KEYS.record(1), records.join(seal({"rank": 1, "incarnation": 0, "shelved": 0}), ended(source.kept)[1]))
    source.heed = lambda news: None  # type: ignore[method-assign]  # it hears nothing any more
    assert list(target.receive(0)) == [(1, b"zero")]


def test_a_damaged_payload_that_nobody_holds_ends_no_run_before_the_stall_limit(
    pair: Callable[..., tuple[QueueChannel, QueueChannel]], store: Store
) -> None:
    """Somebody who sends forged frames could end the run else: the right frame may only be late."""
    source, target = pair(kept=3)
    store.put(KEYS.record(1), seal({"rank": 1, "incarnation": 0, "shelved": 0}))
    asked = target._ask_again
    assert asked is not None
    left = [4]

    def ask(step: int, ranks: Sequence[int]) -> None:
        asked(step, ranks)
        left[0] -= 1
        if not left[0]:
            source.publish([source.message(0, Kind.PAYLOAD, 0, 0, 1, b"late")])

    target._ask_again = ask
    assert list(target.receive(0)) == [(1, b"late")]
    assert left[0] <= 0


def test_who_has_dropped_nothing_asks_nobody(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fsd_core.channel.channel.ASK_S", 0.0)
    source, asked, looks = make(1), list[int](), [0]
    target = make(0, {0: [1]}, ask=lambda step, ranks: asked.append(step))
    look = target.mailbox.next

    def looked(step: int, timeout: float) -> tuple[int, bytes] | None:
        looks[0] += bool(timeout)
        if looks[0] == 4 and timeout:
            source.send(0, [(0, b"slow")])
        return look(step, timeout)

    monkeypatch.setattr(target.mailbox, "next", looked)
    assert list(target.receive(0)) == [(1, b"slow")]
    assert asked == []


# Who decides


class Launched:
    """A spawner that notes what it starts."""

    def __init__(self) -> None:
        self.started: list[tuple[int, int]] = []

    def start(self, payloads: Sequence[LaunchPayload]) -> None:
        self.started += [(each.rank, each.incarnation) for each in payloads]

    def given_up(self) -> list[LaunchPayload]:
        return []


def test_the_client_starts_each_incarnation_once_and_at_most_three(store: Store) -> None:
    news, spawner, told = NewsList(store, KEYS), Launched(), list[News]()

    def tell(each: News) -> None:
        told.append(each)
        raise DriverError(Code.UNAVAILABLE, "the queues do not answer")  # it goes on: the new incarnation says hello itself

    first = LaunchPayload("app", 0, 1, RUN, 0, 0, time.time() + 60)
    restarts = Restarts(NewsList(store, KEYS), spawner, first, tell, Stragglers(store, KEYS, CONFIG))  # type: ignore[arg-type]
    for each in (lost(1, 0, layer=3, reason="a"), lost(1, 0), hello(1, 1), lost(2, 0), lost(1, 1, reason="b")):
        news.add(each)
    restarts.look(answered=False)
    restarts.look(answered=False)
    assert spawner.started == [(1, 1), (2, 1), (1, 2)]
    assert [each.rank for each in told] == [1, 2, 1]
    found = restarts.recovered([{"rank": 1, "incarnation": 2, "behind_s": 1.5}, {"rank": 0}])
    assert [(each["rank"], each["layer"], each["reason"]) for each in found] == [(1, 3, "a"), (2, None, ""), (1, None, "b")]
    assert found[2]["seconds"] == 1.5
    assert restarts.left_over([0]) is None
    assert (reason := restarts.left_over([0, 2])) is not None
    assert reason.rank == 2
    of_earlier = [{"rank": 0}, {"rank": 1, "incarnation": 2}, {"rank": 2, "incarnation": 0}]  # of rank 2, another one works on
    assert (reason := restarts.left_over([], of_earlier)) is not None
    assert reason.rank == 2
    assert restarts.left_over([], of_earlier[:2]) is None
    news.add(lost(2, 1, reason="late"))
    with pytest.raises(RunFailed, match="late") as caught:  # the answer is there: no function is started for it
        restarts.look(answered=True)
    assert caught.value.rank == 2
    news.add(lost(1, 2, layer=7, reason="c"))
    with pytest.raises(RunFailed, match=r"c \(3 functions of this rank were lost\)") as caught:
        restarts.look(answered=False)
    assert (caught.value.rank, caught.value.layer) == (1, 7)
