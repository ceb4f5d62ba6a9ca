"""One namespace: its queues, who waits at them, what a tier allows, and the connections that have something to send."""

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
        self.connections: set[Connection] = set()
        self._now = now
        self._links: dict[Queue, dict[Link, None]] = {}
        self._waiting: dict[Queue, OrderedDict[OutgoingLink, None]] = {}  # whose turn is next comes first
        self._dirty: set[Connection] = set()

    def create(self, name: str, settings: QueueSettings) -> Queue:
        """A new queue; ``name`` must be free."""
        queue = self.queues[name.lower()] = Queue(name, settings, self._now)
        return queue

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
        _, url, rest = address.partition("://")
        path = (rest.partition("/")[2] if url else address).strip("/").lower()
        base, _, last = path.rpartition("/")
        if last == DEAD_LETTER.lower():
            queue = self.queues.get(base)
            return queue.dead if queue is not None else None
        return self.queues.get(path)

    def message_bytes(self, queue: Queue) -> int:
        """The largest message that a queue takes."""
        return queue.settings.max_message_bytes or self.tier.message_bytes

    def accept(self, queue: Queue, payload: bytes, form: int) -> bytes:
        """Add the message, or the messages of a batch, all or none; the encoded outcome. `AmqpError`: the bytes are no message."""
        messages = [incoming(payload)] if form != BATCH else batch(payload)
        if not self.throttle.take(len(messages)):
            return rejected(*BUSY)
        if sum(message.size for message in messages) > queue.room:
            return rejected("amqp:resource-limit-exceeded", f"The maximum size of '{queue.name}' has been reached.")
        for message in messages:
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
        for queue in self.queues.values():
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
