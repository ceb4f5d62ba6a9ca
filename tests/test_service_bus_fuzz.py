"""Clients of the stand-in that say well-formed things which mean nothing: every field may be any AMQP value."""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Sequence

import pytest

from fsd_conformance.emulators.service_bus import frames
from fsd_conformance.emulators.service_bus.broker import TIERS, Broker
from fsd_conformance.emulators.service_bus.codec import (
    FALSE,
    NULL,
    TRUE,
    array,
    binary,
    boolean,
    described,
    listed,
    long,
    mapping,
    string,
    symbol,
    timestamp,
    uint,
    ulong,
)
from fsd_conformance.emulators.service_bus.store import QueueSettings, State
from fsd_conformance.emulators.service_bus.topics import Correlation, SubscriptionSettings, TopicSettings
from service_bus_standin import YES, connect, ends, frame, works

DIALOGUES = 500  # of a seed
U32, I64 = (0, 1, 2, 5, 255, 65_535, 1 << 31, (1 << 32) - 1), (0, -1, 7, (1 << 63) - 1, -(1 << 63))
TEXTS = (
    *(
        "",
        "q",
        "dl",
        "$cbs",
        "q/$management",
        "q/$DeadLetterQueue",
        "t",
        "t/Subscriptions/s",
        "t/$management",
        "t/subscriptions/s/$management",
    ),
    *("amqp://[x/q", "://", "a://b/q", "/$management", "İ/$management", "jwt", "put-token", "com.microsoft:peek-message", "completed"),
)
SYMBOLS = ("x", "x-opt-scheduled-enqueue-time", "x-opt-sequence-number", "amqp:accepted:list")
ADDRESSES = (*TEXTS[1:9], "q", "q", "dl")
OPERATIONS = (
    "renew-lock",
    "update-disposition",
    "peek-message",
    "receive-by-sequence-number",
    "schedule-message",
    "cancel-scheduled-message",
)
OUTCOMES = (0x23, 0x24, 0x25, 0x26, 0x27)
GRANT = (0, 1, 5000, (1 << 32) - 1)


