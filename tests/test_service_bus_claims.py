"""What the Service Bus stand-in says that it does, carries and refuses: every line of its list is held against a running one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusReceiver
from azure.servicebus.amqp import AmqpAnnotatedMessage, AmqpMessageHeader, AmqpMessageProperties
from azure.servicebus.exceptions import ServiceBusAuthenticationError

import test_service_bus
import test_service_bus_codec
import test_service_bus_store
from fsd_conformance.emulators.service_bus import frames
from fsd_conformance.emulators.service_bus.broker import TIERS, Broker
from fsd_conformance.emulators.service_bus.claims import CARRIED, CLAIMED, REFUSED, UNCHECKED
from fsd_conformance.emulators.service_bus.codec import NULL, Symbol, described, encode, listed, mapping, string, symbol, uint, ulong
from fsd_conformance.emulators.service_bus.config import load, queue_settings
from fsd_conformance.emulators.service_bus.connection import Connection
from fsd_conformance.emulators.service_bus.store import QueueSettings
from fsd_core.errors import InputError
from service_bus_standin import DIALOGUE, NO, PATIENCE_S, SQL, YES, StandIn, Wire, connect, frame, message, running, subscription


@pytest.fixture(scope="module")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    with running(tmp_path_factory.mktemp("standin"), {name: {} for name in ("notes", "detached", "later", "carried", "empty")}) as standin:
        yield standin


def test_a_token_for_what_is_not_there_is_refused(standin: StandIn) -> None:
    """azure-servicebus then raises an error of authentication, whose inner error has the service's text."""
    with standin.client() as client:
        for end in (client.get_queue_sender("nowhere"), client.get_queue_receiver("nowhere"), client.get_topic_sender("nowhere")):
            with pytest.raises(ServiceBusAuthenticationError) as caught:
                end.__enter__()
            assert "404" in str(caught.value.inner_exception)
            assert "nowhere' could not be found" in str(caught.value.inner_exception)


def test_a_message_comes_with_its_lock_and_its_senders_notes(standin: StandIn) -> None:
    sent = ServiceBusMessage("x")
    sent.raw_amqp_message.delivery_annotations = {b"mine": b"value", b"x-opt-lock-token": b"forged"}
    with standin.client() as client, client.get_queue_sender("notes") as sender, client.get_queue_receiver("notes") as receiver:
        sender.send_messages(sent)
        [got] = receiver.receive_messages(1, max_wait_time=PATIENCE_S)
        assert got.raw_amqp_message.delivery_annotations == {b"mine": b"value", b"x-opt-lock-token": got.lock_token}
        receiver.dead_letter_message(got)
        with client.get_queue_receiver("notes", sub_queue="deadletter", receive_mode="receiveanddelete") as dead:
            [letter] = dead.receive_messages(1, max_wait_time=PATIENCE_S)
        assert letter.raw_amqp_message.delivery_annotations == {b"mine": b"value"}


def test_a_message_without_a_lock_has_no_token_and_empty_notes(standin: StandIn) -> None:
    with standin.client() as client, client.get_queue_sender("empty") as sender:
        sender.send_messages(ServiceBusMessage("x"))
        with client.get_queue_receiver("empty", receive_mode="receiveanddelete") as receiver:
            [got] = receiver.receive_messages(1, max_wait_time=PATIENCE_S)
        assert got.raw_amqp_message.delivery_annotations == {}
        assert got._delivery_tag == b""


def settled_after_detach(receiver: ServiceBusReceiver, got: Any) -> None:
    receiver._handler._link.detach()  # type: ignore[attr-defined]
    receiver.complete_message(got)


def test_an_outcome_for_a_link_that_is_gone_settles_nothing(standin: StandIn) -> None:
    """So azure-servicebus, which then asks the queue's management, finds the lock held."""
    with standin.client() as client, client.get_queue_sender("detached") as sender:
        sender.send_messages(ServiceBusMessage("x"))
        with client.get_queue_receiver("detached") as receiver:
            settled_after_detach(receiver, receiver.receive_messages(1, max_wait_time=PATIENCE_S)[0])
            assert receiver.peek_messages() == []


