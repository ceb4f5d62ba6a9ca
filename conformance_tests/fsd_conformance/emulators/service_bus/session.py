"""A session of a connection: its links, the transfer windows of both directions, and deliveries that wait for an outcome."""

from __future__ import annotations

from collections import deque

from fsd_conformance.emulators.service_bus import frames
from fsd_conformance.emulators.service_bus.codec import (
    NULL,
    TRUE,
    AmqpError,
    Described,
    boolean,
    uint,
    ushort,
)
from fsd_conformance.emulators.service_bus.links import ConnectionPort, IncomingLink, Link, OutgoingLink, attach
from fsd_conformance.emulators.service_bus.settle import LOST, settle

__all__ = ["Session"]

HANDLES = 255
_WINDOW = 0x7FFFFFFF  # transfer frames that a client may send: the credit of its links limits them
_OVERHEAD = 64  # a transfer frame has at most this many bytes before its payload


class Session:
    """The session on ``channel``, which the client began with ``fields``, those of its begin frame."""

    def __init__(self, connection: ConnectionPort, channel: int, fields: frames.Fields) -> None:
        self.connection = connection
        self.channel = channel
        self.links: dict[int, Link] = {}  # by the client's handle
        self.replies: dict[str, OutgoingLink] = {}  # the link for a node's answers, by the node's address
        self._incoming = fields.number(1)  # number of the client's next transfer
        self._window = fields.number(2)  # transfers that the client still accepts
        self._outgoing = 0
        self._delivery = 0
        self._outbox: deque[tuple[bytes, bytes | memoryview]] = deque()  # frames of a delivery that wait for the window
        self._unsettled: dict[int, tuple[OutgoingLink, bytes]] = {}  # by delivery number: the link, and the token of the lock
        self._detached: set[int] = set()  # handles whose detach the client has not answered
        self.send(frames.BEGIN, ushort(channel), uint(0), uint(_WINDOW), uint(_WINDOW), uint(HANDLES))

    def send(self, performative: int, *fields: bytes) -> None:
        """Send a frame of this session."""
        self.connection.frame(self.channel, performative, *fields)

    def frame(self, code: int, fields: frames.Fields, data: bytes, payload: int, end: int) -> None:
        """Handle a frame of the client. Raises `AmqpError` where the connection must end."""
        if code == frames.TRANSFER:
            self._incoming = (self._incoming + 1) & 0xFFFFFFFF
            link = self._link(fields)
            if isinstance(link, IncomingLink):
                link.transfer(fields, data[payload:end])
            elif link is not None:
                raise AmqpError("amqp:not-allowed", "a transfer on a link to the client")
        elif code == frames.DISPOSITION:
            self._disposition(fields)
        elif code == frames.FLOW:
            self._flow(fields)
        elif code == frames.ATTACH:
            self._attach(fields)
        elif code == frames.DETACH:
            self._detach(fields)
        elif code == frames.END:
            self.send(frames.END)
            self.drop()
        else:
            raise AmqpError("amqp:not-implemented", f"performative 0x{code:02x}")

    def flow(self, link: Link | None = None, *, drained: bool = False) -> None:
        """Send the windows, and the credit of a link."""
        windows = (uint(self._incoming), uint(_WINDOW), uint(self._outgoing), uint(_WINDOW))
        if link is None:
            self.send(frames.FLOW, *windows)
        else:
            self.send(frames.FLOW, *windows, uint(link.handle), uint(link.count), uint(max(0, link.credit)), NULL, boolean(drained))

    def can_send(self) -> bool:
        """Whether a new delivery may start."""
        return self._window > 0 and not self._outbox and self.connection.writable()

    def wants(self) -> bool:
        """Whether the client waits for messages."""
        return any(isinstance(link, OutgoingLink) and link.queue is not None and link.credit > 0 for link in self.links.values())

    def deliver(self, link: OutgoingLink, tag: bytes, head: bytes, body: bytes, *, settled: bool) -> None:
        """Send a message in as many frames as necessary. ``tag``: the token of its lock, unless ``settled``."""
        number = self._delivery
        self._delivery = (number + 1) & 0xFFFFFFFF
        if not settled:
            self._unsettled[number] = (link, tag)
        room = self.connection.peer_frame - _OVERHEAD
        size = len(head) + len(body)
        if size <= room and self._window > 0:
            self._count()
            self.connection.send(frames.transfer(self.channel, link.encoded, number, tag, settled, False, size) + head, body)
            return
        rest = memoryview(head + body)
        start = frames.transfer(self.channel, link.encoded, number, tag, settled, size > room, min(room, size))
        self._outbox.append((start, rest[:room]))
        for at in range(room, size, room):
            piece = rest[at : at + room]
            self._outbox.append((frames.continued(self.channel, link.encoded, at + room < size, len(piece)), piece))
        self._empty()

    def settled(self, number: int, outcome: bytes) -> None:
        """Send the outcome of a message that the client sent."""
        self.connection.send(frames.disposition(self.channel, True, number, outcome))

    def detach(self, link: Link, condition: str, description: str) -> None:
        """End a link with an error."""
        if self.links.pop(link.handle, None) is link:
            link.drop()
            self._detached.add(link.handle)
            self.send(frames.DETACH, uint(link.handle), TRUE, frames.error(condition, description))

    def drop(self) -> None:
        """Release the session's state at its end. Locks stay until they expire."""
        for link in self.links.values():
            link.drop()
        self.links.clear()
        self._outbox.clear()
        self._unsettled.clear()

    def pump(self) -> None:
        """Continue the deliveries that waited until the window or the socket had room."""
        self._empty()
        for link in list(self.links.values()):
            if isinstance(link, OutgoingLink):
                link.pump()

    def _count(self) -> None:
        self._window -= 1
        self._outgoing = (self._outgoing + 1) & 0xFFFFFFFF

    def _empty(self) -> None:
        while self._outbox and self._window > 0:
            self.connection.send(*self._outbox.popleft())
            self._count()

    def _link(self, fields: frames.Fields) -> Link | None:
        """The link of a frame; None where the client has not seen its detach yet."""
        handle = fields.number(0)
        link = self.links.get(handle)
        if link is None and handle not in self._detached:
            raise AmqpError("amqp:session:unattached-handle", f"handle {handle} has no link")
        return link

    def _attach(self, fields: frames.Fields) -> None:
        handle = fields.number(1)
        if handle > HANDLES or handle in self.links:
            raise AmqpError("amqp:session:handle-in-use", f"handle {handle} has a link, or is above {HANDLES}")
        self._detached.discard(handle)
        link = attach(self, fields)
        if link is None:
            self._detached.add(handle)
        else:
            self.links[handle] = link
            link.attached()

    def _detach(self, fields: frames.Fields) -> None:
        handle = fields.number(0)
        link = self.links.pop(handle, None)
        if link is not None:
            link.drop()
            self.send(frames.DETACH, uint(handle), boolean(fields.flag(1)))
        self._detached.discard(handle)  # azure-servicebus may detach a link that never existed: no error

    def _flow(self, fields: frames.Fields) -> None:
        behind = (self._outgoing - fields.number(0, 0)) & 0xFFFFFFFF  # transfers that the client had not received when it sent this
        self._window = max(0, fields.number(1) - behind)
        self._empty()
        if fields.get(4) is None:
            self.pump()
            if fields.flag(9):
                self.flow()
            return
        handle = fields.number(4)
        link = self.links.get(handle)
        if link is None:
            if handle not in self._detached:
                raise AmqpError("amqp:session:unattached-handle", f"handle {handle} has no link")
        elif isinstance(link, OutgoingLink):
            link.granted(fields)
        elif fields.flag(9):
            self.flow(link)

    def _disposition(self, fields: frames.Fields) -> None:
        if not fields.flag(0):
            return  # about messages from the client, which are settled with their answer
        first = fields.number(1)
        last = fields.number(2, first)
        quiet, state = fields.flag(3), fields.get(4)
        known = [number for number in (range(first, last + 1) if last - first < 64 else self._unsettled) if first <= number <= last]
        for number in known:
            entry = self._unsettled.get(number)
            if isinstance(state, Described) and state.descriptor == 0x23:
                continue  # state "received" is not an outcome
            self._unsettled.pop(number, None)
            outcome = LOST
            if entry:
                link, token = entry
                if self.links.get(link.handle) is not link:
                    continue  # the link is gone; only the lock remains
                assert link.queue is not None
                outcome = settle(link.queue, token, state)
                self.connection.broker.pump(link.queue)
                if link.queue.dead is not None:
                    self.connection.broker.pump(link.queue.dead)
            if not quiet:
                self.connection.send(frames.disposition(self.channel, False, number, outcome.encoded))
