"""The stand-in's AMQP: values there and back, messages untouched, and clients that break every rule without harm to others."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fsd_conformance.emulators.service_bus import codec, frames
from fsd_conformance.emulators.service_bus.broker import TIERS, Broker, Limits
from fsd_conformance.emulators.service_bus.codec import (
    NULL,
    AmqpError,
    Described,
    Symbol,
    decode,
    described,
    encode,
    listed,
    skip,
    string,
    uint,
)
from fsd_conformance.emulators.service_bus.connection import Connection
from fsd_conformance.emulators.service_bus.management import Node
from fsd_conformance.emulators.service_bus.message import batch, incoming, outgoing, properties, sections, with_properties
from fsd_conformance.emulators.service_bus.store import QueueSettings
from service_bus_standin import DIALOGUE, NO, REQUEST, YES, Raw, StandIn, Wire, connect, ends, frame, message, running, works

NAMES = st.text("abc-:$", max_size=300).map(Symbol)
KEYS = st.one_of(st.none(), st.booleans(), st.integers(-(1 << 63), (1 << 64) - 1), st.text(max_size=300), st.binary(max_size=300), NAMES)
SIMPLE = st.one_of(KEYS, st.floats(allow_nan=False), st.uuids())
VALUES = st.recursive(
    SIMPLE,
    lambda inner: st.one_of(
        st.lists(inner, max_size=6), st.dictionaries(KEYS, inner, max_size=6), st.builds(Described, st.integers(0, 1 << 63), inner)
    ),
    max_leaves=12,
)


def same(value: object) -> object:
    """With types, so that 1, 1.0 and True differ."""
    match value:
        case list():
            return [same(part) for part in value]
        case dict():
            return [(same(key), same(part)) for key, part in value.items()]
        case Described():
            return ("described", same(value.descriptor), same(value.value))
    return (type(value), value)


@given(VALUES)
def test_values_there_and_back(value: object) -> None:
    data = encode(value)
    found, after = decode(data, 0, len(data))
    assert same(found) == same(value)
    assert after == len(data) == skip(data, 0, len(data))
    padded = b"\xff" + data + b"\xff\xff"
    assert same(decode(padded, 1, 1 + len(data))[0]) == same(value)
    for end in range(len(data)):
        with pytest.raises(AmqpError):
            decode(data, 0, end)
        with pytest.raises(AmqpError):
            decode(data[:end], 0, end)


@given(st.binary(max_size=200))
@example(b"\x00" * 5000)
@example(b"\x00\x53" * 5000)
@example(b"\xc0\xff\x01" * 2000)
def test_any_bytes_are_a_value_or_an_error(data: bytes) -> None:
    for read in (decode, skip):
        try:
            read(data, 0, len(data))
        except AmqpError as error:
            assert error.condition == "amqp:decode-error"  # noqa: PT017
    for parse in (incoming, batch, properties):
        try:
            parse(data)
        except AmqpError as error:
            assert error.condition == "amqp:decode-error"  # noqa: PT017


@pytest.mark.parametrize(
    "data",
    [
        b"\xd0" + b"\xff" * 8,  # a list of 4 thousand million values in 4 GB
        b"\xd0\x00\x00\x00\x05\xff\xff\xff\xff\x40",
        b"\xf0\x00\x00\x00\x05\xff\xff\xff\xff\x40",  # an array of as many nothings
        b"\xb0\xff\xff\xff\xff",
        b"\xd1\x00\x00\x00\x06\x00\x00\x00\x01\x40\x40",  # a key without a value
        b"\xc1\x03\x02\x45\x40",  # a list as a key
        b"\xc0\x03\x01\x40\x40",  # longer than its values
        b"\xa1\x01\xff",  # no UTF-8
        b"\x99",
        b"\x73\x00\x11\x00\x00",  # beyond Unicode
        b"",
    ],
)
def test_what_lies_about_its_size_takes_no_memory(data: bytes) -> None:
    with pytest.raises(AmqpError):
        decode(data, 0, len(data))


def test_every_width_of_number_is_read() -> None:
    for data, value in (
        (b"\x50\xff", 255),
        (b"\x51\xff", -1),
        (b"\x52\x07", 7),
        (b"\x54\xf9", -7),
        (b"\x55\x80", -128),
        (b"\x60\x01\x00", 256),
        (b"\x61\xff\xff", -1),
        (b"\x70\x00\x01\x00\x00", 65_536),
        (b"\x71\xff\xff\xff\xff", -1),
        (b"\x72\x3f\x80\x00\x00", 1.0),
        (b"\x73\x00\x00\x00\x41", "A"),
        (b"\x56\x01", True),
        (b"\x83" + bytes(7) + b"\x01", 1),
        (codec.uint(300), 300),
        (codec.ulong(1 << 40), 1 << 40),
        (codec.ushort(3), 3),
        (codec.ubyte(3), 3),
        (codec.array([codec.symbol("a"), codec.symbol("b")]), [Symbol("a"), Symbol("b")]),
        (codec.array([]), []),
        (b"\xe0\x04\x02\x54\x01\x02", [1, 2]),
        (b"\xf0\x00\x00\x00\x08\x00\x00\x00\x02\x00\x53\x07\x41", [Described(7, True)] * 2),
    ):
        assert decode(data, 0, len(data)) == (value, len(data))
        assert skip(data, 0, len(data)) == len(data)
    with pytest.raises(ValueError, match="one constructor"):
        codec.array([codec.symbol("a"), codec.string("b")])


PARTS = st.tuples(
    st.none() | st.tuples(st.none() | st.booleans(), st.none() | st.integers(0, 255), st.none() | st.integers(1, (1 << 32) - 1)),
    st.dictionaries(st.text("xyz", min_size=1).map(Symbol), SIMPLE, max_size=3),
    st.dictionaries(st.text(max_size=5), SIMPLE, max_size=3),
    st.binary(max_size=600),
)


@given(PARTS, st.integers(1, 1 << 62), st.integers(0, 1 << 40), st.none() | st.integers(0, 1 << 40), st.integers(0, 1000))
def test_a_message_goes_out_as_it_came(
    parts: tuple[tuple[bool | None, int | None, int | None] | None, dict[Symbol, object], dict[str, object], bytes],
    sequence: int,
    enqueued: int,
    locked: int | None,
    deliveries: int,
) -> None:
    header, notes, application, data = parts
    bare = described(0x74, encode(application)) + described(0x75, encode(data))
    before = b""
    if header:
        durable, priority, ttl = header
        coded = (encode(durable), NULL if priority is None else codec.ubyte(priority), NULL if ttl is None else uint(ttl))
        before += described(0x70, listed(*coded))
    if notes:
        sent: dict[Symbol, object] = {**notes, Symbol("x-opt-sequence-number"): 5}
        before += described(0x72, encode(sent))
    came = incoming(before + bare)
    assert came.body == bare
    assert came.ttl == (header[2] if header else None)
    assert came.size == len(before + bare)
    went = outgoing(came, sequence, enqueued, deliveries, locked) + came.body
    assert went.endswith(bare)
    found = {code: decode(went, value, after)[0] for code, _, value, after in sections(went)}
    assert found[0x70] == [*(header or (None, None, None)), None, deliveries]
    expected: dict[object, object] = {
        **{str(name): value for name, value in notes.items()},
        "x-opt-sequence-number": sequence,
        "x-opt-enqueued-time": enqueued,
    }
    assert same_map(found[0x72]) == same_map(expected | ({} if locked is None else {"x-opt-locked-until": locked}))
    assert incoming(went).body == bare
    more = properties(with_properties(bare, {"why": "so"}))[1]
    assert same_map(more) == same_map({**application, "why": "so"})


def same_map(value: object) -> object:
    assert isinstance(value, dict)
    return {str(key): same(part) for key, part in value.items()}


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        described(0x70, listed()),  # no body
        message(b"a") + described(0x73, listed()),  # properties after the body
        described(0x70, encode("no list")) + message(b"a"),
        described(0x70, listed(NULL, NULL, encode("long"))) + message(b"a"),
        described(0x72, encode([1])) + message(b"a"),
        described(0x72, encode({"x-opt-scheduled-enqueue-time": "soon"})) + message(b"a"),
        described(0x99, NULL) + message(b"a"),
        b"\x00\xa3\x01a\x40" + message(b"a"),
        message(b"a") + b"\x40",
    ],
)
def test_what_is_no_message(payload: bytes) -> None:
    with pytest.raises(AmqpError, match="decode-error"):
        incoming(payload)


def test_the_dialogue_that_is_broken_below_is_a_good_one() -> None:
    broker = Broker("n", TIERS["standard"])
    broker.create("q", QueueSettings())
    connection, wire = connect(broker)
    for part in DIALOGUE:
        connection.data_received(part)
    answers = wire.answers()
    assert [code for code, _ in answers].count(frames.TRANSFER) == 6  # 4 messages, one again, and an answer
    assert (answers[-1][0], answers[-1][1].get(0)) == (frames.CLOSE, None)
    assert wire.over


@given(st.randoms(use_true_random=False), st.integers(1, 6))
@settings(max_examples=400)
def test_a_broken_dialogue_ends_its_own_connection_at_worst(chance: random.Random, breaks: int) -> None:
    parts = list(DIALOGUE)
    for _ in range(breaks):
        at = chance.randrange(len(parts))
        part = bytearray(parts[at])
        match chance.randrange(6):
            case 0:
                part[chance.randrange(len(part))] ^= 1 << chance.randrange(8)
            case 1:
                part[chance.randrange(len(part))] = chance.choice((0, 0x40, 0x45, 0x7F, 0xC0, 0xD0, 0xF0, 0xFF))
            case 2:
                del part[chance.randrange(len(part)) :]
            case 3:
                del parts[at]
                part = bytearray(parts[chance.randrange(len(parts))])
                at = chance.randrange(len(parts))
            case 4:
                part += bytes(part)
            case 5:
                part += chance.randbytes(chance.randrange(1, 40))
        parts[at] = bytes(part) or b"\x00"
    broker = Broker("n", TIERS["standard"])
    queue = broker.create("q", QueueSettings())
    connection, wire = connect(broker)
    data = b"".join(parts)
    while data:  # in pieces of any size
        size = min(len(data), chance.choice((1, 7, 64, 1000)))
        connection.data_received(data[:size])
        data = data[size:]
    broker.tick()
    broker.inspect()
    answers = wire.answers()  # what was sent is well formed
    if wire.over:
        assert answers == [] or answers[-1][0] == frames.CLOSE
        assert not connection.sessions
    works(broker)
    connection.connection_lost(None)
    assert broker.connections == set()
    broker.tick()
    assert queue.room >= 0


def test_a_window_of_frames_holds_a_message_up_and_lets_it_go_on() -> None:
    broker = Broker("n", TIERS["standard"])
    broker.create("q", QueueSettings())
    connection, wire = connect(broker)
    for part in DIALOGUE[:4]:
        connection.data_received(part)
    for number in range(2):
        payload = message(bytes([number]) * 3000)
        connection.data_received(frame(frames.TRANSFER, uint(0), uint(number), encode(b"t"), uint(0), NO, NO, payload=payload))
    connection.data_received(frame(frames.ATTACH, string("r"), uint(1), YES, b"\x50\x01", b"\x50\x00", *ends("q")))
    wire.data, grants = b"", 0
    while (answers := wire.answers()) == [] or len([a for a in answers if a[0] == frames.TRANSFER and not a[1].flag(5)]) < 2:
        got = len([a for a in answers if a[0] == frames.TRANSFER])
        assert got == 2 * grants
        connection.data_received(frame(frames.FLOW, uint(got), uint(2), uint(2), uint(100), uint(1), uint(0), uint(2)))
        grants += 1
    assert grants == 4  # frames of 1000 bytes, two at a time
    connection.connection_lost(None)


def test_drain_uses_up_the_credit() -> None:
    broker = Broker("n", TIERS["standard"])
    broker.create("q", QueueSettings())
    connection, wire = connect(broker)
    for part in DIALOGUE[:4]:
        connection.data_received(part)
    connection.data_received(frame(frames.TRANSFER, uint(0), uint(0), encode(b"t"), uint(0), NO, NO, payload=message(b"1")))
    connection.data_received(frame(frames.ATTACH, string("r"), uint(1), YES, b"\x50\x01", b"\x50\x00", *ends("q")))
    wire.data = b""
    connection.data_received(frame(frames.FLOW, uint(0), uint(9), uint(1), uint(9), uint(1), uint(0), uint(5), NULL, YES))
    (code, _), (flow, fields) = wire.answers()
    assert (code, flow) == (frames.TRANSFER, frames.FLOW)
    assert [fields.number(index) for index in (4, 5, 6)] == [1, 5, 0]
    assert fields.flag(8)
    wire.data = b""
    connection.data_received(frame(frames.TRANSFER, uint(0), uint(1), encode(b"t"), uint(0), NO, NO, payload=message(b"2")))
    assert [code for code, _ in wire.answers()] == [frames.DISPOSITION]
    connection.connection_lost(None)


def test_who_never_grants_credit_for_answers_is_closed() -> None:
    broker = Broker("n", TIERS["standard"])
    broker.create("q", QueueSettings())
    connection, wire = connect(broker)
    for part in DIALOGUE[:3] + DIALOGUE[11:13]:
        connection.data_received(part)
    count = 0
    while not wire.over:
        connection.data_received(frame(frames.TRANSFER, uint(3), uint(count), encode(b"v"), uint(0), NO, NO, payload=REQUEST))
        count += 1
        assert count < 1000
    assert "amqp:resource-limit-exceeded" in str(wire.answers()[-1][1].get(0))
    works(broker)


def test_who_does_not_read_is_sent_no_more() -> None:
    class Slow(Wire):
        paused = False

        def pause_reading(self) -> None:
            self.paused = True

        def resume_reading(self) -> None:
            self.paused = False

    broker = Broker("n", TIERS["standard"])
    broker.create("q", QueueSettings())
    connection, wire = Connection(broker), Slow()
    connection.connection_made(wire)
    for part in DIALOGUE[:4]:
        connection.data_received(part)
    connection.data_received(frame(frames.ATTACH, string("r"), uint(1), YES, b"\x50\x01", b"\x50\x00", *ends("q")))
    connection.data_received(frame(frames.FLOW, uint(0), uint(9999), uint(0), uint(9999), uint(1), uint(0), uint(9999)))
    connection.pause_writing()
    assert wire.paused
    wire.data = b""
    for number in range(5):
        connection.data_received(frame(frames.TRANSFER, uint(0), uint(number), encode(b"t"), uint(0), NO, NO, payload=message(b"m")))
    assert [code for code, _ in wire.answers()] == [frames.DISPOSITION] * 5
    wire.data = b""
    connection.resume_writing()
    assert not wire.paused
    assert [code for code, _ in wire.answers()] == [frames.TRANSFER] * 5
    connection.connection_lost(None)


@pytest.fixture(scope="module")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    with running(tmp_path_factory.mktemp("standin"), {"q": {}, "witness": {}}) as standin:
        yield standin


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """One that waits for nobody."""
    flags = ("--open-s", "3", "--unused-s", "3")
    with running(tmp_path_factory.mktemp("hasty"), {"q": {}, "witness": {}}, *flags) as standin:
        yield standin


@pytest.fixture
def witness(standin: StandIn) -> Iterator[None]:
    """A client that is there all the time, and another that comes afterwards: both are served."""
    raw = standin.raw().open().attach("witness", receives=False).attach("witness", receives=True, handle=1, settled=True)
    yield
    for number, client in enumerate((raw, standin.raw().open())):
        if number:
            client.attach("witness", receives=False).attach("witness", receives=True, handle=1, settled=True)
        client.grant(1, handle=1)
        client.transfer(message(b"witness"))
        assert client.until(frames.TRANSFER)[1].endswith(message(b"witness"))
        client.close()


def closed(raw: Raw, condition: str) -> None:
    assert raw.error().condition == condition
    raw.close()


OVERSIZE = (1 << 20).to_bytes(4, "big") + b"\x02\x00\x00\x00"


@pytest.mark.usefixtures("witness")
@pytest.mark.parametrize(
    ("data", "condition"),
    [
        (b"\x00\x00\x00\x10\x02\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff", "amqp:decode-error"),
        (OVERSIZE, "amqp:connection:framing-error"),
        (b"\xff" * 64, "amqp:connection:framing-error"),
        (b"\x00\x00\x00\x04\x02\x00\x00\x00", "amqp:connection:framing-error"),
        (b"\x00\x00\x00\x08\x01\x00\x00\x00", "amqp:connection:framing-error"),
        (b"\x00\x00\x00\x08\xff\x00\x00\x00", "amqp:connection:framing-error"),
        (frame(frames.OPEN, string("again")), "amqp:not-allowed"),
        (frame(frames.BEGIN, NULL, uint(0), uint(1), uint(1)), "amqp:not-allowed"),
        (frame(frames.END, channel=7), "amqp:not-allowed"),
        (frame(frames.TRANSFER, uint(9), uint(0)), "amqp:session:unattached-handle"),
        (frame(frames.FLOW, uint(0), uint(1), uint(0), uint(1), uint(9)), "amqp:session:unattached-handle"),
        (frame(frames.ATTACH, string("x"), uint(256), NO), "amqp:session:handle-in-use"),
        (frame(frames.ATTACH, string("x"), uint(0), NO), "amqp:session:handle-in-use"),
        (frame(frames.ATTACH, uint(0)), "amqp:invalid-field"),
        (frame(0x99), "amqp:not-implemented"),
    ],
)
def test_a_connection_that_breaks_a_rule_is_closed_with_an_error(standin: StandIn, data: bytes, condition: str) -> None:
    raw = standin.raw().open().attach("q", receives=False)
    raw.send(data)
    closed(raw, condition)


@pytest.mark.usefixtures("witness")
@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01", bytes(64), b"AMQP\x00\x00\x09\x01"]
)
def test_who_speaks_something_else_is_told_what_is_spoken(standin: StandIn, data: bytes) -> None:
    raw = standin.raw()
    raw.send(data)
    assert raw.take(9) == frames.SASL
    raw.close()


@pytest.mark.usefixtures("witness")
def test_oversize_and_garbage_before_open(standin: StandIn) -> None:
    for data in (OVERSIZE, b"\xff" * 100, frame(frames.BEGIN, NULL, uint(0), uint(1), uint(1))):
        raw = standin.raw()
        raw.send(frames.AMQP, data)
        assert raw.take(8) == frames.AMQP
        assert raw.error().condition in ("amqp:connection:framing-error", "amqp:not-allowed")
        raw.close()
    raw = standin.raw()
    raw.send(frames.SASL, b"\xff" * 100)
    assert raw.take(8) == frames.SASL
    while raw.take(1):
        pass  # the mechanisms, and the end
    raw.close()


@pytest.mark.usefixtures("witness")
def test_who_leaves_in_the_middle_takes_nobody_along(standin: StandIn) -> None:
    for cut in range(len(DIALOGUE)):
        raw = standin.raw()
        raw.send(*DIALOGUE[:cut], DIALOGUE[cut][: len(DIALOGUE[cut]) // 2])
        raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # a reset, no goodbye
        raw.close()


@pytest.mark.usefixtures("witness")
def test_random_bytes_at_any_point(standin: StandIn) -> None:
    chance = random.Random(5)
    for _ in range(40):
        raw = standin.raw()
        raw.send(*DIALOGUE[: chance.randrange(len(DIALOGUE))], chance.randbytes(chance.randrange(8, 5000)))
        raw.socket.shutdown(socket.SHUT_WR)
        while raw.take(4096):
            pass
        raw.close()


def test_a_connection_that_is_never_opened_is_closed(hasty: StandIn) -> None:
    silent, header, sasl = hasty.raw(), hasty.raw(), hasty.raw()
    header.send(frames.AMQP)
    sasl.send(frames.SASL)
    assert header.take(8) == frames.AMQP
    closed(header, "amqp:connection:forced")
    for raw in (silent, sasl):
        while raw.take(1):
            pass
        raw.close()


def test_a_receiver_that_never_grants_credit_is_closed_and_one_that_waits_is_not(hasty: StandIn) -> None:
    waiting = hasty.raw().open().attach("q", receives=True, settled=True)
    waiting.grant(1)
    idle = hasty.raw().open().attach("q", receives=True)
    assert "inactive" in idle.error().description
    idle.close()
    sender = hasty.raw().open().attach("q", receives=False)
    sender.transfer(message(b"still"))
    assert waiting.until(frames.TRANSFER)[1].endswith(message(b"still"))
    for raw in (sender, waiting):
        raw.close()


def test_no_more_connections_than_the_namespace_has(tmp_path: Path) -> None:
    with running(tmp_path, {"q": {}}, "--connections", "2") as standin:
        first, _ = standin.raw().open(), standin.raw().open()
        third = standin.raw()
        third.send(frames.AMQP)
        third.frame(frames.OPEN, string("raw"))
        assert third.take(8) == frames.AMQP
        closed(third, "amqp:resource-limit-exceeded")
        first.frame(frames.CLOSE)
        while first.take(1):
            pass
        standin.raw().open()


def test_a_connection_without_a_frame_is_closed(tmp_path: Path) -> None:
    with running(tmp_path, {"q": {}}, "--idle-s", "3") as standin:
        raw = standin.raw().open().attach("q", receives=True)
        raw.grant(1)
        closed(raw, "amqp:connection:forced")


def delivery_annotations(**values: object) -> bytes:
    return described(0x71, encode({Symbol(name): value for name, value in values.items()}))


def test_delivery_annotations_may_be_anywhere() -> None:
    header, notes = described(0x70, listed(YES)), described(0x72, encode({Symbol("a"): 1}))
    bare = [described(0x73, listed(string("id"))), described(0x74, encode({"k": 1})), message(b"a"), message(b"b")]
    for at in range(7):
        parts = [header, notes, *bare]
        parts.insert(at, delivery_annotations(k="v"))
        came = incoming(b"".join(parts))
        assert came.body == b"".join(bare)
        assert came.header[:1] == YES
        assert len(came.extra) == 1
        assert came.delivery == ((codec.symbol("k"), encode("v")),)
    many = incoming(b"".join(part + delivery_annotations(k="v") * 3 for part in (header, notes, *bare)))
    assert many.body == b"".join(bare)
    with pytest.raises(AmqpError, match="no body"):
        incoming(delivery_annotations(k="v"))
    with pytest.raises(AmqpError, match="section 112 in the wrong place"):
        incoming(bare[0] + delivery_annotations(k="v") + header)


def linked(broker: Broker, *addresses: str) -> tuple[Connection, Wire]:
    """A connection with a link to, and one from, each address: handles 0 and 1, 2 and 3, ..., and credit for what comes."""
    connection, wire = connect(broker)
    for part in DIALOGUE[:3]:
        connection.data_received(part)
    for number, address in enumerate(addresses):
        for receives in (False, True):
            handle = uint(2 * number + receives)
            modes = (b"\x50\x00", b"\x50\x00")
            connection.data_received(
                frame(frames.ATTACH, string(address), handle, YES if receives else NO, *modes, *ends(address), NULL, NULL, uint(0))
            )
        connection.data_received(frame(frames.FLOW, uint(0), uint(100), uint(0), uint(100), handle, uint(0), uint(50)))
    return connection, wire


def sends(connection: Connection, payload: bytes, *, handle: int = 0, number: int = 0, form: int = 0) -> None:
    connection.data_received(frame(frames.TRANSFER, uint(handle), uint(number), encode(b"t"), uint(form), NO, NO, payload=payload))


def test_a_message_that_is_none_is_rejected_and_the_link_goes_on() -> None:
    broker = Broker("n", TIERS["standard"])
    broker.create("q", QueueSettings())
    connection, wire = linked(broker, "q")
    wrong = described(0x72, encode({"x-opt-scheduled-enqueue-time": (1 << 64) - 1})) + message(b"m")
    for number, payload in enumerate((b"\x01", wrong, described(0x74, encode({1: 2})) + message(b"m"))):
        wire.data = b""
        sends(connection, payload, number=number)
        [(code, fields)] = wire.answers()
        assert code == frames.DISPOSITION
        assert "amqp:decode-error" in str(fields.get(4))
    wire.data = b""
    sends(connection, message(b"m"))
    assert [code for code, _ in wire.answers()] == [frames.TRANSFER, frames.DISPOSITION]
    connection.connection_lost(None)


@pytest.mark.parametrize("address", ["amqp://[x/nowhere", "amqp://[x/q", "://", "://q", "a://b", "//"])
def test_any_text_is_an_address(address: str) -> None:
    broker = Broker("n", TIERS["standard"])
    broker.create("q", QueueSettings())
    connection, wire = linked(broker, address)
    assert not wire.over
    assert (frames.DETACH in [code for code, _ in wire.answers()]) == (address != "amqp://[x/q")
    connection.connection_lost(None)


@pytest.mark.parametrize("state", [b"\x00\x45\x45", b"\x00\xc1\x01\x00\x45", described(0x24, NULL), described(0x99, listed())])
def test_an_outcome_that_is_none_ends_the_connection_with_an_error(state: bytes) -> None:
    broker = Broker("n", TIERS["standard"])
    broker.create("q", QueueSettings())
    connection, wire = linked(broker, "q")
    sends(connection, message(b"m"))
    connection.data_received(frame(frames.DISPOSITION, YES, uint(0), NULL, NO, state))
    assert "amqp:not-implemented" in str(wire.answers()[-1][1].get(0))
    works(broker)


@pytest.mark.parametrize("number", [b"\x55\xff", codec.long(-5), b"\x41", codec.ulong(1 << 63), b"\x98" + bytes(16), NULL, string("id")])
def test_an_answer_has_the_number_of_its_request(number: bytes) -> None:
    broker = Broker("n", TIERS["standard"])
    broker.create("q", QueueSettings())
    connection, wire = linked(broker, "q/$management", "$cbs")
    for handle in (0, 2):
        wire.data = b""
        sends(connection, described(0x73, listed(number)) + REQUEST[REQUEST.index(b"\x00\x53\x74") :], handle=handle)
        assert [code for code, _ in wire.answers()] == [frames.TRANSFER, frames.DISPOSITION]
        asked, _ = decode(number, 0, len(number))
        [answer] = wire.payloads()
        assert same(properties(answer)[0][5]) == same(asked)


def test_a_defect_ends_one_connection_with_an_error(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Broker("n", TIERS["standard"])
    broker.create("q", QueueSettings())
    connection, wire = linked(broker, "q")
    with monkeypatch.context() as patch:
        patch.setattr(broker, "accept", lambda *given: 1 / 0)
        sends(connection, message(b"m"))
    assert "amqp:internal-error" in str(wire.answers()[-1][1].get(0))
    assert wire.over
    assert "ZeroDivisionError" in caplog.text
    works(broker)


def request(operation: str, number: int = 1, **body: object) -> bytes:
    named = {name.replace("_", "-"): value for name, value in body.items()}
    told = described(0x73, listed(codec.ulong(number))) + described(0x74, encode({"operation": f"com.microsoft:{operation}"}))
    return told + described(0x77, encode(named))


def status(payload: bytes) -> object:
    return properties(payload)[1]["statusCode"]


def test_requests_are_for_the_queue_that_is_there_now() -> None:
    broker = Broker("n", TIERS["standard"])
    broker.create("q", QueueSettings())
    connection, wire = linked(broker, "q/$management")
    later = described(0x72, encode({Symbol("x-opt-scheduled-enqueue-time"): 4_000_000_000_000})) + message(b"m")
    schedule = request("schedule-message", messages=[{"message": later}])
    sends(connection, schedule)
    assert broker.delete("q")
    sends(connection, schedule, number=1)
    new = broker.create("q", QueueSettings())
    sends(connection, schedule, number=2)
    assert [status(payload) for payload in wire.payloads()] == [200, 404, 200]
    assert b"amqp:not-found" in wire.payloads()[1]
    assert len(list(new.peek(1, 9))) == 1
    connection.connection_lost(None)


def test_answers_that_wait_for_credit_are_bounded_by_their_bytes() -> None:
    broker = Broker("n", TIERS["standard"])
    queue = broker.create("q", QueueSettings())
    for _ in range(20):
        queue.put(incoming(message(bytes(100_000))))
    connection, wire = connect(broker)
    for part in DIALOGUE[:3] + DIALOGUE[11:13]:
        connection.data_received(part)
    peek = request("peek-message", from_sequence_number=1, message_count=1000)
    for number in range(20):
        sends(connection, peek, handle=3, number=number)
    assert "amqp:resource-limit-exceeded" in str(wire.answers()[-1][1].get(0))
    accepted = [fields for code, fields in wire.answers() if code == frames.DISPOSITION]
    assert 3 <= len(accepted) <= 10  # of 200 KB each, and not of 2 MB
    works(broker)


def test_a_peek_ends_where_a_message_may() -> None:
    broker = Broker("n", TIERS["standard"])
    queue = broker.create("q", QueueSettings())
    for size in (200_000, 100_000, 100_000, 100_000):
        queue.put(incoming(message(bytes(size))))
    node = Node.find(broker, "q/$management")
    assert node is not None
    found: list[int] = []
    while True:
        answer = node.answer(request("peek-message", from_sequence_number=1 + sum(found), message_count=1000))
        if status(answer) == 204:
            break
        [body] = [decode(answer, value, after)[0] for section, _, value, after in sections(answer) if section == 0x77]
        assert isinstance(body, dict)
        found.append(len(body["messages"]))
    assert found == [1, 2, 1]


def test_deliveries_that_have_begun_are_bounded_and_given_back() -> None:
    broker = Broker("n", TIERS["standard"])
    broker.create("q", QueueSettings())

    def begun(connection: Connection, handle: int) -> None:
        for piece in range(4):
            fields = (uint(handle), uint(handle), encode(b"t"), uint(0), NO, YES)
            connection.data_received(frame(frames.TRANSFER, *fields, payload=bytes(60_000)))
            assert piece < 4

    connection, wire = linked(broker, *["q"] * 60)
    for handle in range(0, 120, 2):
        if not wire.over:
            begun(connection, handle)
    assert "amqp:resource-limit-exceeded" in str(wire.answers()[-1][1].get(0))
    assert "bytes of unfinished deliveries" in str(wire.answers()[-1][1].get(0))
    works(broker)
    connection, wire = linked(broker, "q")
    for count in range(60):  # aborted, or detached, or whole, they count no more
        begun(connection, 0)
        match count % 3:
            case 0:
                connection.data_received(frame(frames.TRANSFER, uint(0), NULL, NULL, NULL, NULL, NO, NULL, NULL, NULL, YES))
            case 1:
                connection.data_received(frame(frames.DETACH, uint(0), YES))
                both = (b"\x50\x00", b"\x50\x00", *ends("q"))
                connection.data_received(frame(frames.ATTACH, string("q"), uint(0), NO, *both, NULL, NULL, uint(0)))
            case 2:
                connection.data_received(frame(frames.TRANSFER, uint(0), NULL, NULL, NULL, NULL, NO, payload=bytes(10)))
    assert not wire.over
    assert connection.partial_bytes == 0
    connection.connection_lost(None)


@pytest.mark.parametrize("behind", [0, 1])  # whether it had seen what was sent when it announced its window
@pytest.mark.parametrize("window", [0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xC0000000, 0xC0000001, 0xFFFFFFFF])
def test_any_window_is_one(window: int, behind: int) -> None:
    broker = Broker("n", TIERS["standard"])
    queue = broker.create("q", QueueSettings())
    connection, wire = linked(broker, "q")
    for comes in (True, window > behind):
        wire.data = b""
        queue.put(incoming(message(b"m")))
        broker.tick()
        assert bool(wire.payloads()) == comes
        flow = frame(frames.FLOW, uint(1 - behind), uint(window), uint(0), uint(9), uint(1), uint(1), uint(5))
        connection.data_received(flow)
    connection.connection_lost(None)


def test_receivers_take_turns_and_leave_nothing_behind() -> None:
    broker = Broker("n", TIERS["standard"])
    queue = broker.create("q", QueueSettings())
    gone, receivers = linked(broker, *["q"] * 100)[0], [linked(broker, "q") for _ in range(5)]
    gone.connection_lost(None)
    for _ in range(10):
        queue.put(incoming(message(b"m")))
    broker.pump(queue)
    broker.flush()
    assert [len(wire.payloads()) for _, wire in receivers] == [2] * 5
    for connection, _ in receivers:
        connection.connection_lost(None)
    assert not broker._links
    assert not broker._waiting


def test_a_request_that_is_too_large_is_answered() -> None:
    broker = Broker("n", TIERS["standard"])
    broker.create("q", QueueSettings())
    connection, wire = linked(broker, "q/$management")
    large = request("schedule-message", 7, messages=[{"message": message(bytes(200_000))}] * 6)
    for at in range(0, len(large), 60_000):
        more = YES if at + 60_000 < len(large) else NO
        connection.data_received(frame(frames.TRANSFER, uint(0), uint(0), encode(b"t"), uint(0), NO, more, payload=large[at : at + 60_000]))
    [answer] = wire.payloads()
    fields, application = properties(answer)
    assert (fields[5], application["statusCode"]) == (7, 413)
    assert application["errorCondition"] == "amqp:link:message-size-exceeded"
    sends(connection, request("peek-message", from_sequence_number=1, message_count=1))
    assert status(wire.payloads()[-1]) == 204
    connection.connection_lost(None)


def test_credit_for_answers_is_no_use_and_a_request_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Time:
        now = 1000.0

        def monotonic(self) -> float:
            return self.now

    clock = Time()
    monkeypatch.setattr("fsd_conformance.emulators.service_bus.connection.time", clock)
    broker = Broker("n", TIERS["standard"], limits=Limits(idle_s=1e6, unused_s=600))
    broker.create("q", QueueSettings())
    connection, wire = linked(broker, "$cbs", "q/$management")
    for _ in range(5):
        clock.now += 500
        sends(connection, request("peek-message", from_sequence_number=1, message_count=1), handle=2)
        broker.inspect()
    assert not wire.over
    clock.now += 601
    broker.inspect()
    assert "inactive" in str(wire.answers()[-1][1].get(0))


def test_bytes_that_are_no_frame_yet_keep_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    class Time:
        now = 1000.0

        def monotonic(self) -> float:
            return self.now

    clock = Time()
    monkeypatch.setattr("fsd_conformance.emulators.service_bus.connection.time", clock)
    broker = Broker("n", TIERS["standard"], limits=Limits(idle_s=10, unused_s=1e6))
    connection, wire = linked(broker)
    heartbeat = b"\x00\x00\x00\x08\x02\x00\x00\x00"
    for byte in heartbeat * 3:  # a frame each 8 s
        clock.now += 1
        connection.data_received(bytes((byte,)))
        broker.inspect()
    assert not wire.over
    for byte in frame(frames.CLOSE)[:12]:
        clock.now += 1
        connection.data_received(bytes((byte,)))
        broker.inspect()
    assert "No frame came" in str(wire.answers()[-1][1].get(0))
