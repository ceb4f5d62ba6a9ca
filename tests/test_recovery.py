"""Recovery without processes: the news, what senders keep, incarnations in a channel, who decides. `test_recovery_run` has whole runs."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs
import pytest

from fsd_core.channel import (
    ChannelConfig,
    HybridChannel,
    News,
    NewsList,
    QueueChannel,
    RankIdentity,
    StallLimit,
    Superseded,
    hybrid,
    kept_budget,
)
from fsd_core.channel.frames import KEY_BYTES, Frame, Kind
from fsd_core.channel.kept import KEPT_BYTES, RECORD_BYTES, Kept, Sent, Shelf, held_bytes, unpack
from fsd_core.channel.mailbox import Duplicate, Mailbox
from fsd_core.client.recovery import Restarts
from fsd_core.client.stragglers import Stragglers
from fsd_core.common.sealed import Damaged, seal
from fsd_core.driver import Code, ObjectDriver, Resources
from fsd_core.errors import DriverError, RunFailed
from fsd_core.protocol import records
from fsd_core.protocol.spawn import LaunchPayload
from fsd_core.storage.keys import RunKeys
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store
from fsd_core.worker.recovery import Recovery
from fsd_core.wrappers.around import AroundObjects
from fsd_local import PROVIDER
from test_launch import CONFIG
from waiting import until

RUN = "0a" * 8
KEYS = RunKeys(RUN)
KEY = bytes(KEY_BYTES)
Make = Callable[..., QueueChannel]


@pytest.fixture
def resources(tmp_path: Path) -> Resources:
    """Queues whose leases do not end while a test runs."""
    return PROVIDER.provisioner({"root": str(tmp_path), "lease_s": 3600}).ensure("recovery", 3, 1)


@pytest.fixture
def store(resources: Resources) -> Store:
    return Store(PROVIDER.objects(resources), Retry(time.time() + 60, Meter()))


@pytest.fixture
def make(resources: Resources, store: Store) -> Iterator[Make]:
    """A function that makes the channel of an incarnation of a rank."""
    with ExitStack() as stack:

        def make(
            rank: int, expected: dict[int, list[int]] | None = None, incarnation: int = 0, kept: int = KEPT_BYTES, **options: Any
        ) -> QueueChannel:
            pool = stack.enter_context(ThreadPoolExecutor(4))
            me = RankIdentity(RUN, 5, rank, 3, time.time() + 60, incarnation, key=KEY)
            kind = HybridChannel if options.pop("hybrid", False) else QueueChannel
            config = ChannelConfig(me, expected or {}, Retry(me.deadline, Meter()), pool, kept_bytes=kept, **options)
            more = (store, config) if kind is HybridChannel else (config,)
            channel: QueueChannel = kind(PROVIDER.messages(resources, 0), *more)
            stack.callback(channel.close)
            return channel

        yield make


def lost(rank: int, incarnation: int = 0, **fields: Any) -> News:
    return News(kind="lost", rank=rank, incarnation=incarnation, **fields)


def hello(rank: int, incarnation: int, step: int = 0) -> News:
    return News(kind="hello", rank=rank, incarnation=incarnation, step=step)


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


# What is kept


def steps(kept: Kept, target: int, step: int) -> list[int]:
    """The steps of what was sent to ``target`` from ``step`` on."""
    parts = kept.of(target, step)
    assert parts is not None
    return [each.step for part in parts for each in part]


def ended(kept: Kept) -> tuple[int, bytes]:
    end = kept.end()
    assert end is not None
    return end


def test_what_is_kept_comes_back_from_a_record() -> None:
    kept = Kept(1000)
    for target, step in ((1, 0), (2, 0), (1, 3)):
        kept.add(Sent(target, step, Kind.PAYLOAD, b"%d/%d" % (target, step)))
    assert kept.peak_bytes == 9
    assert steps(kept, 1, 1) == [3]
    body = records.join(seal({"rank": 0}), ended(kept)[1])
    record, left = records.kept(body)
    assert (record, [each.body for each in unpack(left, 1)]) == ({"rank": 0}, [b"1/0", b"1/3"])
    for at in range(len(left)):
        with pytest.raises(RunFailed, match="the payloads that a rank kept are damaged"):
            list(unpack(left[:at] + bytes([left[at] ^ 128]) + left[at + 1 :], 1))
    with pytest.raises(RunFailed, match="the payloads that a rank kept are damaged"):
        list(unpack(left[:-1], 1))
    with pytest.raises(Damaged):
        records.kept(b"x" + body)


def test_a_record_is_read_without_what_was_kept(store: Store) -> None:
    kept = Kept(KEPT_BYTES)
    kept.add(Sent(1, 0, Kind.PAYLOAD, b"x" * 400_000))
    for log in ("short", "l" * 300_000):
        store.put(KEYS.record(0), records.join(seal({"rank": 0, "log": log}), ended(kept)[1]))
        assert records.find(store, KEYS.record(0)) == {"rank": 0, "log": log}
    assert records.find(store, KEYS.record(1)) is None


def test_beyond_the_budget_nothing_is_kept() -> None:
    kept = Kept(10)
    kept.add(Sent(1, 0, Kind.PAYLOAD, b"x" * 10))
    assert steps(kept, 2, 0) == []
    kept.add(Sent(1, 1, Kind.PAYLOAD, b"x"))
    assert (kept.of(1, 0), kept.end(), kept.peak_bytes) == (None, None, 0)
    assert Kept(0).of(1, 0) is None
    large = Kept(KEPT_BYTES)
    large.add(Sent(1, 0, Kind.PAYLOAD, bytes(RECORD_BYTES + 1)))
    assert large.end() is None
    assert [held_bytes(*each) for each in ((7, 9), (70, 9), (7, KEPT_BYTES), (1 << 30, KEPT_BYTES))] == [7, 9, 7, 48 << 20]
    assert [kept_budget(*each) for each in ((None, 9), (1 << 30, 1 << 29), (100, 60), (60, 100))] == [KEPT_BYTES, KEPT_BYTES, 40, 0]


def test_what_exceeds_half_of_the_budget_is_in_the_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a rank works, from there; and after its end, from there and from its record."""
    monkeypatch.setattr("fsd_core.channel.kept.SHELF_BYTES", 100)
    shelf = Shelf(store, KEYS, 1, 2)
    kept = Kept(100, shelf)
    for step in range(7):
        kept.add(Sent(step % 2, step, Kind.PAYLOAD, b"%d" % step * 20))
    assert (steps(kept, 0, 0), steps(kept, 0, 3), steps(kept, 1, 0)) == ([0, 2, 4, 6], [4, 6], [1, 3, 5])
    assert [len(list(unpack(shelf.get(number), target))) for number in range(3) for target in (0, 1)] == [1] * 6
    store.delete([KEYS.kept(1, 2, 0)])
    assert (steps(kept, 0, 3), steps(kept, 1, 5)) == ([4, 6], [5])  # of the objects, only those with such payloads are read
    assert 40 <= kept.peak_bytes <= 80  # two objects, if the one before is still on its way
    assert (ended(kept)[0], [each.step for each in unpack(ended(kept)[1], 0)]) == (3, [6])
    kept.add(Sent(0, 7, Kind.PAYLOAD, b"7" * 20))
    assert ended(kept) == (4, b"")  # too much for a record
    assert [each.body for each in unpack(shelf.get(3), 0)] == [b"6" * 20, b"7" * 20]


