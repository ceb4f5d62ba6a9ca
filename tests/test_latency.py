"""Drivers that take as long as a table says, around the drivers of the local provider."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fsd_core.wrappers.marks
from fsd_core.channel import ChannelConfig, ObjectChannel, QueueChannel, RankIdentity
from fsd_core.driver import Code, Delivery, InvokeLimits, Launch, Message, MessageDriver, ObjectDriver, Resources
from fsd_core.latency import Draws, Latency, Row, Table
from fsd_core.latency.table import Link
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store
from fsd_core.wrappers.around import AroundMessages, AroundObjects
from fsd_core.wrappers.latency import DelayedInvoker, DelayedMessages, DelayedObjects, Delays
from fsd_core.wrappers.marks import MARK_BYTES, mark, unmark
from fsd_core.wrappers.metered import MeteredMessages
from fsd_local import PROVIDER
from waiting import until

AGES = 3_000_000.0  # milliseconds: no test ends if it waits so long


def always(ms: float, **more: Any) -> Row:
    return Row(p50_ms=ms, p90_ms=ms, p99_ms=ms, max_ms=ms, **more)


def latency(links: dict[str, Link] | None = None, **rows: Row) -> Latency:
    return Latency(Table(name="test", title="", as_of="", hour_share=0, function_share=0, rows=rows, links=links or {}))


def delays(stop: threading.Event | None = None, deadline: float = float("inf"), **rows: Row) -> Delays:
    return Delays(latency(**rows), 0, 0, Retry(deadline, Meter(), stop=stop))


class Noted(Delays):
    """Waits for nothing, and records until when it should have waited."""

    def __init__(self, asked: Latency) -> None:
        super().__init__(asked, 0, 0, Retry(float("inf"), Meter()))
        self.moments: list[float] = []

    def wait_until(self, moment: float) -> None:
        self.moments.append(moment)


@pytest.fixture
def resources(tmp_path: Path) -> Resources:
    return PROVIDER.provisioner({"root": str(tmp_path), "lease_s": 3600}).ensure("delayed", 2, 1)


@pytest.fixture
def messages(resources: Resources) -> MessageDriver:
    """Queues whose leases do not end while a test runs."""
    return PROVIDER.messages(resources, 0)


@pytest.fixture
def objects(resources: Resources) -> ObjectDriver:
    return PROVIDER.objects(resources)


# Marks


@given(st.binary(max_size=100), st.floats(0, 1e10), st.floats(0, 1e6, width=32))
def test_a_mark_is_read_back(body: bytes, published: float, delay_s: float) -> None:
    marked = mark(body, published, delay_s)
    assert len(marked) == len(body) + MARK_BYTES
    assert marked[:MARK_BYTES].isascii()
    assert unmark(marked) == (body, published, delay_s)


@given(st.binary(max_size=100))
def test_other_bytes_are_not_a_mark(body: bytes) -> None:
    assert unmark(body) is None


@pytest.mark.parametrize(("published", "delay_s"), [(float("nan"), 1.0), (1.0, float("inf")), (1.0, -1.0)])
def test_a_mark_with_an_impossible_time_is_not_a_mark(published: float, delay_s: float) -> None:
    assert unmark(mark(b"body", published, delay_s)) is None


# Messages


def test_a_message_comes_at_its_time(messages: MessageDriver) -> None:
    driver = DelayedMessages(messages, delays(deliver=always(300)))
    before = time.monotonic()
    driver.publish([Message(0, b"body")])
    (came,) = driver.receive(0, 10, 20.0)
    assert time.monotonic() - before >= 0.3
    assert came.body == b"body"
    assert not driver.ack(0, [came.token])


def test_a_message_is_held_until_its_time(messages: MessageDriver) -> None:
    driver = DelayedMessages(messages, delays(deliver=always(AGES)))
    driver.publish([Message(0, b"body")])
    assert not driver.receive(0, 10, 0.0)
    assert not driver.receive(0, 10, 0.05)


def test_an_unmarked_message_passes(messages: MessageDriver) -> None:
    messages.publish([Message(0, b"from a driver without latency")])
    (came,) = DelayedMessages(messages, delays(deliver=always(AGES))).receive(0, 10, 20.0)
    assert came.body == b"from a driver without latency"


def test_later_messages_pass_a_held_one(messages: MessageDriver) -> None:
    driver = DelayedMessages(messages, delays(deliver=always(AGES)))
    driver.publish([Message(0, b"late")])
    assert not driver.receive(0, 10, 0.0)
    messages.publish([Message(0, b"soon")])
    (came,) = driver.receive(0, 10, 20.0)
    assert came.body == b"soon"


def test_of_two_receives_one_returns_a_message_at_its_time(messages: MessageDriver) -> None:
    driver = DelayedMessages(messages, delays(deliver=always(600)))
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(driver.receive, 0, 10, 20.0)
        until(lambda: driver._inboxes[0].asking)
        driver.publish([Message(0, b"body")])
        assert not driver.receive(0, 10, 0.05)
        assert [each.body for each in long.result()] == [b"body"]


@pytest.mark.parametrize(("direct", "rows", "seconds"), [(True, True, 3), (True, False, 1), (False, True, 1)])
def test_a_direct_driver_takes_the_times_of_the_direct_way(messages: MessageDriver, direct: bool, rows: bool, seconds: int) -> None:
    more = {"publish_direct": always(2000), "deliver_direct": always(3000)} if rows else {}
    noted = Noted(latency(publish=always(500), publish_batch=always(500), deliver=always(1000), **more))
    driver = DelayedMessages(messages, noted, direct=direct)
    before = time.monotonic()
    for bodies in ([b"one"], [b"two", b"three"]):
        driver.publish([Message(0, body) for body in bodies])
        assert noted.moments[-1] - before == pytest.approx(2 if direct and rows else 0.5, abs=0.3)
    marks = [unmark(each.body) for each in messages.receive(0, 10, 0.0)]
    assert [found[2] for found in marks if found is not None] == [seconds] * 3
    assert driver.limits.direct == (direct and rows)


def test_each_message_comes_at_its_time_if_any_receive_is_open(messages: MessageDriver) -> None:
    """The receive that took both messages from the service returns with the first; the other one returns the second."""
    driver = DelayedMessages(messages, delays())
    now = time.time()
    with ThreadPoolExecutor(2) as pool:
        receives = [pool.submit(driver.receive, 0, 10, 20.0) for _ in range(2)]
        until(lambda: driver._inboxes[0].asking)
        messages.publish([Message(0, mark(body, now, delay_s)) for body, delay_s in ((b"first", 0.2), (b"second", 0.4))])
        came = [[each.body for each in receive.result()] for receive in receives]
    assert sorted(came) in ([[b"first"], [b"second"]], [[], [b"first", b"second"]])
    assert time.time() - now >= 0.4


def test_a_clock_that_is_ahead_holds_no_message_for_longer_than_its_delay(messages: MessageDriver) -> None:
    messages.publish([Message(0, mark(b"body", time.time() + 1e6, 0.05))])
    (came,) = DelayedMessages(messages, delays(deliver=always(50))).receive(0, 10, 20.0)
    assert came.body == b"body"


def test_a_lease_that_ends_while_the_message_is_held_does_no_harm(resources: Resources) -> None:
    brief = PROVIDER.messages(attrs.evolve(resources, names={**resources.names, "lease_s": "0.3"}), 0)
    driver = DelayedMessages(brief, delays(deliver=always(1000)))
    driver.publish([Message(0, b"body")])
    first = list(driver.receive(0, 10, 20.0))
    while first:  # on a slow machine the lease may end again before the ack
        assert [each.body for each in first] == [b"body"]
        driver.ack(0, [each.token for each in first])
        first = list(driver.receive(0, 10, 1.0))


def test_an_error_of_a_receive_loses_no_message_that_is_due(messages: MessageDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fails(AroundMessages):
        broken = False

        def receive(self, rank: int, limit: int, wait_s: float) -> Sequence[Delivery]:
            if self.broken:
                raise ConnectionError("of the service")
            return super().receive(rank, limit, wait_s)

    inner = Fails(messages)
    driver = DelayedMessages(inner, delays(deliver=always(60_000)))
    driver.publish([Message(0, b"body")])
    assert not driver.receive(0, 10, 0.0)  # it is held now
    inner.broken = True
    a_minute_later = SimpleNamespace(time=time.time, monotonic=lambda: time.monotonic() + 61)
    monkeypatch.setattr(fsd_core.wrappers.marks, "time", a_minute_later)
    assert [each.body for each in driver.receive(0, 10, 0.0)] == [b"body"]
    with pytest.raises(ConnectionError):
        driver.receive(0, 10, 0.0)


def test_limits_leave_room_for_the_mark_and_the_time_of_holding(messages: MessageDriver) -> None:
    found, own = DelayedMessages(messages, delays(deliver=always(100_000))).limits, messages.limits
    assert found.message_bytes == own.message_bytes - MARK_BYTES
    assert found.batch_bytes == own.batch_bytes - MARK_BYTES * own.batch_messages
    assert found.lease_s == own.lease_s - 100
    assert DelayedMessages(messages, delays(deliver=always(AGES))).limits.lease_s == own.lease_s / 2


def test_the_meter_counts_bodies_without_marks(messages: MessageDriver) -> None:
    plain, delayed = Meter(), Meter()
    for meter, driver in ((plain, messages), (delayed, DelayedMessages(messages, delays(deliver=always(1))))):
        metered = MeteredMessages(driver, meter)
        metered.publish([Message(0, b"x" * number) for number in range(1, 6)])
        tokens = [each.token for each in metered.receive(0, 10, 20.0)]
        while len(tokens) < 5:
            tokens += [each.token for each in metered.receive(0, 10, 20.0)]
        metered.ack(0, tokens)
    first, second = plain.snapshot(), delayed.snapshot()
    for name in ("receive_requests", "receive_units"):  # messages with a delay of their own may come one by one
        assert first.pop(name) <= second.pop(name)
    assert first == second


# Waits

STOPPED = threading.Event()
STOPPED.set()


@pytest.mark.parametrize("ended", [{"stop": STOPPED}, {"deadline": 1.0}], ids=["stopped", "deadline"])
def test_no_wait_outlasts_the_run(messages: MessageDriver, objects: ObjectDriver, ended: dict[str, Any]) -> None:
    rows = dict.fromkeys(("publish", "deliver", "receive", "ack", "put", "get", "list", "connect"), always(AGES))
    over = delays(**ended, **rows)
    store, queue = DelayedObjects(objects, over), DelayedMessages(messages, over)
    store.put("key", b"body")
    assert store.get("key") == b"body"
    assert store.list("").keys
    assert not store.delete(["key"])
    queue.publish([Message(0, b"body")])
    assert not queue.receive(0, 1, 0.0)
    assert not queue.ack(0, ["1.none"])


def test_an_event_ends_a_wait(objects: ObjectDriver) -> None:
    stop = threading.Event()
    store = DelayedObjects(objects, delays(stop, put=always(AGES)))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(store.put, "key", b"body")
        assert not waiting.done()
        stop.set()
        waiting.result()


def test_an_answer_and_an_error_take_the_time_of_the_draw(objects: ObjectDriver) -> None:
    store = DelayedObjects(objects, delays(put=always(40), get=always(40), list=always(40)))

    def missing() -> None:
        with pytest.raises(FileNotFoundError):
            store.get("missing")

    requests: list[Callable[[], object]] = [lambda: store.put("key", b""), lambda: store.get("key"), lambda: store.list(""), missing]
    for request in requests:
        before = time.monotonic()
        request()
        assert time.monotonic() - before >= 0.04


class Observed(AroundObjects):
    """Records when each request reaches the service."""

    def __init__(self, driver: ObjectDriver) -> None:
        super().__init__(driver)
        self.at: list[float] = []

    def put(self, key: str, body: bytes | bytearray | memoryview, *, if_absent: bool = False) -> None:
        self.at.append(time.monotonic())
        super().put(key, body, if_absent=if_absent)


def test_a_put_takes_effect_at_its_end(objects: ObjectDriver) -> None:
    seen = Observed(objects)
    before = time.monotonic()
    DelayedObjects(seen, delays(put=always(200))).put("key", b"body")
    assert seen.at[0] - before >= 0.2


def test_real_time_counts_towards_a_draw(objects: ObjectDriver) -> None:
    noted = Noted(latency(put=always(10_000), get=always(10_000)))
    store = DelayedObjects(objects, noted)
    for _ in range(2):
        before = time.monotonic()
        store.put("key", b"body")
        start, end = noted.moments[-2:]
        assert before + 10 <= end <= time.monotonic() + 10  # 10 s after its begin, however long the real request took
        assert noted.fastest("put") > 0
        assert start <= end
    assert start < end  # the second request is sent earlier, by the real time of the first
    store.get("key")
    start, end = noted.moments[-2:]
    assert end - start == pytest.approx(5)  # an object is looked up in the middle of a get


@pytest.mark.parametrize("kind", ["queue", "object"])
def test_a_step_may_take_as_long_as_the_longest_draws(resources: Resources, objects: ObjectDriver, kind: str) -> None:
    asked = Latency.parse("azure")
    retry, me = Retry(time.time() + 100, Meter()), RankIdentity("ab" * 8, 1, 0, 2, time.time() + 100, key=bytes(32))
    with ThreadPoolExecutor(1) as pool:
        limits = []
        for slack_s in (0.0, asked.step_s):
            config = ChannelConfig(me, {}, retry, pool, start_s=0.0, slack_s=slack_s)
            brief = PROVIDER.messages(attrs.evolve(resources, names={**resources.names, "lease_s": "2"}), 0)
            channel = QueueChannel(brief, config) if kind == "queue" else ObjectChannel(Store(objects, retry), config)
            limits.append(channel.stall_limit.seconds)
            channel.close()
    assert limits[1] == pytest.approx(limits[0] + asked.step_s)
    assert asked.step_s > asked.message_s > 4


# Connections and bandwidth


def test_a_new_connection_costs_more(objects: ObjectDriver) -> None:
    noted = Noted(latency(put=always(1000), get=always(1000), connect=always(5000)))
    store = DelayedObjects(objects, noted)
    took = []
    for _ in range(3):
        before = time.monotonic()
        store.put("key", b"")
        took.append(round(noted.moments[-1] - before))
    assert took == [6, 1, 1]


def test_requests_at_once_need_several_connections(objects: ObjectDriver) -> None:
    noted = Noted(latency(connect=always(5000)))
    inner = DelayedObjects(objects, noted)
    with inner._connections.request("get"), inner._connections.request("get"):
        pass
    assert noted.draws.next("connect") == 5
    assert inner._connections._idle[False] == 2


def test_the_first_message_over_a_new_connection_comes_later(messages: MessageDriver) -> None:
    noted = Noted(latency(publish=always(1000), deliver=always(2000), connect=always(5000)))
    driver = DelayedMessages(messages, noted)
    for _ in range(2):
        driver.publish([Message(0, b"body")])
    marks = [unmark(delivery.body) for delivery in messages.receive(0, 2, 5.0)]
    assert sorted(delay_s for _, _, delay_s in filter(None, marks)) == [2, 7]


def test_a_connection_that_is_opened_ahead_costs_the_first_message_nothing(messages: MessageDriver) -> None:
    noted = Noted(latency(publish=always(1000), receive=always(1000), connect=always(5000)))
    driver = DelayedMessages(messages, noted)
    before = time.monotonic()
    assert driver.connect(1)
    assert round(noted.moments[-1] - before) == 5
    for call, seconds in ((lambda: driver.receive(0, 1, 0.0), 6), (lambda: driver.publish([Message(0, b"")]), 1)):
        before = time.monotonic()
        call()  # a receive does not take the connection of a publish
        assert round(noted.moments[-1] - before) == seconds


def test_nothing_is_opened_ahead_by_a_driver_that_cannot(messages: MessageDriver) -> None:
    class Unable(AroundMessages):
        def connect(self, rank: int) -> bool:
            return False

    noted = Noted(latency(publish=always(1000), connect=always(5000)))
    driver = MeteredMessages(DelayedMessages(Unable(messages), noted), Meter())
    assert not driver.connect(1)
    assert noted.moments == []
    before = time.monotonic()
    driver.publish([Message(0, b"body")])
    assert round(noted.moments[-1] - before) == 6


def test_catching_up_opens_the_connection(objects: ObjectDriver) -> None:
    noted = Noted(latency(put=always(1000), get=always(2000), connect=always(5000)))
    store = DelayedObjects(objects, noted)
    store.catch_up(100.0, (("get", "put"), ("get",)))
    assert noted.moments == [109.0]  # both of the first round open a connection, and the slower one takes 7 s
    before = time.monotonic()
    store.put("key", b"")
    assert round(noted.moments[-1] - before) == 1


def test_all_requests_of_a_function_share_its_bandwidth() -> None:
    asked = latency({"read": Link(mb_per_s=10)}, get=always(1, mb_per_s=100), put=always(1, mb_per_s=50))
    found = Delays(asked, 0, 0, Retry(float("inf"), Meter()))
    assert found.transfer("read", "get", 10_000_000, 5.0) == pytest.approx(1)
    assert found.transfer("read", "get", 10_000_000, 5.0) == pytest.approx(2)
    assert found.transfer("read", "receive", 10_000_000, 100.0) == pytest.approx(1)
    assert found.transfer("write", "put", 10_000_000, 5.0) == pytest.approx(0.2)  # the table has no link for it
    assert found.transfer("read", "get", 0, 5.0) == 0


def test_a_scale_is_for_transfers_too() -> None:
    asked = attrs.evolve(latency({"read": Link(mb_per_s=10)}, get=always(1)), scale=0.1)
    assert Delays(asked, 0, 0, Retry(float("inf"), Meter())).transfer("read", "get", 10_000_000, 0.0) == pytest.approx(0.1)


# Launches


class Launched:
    text = ""

    def poll(self) -> Code | None:
        return None


class Platform:
    """Accepts every launch, and starts no function."""

    service = "a platform"
    limits = InvokeLimits(1000, None, None, None, "this file", "2026-11-01")

    def __init__(self) -> None:
        self.payloads: list[bytes] = []

    def invoke(self, function: str, payload: bytes) -> Launch:
        self.payloads.append(payload)
        return Launched()

    def failures(self, take: Callable[[bytes], bool]) -> tuple[()]:
        return ()

    def classify(self, error: BaseException) -> Code:
        return Code.UNKNOWN

    def native(self) -> object:
        return self

    def close(self) -> None:
        pass


def test_a_launch_carries_the_time_of_its_start() -> None:
    platform = Platform()
    driver = DelayedInvoker(platform, delays(start_cold=always(7000)))
    before = time.time()
    driver.invoke("worker", json.dumps({"rank": 3, "app": "x"}).encode())
    found = json.loads(platform.payloads[0])
    assert before + 7 <= found.pop("not_before") <= time.time() + 7
    assert found == {"rank": 3, "app": "x"}
    assert driver.limits.start_s == platform.limits.start_s + 7


def test_the_start_of_a_rank_does_not_depend_on_the_order_of_launches() -> None:
    asked = Latency.parse("aws,seed=3")
    for order in ([1, 2, 3], [3, 1, 2]):
        platform = Platform()
        driver = DelayedInvoker(platform, Delays(asked, 0, 0, Retry(1.0, Meter())))
        for rank in order:
            before = time.time()
            driver.invoke("worker", json.dumps({"rank": rank, "attempt": 1}).encode())
            start = Draws(asked, rank, 1).start()
            assert before + start <= json.loads(platform.payloads[-1])["not_before"] <= time.time() + start


def test_other_payloads_are_not_changed() -> None:
    platform = Platform()
    driver = DelayedInvoker(platform, delays(start_cold=always(7000)))
    payloads = [b'{"probe": {}, "app": "x"}', b"not JSON", b"[3]"]
    for payload in payloads:
        driver.invoke("worker", payload)
    assert platform.payloads == payloads
    longest = {"rank": 0, "not_before": 12345678901.123456}
    assert len(json.dumps(longest)) - len(json.dumps({"rank": 0})) <= platform.limits.payload_bytes - driver.limits.payload_bytes