SETTLED = described(0x24, listed())
TRANSACTION = described(0x34, listed(encode(b"t"), SETTLED))
ENTRY = '<entry xmlns="http://www.w3.org/2005/Atom"><content type="application/xml"><{0}Description xmlns="http://schemas.microsoft.com/netservices/2010/10/servicebus/connect">{1}</{0}Description></content></entry>'


class Talk:
    """A connection in this process to a namespace with a queue q: what is asked, and what is answered."""

    def __init__(self) -> None:
        self.broker = Broker("n", TIERS["standard"])
        self.broker.create("q", QueueSettings())
        self.connection, self.wire = connect(self.broker)
        for part in DIALOGUE[:3]:
            self.connection.data_received(part)

    def say(self, performative: int, *fields: bytes, payload: bytes = b"") -> str:
        """The last thing that is answered, as text."""
        self.wire.data = b""
        self.connection.data_received(frame(performative, *fields, payload=payload))
        answers = self.wire.answers()
        return f"{answers[-1][0]:x} {answers[-1][1]._values}" if answers else ""

    def attach(
        self,
        handle: int = 0,
        *,
        receives: bool = True,
        source: bytes = b"",
        target: bytes = b"",
        more: Mapping[int, bytes] | None = None,
        at: str = "q",
    ) -> str:
        """``source``, ``target``: all of it; ``more``: further fields by their places."""
        ends = source or described(0x28, listed(string(at))), target or described(0x29, listed(string(at)))
        fields = {3: b"\x50\x00", 4: b"\x50\x00", 5: ends[0], 6: ends[1], 9: NULL if receives else uint(0), **(more or {})}
        told = [fields.get(place, NULL) for place in range(3, 14)]
        return self.say(frames.ATTACH, string(f"l{handle}"), uint(handle), YES if receives else NO, *told)

    def source(self, place: int, value: bytes) -> str:
        """A link from a source with one more field."""
        return self.attach(source=described(0x28, listed(string("q"), *[NULL] * (place - 1), value)))

    def send(self, payload: bytes, form: int = 0, *more: bytes) -> str:
        self.attach(receives=False)
        return self.say(frames.TRANSFER, uint(0), uint(0), encode(b"t"), uint(form), NO, NO, *more, payload=payload)

    def settle(self, outcome: bytes) -> str:
        """Of a message that is held."""
        self.send(message(b"m"))
        self.attach(1)
        self.say(frames.FLOW, uint(0), uint(100), uint(0), uint(100), uint(1), uint(0), uint(1))
        return self.say(frames.DISPOSITION, YES, uint(0), NULL, NO, outcome)

    def ask(self, operation: str, *, at: str = "q", **body: object) -> str:
        """Of $management; the answer's payload."""
        for handle, receives in ((0, True), (1, False)):
            self.attach(handle, receives=receives, at=f"{at}/$management")
        self.say(frames.FLOW, uint(0), uint(100), uint(0), uint(100), uint(0), uint(0), uint(9))
        named = encode({name.replace("_", "-"): value for name, value in body.items()})
        request = described(0x73, listed(ulong(1))) + described(0x74, encode({"operation": f"com.microsoft:{operation}"}))
        self.say(frames.TRANSFER, uint(1), uint(0), encode(b"t"), uint(0), NO, NO, payload=request + described(0x77, named))
        return str(self.wire.payloads()[0])


def said(words: str, ask: Callable[[], str]) -> Callable[[Path, StandIn], None]:
    """The answer has these words."""

    def check(folder: Path, standin: StandIn) -> None:
        answer = ask()
        assert words in answer, answer

    return check


