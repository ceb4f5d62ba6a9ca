"""One namespace: its queues and topics, the links that wait at them, the limits of a tier, the connections that have data to send."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from fsd_conformance.emulators.service_bus.codec import ACCEPTED
from fsd_conformance.emulators.service_bus.frames import rejected
from fsd_conformance.emulators.service_bus.message import BATCH, batch, incoming
from fsd_conformance.emulators.service_bus.store import DEAD_LETTER, Message, Queue, QueueSettings
from fsd_conformance.emulators.service_bus.throttle import BUSY, CREDITS, Throttle
from fsd_conformance.emulators.service_bus.topics import SUBSCRIPTIONS, Topic, TopicSettings

__all__ = ["BATCH_SLACK", "TIERS", "Attached", "Broker", "Client", "Faults", "Limits", "Receiver", "Tier", "clock", "too_large"]

BATCH_SLACK = 512  # bytes: azure-servicebus fills a batch up to the limit, then adds the batch's properties


@dataclass(frozen=True, slots=True)
class Tier:
    """The limits of a tier: the largest message and batch in bytes, and credits per second (0: no throttle).

    Source: Microsoft, "Service Bus quotas" (2026-11). In Premium a queue may have its own limit above 1 MB.
    """

    name: str
    message_bytes: int
    batch_bytes: int
    own_limit: bool  # whether a queue may have its own limit, up to 100 MB
    credits: int


TIERS: Final = {
    "standard": Tier("Standard", 256 << 10, 256 << 10, False, CREDITS),
    "premium": Tier("Premium", 1 << 20, 1 << 20, True, 0),
}


@dataclass(frozen=True)
class Limits:
    """Time-outs of a connection in seconds, and the number of connections.

    All values are those of the service, except ``open_s``. Source for the number of connections: Microsoft, "Service Bus quotas" (2026-11).
    """

    open_s: float = 30.0  # seconds for opening the connection
    idle_s: float = 240.0  # seconds without a frame
    unused_s: float = 600.0  # seconds without a message and without credit for one
    connections: int = 5000


@dataclass(frozen=True, slots=True)
class Faults:
    """``latency_s``: delay before received bytes are read; ``drop_after``: messages after which a connection is cut, 0: never."""

    latency_s: float = 0.0
    drop_after: int = 0


class Client(Protocol):
    """The methods of a connection that a namespace calls."""

    def flush(self) -> None:
        """Pass the data to the socket."""

    def inspect(self) -> None:
        """Send a heartbeat if one is due; close a connection that is silent, unused, or never opened."""

    def fail(self, condition: str, description: str) -> None:
        """Close the connection with an error."""


class Attached(Protocol):
    """The methods of a link to a queue that a namespace calls."""

    def detach(self, condition: str, description: str) -> None:
        """End the link with an error."""


class Receiver(Attached, Protocol):
    """The methods of a receiving link that a namespace calls."""

    locks: bool  # whether the client must settle a message

    def can_send(self) -> bool:
        """Whether the link may send a delivery now."""

    def deliver(self, message: Message) -> None:
        """Send a message."""


def clock() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class Broker:
    """A namespace. ``throttle``: credits per second, 0: no throttle; ``now`` returns the time in ms since 1970."""

    def __init__(
        self,
        name: str,
        tier: Tier,
        throttle: int = 0,
        limits: Limits | None = None,
        faults: Faults | None = None,
        now: Callable[[], int] = clock,
    ) -> None:
        self.name = name
        self.tier = tier
        self.limits = limits or Limits()
        self.faults = faults or Faults()
        self.created = now()
        self.throttle = Throttle(throttle, now)
        self.queues: dict[str, Queue] = {}  # by name in lower case
        self.topics: dict[str, Topic] = {}  # by name in lower case
        self.left_out: dict[str, str] = {}  # why a subscription is not supported, by its path in lower case
        self._subscriptions: dict[str, Queue] = {}  # by path in lower case
        self.connections: set[Client] = set()
        self._now = now
        self._links: dict[Queue, dict[Attached, None]] = {}
        self._waiting: dict[Queue, OrderedDict[Receiver, None]] = {}  # the receiver that gets the next message is first
        self._dirty: set[Client] = set()

    def create(self, name: str, settings: QueueSettings) -> Queue:
        """Make a queue; ``name`` must be free."""
        queue = self.queues[name.lower()] = Queue(name, settings, self._now)
        return queue

    def create_topic(self, name: str, settings: TopicSettings) -> Topic:
        """Make a topic with its subscriptions; ``name`` must be free."""
        topic = self.topics[name.lower()] = Topic(name, settings, self._now)
        for own, each in settings.subscriptions.items():
            path = f"{name}/{SUBSCRIPTIONS}/{own}"
            if each.left_out:
                self.left_out[path.lower()] = f"'{path}' is left out: {each.left_out}"
            else:
                self._subscriptions[path.lower()] = topic.subscriptions[own.lower()]
        return topic

    def delete(self, name: str) -> bool:
        """Remove a queue with its messages and detach its links; returns whether there was one."""
        queue = self.queues.pop(name.lower(), None)
        if queue is None:
            return False
        for each in (queue, queue.dead):
            for link in list(self._links.get(each, ())) if each is not None else ():
                link.detach("amqp:resource-deleted", f"The messaging entity '{name}' was deleted.")
        self.flush()
        return True

    def find(self, address: str) -> Queue | None:
        """The queue or dead-letter queue at an address, which may be a whole URL."""
        path = _path(address)
        base, _, last = path.rpartition("/")
        if last == DEAD_LETTER.lower():
            queue = self._queue(base)
            return queue.dead if queue is not None else None
        return self._queue(path)

    def topic(self, address: str) -> Topic | None:
        """The topic at an address, which may be a whole URL."""
        return self.topics.get(_path(address))

    def fed(self, queue: Queue) -> bool:
        """Whether no client may send to the queue, because it is a dead-letter queue or the queue of a subscription."""
        return queue.dead is None or queue.name.lower() in self._subscriptions

    def holds(self, address: str) -> bool:
        """Whether an address is that of a queue or topic, or of the namespace."""
        return not _path(address) or self.find(address) is not None or self.topic(address) is not None

    def missing(self, address: str) -> tuple[str, str]:
        """The error for an address without a queue or topic: a condition and a description."""
        path = _path(address)
        for name, why in self.left_out.items():
            if path == name or path.startswith(name + "/"):
                return "amqp:not-implemented", why
        return "amqp:not-found", f"The messaging entity '{address}' could not be found."

    def _queue(self, path: str) -> Queue | None:
        return self.queues.get(path) or self._subscriptions.get(path)

    def message_bytes(self, queue: Queue | None) -> int:
        """The largest message of a queue in bytes; None stands for a topic."""
        return (queue is not None and queue.settings.max_message_bytes) or self.tier.message_bytes

    def accept(self, target: Queue | Topic, payload: bytes, form: int) -> bytes:
        """Add a message, or all or none of a batch; returns the encoded outcome. Raises `AmqpError` where the bytes are not a message."""
        messages = [incoming(payload)] if form != BATCH else batch(payload)
        each = 1 + target.evaluations if isinstance(target, Topic) else 1
        if not self.throttle.take(each * len(messages)):
            return rejected(*BUSY)
        shares = target.route(messages) if isinstance(target, Topic) else {target: messages}
        for queue, share in shares.items():
            if not queue.fits(share):
                return rejected("amqp:resource-limit-exceeded", f"The maximum size of '{queue.name}' has been reached.")
        for queue, share in shares.items():
            for message in share:
                queue.put(message)
            self.pump(queue)
        return ACCEPTED

    def attached(self, queue: Queue, link: Attached) -> None:
        """Note that a link uses a queue."""
        self._links.setdefault(queue, {})[link] = None

    def detached(self, queue: Queue, link: Attached) -> None:
        """Note that a link is gone."""
        links = self._links.get(queue, {})
        links.pop(link, None)
        if not links:
            self._links.pop(queue, None)
        self.satisfied(queue, link)

    def wants(self, queue: Queue, link: Receiver) -> None:
        """Note that a link has credit for messages of a queue."""
        self._waiting.setdefault(queue, OrderedDict()).setdefault(link)

    def satisfied(self, queue: Queue, link: Attached) -> None:
        """Note that a link has no credit."""
        waiting = self._waiting.get(queue)
        if waiting is not None:
            waiting.pop(link, None)  # type: ignore[call-overload]  # a link that sends is never among them
            if not waiting:
                del self._waiting[queue]

    def pump(self, queue: Queue) -> None:
        """Deliver ready messages to the waiting links, one link after the other, until the windows and sockets of the links are full."""
        waiting = self._waiting.get(queue)
        if not waiting:
            return
        stuck = 0
        while stuck < len(waiting) and queue.ready():
            link = next(iter(waiting))
            waiting.move_to_end(link)
            if not link.can_send():
                stuck += 1
                continue
            if not self.throttle.take(1):
                return  # `tick` continues in the next second
            stuck = 0
            message = queue.take(lock=link.locks)
            assert message is not None
            link.deliver(message)

    def tick(self) -> None:
        """Carry out all work whose time has come: expired locks, scheduled messages, waiting deliveries."""
        for queue in (*self.queues.values(), *self._subscriptions.values()):
            queue.advance()
        for queue in list(self._waiting):
            self.pump(queue)
        self.flush()

    def inspect(self) -> None:
        """Send heartbeats, and close unusable connections."""
        for connection in list(self.connections):
            connection.inspect()
        self.flush()

    def dirty(self, connection: Client) -> None:
        """Note that a connection has data to send."""
        self._dirty.add(connection)

    def flush(self) -> None:
        """Pass all data to the sockets, with one write for each connection."""
        while self._dirty:
            self._dirty.pop().flush()


def too_large(size: int, limit: int) -> bytes:
    """The encoded outcome of a message that is too large. Sizes in bytes."""
    return rejected(
        "amqp:link:message-size-exceeded",
        f"The received message (size:{size} bytes) exceeds the limit ({limit} bytes) currently allowed on the link.",
    )


def _path(address: str) -> str:
    """The path of an address, which may be a whole URL, in lower case."""
    _, url, rest = address.partition("://")
    return (rest.partition("/")[2] if url else address).strip("/").lower()
