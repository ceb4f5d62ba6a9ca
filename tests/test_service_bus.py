"""The stand-in for Service Bus, as a process, through the unmodified azure-servicebus: messages, locks, sizes, administration."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.servicebus import (
    NEXT_AVAILABLE_SESSION,
    ServiceBusClient,
    ServiceBusMessage,
    ServiceBusReceivedMessage,
    ServiceBusReceiveMode,
    ServiceBusReceiver,
    ServiceBusSender,
    ServiceBusSubQueue,
)
from azure.servicebus.aio import ServiceBusClient as AioClient
from azure.servicebus.amqp import AmqpAnnotatedMessage
from azure.servicebus.exceptions import (
    MessageLockLostError,
    MessageNotFoundError,
    MessageSizeExceededError,
    ServiceBusAuthenticationError,
    ServiceBusError,
    ServiceBusQuotaExceededError,
    ServiceBusServerBusyError,
)

from fsd_conformance.emulators.process import started
from fsd_conformance.emulators.service_bus.server import ServiceBusServer
from service_bus_standin import PATIENCE_S, TOPIC, StandIn, connection_string, correlation, running, subscription

DELETE = ServiceBusReceiveMode.RECEIVE_AND_DELETE
QUEUES: dict[str, dict[str, Any]] = {
    **{f"plain{number}": {} for number in range(12)},
    "short": {"LockDuration": "PT1S"},
    "twice": {"MaxDeliveryCount": 2},
    "mortal": {"DefaultMessageTimeToLive": "PT0.5S", "DeadLetteringOnMessageExpiration": True},
    "full": {"MaxSizeInMegabytes": 1},
}


@pytest.fixture(scope="module")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    with running(tmp_path_factory.mktemp("standin"), QUEUES, others=("two",)) as standin:
        yield standin


class Ends:
    """Senders and receivers of one client, opened and closed in parallel: each takes the SDK half a second."""

    def __init__(self, client: ServiceBusClient) -> None:
        self.client = client
        self._all: list[ServiceBusSender | ServiceBusReceiver] = []

    def queue(self, name: str, **settings: Any) -> tuple[ServiceBusSender, ServiceBusReceiver]:
        sender, receiver = self.open(self.client.get_queue_sender(name), self.client.get_queue_receiver(name, **settings))
        return sender, receiver

    def open(self, *ends: Any) -> Any:
        self._all += ends
        with ThreadPoolExecutor(len(ends)) as pool:
            list(pool.map(lambda end: end.__enter__(), ends))
        return ends

    def close(self) -> None:
        with ThreadPoolExecutor(len(self._all) + 1) as pool:
            list(pool.map(lambda end: end.close(), self._all))
        self.client.close()


@pytest.fixture(scope="module")
def ends(standin: StandIn) -> Iterator[Ends]:
    ends = Ends(standin.client())
    yield ends
    ends.close()


def body(message: ServiceBusReceivedMessage) -> bytes:
    return b"".join(message.body)


def take(receiver: ServiceBusReceiver, count: int) -> list[Any]:  # the SDK's types say of each field that it may be missing
    """Exactly so many messages."""
    found: list[Any] = []
    while len(found) < count:
        got = receiver.receive_messages(count - len(found), max_wait_time=PATIENCE_S)
        assert got, f"{len(found)} of {count} messages came"
        found += got
    return found


def test_messages_keep_their_order_their_bytes_and_their_properties(ends: Ends) -> None:
    sender, receiver = ends.queue("plain0", receive_mode=DELETE)
    kinds: dict[Any, Any] = {"text": "a", "whole": 7, "real": 1.5, "flag": True, "time": datetime(2026, 1, 2, tzinfo=UTC)}
    first = ServiceBusMessage(
        b"\x00\xff" * 50,
        application_properties=kinds,
        subject="label",
        message_id="id",
        correlation_id="correlation",
        content_type="binary",
        to="there",
        reply_to="here",
        time_to_live=timedelta(hours=1),
        partition_key="key",
    )
    before = datetime.now(UTC) - timedelta(seconds=1)
    sender.send_messages(first)
    batch = sender.create_message_batch()
    assert batch.max_size_in_bytes == 256 * 1024
    for number in range(20):
        batch.add_message(ServiceBusMessage(f"batched {number}"))
    sender.send_messages(batch)
    sender.send_messages([ServiceBusMessage(f"listed {number}") for number in range(3)])
    got, *rest = take(receiver, 24)
    assert body(got) == b"\x00\xff" * 50
    found = {key.decode(): value.decode() if isinstance(value, bytes) else value for key, value in got.application_properties.items()}
    assert {**found, "time": None} == {**kinds, "time": None}
    assert (got.subject, got.message_id, got.correlation_id, got.content_type) == ("label", "id", "correlation", "binary")
    assert (got.to, got.reply_to, got.time_to_live, got.partition_key) == ("there", "here", timedelta(hours=1), "key")
    assert got.delivery_count == 0
    assert before < got.enqueued_time_utc < datetime.now(UTC) + timedelta(seconds=1)
    assert [body(m).decode() for m in rest] == [f"batched {n}" for n in range(20)] + [f"listed {n}" for n in range(3)]
    numbers = [m.sequence_number for m in (got, *rest)]
    assert numbers == list(range(numbers[0], numbers[0] + 24))


def test_a_locked_message_is_renewed_abandoned_and_completed(ends: Ends) -> None:
    sender, receiver = ends.queue("plain1")
    sender.send_messages([ServiceBusMessage(text) for text in "ab"])
    a, b = take(receiver, 2)
    assert a.locked_until_utc > datetime.now(UTC)
    assert a.lock_token != b.lock_token
    until = a.locked_until_utc
    time.sleep(0.01)
    assert receiver.renew_message_lock(a) > until
    receiver.abandon_message(a)
    [again] = take(receiver, 1)
    assert (body(again), again.delivery_count, again.sequence_number) == (b"a", 1, a.sequence_number)
    with pytest.raises(ValueError, match="settled"):
        receiver.complete_message(a)
    token = again.lock_token
    receiver.complete_message(again)
    receiver.complete_message(b)
    with pytest.raises(MessageLockLostError):
        receiver._settle_message_via_mgmt_link("completed", [token])  # as the SDK does on another link
    assert receiver.peek_messages(5) == []


def test_what_the_sdk_encodes_unlike_the_standard(ends: Ends) -> None:
    sender, receiver = ends.queue("plain10", receive_mode=DELETE)
    sender.send_messages(AmqpAnnotatedMessage(data_body=[b"a", b"b"], delivery_annotations={"k": "v"}, footer={"f": 1}))
    [message] = take(receiver, 1)
    assert body(message) == b"ab"
    assert message.raw_amqp_message.footer == {b"f": 1}
    names: dict[Any, Any] = {1: "x"}
    with pytest.raises(ServiceBusError, match=r"name of an application property, .*: expected text"):
        sender.send_messages(ServiceBusMessage("x", application_properties=names))
    sender.send_messages(ServiceBusMessage("y"))
    assert [body(m) for m in take(receiver, 1)] == [b"y"]


def test_a_lock_expires_and_its_holder_is_told(ends: Ends) -> None:
    sender, receiver = ends.queue("short")
    sender.send_messages(ServiceBusMessage("once"))
    [first] = take(receiver, 1)
    [second] = take(receiver, 1)  # comes once the lock has expired
    assert (body(second), second.delivery_count) == (b"once", 1)
    with pytest.raises(MessageLockLostError):
        receiver.complete_message(first)
    [third] = take(receiver, 1)
    assert third.delivery_count == 2
    with pytest.raises(MessageLockLostError):
        receiver.renew_message_lock(second)
    with suppress(MessageLockLostError):  # of a busy machine
        receiver.dead_letter_message(third, reason="enough")


def test_a_message_that_fails_too_often_is_a_dead_letter(ends: Ends) -> None:
    sender, receiver = ends.queue("twice")
    [dead] = ends.open(ends.client.get_queue_receiver("twice", sub_queue=ServiceBusSubQueue.DEAD_LETTER))
    sender.send_messages(ServiceBusMessage("bad", application_properties={"kept": 1}))
    for count in range(2):
        [message] = take(receiver, 1)
        assert message.delivery_count == count
        receiver.abandon_message(message)
    [letter] = take(dead, 1)
    assert (body(letter), letter.dead_letter_reason) == (b"bad", "MaxDeliveryCountExceeded")
    assert "2 delivery attempts" in letter.dead_letter_error_description
    assert letter.application_properties[b"kept"] == 1
    dead.complete_message(letter)


def test_dead_letters_by_hand(ends: Ends) -> None:
    sender, receiver = ends.queue("plain2")
    [dead] = ends.open(ends.client.get_queue_receiver("plain2", sub_queue=ServiceBusSubQueue.DEAD_LETTER))
    sender.send_messages([ServiceBusMessage("told"), ServiceBusMessage("untold")])
    told, untold = take(receiver, 2)
    receiver.dead_letter_message(told, reason="why", error_description="because")
    receiver.dead_letter_message(untold)
    assert [body(m) for m in dead.peek_messages(10)] == [b"told", b"untold"]
    first, second = take(dead, 2)
    assert (first.dead_letter_reason, first.dead_letter_error_description) == ("why", "because")
    assert (second.dead_letter_reason, second.dead_letter_error_description) == (None, None)
    dead.complete_message(second)
    with pytest.raises(ServiceBusError, match="no dead letters"):
        dead.dead_letter_message(first)


def test_a_message_that_outlives_its_time_is_a_dead_letter(ends: Ends) -> None:
    sender, dead = ends.open(
        ends.client.get_queue_sender("mortal"), ends.client.get_queue_receiver("mortal", sub_queue=ServiceBusSubQueue.DEAD_LETTER)
    )
    sender.send_messages(ServiceBusMessage("old"))
    [letter] = take(dead, 1)
    assert (body(letter), letter.dead_letter_reason) == (b"old", "TTLExpiredException")
    dead.complete_message(letter)


def test_a_deferred_message_comes_when_it_is_asked_for(ends: Ends) -> None:
    sender, receiver = ends.queue("plain3")
    sender.send_messages([ServiceBusMessage("later"), ServiceBusMessage("now")])
    later, now = take(receiver, 2)
    receiver.defer_message(later)
    receiver.abandon_message(now)
    [now] = take(receiver, 1)
    assert body(now) == b"now"
    assert [m.state.name for m in receiver.peek_messages(5, sequence_number=1)] == ["DEFERRED", "ACTIVE"]
    [deferred] = receiver.receive_deferred_messages(later.sequence_number)
    assert body(deferred) == b"later"
    receiver.renew_message_lock(deferred)
    receiver.complete_message(deferred)
    with pytest.raises(MessageNotFoundError):
        receiver.receive_deferred_messages([later.sequence_number])
    receiver.complete_message(now)


def test_scheduled_messages_come_in_time_or_are_cancelled(ends: Ends) -> None:
    sender, receiver = ends.queue("plain4", receive_mode=DELETE)
    cancelled = sender.schedule_messages([ServiceBusMessage("never"), ServiceBusMessage("neither")], datetime.now(UTC) + timedelta(hours=1))
    assert [m.state.name for m in receiver.peek_messages(5)] == ["SCHEDULED"] * 2
    soon = datetime.now(UTC) + timedelta(seconds=0.5)
    [number] = sender.schedule_messages(ServiceBusMessage("soon"), soon)
    sender.send_messages(ServiceBusMessage("annotated", scheduled_enqueue_time_utc=soon))
    sender.cancel_scheduled_messages(cancelled)
    with pytest.raises(MessageNotFoundError):
        sender.cancel_scheduled_messages(cancelled)
    came = {body(message): message.sequence_number for message in take(receiver, 2)}
    assert came.keys() == {b"soon", b"annotated"}
    assert came[b"soon"] == number
    assert datetime.now(UTC) >= soon
    assert receiver.peek_messages(5) == []


def test_a_message_of_many_frames_and_the_limits_of_size(ends: Ends) -> None:
    sender, receiver = ends.queue("plain5", receive_mode=DELETE)
    large = bytes(range(256)) * 800
    sender.send_messages(ServiceBusMessage(large))
    for size, goes in ((256 * 1024 - 100, True), (256 * 1024 + 1, False), (900_000, False)):
        if goes:
            sender.send_messages(ServiceBusMessage(b"x" * size))
        else:
            with pytest.raises(MessageSizeExceededError, match="262144"):
                sender.send_messages(ServiceBusMessage(b"x" * size))
    batch = sender.create_message_batch()
    with suppress(MessageSizeExceededError):  # the SDK's own: full to the last message
        while True:
            batch.add_message(ServiceBusMessage(b"y" * 1000))
    count = len(batch)
    sender.send_messages(batch)
    got = take(receiver, 2 + count)
    assert body(got[0]) == large
    assert len(body(got[1])) == 256 * 1024 - 100
    assert {body(m) for m in got[2:]} == {b"y" * 1000}


def test_a_queue_that_is_full_takes_no_more(ends: Ends) -> None:
    sender, receiver = ends.queue("full", receive_mode=DELETE)
    for _ in range(5):
        sender.send_messages(ServiceBusMessage(b"x" * 200_000))
    with pytest.raises(ServiceBusQuotaExceededError, match="maximum size"):
        sender.send_messages(ServiceBusMessage(b"x" * 200_000))
    take(receiver, 5)
    sender.send_messages(ServiceBusMessage(b"x" * 200_000))
    take(receiver, 1)


def test_what_is_not_there_is_not_found(ends: Ends) -> None:
    wrong = (
        (ends.client.get_queue_sender("nowhere"), ServiceBusAuthenticationError, "client-error"),  # 404 is the answer to its token
        (ends.client.get_queue_receiver("nowhere"), ServiceBusAuthenticationError, "client-error"),
        (ends.client.get_queue_receiver("plain6", session_id="s"), ServiceBusError, "sessions are not implemented"),
        (ends.client.get_queue_receiver("plain6", session_id=NEXT_AVAILABLE_SESSION), ServiceBusError, "sessions are not implemented"),
    )
    with ThreadPoolExecutor(len(wrong)) as pool:
        attempts = [pool.submit(end.__enter__) for end, _, _ in wrong]
    for attempt, (_, kind, what) in zip(attempts, wrong, strict=True):
        with pytest.raises(kind, match=what):
            attempt.result()


def test_a_request_that_is_too_large_harms_no_later_one(ends: Ends) -> None:
    sender, receiver = ends.queue("plain11")
    later = datetime.now(UTC) + timedelta(hours=1)
    with pytest.raises(MessageSizeExceededError):
        sender.schedule_messages([ServiceBusMessage(b"x" * 250_000) for _ in range(5)], later)
    numbers = sender.schedule_messages([ServiceBusMessage("small")], later)
    sender.cancel_scheduled_messages(numbers)
    assert receiver.peek_messages(5) == []


def test_what_is_scheduled_through_an_old_link_is_not_lost(standin: StandIn, ends: Ends) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    with standin.administration() as admin:
        admin.create_queue("again")
        [sender] = ends.open(ends.client.get_queue_sender("again"))
        sender.schedule_messages(ServiceBusMessage("gone"), later)
        admin.delete_queue("again")
        with pytest.raises(ServiceBusError):
            sender.schedule_messages(ServiceBusMessage("nowhere"), later)
        admin.create_queue("again")
        sender.schedule_messages(ServiceBusMessage("here"), later)
        assert admin.get_queue_runtime_properties("again").scheduled_message_count == 1
        admin.delete_queue("again")


def test_messages_that_were_fetched_ahead_are_given_back(ends: Ends) -> None:
    sender, receiver = ends.queue("plain7", prefetch_count=10)
    sender.send_messages([ServiceBusMessage(str(number)) for number in range(8)])
    assert [body(m) for m in take(receiver, 1)] == [b"0"]
    receiver.close()  # drains, and releases what it holds
    [other] = ends.open(ends.client.get_queue_receiver("plain7"))
    got = take(other, 7)
    assert [(body(m), m.delivery_count) for m in got] == [(str(number).encode(), 0) for number in range(1, 8)]
    for message in got:
        other.complete_message(message)


def test_receiving_by_iteration_ends_after_its_wait(ends: Ends) -> None:
    sender, receiver = ends.queue("plain8", max_wait_time=0.5)
    sender.send_messages([ServiceBusMessage(str(number)) for number in range(5)])
    seen: list[bytes] = []
    until = time.monotonic() + PATIENCE_S
    while len(seen) < 5 and time.monotonic() < until:  # a busy machine may not deliver within the wait
        for message in receiver:
            seen.append(body(message))
            receiver.complete_message(message)
    assert seen == [b"0", b"1", b"2", b"3", b"4"]
    assert receiver.receive_messages(1, max_wait_time=0.1) == []


def test_two_namespaces_know_nothing_of_each_other(standin: StandIn, ends: Ends) -> None:
    other = Ends(standin.client("two"))
    try:
        sender, receiver = other.queue("q", receive_mode=DELETE)
        sender.send_messages(ServiceBusMessage("here"))
        assert [body(m) for m in take(receiver, 1)] == [b"here"]
        with pytest.raises(ServiceBusAuthenticationError):
            other.open(other.client.get_queue_sender("plain0"))
    finally:
        other.close()
    assert [queue.name for queue in standin.administration("two").list_queues()] == ["q"]


def test_the_aio_client(standin: StandIn) -> None:
    async def run() -> None:
        async with AioClient.from_connection_string(connection_string(standin.port), retry_total=0) as client:
            sender, receiver = client.get_queue_sender("plain9"), client.get_queue_receiver("plain9")
            dead = client.get_queue_receiver("plain9", sub_queue=ServiceBusSubQueue.DEAD_LETTER)
            await asyncio.gather(*(end.__aenter__() for end in (sender, receiver, dead)))
            batch = await sender.create_message_batch()
            for number in range(3):
                batch.add_message(ServiceBusMessage(f"{number}"))
            await sender.send_messages(batch)
            await sender.send_messages(ServiceBusMessage(b"z" * 200_000))
            got: list[Any] = []
            while len(got) < 4:
                got += await receiver.receive_messages(4 - len(got), max_wait_time=PATIENCE_S)
            assert [len(body(m)) for m in got] == [1, 1, 1, 200_000]
            await receiver.renew_message_lock(got[0])
            await receiver.complete_message(got[0])
            await receiver.abandon_message(got[1])
            await receiver.dead_letter_message(got[2], reason="aio")
            await receiver.defer_message(got[3])
            [again] = await receiver.receive_messages(1, max_wait_time=PATIENCE_S)
            assert (body(again), again.delivery_count) == (b"1", 1)
            await receiver.complete_message(again)
            [deferred] = await receiver.receive_deferred_messages(got[3].sequence_number)
            await receiver.complete_message(deferred)
            [letter] = await dead.receive_messages(1, max_wait_time=PATIENCE_S)
            assert letter.dead_letter_reason == "aio"
            await dead.complete_message(letter)
            with pytest.raises(MessageSizeExceededError):
                await sender.send_messages(ServiceBusMessage(b"z" * 300_000))
            assert await receiver.peek_messages(5) == []
            await asyncio.gather(*(end.close() for end in (sender, receiver, dead)))

    asyncio.run(run())


def test_queues_are_administered(standin: StandIn, ends: Ends) -> None:
    with standin.administration() as admin:
        made = admin.create_queue("made", lock_duration=timedelta(seconds=30), max_delivery_count=4, user_metadata="mine")
        assert (made.lock_duration, made.max_delivery_count, made.user_metadata) == (timedelta(seconds=30), 4, "mine")
        with pytest.raises(ResourceExistsError, match="already exists"):
            admin.create_queue("MADE")
        queue = admin.get_queue("made")
        queue.lock_duration, queue.default_message_time_to_live = timedelta(minutes=2), timedelta(hours=1)
        admin.update_queue(queue)
        queue = admin.get_queue("made")
        assert (queue.lock_duration, queue.default_message_time_to_live) == (timedelta(minutes=2), timedelta(hours=1))
        sender, receiver = ends.queue("made")
        sender.send_messages([ServiceBusMessage("one"), ServiceBusMessage("two")])
        receiver.dead_letter_message(take(receiver, 2)[0])
        counts = admin.get_queue_runtime_properties("made")
        assert (counts.active_message_count, counts.dead_letter_message_count, counts.total_message_count) == (1, 1, 2)
        assert counts.size_in_bytes
        for number in range(103):
            admin.create_queue(f"many{number:03}")
        names = [queue.name for queue in admin.list_queues()]
        assert set(QUEUES) | {"made", *(f"many{number:03}" for number in range(103))} == set(names)
        assert len(names) == len(set(names))
        for number in range(103):
            admin.delete_queue(f"many{number:03}")
        admin.delete_queue("made")
        with pytest.raises(ResourceNotFoundError):
            admin.get_queue("made")
        with pytest.raises(ResourceNotFoundError):
            admin.delete_queue("made")
        with pytest.raises(ServiceBusError):
            sender.send_messages(ServiceBusMessage("too late"))
        assert admin.get_namespace_properties().messaging_sku == "Standard"
        assert list(admin.list_topics()) == []


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"requires_session": True}, "RequiresSession: sessions are not implemented"),
        ({"requires_duplicate_detection": True}, "duplicate detection"),
        ({"forward_to": "plain0"}, "ForwardTo: forwarding is not implemented"),
        ({"forward_dead_lettered_messages_to": "plain0"}, "forwarding is not implemented"),
        ({"enable_partitioning": True}, "partitioned queues"),
        ({"auto_delete_on_idle": timedelta(minutes=5)}, "delete themselves"),
        ({"lock_duration": timedelta(minutes=6)}, "at most 5 minutes"),
        ({"max_delivery_count": 0}, "MaxDeliveryCount"),
        ({"max_message_size_in_kilobytes": 2048}, "tier Standard has one limit"),
    ],
)
def test_a_queue_that_cannot_be_is_refused(standin: StandIn, settings: dict[str, Any], what: str) -> None:
    with standin.administration() as admin:
        with pytest.raises(HttpResponseError, match=what):
            admin.create_queue("impossible", **settings)
        with pytest.raises(ResourceNotFoundError):
            admin.get_queue("impossible")


def test_the_vendors_own_topic(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with running(tmp_path, {"queue.1": {}}, topics=[TOPIC]) as standin:
        [told] = capfd.readouterr().err.splitlines()
        assert "'topic.1/Subscriptions/subscription.4' is left out: rule 'rule-0'" in told
        ends = Ends(standin.client())
        names = [f"subscription.{number}" for number in (1, 2, 3)]
        sender, *receivers = ends.open(
            ends.client.get_topic_sender("topic.1"), *(ends.client.get_subscription_receiver("Topic.1", name) for name in names)
        )
        whole = ServiceBusMessage(
            "both",
            content_type="application/text",
            correlation_id="id1",
            subject="subject1",
            message_id="msgid1",
            reply_to="someQueue",
            reply_to_session_id="sessionId",
            session_id="session1",
            to="xyz",
            application_properties={"prop1": "value1"},
        )
        sender.send_messages([whole, ServiceBusMessage("one", application_properties={"prop1": "value1"}), ServiceBusMessage("none")])
        sender.send_messages(ServiceBusMessage("late", scheduled_enqueue_time_utc=datetime.now(UTC) + timedelta(seconds=0.5)))
        for receiver, expected in zip(receivers, (["both"], ["both", "one"], ["both", "one", "none", "late"]), strict=True):
            got = take(receiver, len(expected))
            assert [str(message) for message in got] == expected
            assert [message.sequence_number for message in got] == list(range(1, len(got) + 1))
            receiver.dead_letter_message(got[0], reason="why")
            for message in got[1:]:
                receiver.complete_message(message)
            assert receiver.peek_messages(5) == []
        [dead] = ends.open(ends.client.get_subscription_receiver("topic.1", names[0], sub_queue=ServiceBusSubQueue.DEAD_LETTER))
        [letter] = take(dead, 1)
        assert (str(letter), letter.dead_letter_reason) == ("both", "why")
        dead.complete_message(letter)
        wrong = (
            (ends.client.get_subscription_receiver("topic.1", "subscription.4"), ServiceBusError, "is SQL, which is not implemented"),
            (ends.client.get_subscription_receiver("topic.1", "subscription.5"), ServiceBusAuthenticationError, "client-error"),
            (ends.client.get_topic_sender("topic.2"), ServiceBusAuthenticationError, "client-error"),
            (ends.client.get_queue_receiver("topic.1"), ServiceBusError, "receive from its subscriptions"),
            (ends.client.get_queue_sender("topic.1/Subscriptions/subscription.1"), ServiceBusError, "come from its topic"),
        )
        for end, kind, what in wrong:
            with pytest.raises(kind, match=what):
                end.__enter__()
        with pytest.raises(ServiceBusError, match="management of topics is not implemented here"):
            sender.schedule_messages(ServiceBusMessage("x"), datetime.now(UTC))
        ends.close()
        with standin.administration() as admin:
            for ask in (lambda: list(admin.list_topics()), lambda: admin.get_topic("topic.1"), lambda: admin.delete_topic("topic.1")):
                with pytest.raises(HttpResponseError, match="not implemented here"):
                    ask()
            with pytest.raises(HttpResponseError, match="not implemented here"):
                admin.create_queue("Topic.1")


def test_topics_with_the_aio_client(tmp_path: Path) -> None:
    async def run(port: int) -> None:
        async with AioClient.from_connection_string(connection_string(port), retry_total=0) as client:
            sender = client.get_topic_sender("t")
            receivers = [client.get_subscription_receiver("t", name, prefetch_count=9) for name in ("all", "some", "true")]
            await asyncio.gather(*(end.__aenter__() for end in (sender, *receivers)))
            batch = await sender.create_message_batch()
            for number in range(3):
                batch.add_message(ServiceBusMessage(str(number), application_properties={"number": number}))
            await sender.send_messages(batch)
            for receiver, expected in zip(receivers, (["0", "1", "2"], ["0", "2"], ["0", "1", "2"]), strict=True):
                got: list[Any] = []
                while len(got) < len(expected):
                    got += await receiver.receive_messages(len(expected) - len(got), max_wait_time=PATIENCE_S)
                assert [str(message) for message in got] == expected
                for message in got:
                    await receiver.complete_message(message)
            await asyncio.gather(*(end.close() for end in (sender, *receivers)))

    rules = [correlation(Properties={"number": number}) for number in (0, 2)]
    always = {"FilterType": "Sql", "SqlFilter": {"SqlExpression": "1 = 1"}}
    subscriptions = [subscription("all"), subscription("some", *rules), subscription("true", always, rules[0])]
    with running(tmp_path, {}, topics=[{"Name": "T", "Subscriptions": subscriptions}]) as standin:
        asyncio.run(run(standin.port))


def test_who_comes_with_tls_is_turned_away(tmp_path: Path) -> None:
    with running(tmp_path, {}) as standin:
        with socket.create_connection(("127.0.0.1", standin.ready["admin_port"]), timeout=PATIENCE_S) as client:
            client.sendall(b"\x16\x03\x01\x02\x00\x01")  # and no more: a handshake waits for its answer
            with suppress(ConnectionResetError):
                assert client.recv(1) == b""
        assert http(standin, "GET", "/health")[0] == 200


def http(standin: StandIn, method: str, path: str, body: bytes = b"") -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", standin.ready["admin_port"], timeout=PATIENCE_S)
    connection.request(method, path, body)
    response = connection.getresponse()
    found = response.status, response.read().decode()
    connection.close()
    return found


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b'<?xml version="1.0" encoding="nonexistent"?><a/>', "only queues"),
        (b'<?xml version="1.0" encoding="big5"?><a/>', "only queues"),
        (b"<!DOCTYPE a><a/>", "without declarations of types"),
        ('<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a [<!ENTITY b "bbbb">]><a>&b;</a>'.encode("utf-16"), "expected XML"),
        ("<!DOCTYPE a><a/>".encode("utf-16-le"), "in UTF-8"),
        (b"\xff", "expected XML"),
    ],
)
def test_xml_that_is_none_of_a_queues(standin: StandIn, body: bytes, what: str) -> None:
    status, told = http(standin, "PUT", "/impossible?api-version=2021-05", body)
    assert status == 400
    assert what in told


def test_pages_and_names_at_their_bounds(standin: StandIn) -> None:
    assert http(standin, "GET", "/$Resources/queues?$top=0")[0] == 400
    assert http(standin, "GET", "/$Resources/queues?$skip=-1")[0] == 400
    with standin.administration() as admin:
        admin.create_queue("health")
        assert admin.get_queue("health").name == "health"
        assert http(standin, "GET", "/health")[1].startswith('{"namespace"')
        admin.delete_queue("health")
        with pytest.raises(ResourceNotFoundError):
            admin.get_queue("health")


def test_topics_are_refused(standin: StandIn) -> None:
    with standin.administration() as admin:
        with pytest.raises(HttpResponseError, match="only queues are implemented"):
            admin.create_topic("topic")
        with pytest.raises(HttpResponseError, match="not implemented"):
            admin.create_subscription("topic", "subscription")


def test_premium_takes_large_messages_where_the_queue_says_so(tmp_path: Path) -> None:
    with running(tmp_path, {"usual": {}, "large": {"MaxMessageSizeInKilobytes": 8192}}, "--tier", "premium") as standin:
        ends = Ends(standin.client())
        usual, large = ends.open(*(ends.client.get_queue_sender(name) for name in ("usual", "large")))
        [receiver] = ends.open(ends.client.get_queue_receiver("large", receive_mode=DELETE))
        usual.send_messages(ServiceBusMessage(b"x" * 1_000_000))
        with pytest.raises(MessageSizeExceededError):
            usual.send_messages(ServiceBusMessage(b"x" * 1_100_000))
        assert large.create_message_batch().max_size_in_bytes == 1 << 20
        sent = bytes(range(256)) * 6_000  # more than the usual, less than what a socket holds: the SDK gives it 0.2 s
        large.send_messages(ServiceBusMessage(sent))
        assert body(take(receiver, 1)[0]) == sent
        with standin.administration() as admin:
            assert admin.get_queue("large").max_message_size_in_kilobytes == 8192
            assert admin.get_namespace_properties().messaging_sku == "Premium"
        ends.close()


def test_the_throttle_says_busy_and_loses_nothing(tmp_path: Path) -> None:
    with running(tmp_path, {"q": {}}, "--throttle", "20") as standin:
        ends = Ends(standin.client())
        sender, receiver = ends.queue("q", receive_mode=DELETE)
        accepted = refused = 0
        while not refused:  # 15 and 15 are more than a second's 20, unless each takes a second
            try:
                sender.send_messages([ServiceBusMessage("m") for _ in range(15)])
                accepted += 15
            except ServiceBusServerBusyError as error:
                refused += 1
                assert "50009" in str(error)  # noqa: PT017  # which attempt is refused is the clock's
            assert accepted < 600
        assert len(take(receiver, accepted)) == accepted
        ends.close()


def test_a_connection_that_is_cut_is_opened_anew_by_the_clients_own_retries(tmp_path: Path) -> None:
    with running(tmp_path, {"q": {"LockDuration": "PT1S"}}, "--drop-after", "4", "--latency-ms", "5") as standin:
        with standin.client(retry_total=5, retry_backoff_factor=0.01) as client, client.get_queue_sender("q") as sender:
            for number in range(4):
                sender.send_messages(ServiceBusMessage(str(number)))
        seen: set[bytes] = set()
        with standin.client(retry_total=5, retry_backoff_factor=0.01) as client, client.get_queue_receiver("q") as receiver:
            while len(seen) < 4:  # the fourth of a connection is never seen: its lock expires
                for message in receiver.receive_messages(1, max_wait_time=PATIENCE_S):
                    seen.add(body(message))
                    with suppress(MessageLockLostError):  # it comes again
                        receiver.complete_message(message)
        assert seen == {b"0", b"1", b"2", b"3"}


def test_a_server_has_the_same_ports_after_a_restart_and_is_empty(tmp_path: Path) -> None:
    server = started(lambda: ServiceBusServer(tmp_path, None, {"one": ["q"], "two": ["q", "r"]}))
    try:
        assert server.healthy()
        with ServiceBusClient.from_connection_string(server.connection_string("two"), retry_total=0) as client:
            with client.get_queue_sender("r") as sender:
                sender.send_messages(ServiceBusMessage("gone"))
                server.stop()
                assert not server.healthy()
                with pytest.raises(ServiceBusError):
                    sender.send_messages(ServiceBusMessage("nowhere"))
                server.start()
            with client.get_queue_receiver("r") as receiver:
                assert receiver.peek_messages(1) == []
    finally:
        server.stop()
