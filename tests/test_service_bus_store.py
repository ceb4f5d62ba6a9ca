"""The stand-in's queues, throttle and configuration, without a protocol and with a clock that is set by hand."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fsd_conformance.emulators.service_bus.__main__ import _every, main
from fsd_conformance.emulators.service_bus.broker import TIERS, Broker
from fsd_conformance.emulators.service_bus.codec import ACCEPTED, NULL, TRUE, AmqpError, encode, mapping, symbol
from fsd_conformance.emulators.service_bus.config import Entities, duration, iso, load, queue_settings
from fsd_conformance.emulators.service_bus.message import Incoming, batch, incoming, properties
from fsd_conformance.emulators.service_bus.store import (
    LockLostError,
    Message,
    NoDeadLetterError,
    Queue,
    QueueFullError,
    QueueSettings,
    State,
    UnknownMessageError,
)
from fsd_conformance.emulators.service_bus.throttle import Throttle
from fsd_conformance.emulators.service_bus.topics import FIELDS, Correlation, SubscriptionSettings, TopicSettings
from fsd_core.errors import InputError
from service_bus_standin import TOPIC, correlation, subscription

STANDARD, PREMIUM = TIERS["standard"], TIERS["premium"]
DATA = b"\x00\x53\x75"


class Clock:
    """ms, as it is set."""

    now = 1_000_000

    def __call__(self) -> int:
        return self.now


def sent(text: str = "", **fields: Any) -> Incoming:
    body = DATA + encode(text.encode())
    return Incoming(body, size=len(body), **fields)


def made(clock: Clock, **fields: Any) -> Queue:
    return Queue("q", QueueSettings(**fields), clock)


def locked(queue: Queue) -> Message:
    message = queue.take(lock=True)
    assert message is not None
    return message


def test_a_lock_is_lost_when_it_ends_and_not_before() -> None:
    clock = Clock()
    queue = made(clock, lock_ms=1000)
    queue.put(sent("a"))
    message = locked(queue)
    token = message.token
    clock.now += 999
    queue.advance()
    assert not queue.ready()
    assert queue.renew(token) == clock.now + 1000
    clock.now += 999
    queue.advance()
    assert not queue.ready()
    clock.now += 1
    with pytest.raises(LockLostError):  # before anybody looked at the clock
        queue.complete(token)
    again = locked(queue)
    assert (again.sequence, again.deliveries) == (1, 1)
    for action in (queue.complete, queue.defer, queue.renew):
        with pytest.raises(LockLostError):
            action(token)
    queue.complete(again.token)
    assert queue.bytes == 0


def test_messages_come_again_in_their_old_order() -> None:
    queue = made(Clock())
    for text in "abcd":
        queue.put(sent(text))
    taken = [locked(queue) for _ in range(3)]
    for message in (taken[2], taken[0], taken[1]):
        queue.release(message.token, failed=False)
    assert [locked(queue).sequence for _ in range(4)] == [1, 2, 3, 4]


def test_a_shorter_lock_ends_before_a_longer_one_that_is_older() -> None:
    clock = Clock()
    queue = made(clock, lock_ms=10_000)
    for text in "ab":
        queue.put(sent(text))
    locked(queue)
    queue.change(QueueSettings(lock_ms=1000))
    locked(queue)
    clock.now += 1000
    queue.advance()
    assert locked(queue).sequence == 2
    assert not queue.ready()


def test_dead_letters_say_why_and_keep_what_they_had() -> None:
    queue = made(Clock(), max_deliveries=1)
    given = {"kept": 7, "DeadLetterReason": "an older one"}
    payload = b"\x00\x53\x73" + encode(["id"]) + b"\x00\x53\x74" + encode(given) + DATA + encode(b"body")
    queue.put(incoming(payload))
    queue.dead_letter(locked(queue).token, "why", None)
    queue.put(sent("b"))
    queue.release(locked(queue).token, failed=True)
    assert queue.dead is not None
    first, second = locked(queue.dead), locked(queue.dead)
    fields, application = properties(first.incoming.body)
    assert (fields, application) == (["id"], {"kept": 7, "DeadLetterReason": "why"})
    assert first.incoming.body.endswith(DATA + encode(b"body"))
    assert properties(second.incoming.body)[1]["DeadLetterReason"] == "MaxDeliveryCountExceeded"
    with pytest.raises(NoDeadLetterError):
        queue.dead.dead_letter(first.token, None, None)
    queue.dead.release(second.token, failed=True)  # as often as one likes
    queue.dead.complete(first.token)


def test_messages_outlive_their_time() -> None:
    clock = Clock()
    queue = made(clock, ttl_ms=1000)
    queue.put(sent("by the queue", ttl=5000))
    queue.put(sent("by itself", ttl=500))
    held = locked(queue)
    clock.now += 600
    assert queue.take(lock=True) is None
    assert [m.sequence for m in queue.peek(1, 10)] == [1]
    clock.now += 600
    queue.advance()
    queue.complete(held.token)  # a lock outlasts the time
    queue.put(sent("never looked at", ttl=1))
    clock.now += 5000
    queue.advance()
    assert queue.bytes == 0
    letters = made(clock, ttl_ms=10, dead_letter_expired=True)
    letters.put(sent("told"))
    clock.now += 10
    letters.advance()
    assert letters.dead is not None
    assert properties(locked(letters.dead).incoming.body)[1]["DeadLetterReason"] == "TTLExpiredException"


def test_scheduled_messages_are_ready_in_time() -> None:
    clock = Clock()
    queue = made(clock, ttl_ms=1000)
    late, early, never = (queue.put(sent(scheduled=clock.now + wait)) for wait in (2000, 1000, 3000))
    now = queue.put(sent(scheduled=clock.now - 1))
    assert queue.counts() == {State.ACTIVE: 1, State.DEFERRED: 0, State.SCHEDULED: 3}
    queue.cancel([never, never])
    with pytest.raises(UnknownMessageError):
        queue.cancel([early, never])
    assert locked(queue).sequence == now
    clock.now += 1000
    queue.advance()
    assert locked(queue).sequence == early
    clock.now += 1000
    queue.advance()
    message = locked(queue)  # its time to live has only begun
    assert (message.sequence, message.enqueued) == (late, clock.now)
    clock.now += 5000
    queue.advance()


def test_a_full_queue_counts_its_dead_letters() -> None:
    size = sent("x" * 90).size + 512
    queue = made(Clock(), max_bytes=2 * size, max_deliveries=1)
    queue.put(sent("x" * 90))
    queue.put(sent("x" * 90))
    queue.release(locked(queue).token, failed=True)
    with pytest.raises(QueueFullError):
        queue.put(sent())
    queue.complete(locked(queue).token)
    queue.put(sent())


class Machine(RuleBasedStateMachine):
    """A queue against a model of it: every message is in one place, comes in order, and only its lock's holder moves it."""

    @dataclass
    class Entry:
        """What the model knows of a message. ``until``: of its lock."""

        deliveries: int = 0
        token: bytes = b""
        until: int = 0
        deferred: bool = False

    LOCK, DELIVERIES = 100, 3

    @initialize()
    def begin(self) -> None:
        self.clock = Clock()
        self.queue = made(self.clock, lock_ms=self.LOCK, max_deliveries=self.DELIVERIES)
        self.model: dict[int, Machine.Entry] = {}
        self.tokens: list[bytes] = []
        self.dead = 0

    def expire(self) -> None:
        for number, entry in list(self.model.items()):
            if entry.token and entry.until <= self.clock.now:
                self.back(number, entry, True)

    def back(self, number: int, entry: Entry, failed: bool) -> None:
        entry.token = b""
        entry.deliveries += failed
        if failed and entry.deliveries >= self.DELIVERIES:
            del self.model[number]
            self.dead += 1

    def free(self, *, deferred: bool) -> list[int]:
        return sorted(number for number, entry in self.model.items() if not entry.token and entry.deferred == deferred)

    @rule(count=strategies.integers(1, 3))
    def put(self, count: int) -> None:
        for _ in range(count):
            self.model[self.queue.put(sent("m"))] = self.Entry()

    @rule(lock=strategies.booleans())
    def take(self, lock: bool) -> None:
        self.queue.advance()
        message, free = self.queue.take(lock=lock), self.free(deferred=False)
        assert (message.sequence if message else None) == (free[0] if free else None)
        if message and lock:
            assert message.deliveries == self.model[message.sequence].deliveries
            self.hold(message)
        elif message:
            del self.model[message.sequence]

    def hold(self, message: Message) -> None:
        entry = self.model[message.sequence]
        entry.token, entry.until = message.token, self.clock.now + self.LOCK
        self.tokens.append(message.token)

    @precondition(lambda self: self.tokens)
    @rule(which=strategies.integers(0, 50), how=strategies.sampled_from(["complete", "release", "fail", "defer", "bury", "renew"]))
    def settle(self, which: int, how: str) -> None:
        token = self.tokens[which % len(self.tokens)]
        actions: dict[str, Any] = {
            "complete": self.queue.complete,
            "release": lambda token: self.queue.release(token, failed=False),
            "fail": lambda token: self.queue.release(token, failed=True),
            "defer": self.queue.defer,
            "bury": lambda token: self.queue.dead_letter(token, "r", "d"),
            "renew": self.queue.renew,
        }
        held = [(number, entry) for number, entry in self.model.items() if entry.token == token]
        if not held:
            with pytest.raises(LockLostError):
                actions[how](token)
            return
        [(number, entry)] = held
        actions[how](token)
        if how == "renew":
            entry.until = self.clock.now + self.LOCK
        elif how in ("release", "fail"):
            self.back(number, entry, how == "fail")
        elif how == "defer":
            entry.token, entry.deferred = b"", True
        else:
            del self.model[number]
            self.dead += how == "bury"

    @precondition(lambda self: self.free(deferred=True))
    @rule(lock=strategies.booleans())
    def take_deferred(self, lock: bool) -> None:
        numbers = self.free(deferred=True)
        with pytest.raises(UnknownMessageError):
            self.queue.take_deferred([*numbers, 10**9], lock=lock)
        for message in self.queue.take_deferred(numbers, lock=lock):
            if lock:
                self.hold(message)
            else:
                del self.model[message.sequence]

    @rule(wait=strategies.integers(1, 60))
    def wait(self, wait: int) -> None:
        self.clock.now += wait
        self.queue.advance()
        self.expire()

    @invariant()
    def agree(self) -> None:
        if hasattr(self, "queue"):
            assert [m.sequence for m in self.queue.peek(1, 10**6)] == sorted(self.model)
            assert self.queue.bytes == len(self.model) * sent("m").size
            assert self.queue.dead is not None
            assert self.queue.dead.counts()[State.ACTIVE] == self.dead


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40)


