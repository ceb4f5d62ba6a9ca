"""The rules of Service Bus's queues, independent of AMQP: locks that expire, redelivery, dead letters, deferral, scheduling.

No code here waits or uses a connection. ``clock`` returns the time in ms since 1970; `Queue.advance` carries out all work whose time has
come. A message keeps its sequence number, and messages are delivered in the order of these numbers, also after a failure.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import IntEnum

from fsd_conformance.emulators.service_bus.codec import AmqpError
from fsd_conformance.emulators.service_bus.message import Incoming, with_properties

__all__ = ["LockLostError", "Message", "NoDeadLetterError", "Queue", "QueueFullError", "QueueSettings", "State", "UnknownMessageError"]

_EACH_BYTES = 512  # overhead of a message in the size of its queue
_SWEEP_MS = 1000  # ms between two searches for expired messages
DEAD_LETTER = "$DeadLetterQueue"


class LockLostError(Exception):
    """The lock expired, or the message was settled before."""


class QueueFullError(Exception):
    """The queue has no room for the message."""


class UnknownMessageError(Exception):
    """No message with this sequence number is in the expected state."""


class NoDeadLetterError(Exception):
    """A dead letter cannot be dead-lettered."""


class State(IntEnum):
    """The state of a message, with the numbers of the annotation x-opt-message-state. A locked message is active."""

    ACTIVE = 0
    DEFERRED = 1
    SCHEDULED = 2


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """The settings of a queue, with the service's defaults. ``ttl_ms``: None for no expiry."""

    lock_ms: int = 60_000
    ttl_ms: int | None = None
    max_deliveries: int = 10
    dead_letter_expired: bool = False
    max_bytes: int = 1024 << 20
    max_message_bytes: int | None = None  # None: the tier's limit
    user_metadata: str | None = None


class Message:
    """One message of a queue. Times in ms since 1970. ``token``: 16 bytes of its lock, b"" without a lock."""

    __slots__ = ("deliveries", "enqueued", "expires", "incoming", "sequence", "state", "token", "until")

    def __init__(self, sequence: int, incoming: Incoming, enqueued: int, expires: int | None, state: State) -> None:
        self.sequence = sequence
        self.incoming = incoming
        self.enqueued = enqueued
        self.expires = expires
        self.state = state
        self.deliveries = 0
        self.token = b""
        self.until = 0