def attached(words: str, **fields: Any) -> Callable[[Path, StandIn], None]:
    return said(words, lambda: Talk().attach(**fields))


def asked(operation: str, **body: object) -> Callable[[Path, StandIn], None]:
    return said("amqp:not-implemented", lambda: Talk().ask(operation, **body))


def property_of_a_queue(name: str, value: object) -> Callable[[Path, StandIn], None]:
    """Refused in the file and in the administration."""

    def check(folder: Path, standin: StandIn) -> None:
        with pytest.raises(InputError, match=name):
            queue_settings({name: value}, TIERS["standard"], "queue 'q'")
        status, told = http(standin, "PUT", "/refused?api-version=2021-05", ENTRY.format("Queue", f"<{name}>{value}</{name}>"))
        assert status == 400, told
        assert name in told

    return check


def ruled(rule: Mapping[str, Any]) -> Callable[[Path, StandIn], None]:
    def check(folder: Path, standin: StandIn) -> None:
        topic = {"Name": "t", "Subscriptions": [subscription("s", dict(rule))]}
        file = folder / "Config.json"
        file.write_text(json.dumps({"UserConfig": {"Namespaces": [{"Name": "n", "Topics": [topic]}]}}))
        talk = Talk()
        talk.broker.create_topic("t", load(file, TIERS["standard"])["n"].topics["t"])
        answer = talk.attach(at="t/Subscriptions/s")
        assert "amqp:not-implemented" in answer
        assert "is left out" in answer

    return check


def http(standin: StandIn, method: str, path: str, body: str = "", **headers: str) -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", standin.ready["admin_port"], timeout=PATIENCE_S)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    found = response.status, response.read().decode()
    connection.close()
    return found


def administered(method: str, path: str, body: str = "", **headers: str) -> Callable[[Path, StandIn], None]:
    def check(folder: Path, standin: StandIn) -> None:
        status, told = http(standin, method, path, body, **headers)
        assert (status, "implemented here" in told) in ((501, True), (400, True)), told

    return check


def topic_talk() -> Talk:
    talk = Talk()
    file = {"Name": "t", "Subscriptions": [subscription("s")]}
    talk.broker.create_topic("t", _topic(file))
    return talk


def _topic(entry: Mapping[str, Any]) -> Any:
    from fsd_conformance.emulators.service_bus.config import _topic as read

    return read(entry, TIERS["standard"], "topic")


def sasl() -> str:
    connection, wire = Connection(Broker("n", TIERS["standard"])), Wire()
    connection.connection_made(wire)
    connection.data_received(frames.SASL + frames.frame(0, frames.SASL_INIT, symbol("PLAIN"), encode(b"a"), kind=1))
    code, fields = wire.answers()[-1]
    return f"{code:x} {fields._values} {wire.over}"


NOT = "amqp:not-implemented"
UPDATE: dict[str, object] = {"disposition_status": "abandoned", "lock_tokens": []}
EXPIRY = described(0x73, listed(*[NULL] * 8, b"\x83" + bytes(7) + b"\x01"))
VIA = described(0x72, mapping([(symbol("x-opt-via-partition-key"), string("k"))]))
PROPERTIES = mapping([(symbol("com.microsoft:transfer-destination-address"), string("other"))])
INFO = described(
    0x1D, listed(symbol("com.microsoft:dead-letter"), NULL, encode({Symbol("DeadLetterReason"): "r", Symbol("colour"): "red"}))
)