def test_credits_come_anew_each_second() -> None:
    clock = Clock()
    throttle = Throttle(10, clock)
    assert [throttle.take(4) for _ in range(3)] == [True, True, False]
    assert throttle.take(2)
    clock.now += 1000
    assert throttle.take(10)
    assert not throttle.take(1)
    clock.now += 1000
    assert throttle.take(25)  # a whole second's
    assert not throttle.take(1)
    assert all(Throttle(0, clock).take(10**6) for _ in range(3))


def test_what_is_refused_for_credits_is_not_kept() -> None:
    clock = Clock()
    broker = Broker("n", STANDARD, 2, now=clock)
    queue = broker.create("q", QueueSettings())
    payload = DATA + encode(b"m")
    outcomes = [broker.accept(queue, payload, 0) for _ in range(3)]
    assert outcomes[:2] == [ACCEPTED, ACCEPTED]
    assert b"com.microsoft:server-busy" in outcomes[2]
    assert queue.counts()[State.ACTIVE] == 2
    clock.now += 1000
    assert broker.accept(queue, payload, 0) == ACCEPTED


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("PT1M", 60_000),
        ("PT0.5S", 500),
        ("P1DT2H", 93_600_000),
        ("P10675199DT2H48M5.4775807S", None),
        ("PT1H1M1.5S", 3_661_500),
        ("P1Y", 365 * 86_400_000),
        ("P2M1DT1M", 61 * 86_400_000 + 60_000),
        ("P99999Y", None),
    ],
)
def test_durations(text: str, milliseconds: int | None) -> None:
    assert duration(text) == milliseconds
    assert duration(iso(milliseconds)) == milliseconds


