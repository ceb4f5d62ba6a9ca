"""The links of a session: links on which a client sends, links on which it receives, and the handling of attach frames."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from fsd_conformance.emulators.service_bus import frames
from fsd_conformance.emulators.service_bus.broker import BATCH_SLACK, Broker, too_large
from fsd_conformance.emulators.service_bus.codec import (
    ACCEPTED,
    NULL,
    AmqpError,
    Described,
    described,
    listed,
    mapping,
    string,
    symbol,
    ubyte,
    uint,
    ulong,
)
from fsd_conformance.emulators.service_bus.management import Node
from fsd_conformance.emulators.service_bus.message import BATCH, PLAIN, outgoing
from fsd_conformance.emulators.service_bus.store import Message, Queue
from fsd_conformance.emulators.service_bus.topics import Topic

__all__ = ["ConnectionPort", "IncomingLink", "Link", "OutgoingLink", "SessionPort", "attach"]

CREDIT = 1000  # messages that a client may send before it gets more credit
_REPLIES, _REPLY_BYTES = 100, 1 << 20  # limits of the answers that wait for a client's credit
_PARTIAL_BYTES = 8 << 20  # limit of unfinished deliveries on a connection
_NODE_BYTES = 1 << 20  # limit of a request
_SETTLED = 1  # sender-settle-mode
_BOUND = "a delivery in a transaction, or a resumed delivery, is not implemented here"
_SOURCE, _TARGET, _COORDINATOR = 0x28, 0x29, 0x30
_SESSION_FILTER = "com.microsoft:session-filter"
_IGNORED = {"com.microsoft:timeout", "com.microsoft:receiver-name", "com.microsoft:entity-type"}  # link properties without effect


class ConnectionPort(Protocol):
    """The methods of a connection that its sessions and links call."""

    broker: Broker
    peer_frame: int  # the client's largest frame in bytes
    partial_bytes: int  # bytes of unfinished deliveries

    def use(self) -> None:
        """Note that the client uses the connection."""

    def count_message(self) -> None:
        """Count a message in or out."""

    def send(self, *parts: bytes | memoryview) -> None:
        """Send bytes."""

    def frame(self, channel: int, performative: int, *fields: bytes) -> None:
        """Send a frame without a payload."""

    def writable(self) -> bool:
        """Whether the connection accepts more data now."""


class SessionPort(Protocol):
    """The methods of a session that its links call."""

    connection: ConnectionPort
    replies: dict[str, OutgoingLink]  # the link for a node's answers, by the node's address

    def send(self, performative: int, *fields: bytes) -> None:
        """Send a frame without a payload."""

    def flow(self, link: Link | None = None, *, drained: bool = False) -> None:
        """Send the windows, and the credit of a link."""

    def detach(self, link: Link, condition: str, description: str) -> None:
        """End a link with an error."""

    def settled(self, number: int, outcome: bytes) -> None:
        """Send the outcome of a message that the client sent."""

    def can_send(self) -> bool:
        """Whether a new delivery may start."""

    def deliver(self, link: OutgoingLink, tag: bytes, head: bytes, body: bytes, *, settled: bool) -> None:
        """Send a message."""


class Link:
    """The common part of both directions. ``count``: AMQP's delivery count; ``credit``: deliveries that are still allowed."""

    def __init__(self, session: SessionPort, handle: int, name: str, queue: Queue | None) -> None:
        self.session = session
        self.broker = session.connection.broker
        self.handle = handle
        self.encoded = uint(handle)
        self.name = name
        self.queue = queue
        self.count = 0
        self.credit = 0

    def attached(self) -> None:
        """Register the link, after the client got the answer to its attach."""
        if self.queue is not None:
            self.broker.attached(self.queue, self)

    def detach(self, condition: str, description: str) -> None:
        """End the link with an error."""
        self.session.detach(self, condition, description)

    def drop(self) -> None:
        """Release the link's state at its end."""
        if self.queue is not None:
            self.broker.detached(self.queue, self)