REFUSALS: Mapping[str, Sequence[Callable[[Path, StandIn], None]]] = {
    "sessions": (
        said("sessions are", lambda: Talk().source(7, mapping([(symbol("com.microsoft:session-filter"), NULL)]))),
        property_of_a_queue("RequiresSession", "true"),
        asked("peek-message", from_sequence_number=1, message_count=1, session_id="s"),
        asked("renew-session-lock", session_id="s"),
        asked("get-message-sessions"),
    ),
    "duplicate detection": (property_of_a_queue("RequiresDuplicateDetection", "true"),),
    "forwarding": (property_of_a_queue("ForwardTo", "other"), property_of_a_queue("ForwardDeadLetteredMessagesTo", "other")),
    "partitions": (property_of_a_queue("EnablePartitioning", "true"),),
    "express queues": (property_of_a_queue("EnableExpress", "true"),),
    "anonymous access": (property_of_a_queue("IsAnonymousAccessible", "true"),),
    "queues that delete themselves": (property_of_a_queue("AutoDeleteOnIdle", "PT5M"),),
    "queues that are not active": (property_of_a_queue("Status", "ReceiveDisabled"),),
    "unknown properties": (property_of_a_queue("Colour", "red"),),
    "SQL rules": (ruled(SQL),),
    "rule actions": (ruled({"FilterType": "True", "TrueFilter": {}, "Action": {"SqlExpression": "SET a = 1"}}),),
    "administration of topics": (
        administered("PUT", "/t?api-version=2021-05", ENTRY.format("Topic", "")),
        administered("GET", "/t/Subscriptions?api-version=2021-05"),
        administered("PUT", "/t/Subscriptions/s/Rules/r?api-version=2021-05", ENTRY.format("Rule", "")),
    ),
    "conditions": (
        administered("DELETE", "/notes?api-version=2021-05", If_Match='"1"'),
        administered("PUT", "/refused?api-version=2021-05", ENTRY.format("Queue", ""), If_None_Match="*"),
        administered("GET", "/notes?api-version=2021-05", If_Modified_Since="Sat, 01 Nov 2025 00:00:00 GMT"),
        administered("GET", "/notes?api-version=2021-05", If_Unmodified_Since="Sat, 01 Nov 2025 00:00:00 GMT"),
    ),
    "query parameters": (administered("GET", "/$Resources/queues?api-version=2021-05&$filter=a"),),
    "transactions": (
        attached("transactions are", receives=False, target=described(0x30, listed())),
        said(NOT, lambda: Talk().send(message(b"m"), 0, NULL, TRANSACTION)),
        said(NOT, lambda: Talk().settle(TRANSACTION)),
    ),
    "sending via another queue": (
        said(NOT, lambda: Talk().send(VIA + message(b"m"))),
        asked("schedule-message", messages=[{"message": message(b"m"), "via-partition-key": "k"}]),
        attached("transfer-destination-address", receives=False, more={13: PROPERTIES}),
    ),
    "filters": (said("filter", lambda: Talk().source(7, mapping([(symbol("apache.org:selector-filter:string"), string("a = 1"))]))),),
    "browsing links": (said("browses", lambda: Talk().source(6, symbol("copy"))),),
    "dynamic nodes": (
        said("dynamic", lambda: Talk().source(4, YES)),
        attached("dynamic", receives=False, target=described(0x29, listed(NULL, NULL, NULL, NULL, YES))),
    ),
    "default outcome": (said("default outcome", lambda: Talk().source(8, SETTLED)),),
    "resumed deliveries": (
        attached("resuming", more={7: mapping([(encode(b"t"), SETTLED)])}),
        attached("resuming", more={8: YES}),
        said(NOT, lambda: Talk().send(message(b"m"), 0, NULL, NULL, YES)),
    ),
    "capabilities": (attached("capability", more={12: symbol("com.microsoft:some")}),),
    "link properties": (attached("link property", more={13: mapping([(symbol("com.microsoft:epoch"), ulong(1))])}),),
    "absolute-expiry-time": (said(NOT, lambda: Talk().send(EXPIRY + message(b"m"))),),
    "changed properties": (
        said(NOT, lambda: Talk().settle(described(0x27, listed(YES, NO, mapping([(symbol("a"), ulong(1))]))))),
        said(NOT, lambda: Talk().settle(described(0x27, listed(NULL, YES, mapping([(symbol("a"), ulong(1))]))))),
        said(NOT, lambda: Talk().settle(described(0x25, listed(INFO)))),
        asked("update-disposition", **UPDATE, properties_to_modify={"a": 1}),
    ),
    "operations of $management": (
        *(asked(name) for name in ("add-rule", "enumerate-rules", "get-session-state", "batch-delete-messages")),
        said(NOT, lambda: topic_talk().ask("peek-message", at="t", from_sequence_number=1, message_count=1)),
    ),
    "fields of requests to $management": (asked("peek-message", from_sequence_number=1, message_count=1, omit_message_body=True),),
    "message formats": (said(NOT, lambda: Talk().send(message(b"m"), 5)),),
    "outcomes": (said(NOT, lambda: Talk().settle(described(0x99, listed()))),),
    "SASL mechanisms": (said("44 [1] True", sasl),),
    "sending to a subscription or to dead letters": (
        attached("amqp:not-allowed", receives=False, at="q/$DeadLetterQueue"),
        said("amqp:not-allowed", lambda: topic_talk().attach(receives=False, at="t/Subscriptions/s")),
        said("amqp:not-allowed", lambda: topic_talk().attach(receives=True, at="t")),
    ),
}