@pytest.mark.parametrize("text", ["", "P", "PT", "1M", "PT1M ", "P1W", "P1D1M", "-PT1M", None, 5])
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(ValueError, match="expected an ISO 8601 duration"):
        duration(text)


def test_the_vendors_own_file_is_read(tmp_path: Path) -> None:
    properties = {
        "DeadLetteringOnMessageExpiration": False,
        "DefaultMessageTimeToLive": "PT1H",
        "DuplicateDetectionHistoryTimeWindow": "PT20S",
        "ForwardDeadLetteredMessagesTo": "",
        "ForwardTo": "",
        "LockDuration": "PT1M",
        "MaxDeliveryCount": 3,
        "RequiresDuplicateDetection": False,
        "RequiresSession": False,
    }
    space: dict[str, Any] = {"Name": "sbemulatorns", "Queues": [{"Name": "queue.1", "Properties": properties}]}
    file = tmp_path / "Config.json"
    file.write_text(json.dumps({"UserConfig": {"Namespaces": [space], "Logging": {"Type": "File"}}}))
    assert load(file, STANDARD) == {"sbemulatorns": Entities({"queue.1": QueueSettings(60_000, 3_600_000, 3)})}
    space["Topics"] = [TOPIC]
    space["Queues"].append({"Name": "usual"})
    text = json.dumps({"$schema": "Config-schema.json", "UserConfig": {"Namespaces": [space]}})
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    [entities] = load(file, STANDARD).values()
    assert entities.queues["usual"] == QueueSettings(60_000, 3_600_000, 3)  # what the vendor's schema has
    found = entities.topics["topic.1"].subscriptions
    assert [(bool(each.filters), bool(each.left_out)) for each in found.values()] == [
        (True, False),
        (True, False),
        (False, False),
        (False, True),
    ]
    assert {each.queue for each in found.values()} == {QueueSettings(60_000, 3_600_000, 3)}
    space["Topics"] = [{"Name": "t", "Properties": {"DefaultMessageTimeToLive": "PT1M"}, "Subscriptions": [subscription("s")]}]
    file.write_text(json.dumps({"UserConfig": {"Namespaces": [space]}}))
    assert load(file, STANDARD)["sbemulatorns"].topics["t"].subscriptions["s"].queue.ttl_ms == 60_000


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ("{", "expected JSON"),
        ([], "expected an object"),
        ({}, "expected an object"),
        ({"UserConfig": {}}, "at least one namespace"),
        ({"UserConfig": {"Namespaces": {}}}, "Namespaces: expected a list"),
        ("null", "expected an object with $schema, UserConfig"),
        ("[" * 100_000, "nested too deeply"),
        ('{"UserConfig": {"Namespaces": [], "Namespaces": []}}', "'Namespaces' occurs twice"),
        ({"UserConfig": {"Namespaces": [{"Name": "a"}], "Logging": 5}}, "Logging: expected an object"),
        ({"UserConfig": {"Namespaces": [{"Name": "a", "Queues": ""}]}}, "Queues: expected a list"),
        ({"UserConfig": {"Namespaces": [{"Name": "a", "Queues": [{"Name": "t/Subscriptions/s"}]}]}}, "expected no name of a subscription"),
        ({"UserConfig": {"Namespaces": {"Name": "a"}}}, "Namespaces: expected a list"),
        ({"UserConfig": {"Namespaces": [{"Name": "a"}, {"Name": "a"}]}}, "that no other namespace has"),
        ({"UserConfig": {"Namespaces": [{"Name": "a", "Qeues": []}]}}, "'Qeues': unknown"),
        ({"UserConfig": {"Namespaces": [{"Name": "a", "Queues": [{"Name": ""}]}]}}, "queue ''"),
        ({"UserConfig": {"Namespaces": [{"Name": "a", "Queues": [{"Name": "q"}, {"Name": "Q"}]}]}}, "occurs twice"),
        ({"UserConfig": {"Namespaces": [{"Name": "a", "Queues": [{"Name": "q", "Properties": {"Lock": 1}}]}]}}, "'Lock': unknown property"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, config: object, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "Config.json"
    file.write_text(config if isinstance(config, str) else json.dumps(config))
    assert main(["--config", str(file)]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert what in told.err
    assert len(told.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("properties", "what"),
    [
        ({"RequiresSession": True}, "sessions are not implemented"),
        ({"RequiresDuplicateDetection": "true"}, "duplicate detection is not implemented"),
        ({"ForwardTo": "other"}, "forwarding is not implemented"),
        ({"LockDuration": "PT5M1S"}, "at most 5 minutes"),
        ({"LockDuration": "PT0S"}, "at most 5 minutes"),
        ({"LockDuration": 60}, "expected an ISO 8601 duration"),
        ({"MaxDeliveryCount": True}, "expected a whole number from 1 to 2000"),
        ({"DeadLetteringOnMessageExpiration": "maybe"}, "expected true or false"),
        ({"Status": "Disabled"}, "Disabled queues are not implemented"),
        ({"RequiresSession": 0}, "RequiresSession: 0: expected true or false"),
        ({"RequiresSession": []}, "expected true or false"),
        ({"ForwardTo": 5}, "ForwardTo: 5: expected text"),
        ({"DuplicateDetectionHistoryTimeWindow": "bogus"}, "expected an ISO 8601 duration"),
        ({"EnableBatchedOperations": "maybe"}, "expected true or false"),
        ({"UserMetadata": {}}, "UserMetadata: {}: expected text"),
    ],
)
def test_properties_that_cannot_be(properties: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError, match=what):
        queue_settings(properties, STANDARD, "queue 'q'")


def test_a_limit_of_its_own_is_premiums() -> None:
    with pytest.raises(InputError, match="tier Standard"):
        queue_settings({"MaxMessageSizeInKilobytes": 1024}, STANDARD, "q")
    assert queue_settings({"MaxMessageSizeInKilobytes": 102_400}, PREMIUM, "q").max_message_bytes == 100 << 20
    with pytest.raises(InputError, match="1024 to 102400"):
        queue_settings({"MaxMessageSizeInKilobytes": 102_401}, PREMIUM, "q")


def topic(*rules: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"Name": "t", "Subscriptions": [subscription("s", *rules)], **more}


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        (topic({}), "FilterType None: expected"),
        (topic({"FilterType": "Sql"}), "SqlFilter: expected an object"),
        (topic({"FilterType": "Sql", "SqlFilter": {}}), "SqlExpression: expected text"),
        (topic({"FilterType": "Correlation"}), "CorrelationFilter: expected an object"),
        (topic(correlation()), "expected at least one field"),
        (topic(correlation(Colour="red")), "'Colour': unknown"),
        (topic(correlation(To=5)), "To: expected text"),
        (topic(correlation(Properties={"a": []})), "Properties: expected an object of texts"),
        (topic(Properties={"LockDuration": "PT1M"}), "'LockDuration': unknown"),
        (topic(Properties={"RequiresDuplicateDetection": True}), "duplicate detection is not implemented"),
        ({"Name": "q", "Subscriptions": []}, "topic 'q' occurs twice"),
        ({"Name": "t", "Subscriptions": [{"Name": "s"}, {"Name": "S"}]}, "subscription 'S' occurs twice"),
        ({"Name": "t", "Subscriptions": [{"Name": "s", "Properties": {"RequiresSession": True}}]}, "sessions are not implemented"),
    ],
)
def test_a_topic_that_cannot_be_is_refused(tmp_path: Path, entry: dict[str, Any], what: str) -> None:
    file = tmp_path / "Config.json"
    file.write_text(json.dumps({"UserConfig": {"Namespaces": [{"Name": "n", "Queues": [{"Name": "Q"}], "Topics": [entry]}]}}))
    with pytest.raises(InputError, match=what):
        load(file, STANDARD)