class Nonsense:
    """What a client says, of a seed."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def one(self, *given: bytes) -> bytes:
        return self.chance.choice(given)

    def value(self, depth: int = 0) -> bytes:
        """Any AMQP value."""
        pick = self.chance.choice
        match self.chance.randrange(22 if depth < 3 else 17):
            case 0 | 1:
                return self.one(NULL, TRUE, FALSE, b"\x45", b"\x56\x01", b"\x43", b"\x44")
            case 2 | 3:
                return uint(pick(U32))
            case 4:
                return ulong(pick((*U32, 1 << 63, (1 << 64) - 1)))
            case 5 | 6:
                return long(pick(I64))
            case 7:
                return self.one(b"\x50", b"\x51", b"\x52", b"\x53", b"\x54", b"\x55") + bytes((self.chance.randrange(256),))
            case 8:
                return b"\x71" + struct.pack(">i", pick((-1, 0, 1, 1000, (1 << 31) - 1)))
            case 9:
                return timestamp(pick((0, -1, 1 << 62, 1_700_000_000_500)))
            case 10 | 11:
                return string(pick(TEXTS))
            case 12:
                return symbol(pick(SYMBOLS))
            case 13:
                return binary(bytes(self.chance.randrange(20)))
            case 14:
                return b"\x98" + self.one(bytes(16), b"\x11" * 16)
            case 15:
                return b"\x82" + struct.pack(">d", pick((0.0, float("nan"), float("inf"), -1.5)))
            case 16:
                return self.one(b"\x73\x00\x00\x00\x41", b"\x73\x00\x00\xd8\x00", b"\x74" + bytes(4), b"\x94" + bytes(16))
            case 17 | 18:
                return listed(*(self.value(depth + 1) for _ in range(self.chance.randrange(4))))
            case 19:
                return mapping([(self.value(depth + 1), self.value(depth + 1)) for _ in range(self.chance.randrange(3))])
            case 20:
                return (
                    b"\x00"
                    + self.one(self.value(depth + 1), *(ulong(code) for code in (*OUTCOMES, 0x1D, 0x28, 0x30)))
                    + self.value(depth + 1)
                )
        return array([self.one(uint(300), long(3), b"\x98" + bytes(16), string("x"))] * self.chance.randrange(4))

    def maybe(self, good: bytes, likely: float = 0.92) -> bytes:
        return good if self.chance.random() < likely else self.value()

    def often(self, likely: float) -> bool:
        return self.chance.random() < likely

    def frame(self, performative: int, *fields: bytes, payload: bytes = b"") -> bytes:
        said = list(fields)
        if self.often(0.04):
            said[self.chance.randrange(len(said))] = self.value()
        return frame(performative, *said, payload=payload)

    def message(self) -> bytes:
        parts = []
        if self.often(0.3):
            parts.append(described(0x70, self.maybe(listed(*(self.value() for _ in range(self.chance.randrange(6)))))))
        if self.often(0.3):
            notes = [(self.maybe(symbol(self.chance.choice(SYMBOLS))), self.value()) for _ in range(self.chance.randrange(3))]
            parts.append(described(0x72, self.maybe(mapping(notes))))
        if self.often(0.4):
            parts.append(described(0x73, self.maybe(listed(*(self.value() for _ in range(self.chance.randrange(5)))))))
        if self.often(0.5):
            named = [(self.maybe(string("k"), 0.95), self.value()) for _ in range(self.chance.randrange(3))]
            parts.append(described(0x74, self.maybe(mapping(named), 0.95)))
        parts.append(described(self.chance.choice((0x75, 0x76, 0x77)), self.maybe(binary(b"body"))))
        if self.often(0.1):
            parts.insert(self.chance.randrange(len(parts) + 1), described(0x71, self.value()))
        return b"".join(parts)

    def request(self) -> bytes:
        numbers = array([long(self.chance.randrange(1, 30)) for _ in range(self.chance.randrange(3))])
        inner = [mapping([(string("message"), binary(self.message()))]) for _ in range(self.chance.randrange(1, 3))]
        body = [
            (string("lock-tokens"), self.one(array([b"\x98" + bytes(16)]), listed(b"\x98" + bytes(16)), self.value())),
            (string("disposition-status"), self.maybe(string(self.chance.choice(("completed", "abandoned", "defered", "suspended"))))),
            (string("deadletter-reason"), self.value()),
            (string("from-sequence-number"), self.maybe(long(1))),
            (string("message-count"), self.maybe(b"\x71\x00\x00\x00\x05")),
            (string("sequence-numbers"), self.maybe(numbers)),
            (string("receiver-settle-mode"), self.maybe(uint(self.chance.randrange(2)))),
            (string("messages"), self.maybe(listed(*inner))),
        ]
        operation = self.maybe(string("com.microsoft:" + self.chance.choice(OPERATIONS)))
        parts = [
            described(0x73, listed(self.maybe(string("id"), 0.6))),
            described(0x74, mapping([(string("operation"), operation), (string("name"), string("n")), (string("type"), string("jwt"))])),
            described(0x77, self.maybe(mapping(body), 0.9)),
        ]
        return b"".join(parts)

    def attach(self, handle: int, receives: bool) -> bytes:
        address = self.chance.choice(ADDRESSES)
        both = (self.maybe(described(code, listed(self.maybe(string(address)))), 0.9) for code in (0x28, 0x29))
        modes = (b"\x50" + bytes((self.chance.randrange(3),)), b"\x50\x00")
        return self.frame(frames.ATTACH, string(f"l{handle}"), uint(handle), boolean(receives), *modes, *both, NULL, NULL, uint(0))

    def dialogue(self) -> Sequence[bytes]:
        window = self.chance.choice((0, 1, 3, 5000, (1 << 32) - 1))
        said = [
            frames.AMQP,
            self.frame(frames.OPEN, string("x"), NULL, uint(self.chance.choice((512, 65_536, (1 << 32) - 1)))),
            self.frame(frames.BEGIN, NULL, uint(0), uint(window), uint(5000)),
        ]
        receives = {handle: self.often(0.5) for handle in range(self.chance.randrange(1, 5))}
        said += [self.attach(handle, way) for handle, way in receives.items()]
        if self.often(0.5):
            node = self.chance.choice(("q/$management", "q/$management", "$cbs", "t/subscriptions/s/$management"))
            receives |= {10: False, 11: True}
            for handle in (10, 11):
                fields = (uint(handle), boolean(receives[handle]), b"\x50\x00", b"\x50\x00", *ends(node), NULL, NULL, uint(0))
                said.append(frame(frames.ATTACH, string("m"), *fields))
            said.append(frame(frames.FLOW, uint(0), uint(5000), uint(0), uint(5000), uint(11), uint(0), uint(50)))
        for number in range(self.chance.randrange(3, 20)):
            handle = self.chance.choice(list(receives))
            kind = self.chance.random()
            if kind < 0.45 and not receives[handle]:
                form = self.chance.choice((0, 0, 0, 0x80013700))
                payload = self.message() if not form else b"".join(described(0x75, binary(self.message())) for _ in range(2))
                if handle == 10:
                    payload = self.request()
                flags = (boolean(self.often(0.1)), boolean(self.often(0.1)))
                said.append(self.frame(frames.TRANSFER, uint(handle), uint(number), binary(b"t"), uint(form), *flags, payload=payload))
            elif kind < 0.65:
                told = (uint(0), uint(self.chance.choice(GRANT)), uint(0), uint(5000), uint(handle))
                credit = (uint(self.chance.choice((0, 0, 1, (1 << 32) - 1))), uint(self.chance.choice((0, 1, 100, (1 << 32) - 1))))
                said.append(self.frame(frames.FLOW, *told, *credit, NULL, boolean(self.often(0.2)), boolean(self.often(0.2))))
            elif kind < 0.9:
                fields = (self.value() for _ in range(self.chance.randrange(3)))
                outcome = described(self.chance.choice(OUTCOMES), self.maybe(listed(*fields)))
                span = (uint(self.chance.randrange(5)), self.maybe(uint(self.chance.randrange(8)), 0.5))
                said.append(self.frame(frames.DISPOSITION, YES, *span, boolean(self.often(0.3)), self.maybe(outcome, 0.9)))
            elif kind < 0.95:
                said.append(self.frame(frames.DETACH, uint(handle), YES))
            else:
                said.append(self.attach(handle, receives[handle]))
        return said


def whole(broker: Broker) -> None:
    """Every message is in the one place where its state says it is."""
    queues = [*broker.queues.values(), *broker.topics["t"].subscriptions.values()]
    for queue in [part for both in queues for part in (both, both.dead) if part is not None]:
        ready, scheduled = Counter(queue._ready), {number for _, number in queue._scheduled}
        assert queue.bytes == sum(message.incoming.size for message in queue._messages.values())
        for message in queue._messages.values():
            if message.token:
                assert queue._locks[message.token] is message
                assert not ready[message.sequence]
            elif message.state == State.ACTIVE:
                assert ready[message.sequence] == 1
            elif message.state == State.SCHEDULED:
                assert message.sequence in scheduled
        assert all(message.token == token for token, message in queue._locks.items())
        assert all(queue._messages[message.sequence] is message for message in queue._locks.values())


class Clock:
    now = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now


def namespace(clock: Clock) -> Broker:
    broker = Broker("n", TIERS["standard"], now=clock)
    broker.create("q", QueueSettings(lock_ms=1000, max_deliveries=2, dead_letter_expired=True))
    broker.create("dl", QueueSettings(lock_ms=1000, max_deliveries=1, ttl_ms=1500, dead_letter_expired=True))
    short = QueueSettings(lock_ms=1000, max_deliveries=2)
    some = (Correlation({0: "id", 5: "x"}, {}), Correlation({}, {"k": True}))
    made = {"s": SubscriptionSettings(short), "some": SubscriptionSettings(short, some), "out": SubscriptionSettings(short, None, "why")}
    broker.create_topic("t", TopicSettings(made))
    return broker


@pytest.mark.parametrize("seed", range(4))
def test_values_without_sense_harm_nobody(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    nonsense, clock = Nonsense(seed), Clock()
    broker = namespace(clock)
    done: Counter[int] = Counter()
    for number in range(DIALOGUES):
        if number % 50 == 0:
            broker = namespace(clock)
        connection, wire = connect(broker)
        for part in nonsense.dialogue():
            connection.data_received(part)
            clock.now += nonsense.chance.choice((0, 0, 0, 0, 600))
            if wire.over:
                break
        answers = wire.answers()
        if wire.over:
            assert answers[-1][0] == frames.CLOSE
        done.update(code for code, _ in answers)
        clock.now += nonsense.chance.choice((0, 700, 1200, 3000))
        broker.tick()
        broker.inspect()
        whole(broker)
        works(broker)
        connection.connection_lost(None)
        assert not broker.connections
    assert caplog.records == []  # no defect was met
    assert done[frames.TRANSFER] > 50  # enough of it made sense
    assert done[frames.DISPOSITION] > 300