def test_a_payload_larger_than_half_of_the_budget_is_an_object_alone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a rank has at most its budget in memory, and one such payload."""
    monkeypatch.setattr("fsd_core.channel.kept.SHELF_BYTES", 100)
    shelf = Shelf(store, KEYS, 1, 0)
    kept = Kept(100, shelf)
    for step, size in enumerate((40, 90, 10)):
        kept.add(Sent(0, step, Kind.PAYLOAD, bytes(size)))
    assert steps(kept, 0, 0) == [0, 1, 2]
    assert [[each.step for each in unpack(shelf.get(number), 0)] for number in (0, 1)] == [[0], [1]]


def test_what_is_kept_is_in_memory_once() -> None:
    """Also when it goes to the store or into a record: with copies, a worker would exceed its predicted memory."""
    kept, body = Kept(KEPT_BYTES), bytes(4 << 20)
    tracemalloc.start()
    try:
        for step in range(4):
            kept.add(Sent(1, step, Kind.PAYLOAD, body))
        left = ended(kept)[1]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(left) > 4 * len(body)
    assert peak < 1.3 * len(left)  # the buffer grows by an eighth


def test_a_rank_that_goes_on_while_it_sends_again_copies_only_that() -> None:
    kept, body = Kept(KEPT_BYTES), bytes(1 << 20)
    for step in range(16):
        kept.add(Sent(step % 8, step, Kind.PAYLOAD, body))
    tracemalloc.start()
    try:
        parts = kept.of(1, 0)
        kept.add(Sent(1, 16, Kind.PAYLOAD, b"x"))  # not before the parts are read
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert parts is not None
    assert [[each.step for each in part] for part in parts] == [[1, 9]]
    assert held < 24 << 20  # the buffer, which may be allocated anew, and two payloads


def test_a_new_incarnation_gets_what_its_sources_put_into_the_store(make: Make, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """From one that works, and from one that has ended."""
    monkeypatch.setattr("fsd_core.channel.kept.SHELF_BYTES", 100)
    sources = [make(rank, {}, kept=100, shelf=Shelf(store, KEYS, rank, 0)) for rank in (1, 2)]
    for step in range(4):
        for source in sources:
            source.send(step, [(0, b"%d" % step * 30)])
    sources[1].finish_sends()
    shelved, left = ended(sources[1].kept)
    store.put(KEYS.record(2), records.join(seal({"rank": 2, "incarnation": 0, "shelved": shelved}), left))
    with ThreadPoolExecutor(2) as pool:
        some = Recovery(store, KEYS, 0, 1, pool)
        some.on = True
        channel = make(0, {step: [1, 2] for step in range(4)}, 1)
        some.begin(channel, 3, [1, 2])
        sources[0].heed(hello(0, 1))
        for step in range(4):
            assert sorted(channel.receive(step)) == [(rank, b"%d" % step * 30) for rank in (1, 2)]


class AtOnce(Executor):
    """A pool that does each task before it returns from `submit`."""

    def submit(self, task: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(task(*arguments, **options))
        return done


Ended = Callable[..., None]


@pytest.fixture
def left(store: Store, monkeypatch: pytest.MonkeyPatch) -> Ended:
    """A function that ends a rank after it has sent 20 bytes to each pair of a target and a step: three payloads fill an object."""
    monkeypatch.setattr("fsd_core.channel.kept.SHELF_BYTES", 130)

    def left(rank: int, sent: Sequence[tuple[int, int]], incarnation: int = 0) -> None:
        kept = Kept(130, Shelf(store, KEYS, rank, incarnation))
        for target, step in sent:
            kept.add(Sent(target, step, Kind.PAYLOAD, b"%d%d" % (rank, step) * 10))
        shelved, rest = ended(kept)
        store.put(KEYS.record(rank), records.join(seal({"rank": rank, "incarnation": incarnation, "shelved": shelved}), rest))

    return left


def read(driver: Ends) -> list[str]:
    """What was read of that which the sources left, since the last call: the numbers of objects, and the records."""
    found = [key.removeprefix(KEYS.prefix) for key in driver.got]
    driver.got = []
    return [key.rpartition("/")[2] if key.startswith("kept") else key for key in found if key.startswith(("kept", "record"))]


@pytest.fixture
def counting(store: Store) -> Ends:
    driver = store.driver = Ends(store.driver)
    return driver


def begin(store: Store, channel: QueueChannel, sources: Sequence[int], pool: Executor | None = None) -> Recovery:
    some = Recovery(store, KEYS, 0, channel.me.incarnation, pool or AtOnce())  # type: ignore[arg-type]
    some.on = True
    some.begin(channel, 3, sources)
    return some


def test_a_new_incarnation_reads_what_a_source_left_as_it_gets_on(make: Make, store: Store, left: Ended, counting: Ends) -> None:
    """So its memory holds one object of a source and not all of them. It reads the next one before it has to wait."""
    left(1, [(0, step) for step in range(7)])
    channel = make(0, {step: [1] for step in range(7)}, 1)
    counting.got = []
    some = begin(store, channel, [1])
    assert read(counting) == ["record/1", "0"]
    found = []
    for step in range(7):
        assert list(channel.receive(step)) == [(1, b"1%d" % step * 10)]
        found.append(read(counting))
        some.ask(step, [1])  # questions read nothing more
        assert read(counting) == []
    assert found == [[], [], ["1"], [], [], ["record/1"], []]


def test_objects_without_a_payload_for_a_rank_do_not_stop_it(make: Make, store: Store, left: Ended, counting: Ends) -> None:
    left(1, [(0, 0), *((2, step) for step in range(8)), (0, 9), (0, 10)])
    channel = make(0, {step: [1] for step in (0, 9, 10)}, 1)
    counting.got = []
    begin(store, channel, [1])
    assert read(counting) == ["record/1", "0"]
    assert list(channel.receive(0)) == [(1, b"10" * 10)]
    assert read(counting) == ["1", "2", "3"]
    assert [list(channel.receive(step)) for step in (9, 10)] == [[(1, b"19" * 10)], [(1, b"110" * 10)]]


def test_a_payload_that_lies_behind_those_of_later_steps_is_found(make: Make, store: Store, left: Ended) -> None:
    """As the notices of the hybrid channel may."""
    left(1, [(0, step) for step in (0, 2, 3, 4, 1, 5, 6)])
    channel = make(0, {step: [1] for step in range(7)}, 1)
    begin(store, channel, [1])
    assert [list(channel.receive(step)) for step in range(7)] == [[(1, b"1%d" % step * 10)] for step in range(7)]


def test_large_payloads_of_a_finished_source_come_one_at_a_time(make: Make, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the hybrid channel, one record may have the notices of the whole run: their payloads would not fit into the memory."""
    source = make(1, hybrid=True)
    monkeypatch.setattr(source, "publish_soon", lambda messages: None)  # the incarnation before has all messages
    for step in range(7):
        source.send(step, [(0, b"%d" % step * (source.piece_bytes + 1))])
        source.finish_sends()
    shelved, rest = ended(source.kept)
    store.put(KEYS.record(1), records.join(seal({"rank": 1, "incarnation": 0, "shelved": shelved}), rest))
    channel = make(0, {step: [1] for step in range(7)}, 1, hybrid=True)
    some, found = begin(store, channel, [1]), []
    for step in range(7):
        found.append(channel.mailbox.complete_until(1))
        assert list(channel.receive(step)) == [(1, b"%d" % step * (source.piece_bytes + 1))]
    assert found == [0, 1, 2, 3, 4, 5, None]
    assert some._left is not None
    assert some._left.read == {1}