def published(**values: object) -> Incoming:
    """A message of these properties, by the names that a filter has, and of application properties, in lower case."""
    fields: list[object] = [None] * 13
    for name, value in values.items():
        if name in FIELDS:
            fields[FIELDS[name]] = value
    application = {name: value for name, value in values.items() if name not in FIELDS}
    return incoming(b"\x00\x53\x73" + encode(fields) + b"\x00\x53\x74" + encode(application) + DATA + encode(b"m"))


@pytest.mark.parametrize("name", FIELDS)
def test_a_filter_asks_for_each_field(name: str) -> None:
    one = Correlation({FIELDS[name]: "a"}, {})
    assert one.matches(*properties(published(**{name: "a"}).body))
    assert not one.matches(*properties(published(**{name: "A"}).body))
    assert not one.matches([], {})


def test_filters_ask_for_all_and_rules_for_any() -> None:
    settings = {
        "both": SubscriptionSettings(QueueSettings(), (Correlation({FIELDS["To"]: "a"}, {"k": 1}),)),
        "either": SubscriptionSettings(QueueSettings(), (Correlation({FIELDS["To"]: "a"}, {}), Correlation({}, {"k": True}))),
        "Every": SubscriptionSettings(QueueSettings()),
        "never": SubscriptionSettings(QueueSettings(), None, "a reason"),
    }
    broker = Broker("n", STANDARD)
    topic = broker.create_topic("T", TopicSettings(settings))
    given = [published(To="a", k=1), published(To="a"), published(k=True), published(k=1), published(To="b", k="1")]
    given[1] = replace(given[1], body=DATA + encode(b"nothing of it"))
    shares = {queue.name: [given.index(message) for message in share] for queue, share in topic.route(given).items()}
    assert shares == {"T/Subscriptions/both": [0], "T/Subscriptions/either": [0, 2], "T/Subscriptions/Every": [0, 1, 2, 3, 4]}
    assert broker.find("t/SUBSCRIPTIONS/every") is topic.subscriptions["every"]
    assert broker.find("T/subscriptions/Every/$deadletterqueue") is topic.subscriptions["every"].dead
    assert broker.find("T") is broker.find("T/Subscriptions") is broker.find("T/Subscriptions/never") is None
    assert "a reason" in broker.missing("t/subscriptions/Never/$DeadLetterQueue")[1]