def names(lines: Sequence[str]) -> list[str]:
    return [line.partition(":")[0] for line in lines]


def test_the_lists_have_one_line_a_name_and_each_is_tried() -> None:
    assert [*REFUSALS] == names(REFUSED)
    assert [*ACCEPTANCES] == names(UNCHECKED)
    assert [*PROOFS] == names(CLAIMED)


@pytest.mark.parametrize("name", names(REFUSED))
def test_what_is_refused_is_refused(name: str, tmp_path: Path, standin: StandIn) -> None:
    for check in REFUSALS[name]:
        check(tmp_path, standin)


def put_token() -> str:
    """Of a token that is none, for the namespace and for a queue, and of one for what is not there."""
    found = []
    for audience in ("sb://n", "amqps://n:1/q/$management", "sb://n/Q/$DeadLetterQueue", "sb://n/other"):
        talk = Talk()
        for handle, receives in ((0, True), (1, False)):
            talk.attach(handle, receives=receives, at="$cbs")
        talk.say(frames.FLOW, uint(0), uint(100), uint(0), uint(100), uint(0), uint(0), uint(9))
        told = {"operation": "put-token", "type": "jwt", "name": audience}
        request = described(0x73, listed(ulong(1))) + described(0x74, encode(told)) + described(0x77, string("no token"))
        talk.say(frames.TRANSFER, uint(1), uint(0), encode(b"t"), uint(0), NO, NO, payload=request)
        [answer] = talk.wire.payloads()
        found.append(next(status for status in (200, 404, 501) if b"\x71" + status.to_bytes(4, "big") in answer))
    return str(found)


KNOWN = mapping([(symbol(f"com.microsoft:{name}"), string("x")) for name in ("timeout", "receiver-name", "entity-type")])
ACCEPTANCES: Mapping[str, Callable[[Path, StandIn], None]] = {
    "tokens": said("[200, 200, 200, 404]", put_token),
    "api-version, enrich": lambda folder, standin: test_versions(standin),
    "server-timeout, tracking-id, associated-link-name": lambda folder, standin: test_peeking_tells_more_than_it_needs(standin),
    "link properties that change nothing": attached("12 ", more={13: KNOWN}),
    "max-message-size": attached("12 ", more={10: ulong(10)}),
}


def test_versions(standin: StandIn) -> None:
    assert {http(standin, "GET", f"/notes?{query}")[0] for query in ("api-version=2017-04&enrich=True", "api-version=2024-05")} == {200}


