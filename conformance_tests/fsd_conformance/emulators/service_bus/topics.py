"""The rules of Service Bus's topics, independent of AMQP: a message goes to every subscription that has a matching filter or no filters.

A subscription is a queue; all subscriptions share the bytes of a message. Only correlation filters are supported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from fsd_conformance.emulators.service_bus.message import Incoming, properties
from fsd_conformance.emulators.service_bus.store import Queue, QueueSettings

__all__ = ["FIELDS", "SUBSCRIPTIONS", "Correlation", "SubscriptionSettings", "Topic", "TopicSettings"]

SUBSCRIPTIONS = "Subscriptions"
# The fields of a filter, with their places in a message's properties. Source: OASIS, AMQP 1.0, part 3, section 3.2.4.
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
    """A filter by equality: ``fields`` by their place in the message's properties, ``application`` properties by name."""

    fields: Mapping[int, str]
    application: Mapping[str, object]

    def matches(self, fields: Sequence[object], application: Mapping[object, object]) -> bool:
        """Whether a message with these properties matches."""
        return all(at < len(fields) and _text(fields[at]) == text for at, text in self.fields.items()) and all(
            name in application and _same(application[name], value) for name, value in self.application.items()
        )


@dataclass(frozen=True, slots=True)
class SubscriptionSettings:
    """``filters``: a message must match one of them, None: no filter. ``left_out``: why the emulator does not support the subscription; ""
    if it does.
    """

    queue: QueueSettings
    filters: tuple[Correlation, ...] | None = None
    left_out: str = ""


@dataclass(frozen=True, slots=True)
class TopicSettings:
    """The settings of a new topic."""

    subscriptions: Mapping[str, SubscriptionSettings]


class Topic:
    """One topic. ``subscriptions``: the supported ones, by name in lower case."""

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
        """The messages of each subscription. Raises `AmqpError` where filters need properties that cannot be read."""
        shares: dict[Queue, list[Incoming]] = {queue: [] for queue in self._filters}
        for message in messages:
            fields, application = properties(message.body) if self.evaluations else ([], {})
            for queue, filters in self._filters.items():
                if filters is None or any(each.matches(fields, application) for each in filters):
                    shares[queue].append(message)
        return shares


def _text(value: object) -> str | None:
    """The text of a property, for the comparison: a message id may be a UUID or a number."""
    return value if isinstance(value, str) else str(value) if isinstance(value, UUID | int) else None


def _same(one: object, other: object) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)