def test_a_number_or_a_uuid_is_compared_as_text() -> None:
    name = UUID(int=7)
    for value in (7, name):
        assert Correlation({0: str(value)}, {}).matches(*properties(published(MessageId=value).body))


def test_who_gets_a_message_shares_its_bytes_and_all_get_it_or_none() -> None:
    one = QueueSettings(max_bytes=3200)
    broker = Broker("n", STANDARD, 10, now=Clock())
    topic = broker.create_topic("t", TopicSettings({name: SubscriptionSettings(one) for name in "ab"}))
    payload = DATA + encode(bytes(1000))
    assert broker.accept(topic, payload, 0) == ACCEPTED
    a, b = topic.subscriptions["a"], topic.subscriptions["b"]
    assert locked(a).incoming is locked(b).incoming
    a.put(incoming(payload))
    assert b"resource-limit-exceeded" in broker.accept(topic, payload, 0)
    assert len(list(b.peek(1, 9))) == 1
    filtered = broker.create_topic("f", TopicSettings({"s": SubscriptionSettings(one, (Correlation({0: "x"}, {}),) * 4)}))
    assert broker.accept(filtered, payload, 0) == ACCEPTED  # 2 credits and 5: a filter costs one, too
    assert b"server-busy" in broker.accept(filtered, payload, 0)