def test_peeking_tells_more_than_it_needs(standin: StandIn) -> None:
    """As azure-servicebus does it: its requests have a time limit, a name of a link, and an id."""
    with standin.client() as client, client.get_queue_receiver("later") as receiver:
        assert receiver.peek_messages(timeout=PATIENCE_S) == []


@pytest.mark.parametrize("name", names(UNCHECKED))
def test_what_is_not_checked_is_taken(name: str, tmp_path: Path, standin: StandIn) -> None:
    ACCEPTANCES[name](tmp_path, standin)


def test_what_is_carried_comes_as_it_was_sent(standin: StandIn) -> None:
    """Every line of the list: twice with one message-id."""
    sent = AmqpAnnotatedMessage(
        data_body=b"x",
        header=AmqpMessageHeader(durable=True, priority=7),
        properties=AmqpMessageProperties(message_id="same", group_id="g", reply_to_group_id="r"),
        annotations={b"x-opt-partition-key": b"g"},
        footer={b"f": b"v"},
    )
    with standin.client() as client, client.get_queue_sender("carried") as sender, client.get_queue_receiver("carried") as receiver:
        sender.send_messages([sent, sent])
        found = [receiver.receive_messages(1, max_wait_time=PATIENCE_S)[0].raw_amqp_message for _ in range(2)]
    for got in found:
        assert got.header is not None
        assert got.properties is not None
        assert got.annotations is not None
        assert (got.header.durable, got.header.priority) == (True, 7)
        assert (got.properties.message_id, got.properties.group_id, got.properties.reply_to_group_id) == (b"same", b"g", b"r")
        assert got.annotations[b"x-opt-partition-key"] == b"g"
        assert got.footer == {b"f": b"v"}
    assert names(CARRIED) == ["durable, priority", "group-id", "x-opt-partition-key", "message-id", "footer"]


PROOFS: Mapping[str, Sequence[Callable[..., object]]] = {  # of what is claimed: the tests that hold it against azure-servicebus
    "queues": (
        test_service_bus.test_messages_keep_their_order_their_bytes_and_their_properties,
        test_service_bus.test_a_locked_message_is_renewed_abandoned_and_completed,
        test_service_bus.test_a_deferred_message_comes_when_it_is_asked_for,
        test_service_bus.test_dead_letters_by_hand,
        test_service_bus_codec.test_drain_uses_up_the_credit,
    ),
    "locks": (
        test_service_bus.test_a_lock_expires_and_its_holder_is_told,
        test_service_bus.test_a_message_that_fails_too_often_is_a_dead_letter,
        test_a_message_comes_with_its_lock_and_its_senders_notes,
    ),
    "detached links": (test_an_outcome_for_a_link_that_is_gone_settles_nothing,),
    "time": (
        test_service_bus.test_a_message_that_outlives_its_time_is_a_dead_letter,
        test_service_bus.test_scheduled_messages_come_in_time_or_are_cancelled,
    ),
    "batches": (test_service_bus_store.test_a_batch_has_messages, test_service_bus.test_the_aio_client),
    "annotations": (test_service_bus_codec.test_a_message_goes_out_as_it_came, test_a_message_comes_with_its_lock_and_its_senders_notes),
    "sizes": (
        test_service_bus.test_a_message_of_many_frames_and_the_limits_of_size,
        test_service_bus.test_a_queue_that_is_full_takes_no_more,
    ),
    "throttle": (test_service_bus.test_the_throttle_says_busy_and_loses_nothing,),
    "tokens": (test_a_token_for_what_is_not_there_is_refused,),
    "$management": (
        test_service_bus.test_a_deferred_message_comes_when_it_is_asked_for,
        test_service_bus_codec.test_a_peek_ends_where_a_message_may,
    ),
    "topics": (test_service_bus.test_the_vendors_own_topic, test_service_bus.test_topics_with_the_aio_client),
    "administration": (test_service_bus.test_queues_are_administered, test_service_bus.test_pages_and_names_at_their_bounds),
}