class IncomingLink(Link):
    """The client sends messages to a queue or topic, or requests to a node. The bytes of a message over the size limit are counted and
    dropped.
    """

    def __init__(
        self, session: SessionPort, handle: int, name: str, queue: Queue | None, topic: Topic | None, node: Node | None, limit: int
    ) -> None:
        super().__init__(session, handle, name, queue)
        self._target = queue or topic
        self._node = node
        self._limit = limit
        self._parts = bytearray()  # the parts of a delivery that comes in several frames
        self._size = 0
        # An unfinished delivery: its number, its format, whether it is settled, whether it is in a transaction or resumed.
        self._first: tuple[int, int, bool, bool] | None = None

    def attached(self) -> None:
        """Register the link and give the client credit."""
        super().attached()
        self.credit = CREDIT
        self.session.flow(self)

    def transfer(self, fields: frames.Fields, payload: bytes) -> None:
        """Handle one frame of a delivery."""
        if self._first is None:
            self._first = (fields.number(1), fields.number(3, PLAIN), fields.flag(4), fields.get(7) is not None or fields.flag(8))
        whole = not self._size and not fields.flag(5)
        self._size += len(payload)
        if not whole and self._size <= self._limit + BATCH_SLACK:
            self._keep(payload)
        if fields.flag(5) and not fields.flag(9):
            return
        (number, form, settled, bound), size = self._first, self._size
        if not whole:
            payload = bytes(self._parts)
            self._forget()
        self._first, self._size = None, 0
        if fields.flag(9):
            return  # the client aborted the delivery
        self.count += 1
        self.credit -= 1
        outcome = self._accept(payload, size, form) if not bound else frames.rejected("amqp:not-implemented", _BOUND)
        if self._target is not None:
            self.session.connection.count_message()
        if not settled:
            self.session.settled(number, outcome)
        elif outcome != ACCEPTED:
            self.detach("amqp:precondition-failed", "A message that was sent settled could not be accepted.")
            return
        if self.credit < CREDIT // 2:
            self.credit = CREDIT
            self.session.flow(self)

    def drop(self) -> None:
        """Release the link's state and an unfinished delivery."""
        super().drop()
        self._forget()

    def _keep(self, payload: bytes) -> None:
        connection = self.session.connection
        connection.partial_bytes += len(payload)
        if connection.partial_bytes > max(_PARTIAL_BYTES, 2 * self._limit):
            raise AmqpError(
                "amqp:resource-limit-exceeded",
                f"{connection.partial_bytes} bytes of unfinished deliveries: expected fewer",
            )
        self._parts += payload

    def _forget(self) -> None:
        self.session.connection.partial_bytes -= len(self._parts)
        self._parts = bytearray()

    def _accept(self, payload: bytes, size: int, form: int) -> bytes:
        limit = self._limit if form != BATCH else min(self._limit, self.broker.tier.batch_bytes)
        if size > limit + (BATCH_SLACK if form == BATCH else 0):
            return self._answer(self._node, None, payload, size) if self._node is not None else too_large(size, limit)
        if form not in (PLAIN, BATCH):
            return frames.rejected("amqp:not-implemented", f"message format 0x{form:x}")
        if self._target is not None:
            try:
                return self.broker.accept(self._target, payload, form)
            except AmqpError as error:  # a rejection, not a closed connection, after which azure-servicebus would not show the reason
                return frames.rejected(error.condition, error.description)
        assert self._node is not None
        if self._node.managed is not None:
            self.session.connection.use()
        return self._answer(self._node, payload, payload, size)

    def _answer(self, node: Node, request: bytes | None, start: bytes, size: int) -> bytes:
        """Send the answer to a request on the link for answers. ``request``: None for a request that is too large."""
        replies = self.session.replies.get(node.address)
        if replies is None:
            return frames.rejected("amqp:not-found", f"there is no link for the answers of '{node.address}'")
        replies.reply(node.answer(request) if request is not None else node.too_large(start, size))
        return ACCEPTED


class OutgoingLink(Link):
    """The client receives messages of a queue, or answers of a node. ``locks``: whether it must settle them."""

    def __init__(self, session: SessionPort, handle: int, name: str, queue: Queue | None, node: Node | None, locks: bool) -> None:
        super().__init__(session, handle, name, queue)
        self.locks = locks
        self._node = node
        self._replies: deque[bytes] = deque()
        self._reply_bytes = 0

    def attached(self) -> None:
        """Register the link; it sends messages and answers when the client gives it credit."""
        super().attached()
        if self._node is not None:
            self.session.replies[self._node.address] = self

    def drop(self) -> None:
        """Release the link's state at its end."""
        super().drop()
        if self._node is not None and self.session.replies.get(self._node.address) is self:
            del self.session.replies[self._node.address]

    def granted(self, fields: frames.Fields) -> None:
        """Take the client's credit from a flow frame; with "drain", use or drop it at once."""
        self.credit = ((fields.number(5, 0) + fields.number(6, 0) - self.count + 0x80000000) & 0xFFFFFFFF) - 0x80000000
        if self.credit > 0:
            self.pump()
        if fields.flag(8):
            self.count = (self.count + max(0, self.credit)) & 0xFFFFFFFF
            self.credit = 0
            self.session.flow(self, drained=True)
        elif fields.flag(9):
            self.session.flow(self)
        if self.queue is not None and self.credit <= 0:
            self.broker.satisfied(self.queue, self)

    def pump(self) -> None:
        """Send messages or answers until the credit is used."""
        if self.queue is not None:
            if self.credit > 0:
                self.broker.wants(self.queue, self)
                self.broker.pump(self.queue)
            return
        while self._replies and self.can_send():
            answer = self._replies.popleft()
            self._reply_bytes -= len(answer)
            self._send(b"", b"", answer, settled=True)

    def can_send(self) -> bool:
        """Whether a delivery may go out now."""
        return self.credit > 0 and self.session.can_send()

    def reply(self, answer: bytes) -> None:
        """Queue an answer of the node. Raises `AmqpError` where too many answers wait for credit."""
        if len(self._replies) >= _REPLIES or self._reply_bytes > _REPLY_BYTES:
            waiting = f"{len(self._replies)} answers, {self._reply_bytes} bytes, wait for credit on link '{self.name}'"
            raise AmqpError("amqp:resource-limit-exceeded", waiting)
        self._replies.append(answer)
        self._reply_bytes += len(answer)
        self.pump()

    def deliver(self, message: Message) -> None:
        """Send a message of the queue."""
        until, token = (message.until, message.token) if self.locks else (None, b"")
        head = outgoing(message.incoming, message.sequence, message.enqueued, message.deliveries, until, token=token)
        self._send(message.token, head, message.incoming.body, settled=not self.locks)
        self.session.connection.count_message()

    def _send(self, tag: bytes, head: bytes, body: bytes, *, settled: bool) -> None:
        self.session.deliver(self, tag, head, body, settled=settled)
        self.count = (self.count + 1) & 0xFFFFFFFF
        self.credit -= 1
        if self.credit <= 0 and self.queue is not None:
            self.broker.satisfied(self.queue, self)