def test_what_is_gone_takes_no_room() -> None:
    clock = Clock()
    queue = made(clock, ttl_ms=1000)
    later = clock.now + 10**9
    for _ in range(20):
        queue.cancel([queue.put(sent(scheduled=later)) for _ in range(50)])
        for _ in range(50):
            queue.put(sent())
        clock.now += 2000
        queue.advance()
    assert len(queue._ready) + len(queue._scheduled) <= 100
    kept = [queue.put(sent(scheduled=clock.now + wait)) for wait in (30, 10, 20)]
    for _ in range(5):
        queue.cancel([queue.put(sent(scheduled=later))])
    clock.now += 100
    queue.advance()
    assert [locked(queue).sequence for _ in range(3)] == sorted(kept)


def test_each_message_takes_room() -> None:
    queue = made(Clock(), max_bytes=10 * (512 + sent().size))
    assert queue.fits([sent()] * 10)
    assert made(Clock(), max_bytes=-1).fits([])
    assert not queue.fits([sent()] * 11)
    for _ in range(10):
        queue.put(sent())
    with pytest.raises(QueueFullError):
        queue.put(sent())


def test_a_batch_has_messages() -> None:
    with pytest.raises(AmqpError, match="no data section"):
        batch(b"\x00\x53\x77" + encode("no batch"))