def test_reads_of_what_was_left_wait_in_no_thread(make: Make, store: Store, left: Ended) -> None:
    """One thread is enough for many sources, and is free between the reads."""
    sources = range(1, 7)
    for source in sources:
        left(source, [(0, step) for step in range(7)])
    channel = make(0, {step: list(sources) for step in range(7)}, 1)
    with ThreadPoolExecutor(1) as pool:
        begin(store, channel, sources, pool)
        for step in range(7):
            assert sorted(channel.receive(step)) == [(source, b"%d%d" % (source, step) * 10) for source in sources]
            assert pool.submit(int).result(60) == 0


def test_a_second_function_of_a_source_may_end_while_the_first_ones_payloads_are_read(make: Make, store: Store, left: Ended) -> None:
    left(1, [(0, step) for step in range(7)])
    channel = make(0, {step: [1] for step in range(7)}, 1)
    begin(store, channel, [1])
    left(1, [(0, step) for step in range(1, 7)], 1)  # which puts other payloads into its objects
    assert [list(channel.receive(step)) for step in range(7)] == [[(1, b"1%d" % step * 10)] for step in range(7)]


def test_a_damaged_object_that_is_read_late_ends_the_run(make: Make, store: Store, left: Ended) -> None:
    left(1, [(0, step) for step in range(7)])
    channel = make(0, {step: [1] for step in range(7)}, 1)
    begin(store, channel, [1])
    store.put(KEYS.kept(1, 0, 1), b"x")
    with pytest.raises(RunFailed, match=r"the payloads that rank 1 left cannot be read: .*a rank kept are damaged"):
        [list(channel.receive(step)) for step in range(7)]