def attach(session: SessionPort, fields: frames.Fields) -> Link | None:
    """Answer an attach with a link, or refuse it with an error in a detach and return None."""
    name, handle, receives = fields.text(0), fields.number(1), fields.flag(2)
    given = _field(fields.get(5 if receives else 6), 0)
    address = given if isinstance(given, str) else ""
    broker = session.connection.broker
    node = Node.find(broker, address)
    queue = broker.find(address) if node is None else None
    topic = broker.topic(address) if node is None and queue is None else None
    limit = _NODE_BYTES if node is not None else broker.message_bytes(queue)
    asked = _unknown(fields)
    error = ("amqp:not-implemented", f"{asked} not implemented here") if asked else _refusal(broker, receives, address, node, queue, topic)
    modes = (ubyte(fields.number(3, 2) & 0xFF), ubyte(fields.number(4, 0) & 0xFF))
    ends = (NULL, NULL) if error else (_terminus(_SOURCE, fields.get(5)), _terminus(_TARGET, fields.get(6)))
    batch = mapping([(symbol("com.microsoft:max-message-batch-size"), ulong(broker.tier.batch_bytes))])
    first = uint(0) if receives else NULL
    head = (string(name), uint(handle), b"\x42" if receives else b"\x41", *modes, *ends, NULL, NULL, first, ulong(limit))
    session.send(frames.ATTACH, *head, NULL, NULL, NULL if receives else batch)
    if error:
        session.send(frames.DETACH, uint(handle), b"\x41", frames.error(*error))
        return None
    if receives:
        return OutgoingLink(session, handle, name, queue, node, fields.number(3, 2) != _SETTLED)
    return IncomingLink(session, handle, name, queue, topic, node, limit)


def _unknown(fields: frames.Fields) -> str:
    """A feature that the attach needs and the emulator does not support, with its verb; "" if it needs none."""
    end, filters, properties = fields.get(6), _field(fields.get(5), 7) or {}, fields.get(13) or {}
    names = [*filters] if isinstance(filters, dict) else [filters]
    others = [name for name in properties if name not in _IGNORED] if isinstance(properties, dict) else [properties]
    for asked, what in (
        (isinstance(end, Described) and end.descriptor == _COORDINATOR, "transactions are"),
        (_SESSION_FILTER in names, "sessions are"),
        (names, f"filter {names} is"),
        (_field(fields.get(5), 4) or _field(end, 4), "a dynamic node is"),
        (_field(fields.get(5), 6) == "copy", "a link that browses is"),
        (_field(fields.get(5), 8), "a default outcome is"),
        (fields.get(7) or fields.get(8), "resuming deliveries is"),
        (fields.get(12), f"capability {fields.get(12)!r:.60} is"),
        (others, f"link property {others} is"),
    ):
        if asked:
            return what
    return ""


def _field(end: object, index: int) -> object:
    """A field of a source or target; None where it has fewer."""
    values = end.value if isinstance(end, Described) else None
    return values[index] if isinstance(values, list) and index < len(values) else None


def _refusal(
    broker: Broker, receives: bool, address: str, node: Node | None, queue: Queue | None, topic: Topic | None
) -> tuple[str, str] | None:
    if node is None and queue is None and topic is None:
        return broker.missing(address)
    if receives and topic is not None:
        return "amqp:not-allowed", f"'{address}' is a topic: receive from its subscriptions"
    if not receives and queue is not None and broker.fed(queue):
        return "amqp:not-allowed", f"'{address}' accepts no messages: they come from its {'queue' if queue.dead is None else 'topic'}"
    return None


def _terminus(code: int, given: object) -> bytes:
    address = _field(given, 0)
    return described(code, listed(string(address) if isinstance(address, str) else NULL))