@pytest.mark.parametrize(
    "flag",
    [
        *("--latency-ms=nan", "--latency-ms=-5", "--latency-ms=inf", "--open-s=nan", "--open-s=-1", "--open-s=0", "--idle-s=inf"),
        *(
            "--unused-s=x",
            "--amqp-port=70000",
            "--admin-port=-1",
            "--amqp-port=abc",
            "--connections=0",
            f"--connections={'9' * 5000}",
            "--drop-after=1.5",
            "--throttle=0",
        ),
    ],
)
def test_a_flag_out_of_bounds_is_refused_in_words(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([flag])
    told = capsys.readouterr().err.splitlines()[-1]
    assert f"{flag.partition('=')[2]!r}: expected a" in told
    assert not re.search(r"\b_[a-z]", told)


@pytest.mark.parametrize("kind", ["amqp", "admin"])
def test_a_port_in_use_is_named(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main([f"--{kind}-port={port}"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert str(port) in told.err
    assert len(told.err.splitlines()) == 1


@pytest.mark.parametrize("stdin", ["</dev/null", "<&-"])
def test_a_standard_input_that_nobody_closes_is_named(stdin: str) -> None:
    command = f"{sys.executable} -m fsd_conformance.emulators.service_bus --until-stdin-closes {stdin}"
    ran = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "--until-stdin-closes" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (["--amqp-port", "0", "--amqp-port", "0"], "more ports than namespaces"),
        (["--tier", "premium", "--throttle"], "has no credits"),
        (["--config", "missing.json"], "No such file"),
    ],
)
def test_flags_that_do_not_go_together(flags: list[str], what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags) == 2
    assert what in capsys.readouterr().err


def application(key: bytes) -> bytes:
    """A message with an application property of this encoded name."""
    return b"\x00\x53\x74" + mapping([(key, TRUE)]) + DATA + encode(b"m")


@pytest.mark.parametrize(
    "section",
    [
        mapping([(encode({"TYPE": "STRING", "VALUE": 1}), TRUE)]),  # what azure-servicebus makes of the name 1
        mapping([(encode([]), TRUE)]),
        mapping([(encode(1), TRUE)]),
        mapping([(b"\xa1\x01\xff", TRUE)]),
        encode("no map"),
        encode([1]),
        NULL,
    ],
)
def test_application_properties_have_names(section: bytes) -> None:
    with pytest.raises(AmqpError, match="decode-error"):
        incoming(b"\x00\x53\x74" + section + DATA + encode(b"m"))


@pytest.mark.parametrize("key", [encode([]), encode({}), encode(1)])
def test_a_dead_letter_keeps_properties_without_names(key: bytes) -> None:
    clock = Clock()
    queue = made(clock, max_deliveries=1, lock_ms=1000)
    for how in (lambda token: queue.dead_letter(token, "why", None), lambda token: queue.release(token, failed=True)):
        body = application(key)
        queue.put(Incoming(body, size=len(body)))
        how(locked(queue).token)
    queue.put(Incoming(application(key)))
    locked(queue)
    clock.now += 1000
    queue.advance()
    assert queue.dead is not None
    assert queue.dead.counts()[State.ACTIVE] == 3
    assert key in locked(queue.dead).incoming.body


def test_a_message_that_cannot_be_buried_keeps_its_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    queue = made(clock, max_deliveries=1, lock_ms=1000)
    queue.put(sent("m"))
    token = locked(queue).token
    with monkeypatch.context() as patch:
        patch.setattr("fsd_conformance.emulators.service_bus.store.with_properties", lambda body, more: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            queue.dead_letter(token, "why", None)
        clock.now += 1000
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                queue.advance()
    queue.advance()
    assert queue.dead is not None
    assert b"after 1 delivery" in locked(queue.dead).incoming.body


def test_one_namespace_that_fails_stops_nobodys_timer(caplog: pytest.LogCaptureFixture) -> None:
    brokers, seen = [Broker(name, STANDARD) for name in ("bad", "good")], []

    def action(broker: Broker) -> None:
        seen.append(broker.name)
        assert broker.name == "good", "a defect"

    async def run() -> None:
        _every(0.01, brokers, action)
        while seen.count("good") < 3:
            await asyncio.sleep(0.01)

    asyncio.run(run())
    assert seen[:4] == ["bad", "good"] * 2
    assert "a defect" in caplog.text
    assert "namespace bad" in caplog.text


@pytest.mark.parametrize("time", [(1 << 64) - 1, 253_402_300_800_000, -1, True, 1.5])
def test_a_message_is_scheduled_for_a_time_that_there_is(time: object) -> None:
    with pytest.raises(AmqpError, match="expected a time"):
        incoming(b"\x00\x53\x72" + mapping([(symbol("x-opt-scheduled-enqueue-time"), encode(time))]) + DATA + encode(b"m"))


def test_dead_letters_are_locked_as_long_as_their_queue_says() -> None:
    clock = Clock()
    queue = made(clock, lock_ms=60_000)
    queue.change(QueueSettings(lock_ms=5000, ttl_ms=1000))
    queue.put(sent("m"))
    queue.dead_letter(locked(queue).token, None, None)
    assert queue.dead is not None
    clock.now += 2000
    assert locked(queue.dead).until == clock.now + 5000  # and it lives on