class Queue:
    """One queue. Its dead letters are in the queue ``dead``, which is None for a dead-letter queue."""

    def __init__(self, name: str, settings: QueueSettings, clock: Callable[[], int], *, dead_letters: bool = False) -> None:
        self.name = name
        self.settings = settings
        self.created = self.updated = clock()
        self.bytes = 0
        self.dead = None if dead_letters else Queue(f"{name}/{DEAD_LETTER}", replace(settings, ttl_ms=None), clock, dead_letters=True)
        self._clock = clock
        self._next = 1
        self._messages: dict[int, Message] = {}  # by sequence number, ascending
        self._ready: list[int] = []  # a heap; numbers of removed messages are skipped
        self._locks: dict[bytes, Message] = {}  # in the order of expiry, while all have the same duration
        self._equal = True
        self._scheduled: list[tuple[int, int]] = []  # a heap of times and sequence numbers, also of cancelled messages
        self._cancelled = 0  # the number of cancelled ones in it
        self._mortal = False  # whether a message may expire
        self._sweep = 0

    @property
    def room(self) -> int:
        """The free bytes of the queue, dead letters included. A dead-letter queue always has room."""
        return self.settings.max_bytes - self._taken() - self.dead._taken() if self.dead is not None else 1 << 62

    def fits(self, messages: Sequence[Incoming]) -> bool:
        """Whether the queue has room for all messages; always true without messages."""
        return not messages or sum(message.size for message in messages) + _EACH_BYTES * len(messages) <= self.room

    def ready(self) -> bool:
        """Whether `take` would return a message."""
        while self._ready:
            message = self._messages.get(self._ready[0])
            if message is not None and (message.expires is None or message.expires > self._clock()):
                return True
            heapq.heappop(self._ready)
            if message is not None:
                self._expire(message)
        return False

    def put(self, incoming: Incoming) -> int:
        """Add a message and return its sequence number. Raises `QueueFullError`."""
        if incoming.size + _EACH_BYTES > self.room:
            raise QueueFullError(f"{self.name} has room for {self.room} of {self.settings.max_bytes} bytes")
        now = self._clock()
        lives = [ttl for ttl in (incoming.ttl, self.settings.ttl_ms) if ttl is not None]
        later = incoming.scheduled > now
        start = incoming.scheduled if later else now
        sequence = self._next
        message = Message(sequence, incoming, start, start + min(lives) if lives else None, State.SCHEDULED if later else State.ACTIVE)
        self._next += 1
        self._messages[sequence] = message
        self.bytes += incoming.size
        self._mortal = self._mortal or bool(lives)
        if later:
            heapq.heappush(self._scheduled, (incoming.scheduled, sequence))
        else:
            heapq.heappush(self._ready, sequence)
        return sequence

    def take(self, *, lock: bool) -> Message | None:
        """Lock or remove the next message and return it; None where none is ready."""
        if not self.ready():
            return None
        message = self._messages[heapq.heappop(self._ready)]
        if lock:
            self._lock(message, self._clock())
        else:
            self._remove(message)
        return message

    def renew(self, token: bytes) -> int:
        """Extend a lock and return its new end in ms since 1970. Raises `LockLostError`."""
        message = self._held(token)
        del self._locks[token]  # moves the lock to the end of the order
        self._lock(message, self._clock(), token)
        return message.until

    def complete(self, token: bytes) -> None:
        """Remove a locked message. Raises `LockLostError`."""
        self._remove(self._held(token))

    def release(self, token: bytes, *, failed: bool) -> None:
        """Unlock a message. ``failed``: count this delivery as a failed one. Raises `LockLostError`."""
        self._back(self._held(token), failed)

    def defer(self, token: bytes) -> None:
        """Defer a locked message: only `take_deferred` returns it. Raises `LockLostError`."""
        message = self._held(token)
        self._unlock(message)
        message.state = State.DEFERRED

    def dead_letter(self, token: bytes, reason: str | None, description: str | None) -> None:
        """Move a locked message to the dead letters. Raises `LockLostError`, `NoDeadLetterError`."""
        if self.dead is None:
            raise NoDeadLetterError(f"{self.name} has no dead letters")
        self._bury(self._held(token), reason, description)

    def peek(self, first: int, count: int) -> Iterator[Message]:
        """Up to ``count`` messages from sequence number ``first``, without a change of their state."""
        now = self._clock()
        for sequence, message in self._messages.items():
            if count <= 0:
                return
            if sequence >= first and (message.token or message.expires is None or message.expires > now):
                count -= 1
                yield message

    def take_deferred(self, sequences: Iterable[int], *, lock: bool) -> list[Message]:
        """Lock or remove all or none of the deferred messages with these numbers. Raises `UnknownMessageError`."""
        found = []
        for sequence in sequences:
            message = self._messages.get(sequence)
            if message is None or message.state != State.DEFERRED or message.token or message in found:
                raise UnknownMessageError(f"{self.name} has no deferred message {sequence}")
            found.append(message)
        now = self._clock()
        for message in found:
            if lock:
                self._lock(message, now)
            else:
                self._remove(message)
        return found

    def cancel(self, sequences: Iterable[int]) -> None:
        """Remove all or none of the scheduled messages. Raises `UnknownMessageError`."""
        found = [(sequence, self._messages.get(sequence)) for sequence in sequences]
        for sequence, message in found:
            if message is None or message.state != State.SCHEDULED:
                raise UnknownMessageError(f"{self.name} has no scheduled message {sequence}")
        for message in {id(message): message for _, message in found if message}.values():
            self._remove(message)
            self._cancelled += 1
        if 2 * self._cancelled > len(self._scheduled):
            self._scheduled = [entry for entry in self._scheduled if entry[1] in self._messages]
            heapq.heapify(self._scheduled)
            self._cancelled = 0

    def change(self, settings: QueueSettings) -> None:
        """Change the settings, for later locks and messages."""
        self._equal = self._equal and settings.lock_ms == self.settings.lock_ms
        self.settings = settings
        self.updated = self._clock()
        if self.dead is not None:
            self.dead.change(replace(settings, ttl_ms=None))

    def advance(self) -> None:
        """Carry out all work whose time has come: expire locks, activate scheduled messages, expire messages."""
        if self.dead is not None:
            self.dead.advance()
        if not (self._locks or self._scheduled or self._mortal):
            return
        now = self._clock()
        overdue = []
        for message in self._locks.values():
            if message.until <= now:
                overdue.append(message)
            elif self._equal:
                break
        for message in overdue:
            self._back(message, failed=True)
        while self._scheduled and self._scheduled[0][0] <= now:
            waiting = self._messages.get(heapq.heappop(self._scheduled)[1])
            if waiting is None:
                self._cancelled -= 1
            else:
                waiting.state = State.ACTIVE
                heapq.heappush(self._ready, waiting.sequence)
        if self._mortal and now >= self._sweep:
            self._sweep = now + _SWEEP_MS
            mortal = [message for message in self._messages.values() if message.expires is not None]
            self._mortal = bool(mortal)
            for message in mortal:
                if message.expires is not None and message.expires <= now and not message.token and message.state != State.SCHEDULED:
                    self._expire(message)
            if len(self._ready) > 2 * len(self._messages):  # without receivers the heap keeps numbers of removed messages
                self._ready = sorted(number for number in self._ready if number in self._messages)

    def counts(self) -> dict[State, int]:
        """The number of messages in each state, without dead letters."""
        found = dict.fromkeys(State, 0)
        for message in self._messages.values():
            found[message.state] += 1
        return found

    def _taken(self) -> int:
        return self.bytes + _EACH_BYTES * len(self._messages)

    def _lock(self, message: Message, now: int, token: bytes = b"") -> None:
        message.token = token or os.urandom(16)
        message.until = now + self.settings.lock_ms
        self._locks[message.token] = message

    def _held(self, token: bytes) -> Message:
        message = self._locks.get(token)
        if message is not None and message.until <= self._clock():
            self._back(message, failed=True)
            message = None
        if message is None:
            raise LockLostError(f"{self.name}: the lock expired, or never existed")
        return message

    def _unlock(self, message: Message) -> None:
        if message.token:
            del self._locks[message.token]
            message.token = b""

    def _back(self, message: Message, failed: bool) -> None:
        deliveries = message.deliveries + failed
        if failed and self.dead is not None and deliveries >= self.settings.max_deliveries:
            self._bury(message, "MaxDeliveryCountExceeded", f"Message could not be consumed after {deliveries} delivery attempts.")
            return
        message.deliveries = deliveries
        self._unlock(message)
        if message.state == State.ACTIVE:
            heapq.heappush(self._ready, message.sequence)

    def _expire(self, message: Message) -> None:
        if self.settings.dead_letter_expired and self.dead is not None:
            self._bury(message, "TTLExpiredException", "The message expired and was dead lettered.")
        else:
            self._remove(message)

    def _bury(self, message: Message, reason: str | None, description: str | None) -> None:
        assert self.dead is not None
        reasons = {name: text for name, text in (("DeadLetterReason", reason), ("DeadLetterErrorDescription", description)) if text}
        body = message.incoming.body
        with suppress(AmqpError):  # unreadable properties stay unchanged
            body = with_properties(body, reasons) if reasons else body
        letter = replace(message.incoming, body=body, ttl=None, scheduled=0)
        self._remove(message)  # only after its replacement exists
        self.dead.put(letter)

    def _remove(self, message: Message) -> None:
        self._unlock(message)
        del self._messages[message.sequence]
        self.bytes -= message.incoming.size