def test_a_read_that_fails_for_another_reason_ends_the_run(make: Make, store: Store, left: Ended, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the rank would wait until the stall limit."""
    left(1, [(0, 0)])

    def full(data: bytes, target: int) -> Iterator[Sent]:
        raise MemoryError

    monkeypatch.setattr("fsd_core.worker.left.unpack", full)
    channel = make(0, {0: [1]}, 1)
    begin(store, channel, [1])
    with pytest.raises(RunFailed, match="receiving failed: MemoryError"):
        list(channel.receive(0))


def test_a_thread_that_awaits_sendings_leaves_their_errors_to_the_rank(make: Make) -> None:
    channel = make(1)

    def fail() -> None:
        raise RunFailed(Code.UNAVAILABLE, "not sent")

    channel.submit(fail)
    for wait in (channel.await_sends, channel.finish_sends):
        with pytest.raises(RunFailed, match="not sent"):
            wait()


def test_an_exchange_object_stays_as_it_is(store: Store) -> None:
    store.put_once("x/1", b"first")
    store.put_once("x/1", b"second")
    assert store.get("x/1") == b"first"


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


class Ends(AroundObjects):
    """A store that counts the gets of some keys."""

    def __init__(self, driver: ObjectDriver) -> None:
        super().__init__(driver)
        self.got: list[str] = []

    def get(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        self.got.append(key)
        return super().get(key, start, end)


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
