"""Topics as Service Bus has them, without a protocol: each message goes to every subscription that has a filter for it, or none.

A subscription is a queue, and all that got a message share its bytes. Correlation filters alone are here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from fsd_conformance.emulators.service_bus.message import Incoming, properties
from fsd_conformance.emulators.service_bus.store import Queue, QueueSettings

__all__ = ["FIELDS", "SUBSCRIPTIONS", "Correlation", "SubscriptionSettings", "Topic", "TopicSettings"]

SUBSCRIPTIONS = "Subscriptions"
# What a filter may ask for: where it is among a message's properties. Source: OASIS, AMQP 1.0, part 3, section 3.2.4.
FIELDS: Mapping[str, int] = {
    "MessageId": 0,
    "To": 2,
    "Label": 3,
    "Subject": 3,
    "ReplyTo": 4,
    "CorrelationId": 5,
    "ContentType": 6,
    "SessionId": 10,
    "ReplyToSessionId": 12,
}


@dataclass(frozen=True, slots=True)
class Correlation:
    """A filter: what must be equal, ``fields`` by their place in the message's properties and ``application`` properties by name."""

    fields: Mapping[int, str]
    application: Mapping[str, object]

    def matches(self, fields: Sequence[object], application: Mapping[object, object]) -> bool:
        """Whether a message of these properties is let through."""
        return all(at < len(fields) and _text(fields[at]) == text for at, text in self.fields.items()) and all(
            name in application and _same(application[name], value) for name, value in self.application.items()
        )


@dataclass(frozen=True, slots=True)
class SubscriptionSettings:
    """``filters``: any of them lets a message through, `None` lets all; ``left_out``: why there is no such subscription, or nothing."""

    queue: QueueSettings
    filters: tuple[Correlation, ...] | None = None
    left_out: str = ""


@dataclass(frozen=True, slots=True)
class TopicSettings:
    """What a topic is made with."""

    subscriptions: Mapping[str, SubscriptionSettings]


class Topic:
    """One topic. ``subscriptions``: those that are there, by name in lower case."""

    def __init__(self, name: str, settings: TopicSettings, clock: Callable[[], int]) -> None:
        self.name = name
        self.subscriptions: dict[str, Queue] = {}
        self._filters: dict[Queue, tuple[Correlation, ...] | None] = {}
        for own, each in settings.subscriptions.items():
            if not each.left_out:
                queue = self.subscriptions[own.lower()] = Queue(f"{name}/{SUBSCRIPTIONS}/{own}", each.queue, clock)
                self._filters[queue] = each.filters
        self.evaluations = sum(len(filters or ()) for filters in self._filters.values())

    def route(self, messages: Iterable[Incoming]) -> dict[Queue, list[Incoming]]:
        """Who gets which messages. `AmqpError`: there are filters, and a message's properties cannot be read."""
        shares: dict[Queue, list[Incoming]] = {queue: [] for queue in self._filters}
        for message in messages:
            fields, application = properties(message.body) if self.evaluations else ([], {})
            for queue, filters in self._filters.items():
                if filters is None or any(each.matches(fields, application) for each in filters):
                    shares[queue].append(message)
        return shares


def _text(value: object) -> str | None:
    """What a filter compares with its text: a message's number may be a UUID or a number."""
    return value if isinstance(value, str) else str(value) if isinstance(value, UUID | int) else None


def _same(one: object, other: object) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)
