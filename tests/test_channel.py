"""Channels over the queues and objects of the local provider, with ranks as threads: payloads, damage, aborts and stalls."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from attrs import evolve

from fsd_core.channel import (
    Aborted,
    Channel,
    ChannelConfig,
    HybridChannel,
    News,
    ObjectChannel,
    QueueChannel,
    RankIdentity,
    describe,
    limits,
    packing,
)
from fsd_core.channel import channel as channels
from fsd_core.channel import queue as queues
from fsd_core.channel.channel import Sending
from fsd_core.channel.frames import KEY_BYTES, Frame, Kind, pack
from fsd_core.channel.objects import READS
from fsd_core.driver import Code, Delivery, Message, MessageDriver, ObjectDriver, Rejected
from fsd_core.errors import DriverError, RunFailed
from fsd_core.storage.keys import RunKeys
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store
from fsd_core.wrappers.around import AroundMessages, AroundObjects
from fsd_core.wrappers.faults import Faults, FaultyMessages, FaultyObjects
from fsd_core.wrappers.metered import MeteredMessages
from fsd_local import PROVIDER
from waiting import until

RUN = "1234567890abcdef"
KEY, OTHER_KEY = bytes(range(KEY_BYTES)), b"k" * KEY_BYTES
Make = Callable[..., Channel]


class Narrow(AroundMessages):
    """A service with narrow limits: text only, small messages, one route for each rank, overhead bytes for each message."""

    def __init__(self, driver: MessageDriver) -> None:
        super().__init__(driver)
        self.limits = evolve(driver.limits, body="text", message_bytes=1500, batch_bytes=4000, batch_messages=3, overhead_bytes=100)

    def route(self, rank: int) -> Hashable:
        return rank

    def publish(self, messages: Sequence[Message]) -> Sequence[Rejected]:
        assert len({message.rank for message in messages}) == 1
        assert len(messages) <= 3
        assert sum(len(message.body) + 100 for message in messages) <= 4000
        assert all(len(message.body) <= 1500 and message.body.isascii() for message in messages)
        return super().publish(messages)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes a channel for a rank. ``kind``: queue, object or hybrid. ``faults``: injected into its drivers. ``around`` wraps its queues."""
    resources = PROVIDER.provisioner({"root": str(tmp_path), "lease_s": 0.4}).ensure("test", 4, 2)
    opened: list[Channel | ThreadPoolExecutor] = []

    def channel(
        kind: str,
        rank: int,
        expected: dict[int, list[int]],
        *,
        workers: int = 3,
        faults: str = "",
        seconds: float = 60,
        narrow: bool = False,
        eager: bool = False,
        around: Callable[[MessageDriver], MessageDriver] = lambda driver: driver,
        **options: Any,
    ) -> Channel:
        meter, pool = Meter(), ThreadPoolExecutor(8)
        me = RankIdentity(RUN, 5, rank, workers, time.time() + seconds, key=KEY)
        retry = Retry(me.deadline, meter)
        objects: ObjectDriver = PROVIDER.objects(resources)
        messages: MessageDriver = PROVIDER.messages(resources, 0)
        if narrow:
            messages = Narrow(messages)
        if faults:
            objects, messages = FaultyObjects(objects, Faults.parse(faults), rank), FaultyMessages(messages, Faults.parse(faults), rank)
        messages, store = MeteredMessages(around(messages), meter), Store(objects, retry)
        exchange = ChannelConfig(me, expected, retry, pool, eager=eager, **options)
        made: Channel
        if kind == "queue":
            made = QueueChannel(messages, exchange)
        elif kind == "object":
            made = ObjectChannel(store, exchange)
        else:
            made = HybridChannel(messages, store, exchange)
        opened.extend((made, pool))
        return made

    channel.messages = lambda: PROVIDER.messages(resources, 0)  # type: ignore[attr-defined]
    channel.store = lambda: Store(PROVIDER.objects(resources), Retry(time.time() + 60, Meter()))  # type: ignore[attr-defined]
    yield channel
    for one in opened:
        if isinstance(one, Channel):
            one.close()
        else:
            one.shutdown(wait=False, cancel_futures=True)


FAULTS = "duplicate=.3,reorder=.3,delay=5ms,reject=.2,throttle=.1,lost_reply=.05,seed=3"


