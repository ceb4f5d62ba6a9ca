"""The wrappers are drivers too: the same cases, with a wrapper around the provider's driver."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Literal

import pytest

from fsd_conformance.messages import DeliveryCases, MessageCases
from fsd_conformance.objects import ConsistencyCases, ObjectCases
from fsd_core.driver import Delivery, Message, MessageDriver, ObjectDriver, Page, Rejected
from fsd_core.latency import Latency
from fsd_core.storage.meter import FIELDS, Meter
from fsd_core.storage.retry import Retry
from fsd_core.wrappers.around import AroundMessages, AroundObjects
from fsd_core.wrappers.faults import Faults, FaultyMessages, FaultyObjects
from fsd_core.wrappers.latency import DelayedMessages, DelayedObjects, Delays
from fsd_core.wrappers.metered import MeteredMessages, MeteredObjects
from fsd_core.wrappers.prefixed import PrefixedObjects

__all__ = [
    "DelayedMessageCases",
    "DelayedObjectCases",
    "FaultyMessageCases",
    "FaultyObjectCases",
    "MeteredMessageCases",
    "MeteredObjectCases",
    "PrefixedObjectCases",
]

FAULTS = Faults.parse("duplicate=.2,reorder=.3,delay=20ms,reject=.2,throttle=.1,lost_reply=.1,seed=1")
LATENCY = "aws,seed=1,scale=0.05"


class FaultyMessageCases(DeliveryCases):
    """Queues that duplicate, reorder, delay, reject and lose replies."""

    @pytest.fixture(autouse=True)
    def _salts(self) -> None:
        self.salts = itertools.count()

    def wrap(self, driver: MessageDriver) -> MessageDriver:
        """Wrap the driver with faults. Replies are lost only if the lease is short, since their messages are delivered again after it."""
        short = driver.limits.lease_s <= self.harness.max_lease_s
        faults = FAULTS if short else Faults.parse(FAULTS.spec().replace("lost_reply=0.1,", ""))
        return FaultyMessages(driver, faults, next(self.salts))


class FaultyObjectCases(ConsistencyCases):
    """An object store that throttles, rejects and loses replies."""

    @pytest.fixture(autouse=True)
    def _salts(self) -> None:
        self.salts = itertools.count()

    def wrap(self, driver: ObjectDriver) -> ObjectDriver:
        """Wrap the driver with faults."""
        return FaultyObjects(driver, FAULTS, next(self.salts))


class _DelayedCases:
    """Each driver has the draws of another rank."""

    @pytest.fixture(autouse=True)
    def _ranks(self) -> None:
        self.ranks = itertools.count()

    def delays(self) -> Delays:
        """The latencies of one more function, whose waits nothing ends."""
        return Delays(Latency.parse(LATENCY), next(self.ranks), 0, Retry(math.inf, Meter()))


class DelayedMessageCases(_DelayedCases, MessageCases):
    """Queues that are as slow as a table of latencies says."""

    def wrap(self, driver: MessageDriver) -> MessageDriver:
        """Wrap the driver with latencies."""
        return DelayedMessages(driver, self.delays())


class DelayedObjectCases(_DelayedCases, ObjectCases):
    """An object store that is as slow as a table of latencies says."""

    def wrap(self, driver: ObjectDriver) -> ObjectDriver:
        """Wrap the driver with latencies."""
        return DelayedObjects(driver, self.delays())


class PrefixedObjectCases(ObjectCases):
    """An object store below a prefix of another."""

    prefix = "inside/here/"
    key_chars = ObjectCases.key_chars - len(prefix)

    def wrap(self, driver: ObjectDriver) -> ObjectDriver:
        """Wrap the driver with a prefix for all keys."""
        return PrefixedObjects(driver, self.prefix)


class MeteredMessageCases(MessageCases):
    """Runs every case with a meter; after each case the meter must agree with the requests that the driver got."""

    @pytest.fixture(autouse=True)
    def _meter_agrees(self) -> Iterator[None]:
        self.meter, self.spies = Meter(), list[_SpyMessages]()
        yield
        expected = _add(*(spy.expected() for spy in self.spies))
        assert self.meter.snapshot() == expected

    def wrap(self, driver: MessageDriver) -> MessageDriver:
        """Wrap the driver in a spy that records its requests, and the spy in a meter."""
        self.spies.append(_SpyMessages(driver))
        return MeteredMessages(self.spies[-1], self.meter)


class MeteredObjectCases(ObjectCases):
    """Runs every case with a meter; after each case the meter must agree with the requests that the driver got."""

    @pytest.fixture(autouse=True)
    def _meter_agrees(self) -> Iterator[None]:
        self.meter, self.spies = Meter(), list[_SpyObjects]()
        yield
        expected = _add(*(spy.expected() for spy in self.spies))
        assert self.meter.snapshot() == expected

    def wrap(self, driver: ObjectDriver) -> ObjectDriver:
        """Wrap the driver in a spy that records its requests, and the spy in a meter."""
        self.spies.append(_SpyObjects(driver))
        return MeteredObjects(self.spies[-1], self.meter)


class _SpyMessages(AroundMessages):
    """Records the sizes of bodies, one list for each request. Appending to a list is thread-safe."""

    def __init__(self, driver: MessageDriver) -> None:
        super().__init__(driver)
        self.published: list[list[int]] = []
        self.received: list[list[int]] = []
        self.acks: list[int] = []

    def publish(self, messages: Sequence[Message]) -> Sequence[Rejected]:
        self.published.append([len(message.body) for message in messages])
        return super().publish(messages)

    def receive(self, rank: int, limit: int, wait_s: float) -> Sequence[Delivery]:
        sizes: list[int] = []
        self.received.append(sizes)
        deliveries = super().receive(rank, limit, wait_s)
        sizes.extend(len(delivery.body) for delivery in deliveries)
        return deliveries

    def ack(self, rank: int, tokens: Sequence[object]) -> Sequence[Rejected]:
        self.acks.append(len(tokens))
        return super().ack(rank, tokens)

    def expected(self) -> dict[str, int]:
        overhead, unit = self.limits.overhead_bytes, self.limits.billing_bytes
        sent = [sum(sizes) + overhead * len(sizes) for sizes in self.published]
        came = [sum(sizes) + overhead * len(sizes) for sizes in self.received]

        def each(requests: list[list[int]]) -> int:
            return sum((size + overhead + unit - 1) // unit for sizes in requests for size in sizes)

        units = sum(max(1, (size + unit - 1) // unit) for size in sent)
        return {
            "direct_units": units if self.limits.direct else 0,
            "direct_bytes_sent": sum(sent) if self.limits.direct else 0,
            "message_units_sent": each(self.published),
            "message_units_received": each(self.received),
            "publish_requests": len(self.published),
            "publish_units": units,
            "messages_sent": sum(map(len, self.published)),
            "message_bytes_sent": sum(sent),
            "receive_requests": len(self.received),
            "receive_units": sum(max(1, (size + unit - 1) // unit) for size in came),
            "messages_received": sum(map(len, self.received)),
            "ack_requests": len(self.acks),
        }


class _SpyObjects(AroundObjects):
    """Records each request and the size of its body."""

    def __init__(self, driver: ObjectDriver) -> None:
        super().__init__(driver)
        self.calls: list[tuple[Literal["put", "get", "body", "list"], int]] = []

    def put(self, key: str, body: bytes | bytearray | memoryview, *, if_absent: bool = False) -> None:
        self.calls.append(("put", len(bytes(body))))
        super().put(key, body, if_absent=if_absent)

    def get(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        self.calls.append(("get", 0))
        body = super().get(key, start, end)
        self.calls.append(("body", len(body)))
        return body

    def list(self, prefix: str, page: str | None = None) -> Page:
        self.calls.append(("list", 0))
        return super().list(prefix, page)

    def expected(self) -> dict[str, int]:
        verbs = [verb for verb, _ in self.calls]
        return {
            "object_puts": verbs.count("put"),
            "object_gets": verbs.count("get"),
            "object_lists": verbs.count("list"),
            "object_bytes_written": sum(size for verb, size in self.calls if verb == "put"),
            "object_bytes_read": sum(size for verb, size in self.calls if verb == "body"),
        }


def _add(*counts: dict[str, int]) -> dict[str, int]:
    return {name: sum(each.get(name, 0) for each in counts) for name in FIELDS}
