"""One namespace: its queues and topics, who waits at them, what a tier allows, and the connections that have something to send."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fsd_conformance.emulators.service_bus.codec import ACCEPTED
from fsd_conformance.emulators.service_bus.frames import rejected
from fsd_conformance.emulators.service_bus.message import BATCH, batch, incoming
from fsd_conformance.emulators.service_bus.store import DEAD_LETTER, Queue, QueueSettings
from fsd_conformance.emulators.service_bus.throttle import BUSY, CREDITS, Throttle
from fsd_conformance.emulators.service_bus.topics import SUBSCRIPTIONS, Topic, TopicSettings

if TYPE_CHECKING:
    from fsd_conformance.emulators.service_bus.connection import Connection
    from fsd_conformance.emulators.service_bus.links import Link, OutgoingLink

__all__ = ["BATCH_SLACK", "TIERS", "Broker", "Faults", "Limits", "Tier", "clock", "too_large"]

BATCH_SLACK = 512  # azure-servicebus fills a batch to the limit and then adds the batch's own properties


@dataclass(frozen=True, slots=True)
class Tier:
    """What a tier allows: the largest message and the largest batch, in bytes, and credits a second if it is throttled.

    Source: Microsoft, "Service Bus quotas" (2026-11). Premium: a queue's own limit holds, 1 MB unless it says more.
    """

    name: str
    message_bytes: int
    batch_bytes: int
    own_limit: bool  # whether a queue may have a limit of its own, up to 100 MB
    credits: int


TIERS: Final = {
    "standard": Tier("Standard", 256 << 10, 256 << 10, False, CREDITS),
    "premium": Tier("Premium", 1 << 20, 1 << 20, True, 0),
}


@dataclass(frozen=True)
class Limits:
    """How long a connection may go without what makes it one, in seconds, and how many there may be.

    The service's own, but for ``open_s``. Source of the number: Microsoft, "Service Bus quotas" (2026-11).
    """

    open_s: float = 30.0  # from its start until it is open
    idle_s: float = 240.0  # without a frame
    unused_s: float = 600.0  # without a message, and without credit for one
    connections: int = 5000


@dataclass(frozen=True, slots=True)
class Faults:
    """``latency_s``: before bytes that came are looked at; ``drop_after``: messages after which a connection is cut, 0 for never."""

    latency_s: float = 0.0
    drop_after: int = 0


def clock() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class Broker:
    """A namespace. ``throttle``: credits a second, 0 for none; ``now``: ms since 1970."""

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
        self.topics: dict[str, Topic] = {}  # likewise
        self.left_out: dict[str, str] = {}  # subscriptions that cannot be: path in lower case -> why
        self._subscriptions: dict[str, Queue] = {}  # by path in lower case
        self.connections: set[Connection] = set()
        self._now = now
        self._links: dict[Queue, dict[Link, None]] = {}
        self._waiting: dict[Queue, OrderedDict[OutgoingLink, None]] = {}  # whose turn is next comes first
        self._dirty: set[Connection] = set()

    def create(self, name: str, settings: QueueSettings) -> Queue:
        """A new queue; ``name`` must be free."""
        queue = self.queues[name.lower()] = Queue(name, settings, self._now)
        return queue

    def create_topic(self, name: str, settings: TopicSettings) -> Topic:
        """A new topic with its subscriptions; ``name`` must be free."""
        topic = self.topics[name.lower()] = Topic(name, settings, self._now)
        for own, each in settings.subscriptions.items():
            path = f"{name}/{SUBSCRIPTIONS}/{own}"
            if each.left_out:
                self.left_out[path.lower()] = f"'{path}' is left out: {each.left_out}"
            else:
                self._subscriptions[path.lower()] = topic.subscriptions[own.lower()]
        return topic

    def delete(self, name: str) -> bool:
        """Remove a queue with its messages and detach its links; whether there was one."""
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
        """The topic at an address, likewise."""
        return self.topics.get(_path(address))

    def fed(self, queue: Queue) -> bool:
        """Whether messages come there by themselves, and no client may send any: to dead letters, and to a subscription."""
        return queue.dead is None or queue.name.lower() in self._subscriptions

    def holds(self, address: str) -> bool:
        """Whether an address is that of something that is there, or of the namespace."""
        return not _path(address) or self.find(address) is not None or self.topic(address) is not None

    def missing(self, address: str) -> tuple[str, str]:
        """What is said of an address where there is nothing: a condition and a description."""
        path = _path(address)
        for name, why in self.left_out.items():
            if path == name or path.startswith(name + "/"):
                return "amqp:not-implemented", why
        return "amqp:not-found", f"The messaging entity '{address}' could not be found."

    def _queue(self, path: str) -> Queue | None:
        return self.queues.get(path) or self._subscriptions.get(path)

    def message_bytes(self, queue: Queue | None) -> int:
        """The largest message that a queue takes; `None`: a topic."""
        return (queue is not None and queue.settings.max_message_bytes) or self.tier.message_bytes

    def accept(self, target: Queue | Topic, payload: bytes, form: int) -> bytes:
        """Add the message, or the messages of a batch, all or none; the encoded outcome. `AmqpError`: the bytes are no message."""
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

    def attached(self, queue: Queue, link: Link) -> None:
        """A link uses a queue from now on."""
        self._links.setdefault(queue, {})[link] = None

    def detached(self, queue: Queue, link: Link) -> None:
        """A link is gone."""
        links = self._links.get(queue, {})
        links.pop(link, None)
        if not links:
            self._links.pop(queue, None)
        self.satisfied(queue, link)

    def wants(self, queue: Queue, link: OutgoingLink) -> None:
        """A link has credit for messages of a queue."""
        self._waiting.setdefault(queue, OrderedDict()).setdefault(link)

    def satisfied(self, queue: Queue, link: Link) -> None:
        """A link has no credit left."""
        waiting = self._waiting.get(queue)
        if waiting is not None:
            waiting.pop(link, None)  # type: ignore[call-overload]  # one of another kind is not there
            if not waiting:
                del self._waiting[queue]

    def pump(self, queue: Queue) -> None:
        """Deliver what is ready to those who wait, taking turns, as far as their windows and sockets go."""
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
                return  # until the next second: `tick` comes back
            stuck = 0
            message = queue.take(lock=link.locks)
            assert message is not None
            link.deliver(message)

    def tick(self) -> None:
        """Do what time has made due."""
        for queue in (*self.queues.values(), *self._subscriptions.values()):
            queue.advance()
        for queue in list(self._waiting):
            self.pump(queue)
        self.flush()

    def inspect(self) -> None:
        """Look after the connections: heartbeats, and an end to those that are none."""
        for connection in list(self.connections):
            connection.inspect()
        self.flush()

    def dirty(self, connection: Connection) -> None:
        """A connection has something to send."""
        self._dirty.add(connection)

    def flush(self) -> None:
        """Hand all that is to be sent to the sockets, one write a connection."""
        while self._dirty:
            self._dirty.pop().flush()


def too_large(size: int, limit: int) -> bytes:
    """The outcome of a message that is too large."""
    return rejected(
        "amqp:link:message-size-exceeded",
        f"The received message (size:{size} bytes) exceeds the limit ({limit} bytes) currently allowed on the link.",
    )


def _path(address: str) -> str:
    """Of an address that may be a whole URL, in lower case."""
    _, url, rest = address.partition("://")
    return (rest.partition("/")[2] if url else address).strip("/").lower()