@pytest.mark.parametrize("narrow", [False, True], ids=["wide", "narrow"])
@pytest.mark.parametrize("faults", ["", FAULTS], ids=["plain", "faults"])
@pytest.mark.parametrize("kind", ["queue", "object", "hybrid", "eager queue", "eager hybrid"])
def test_every_payload_arrives_once_whatever_its_size(make: Make, kind: str, faults: str, narrow: bool) -> None:
    eager, kind = kind.startswith("eager"), kind.removeprefix("eager ")
    steps, ranks = 4, range(3)
    sizes = [0, 3, 7_000, 20_000] if narrow else [0, 3, 70_000, 600_000]

    def payload(step: int, source: int, target: int) -> bytes:
        return bytes([step, source, target]) * (sizes[step] // 3)

    def work(rank: int) -> dict[tuple[int, int], bytes]:
        peers = [other for other in ranks if other != rank]
        channel = make(kind, rank, dict.fromkeys(range(steps), peers), faults=faults, narrow=narrow, eager=eager)
        got = {}
        for step in range(steps):
            channel.send(step, ((target, payload(step, rank, target)) for target in peers))
            for source, data in channel.receive(step):
                assert (step, source) not in got
                got[step, source] = data
        channel.finish()
        return got

    with ThreadPoolExecutor(3) as threads:
        results = list(threads.map(work, ranks))
    for rank, got in zip(ranks, results, strict=True):
        assert got == {(step, source): payload(step, source, rank) for step in range(steps) for source in ranks if source != rank}


def test_a_small_step_is_one_publish_and_large_payloads_of_hybrid_are_one_object(make: Make) -> None:
    sender = make("hybrid", 0, {})
    sender.send(0, [(1, b"a" * 10), (2, b"b" * 10)])
    sender.finish()
    assert sender.meter.snapshot()["publish_requests"] == 1
    sender.send(1, [(1, b"a" * 900_000), (2, b"b" * 900_000)])
    sender.finish()
    assert sender.meter.snapshot()["publish_requests"] == 2
    assert len(list(make.store().keys(RunKeys(RUN).prefix))) == 1  # type: ignore[attr-defined]


# An eager channel: two copies, several receives


class Copies(AroundMessages):
    """A service whose publishes do what ``answers`` say, one after another by the time of their begin; after these, all succeed."""

    def __init__(self, driver: MessageDriver, *answers: Callable[[], object]) -> None:
        super().__init__(driver)
        self.answers = list(answers)
        self.began: list[int] = []  # the number of messages of each publish
        self._lock = threading.Lock()

    def publish(self, messages: Sequence[Message]) -> Sequence[Rejected]:
        with self._lock:
            self.began.append(len(messages))
            answer = self.answers.pop(0) if self.answers else lambda: None
        answer()
        return super().publish(messages)


def refuse() -> None:
    raise FileNotFoundError("no such queue")


def eager_pair(make: Make, *answers: Callable[[], object]) -> tuple[Channel, Copies, Channel]:
    """A sender of rank 0, its service, and a receiver of rank 1 in steps 0 and 1."""
    found: list[Copies] = []

    def around(driver: MessageDriver) -> MessageDriver:
        found.append(Copies(driver, *answers))
        return found[0]

    sender = make("queue", 0, {}, eager=True, around=around)
    return sender, found[0], make("queue", 1, {0: [0], 1: [0]}, eager=True)


def test_a_small_payload_is_sent_twice_and_arrives_once(make: Make) -> None:
    both = threading.Barrier(2, timeout=30)  # at once, over two connections
    sender, _, receiver = eager_pair(make, both.wait, both.wait)
    sender.send(0, [(1, b"small")])
    assert list(receiver.receive(0)) == [(0, b"small")]
    until(lambda: sender.meter.snapshot()["messages_sent"] == 2)
    sender.finish()
    large = b"x" * packing.COPY_BYTES  # with its header it is over the limit
    sender.send(1, [(1, large)])
    assert list(receiver.receive(1)) == [(0, large)]
    sender.finish()
    receiver.finish()
    counts = sender.meter.snapshot()
    assert (counts["publish_requests"], counts["messages_sent"]) == (3, 3)
    assert counts["payload_bytes_sent"] == 0  # a channel does not count it: so no copy counts


def test_a_copy_that_fails_is_no_error(make: Make) -> None:
    for answers in ([refuse], [lambda: None, refuse]):
        sender, _, receiver = eager_pair(make, *answers)
        sender.send(0, [(1, b"body")])
        assert list(receiver.receive(0)) == [(0, b"body")]
        sender.finish()
        sender.send(1, [(1, b"next")])
        assert list(receiver.receive(1)) == [(0, b"next")]


def test_two_copies_that_fail_are_an_error(make: Make) -> None:
    sender, _, _ = eager_pair(make, refuse, refuse)
    sender.send(0, [(1, b"body")])
    with pytest.raises(DriverError, match="no such queue"):
        sender.finish()


def test_nothing_waits_for_a_slow_copy_and_the_end_stops_copies(make: Make) -> None:
    """`finish`, an abort and `close` return while a copy is under way. A copy that has not begun by then makes no request."""
    over = threading.Event()
    try:
        sender, service, receiver = eager_pair(make, over.wait)
        assert isinstance(sender, QueueChannel)
        sender.send(0, [(1, b"body")])
        sender.finish()
        assert list(receiver.receive(0)) == [(0, b"body")]
        sender.abort(RunFailed(Code.UNAVAILABLE, "enough", rank=0), sender.retry)
        with pytest.raises(Aborted, match="enough"):
            list(receiver.receive(1))
        sender.close()
        began, sent = len(service.began), threading.Event()
        sender._publish_copy([sender.message(1, Kind.PAYLOAD, 1, 0, 1, b"late")], sent)
        assert len(service.began) == began
        assert not over.is_set()
    finally:
        over.set()


def test_a_copy_that_is_refused_is_not_repeated_once_the_other_one_is_sent(make: Make) -> None:
    sender, service, _ = eager_pair(make)
    assert isinstance(sender, QueueChannel)
    sent = threading.Event()
    sent.set()
    sender._publish_copy([sender.message(1, Kind.PAYLOAD, 0, 0, 1, b"second")], sent)
    assert service.began == []


class Counted(AroundMessages):
    """Counts the receives that are open. Each returns one message, as those of a service that answers with the first."""

    def __init__(self, driver: MessageDriver) -> None:
        super().__init__(driver)
        self.now, self.most = 0, 0
        self._lock = threading.Lock()

    def receive(self, rank: int, limit: int, wait_s: float) -> Sequence[Delivery]:
        with self._lock:
            self.now += 1
            self.most = max(self.now, self.most)
        try:
            return super().receive(rank, 1, wait_s)
        finally:
            with self._lock:
                self.now -= 1


def test_several_receives_are_open_and_none_when_the_last_payload_has_arrived(make: Make) -> None:
    found: list[Counted] = []

    def around(driver: MessageDriver) -> MessageDriver:
        found.append(Counted(driver))
        return found[-1]

    sources = list(range(1, 40))
    receiver = make("queue", 0, {0: sources, 1: sources}, workers=40, eager=True, around=around)
    until(lambda: found[0].now == packing.RECEIVES)
    for step in (0, 1):
        for source in sources:
            make("queue", source, {}, workers=40).send(step, [(0, b"%d" % source)])
        assert sorted(receiver.receive(step)) == [(source, b"%d" % source) for source in sources]
    receiver.finish()
    assert found[0].now == 0
    assert found[0].most == packing.RECEIVES


def test_a_receive_is_opened_only_if_more_payloads_are_awaited_than_the_others_can_return(make: Make) -> None:
    found: list[Counted] = []

    def around(driver: MessageDriver) -> MessageDriver:
        found.append(Counted(driver))
        return found[-1]

    make("queue", 0, {0: list(range(1, 12))}, workers=12, eager=True, around=around)
    until(lambda: found[0].now == 2)
    make("queue", 1, {0: [0]}, workers=12, eager=True, around=around)
    until(lambda: found[1].now == 1)
    assert (found[0].most, found[1].most) == (2, 1)


def of_another_run(epoch: int, body: bytes = b"") -> bytes:
    return pack(Frame(Kind.PAYLOAD, "ff" * 8, epoch, 0, 1, 0, 1, body), 0, OTHER_KEY)


def frame(body: bytes, step: int = 0, kind: Kind = Kind.PAYLOAD, target: int = 0) -> bytes:
    """Of rank 1, with the key of the run."""
    return pack(Frame(kind, RUN, 5, step, 1, 0, 1, body), target, KEY)


def test_earlier_runs_and_garbage_are_counted_and_removed(make: Make) -> None:
    driver = make.messages()  # type: ignore[attr-defined]
    strays = [of_another_run(4), of_another_run(4)[:-1], b"hello", b"FSDf" + bytes(60), frame(b"new")[:20]]
    driver.publish([Message(0, body) for body in (*strays, frame(b"new"))])
    channel = make("queue", 0, {0: [1]})
    assert list(channel.receive(0)) == [(1, b"new")]
    channel.finish()
    assert {name: channel.meter.snapshot()[name] for name in ("strays_dropped", "frames_dropped")} == {
        "strays_dropped": 5,
        "frames_dropped": 0,
    }
    time.sleep(0.5)  # longer than the lease: what was not acknowledged would be back
    assert list(driver.receive(0, 10, 0)) == []


def test_a_frame_of_a_newer_epoch_ends_the_run_if_a_run_has_it(make: Make) -> None:
    """Anybody can write such a frame: the object store decides. It is asked once for all messages of a receive."""
    driver = make.messages()  # type: ignore[attr-defined]
    newest, asked = [5], [0]

    def newest_epoch() -> int:
        asked[0] += 1
        return newest[0]

    driver.publish([*(Message(0, of_another_run(7 + number)) for number in range(5)), Message(0, frame(b"mine"))])
    channel = make("queue", 0, {0: [1], 1: [1]}, newest_epoch=newest_epoch)
    assert list(channel.receive(0)) == [(1, b"mine")]
    assert asked == [1]
    newest[0] = 6
    driver.publish([Message(0, of_another_run(6))])
    with pytest.raises(RunFailed, match="lease lost: another run holds the slot at epoch 6, expected epoch 5") as caught:
        list(channel.receive(1))
    assert caught.value.code is Code.PRECONDITION
    assert channel.meter.snapshot()["frames_dropped"] == 5
    channel.close()
    until(lambda: of_another_run(6) in [each.body for each in driver.receive(0, 10, 1.0)])  # it is left to its own run


FORGED = {
    "an abort": pack(Frame(Kind.ABORT, RUN, 5, 0, 1, 0, 1, describe(RunFailed(Code.UNKNOWN, "forged", rank=1))), 0, OTHER_KEY),
    "news": pack(Frame(Kind.NEWS, RUN, 5, 0, 0, 0, 1, News(kind="lost", rank=0, incarnation=0).pack()), 0, OTHER_KEY),
    "a payload": pack(Frame(Kind.PAYLOAD, RUN, 5, 0, 1, 0, 1, b"forged"), 0, OTHER_KEY),
    "another number of pieces": pack(Frame(Kind.PAYLOAD, RUN, 5, 0, 1, 1, 9, b"forged"), 0, OTHER_KEY),
    "for another rank": frame(b"forged", target=2),
    "cut": frame(b"x" * 40)[:-1],
    "flipped": frame(b"x" * 40)[:-1] + b"y",
    "longer": frame(b"x" * 40) + b"x",
    "two in one": frame(b"x" * 40) * 2,
    "of another run": of_another_run(5),
    "of an older epoch": pack(Frame(Kind.PAYLOAD, RUN, 4, 0, 1, 0, 1, b"forged"), 0, KEY)[:-1],
    "of a later step": frame(b"x" * 40)[:23] + b"\1" + frame(b"x" * 40)[24:],
}


@pytest.mark.parametrize("kind", ["queue", "hybrid", "eager queue"])
def test_what_others_write_changes_nothing(make: Make, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is dropped and counted, with one line in the log, and removed from the queue when it comes a second time."""
    driver = make.messages()  # type: ignore[attr-defined]
    for body in FORGED.values():
        driver.publish([Message(0, body)])
    channel = make(kind.removeprefix("eager "), 0, {0: [1], 1: [1]}, eager=kind.startswith("eager"))
    channel.prepare(0)
    until(lambda: channel.meter.snapshot()["messages_received"] >= 2 * len(FORGED))  # each comes again, as its lease has ended
    driver.publish([Message(0, frame(b"mine")), Message(0, frame(b"next", 1))])
    assert [list(channel.receive(step)) for step in (0, 1)] == [[(1, b"mine")], [(1, b"next")]]
    channel.finish()
    assert channel.meter.snapshot()["frames_dropped"] == len(FORGED)
    assert len([each for each in caplog.records if "damaged or forged" in each.message]) == 1
    assert KEY.hex() not in caplog.text
    time.sleep(0.5)
    assert list(driver.receive(0, 10, 0)) == []


def test_a_flood_of_forged_frames_is_acknowledged_at_once(make: Make) -> None:
    """Only the first ones are left in the queue, and nothing of the others stays in memory."""
    driver, count = make.messages(), 8 * queues.LEFT_MESSAGES  # type: ignore[attr-defined]
    for number in range(count):
        driver.publish([Message(0, pack(Frame(Kind.PAYLOAD, RUN, 5, 0, 1, 0, 1, b"%d" % number), 0, OTHER_KEY))])
    channel = make("queue", 0, {0: [1]})
    assert isinstance(channel, QueueChannel)
    channel.prepare(0)
    until(lambda: channel.meter.snapshot()["frames_dropped"] >= count)
    until(lambda: channel.meter.snapshot()["messages_received"] >= count + queues.LEFT_MESSAGES)
    driver.publish([Message(0, frame(b"mine"))])
    assert list(channel.receive(0)) == [(1, b"mine")]
    channel.finish()
    assert not channel._tokens  # all are acknowledged
    assert len(channel._left) == queues.LEFT_MESSAGES


class Blinks(AroundMessages):
    """A service whose first answer has a wrong bit; what it holds is right."""

    blinked = False

    def receive(self, rank: int, limit: int, wait_s: float) -> Sequence[Delivery]:
        found = list(super().receive(rank, limit, wait_s))
        if found and not self.blinked:
            self.blinked = True
            found[0] = evolve(found[0], body=found[0].body[:-1] + bytes([found[0].body[-1] ^ 1]))
        return found


def test_a_frame_that_was_read_wrongly_comes_again(make: Make) -> None:
    make("queue", 1, {}).send(0, [(0, b"mine")])
    channel = make("queue", 0, {0: [1]}, around=Blinks)
    assert list(channel.receive(0)) == [(1, b"mine")]
    assert channel.meter.snapshot()["frames_dropped"] == 1


class Spoils(AroundObjects):
    """A store in which the first ``times`` gets of a bundle have a wrong bit."""

    def __init__(self, driver: ObjectDriver, times: int) -> None:
        super().__init__(driver)
        self.times = times

    def get(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        found = super().get(key, start, end)
        self.times -= 1
        return found if self.times < 0 else found[:-1] + bytes([found[-1] ^ 1])


@pytest.mark.parametrize("kind", ["object", "hybrid"])
def test_a_damaged_object_is_read_again_and_then_ends_the_run(make: Make, kind: str) -> None:
    large = b"x" * (600_000 if kind == "hybrid" else 1000)  # one get
    make(kind, 1, {}).send(0, [(0, large)])
    channel = make(kind, 0, {0: [1]})
    assert isinstance(channel, ObjectChannel | HybridChannel)
    until(lambda: channel.store.find(RunKeys(RUN).exchange(0, 1)) is not None)
    channel.store.driver = Spoils(channel.store.driver, READS - 1)
    assert list(channel.receive(0)) == [(1, large)]
    assert channel.meter.snapshot()["frames_dropped"] == READS - 1
    channel = make(kind, 0, {0: [1]})
    assert isinstance(channel, ObjectChannel | HybridChannel)
    channel.store.driver = Spoils(channel.store.driver, 10**6)
    make(kind, 1, {}).send(0, [(0, large)])
    with pytest.raises(RunFailed, match=r"the payload of rank 1 in step 0 is damaged: its tag is wrong") as caught:
        list(channel.receive(0))
    assert (caught.value.code, caught.value.rank) == (Code.INVALID, 0)


def test_an_abort_goes_out_though_an_earlier_send_failed(make: Make) -> None:
    failing = make("queue", 0, {}, workers=4)
    failing.send(0, [(8, b"nobody has this rank")])
    failing.abort(RunFailed(Code.INVALID, "why", rank=0), failing.retry)
    with pytest.raises(Aborted, match="why"):
        list(make("queue", 1, {0: [0]}, workers=4).receive(0))


def test_time_that_the_caller_computes_is_no_stall(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        time, worked_s = staticmethod(time.time), 0.0

        def monotonic(self) -> float:
            return time.monotonic() + self.worked_s

    clock, arrived, waits = Clock(), list[int](), 0
    for source in (1, 2):
        make("queue", source, {}).send(0, [(0, b"x")])
    channel = make("queue", 0, {0: [1, 2, 3]}, workers=4)
    monkeypatch.setattr(channels, "time", clock)
    monkeypatch.setattr(type(channel.stall_limit), "seconds", 60.0)
    look = channel.mailbox.next

    def looked(step: int, timeout: float) -> tuple[int, bytes] | None:
        nonlocal waits
        found = look(step, timeout)
        waits += bool(timeout) and found is None and len(arrived) == 2
        if waits == 3:  # it was waited for twice, longer than the limit if the consumer's work counted
            make("queue", 3, {}, workers=4).send(0, [(0, b"late")])
        return found

    monkeypatch.setattr(channel.mailbox, "next", looked)
    for source, _ in channel.receive(0):
        clock.worked_s += 100.0
        arrived.append(source)
    assert sorted(arrived) == [1, 2, 3]


def test_a_rank_waits_for_a_peer_that_waits_for_a_late_starter(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MIN_LIMIT_S", 0.1)
    first = make("queue", 0, {0: [2]})
    late = threading.Timer(2.5, lambda: make("queue", 2, {}).send(0, [(0, b"late")]))
    quick = make("queue", 1, {0: [0], 1: [0]})  # hears nothing of rank 2, and of rank 0 only after that did
    assert quick.stall_limit.seconds == limits.START_S
    first.send(0, [(1, b"of step 0")])
    assert list(quick.receive(0)) == [(0, b"of step 0")]
    late.start()
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(lambda: (list(first.receive(0)), first.send(1, [(1, b"of step 1")])))
        assert list(quick.receive(1)) == [(0, b"of step 1")]  # longer than the 1.4 s of three and a half leases
        assert done.result()[0] == [(2, b"late")]


def test_the_stall_limit_follows_the_slowest_step() -> None:
    now = 1000.0
    stall_limit = limits.StallLimit(17.5, lambda: now)
    assert stall_limit.seconds == limits.START_S
    stall_limit.step_ended(0.1)
    now += limits.START_S - 0.1
    assert stall_limit.seconds == limits.START_S
    now += 0.2
    assert stall_limit.seconds == 17.5
    stall_limit.step_ended(2.0)
    stall_limit.step_ended(0.1)
    assert stall_limit.seconds == 2.0 * limits.SLOWEST_FACTOR
    assert limits.StallLimit().seconds == limits.START_S
    stall_limit = limits.StallLimit(2 * limits.START_S, lambda: now)
    assert stall_limit.seconds == 2 * limits.START_S


@pytest.mark.parametrize("kind", ["queue", "object", "hybrid"])
def test_an_abort_reaches_a_waiting_peer(make: Make, kind: str) -> None:
    error = RunFailed(Code.TOO_LARGE, "out of memory", rank=2, layer=7)
    waiting = make(kind, 0, {0: [1]})
    failing = make(kind, 2, {})

    def fail() -> None:
        make.store().put(RunKeys(RUN).error, describe(error))  # type: ignore[attr-defined]
        failing.abort(error, failing.retry)

    threading.Timer(0.3, fail).start()
    with pytest.raises(Aborted, match="rank 2, layer 7: out of memory"):
        list(waiting.receive(0))


@pytest.mark.parametrize("kind", ["queue", "object", "hybrid"])
def test_a_wait_past_the_deadline_names_the_missing_ranks(make: Make, kind: str) -> None:
    sender = make(kind, 1, {})
    sender.send(0, [(0, b"here")])
    sender.finish()
    channel = make(kind, 0, {0: [1, 2], 1: [1, 2]})
    arrivals = channel.receive(0)
    assert next(arrivals) == (1, b"here")
    channel.me, began = evolve(channel.me, deadline=time.time()), time.monotonic()
    with pytest.raises(RunFailed, match=r"deadline, for rank 2 \(nothing received\)") as caught:
        list(arrivals)
    assert time.monotonic() - began < limits.START_S - 10  # which would be a stall
    assert caught.value.code is Code.DEADLINE


def test_a_missing_queue_is_an_error_at_once(make: Make) -> None:
    channel = make("queue", 0, {0: [1]}, workers=9)
    channel.send(0, [(8, b"nobody has this rank")])
    with pytest.raises(RunFailed) as caught:
        list(channel.receive(0))
    assert caught.value.code is Code.NOT_FOUND


def test_an_abort_goes_to_all_peers_at_once(make: Make) -> None:
    together = threading.Barrier(3, timeout=30)  # a peer that is reached slowly keeps it from no other

    class Slow(Narrow):
        def publish(self, messages: Sequence[Message]) -> Sequence[Rejected]:
            together.wait()
            return super().publish(messages)

    me, told = (make("queue", rank, {0: [1]}, workers=4, narrow=True) for rank in (0, 3))
    assert isinstance(me, QueueChannel)
    me.driver = Slow(me.driver)
    me.abort(RunFailed(Code.UNAVAILABLE, "enough", rank=0), me.retry)
    with pytest.raises(Aborted, match="enough"):
        list(told.receive(0))


class Busy(Exception):
    retry_after_s = 0.3


def test_a_retry_waits_as_long_as_the_service_asks_for() -> None:
    class Driver:
        def classify(self, error: BaseException) -> Code:
            return Code.THROTTLED

    asked: list[float] = []

    def request() -> str:
        asked.append(time.monotonic())
        if len(asked) < 3:
            raise Busy
        return "at last"

    assert Retry(time.time() + 60, Meter()).call(Driver(), "request", request) == "at last"
    assert min(later - earlier for earlier, later in pairwise(asked)) >= 0.3
    asked.clear()
    with pytest.raises(DriverError, match="Busy"):
        Retry(time.time() + 0.2, Meter()).call(Driver(), "request", request)
    assert len(asked) == 1  # to ask then would be past the deadline


def test_tokens_that_stay_keep_their_time_of_delivery(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an ack of a full batch, the other tokens are still acknowledged before their own leases end."""
    now = 100.0
    monkeypatch.setattr(queues, "time", SimpleNamespace(monotonic=lambda: now, time=time.time))
    channel = make("queue", 0, {})
    assert isinstance(channel, QueueChannel)
    acked: list[object] = []

    class Noted(AroundMessages):
        def ack(self, rank: int, tokens: Sequence[object]) -> Sequence[Rejected]:
            acked.extend(tokens)
            return []

    channel.driver = Noted(channel.driver)
    for token in range(11):
        channel._remember(Delivery(token, b""))
    now += 0.19  # of a lease of 0.4 s
    channel._ack(everything=False)
    until(lambda: acked == list(range(10)))
    now += 0.02
    channel._ack(everything=False)
    until(lambda: acked == list(range(11)))


@pytest.mark.parametrize("kind", ["queue", "object", "hybrid"])
def test_the_end_of_the_run_ends_the_wait_for_a_retry(make: Make, kind: str) -> None:
    """A rank whose sends are always throttled stops as soon as its mailbox gets the abort."""
    channel = make(kind, 0, {0: [1]}, faults="throttle=1,seed=1")
    channel.send(0, [(1, b"never taken")])
    channel.mailbox.fail(Aborted(Code.UNAVAILABLE, "enough", rank=1))
    with pytest.raises(Aborted, match="enough"):
        list(channel.receive(0))
    with pytest.raises(DriverError):
        channel.finish_sends()


class _Late(Future[None]):
    """A task that succeeds between two questions whether it is done."""

    asked = 0

    def done(self) -> bool:
        self.asked += 1
        if self.asked == 2:
            self.set_result(None)
        return super().done()


def test_a_copy_that_fails_before_the_other_one_succeeds_is_no_error() -> None:
    failed = Future[None]()
    failed.set_exception(RunFailed(Code.UNAVAILABLE, "lost"))
    assert Sending([failed, _Late()]).ended()
