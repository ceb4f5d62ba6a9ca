"""Drivers that count requests, messages and bytes. One call is one request, whether it succeeds, returns nothing or raises.

Before the call, a wrapper counts the request and the bytes that it sends. So every try counts, because services bill every try. After the
call it counts the bytes and messages that the request returned. It does not count deletes, which are free at every provider.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fsd_core.driver import Delivery, Failures, InvokeDriver, Launch, Message, MessageDriver, ObjectDriver, Page, Rejected
from fsd_core.storage.meter import Meter
from fsd_core.wrappers.around import AroundInvoker, AroundMessages, AroundObjects, Begins

__all__ = ["MeteredInvoker", "MeteredMessages", "MeteredObjects"]


class MeteredMessages(AroundMessages):
    """Counts messages, their bytes (bodies and the service's overhead), requests and billing units."""

    def __init__(self, driver: MessageDriver, meter: Meter) -> None:
        super().__init__(driver)
        self._meter = meter
        self._begins = driver if isinstance(driver, Begins) else None  # asked once: the answer takes 15 us

    def publish(self, messages: Sequence[Message]) -> Sequence[Rejected]:
        """See `MessageDriver.publish`."""
        self._count(messages)
        return super().publish(messages)

    def begin(self, messages: Sequence[Message]) -> float | None:
        """See `Begins.begin`. Returns `None` if the wrapped driver does not have this method."""
        until = self._begins.begin(messages) if self._begins is not None else None
        if until is not None:
            self._count(messages)
        return until

    def _count(self, messages: Sequence[Message]) -> None:
        sizes = self._sizes(messages)
        size, units = sum(sizes), self._units(sum(sizes))
        counts = {"publish_requests": 1, "publish_units": units, "messages_sent": len(sizes), "message_bytes_sent": size}
        direct = {"direct_units": units, "direct_bytes_sent": size} if self.limits.direct else {}
        self._meter.add_all(counts | direct | {"message_units_sent": sum(map(self._units, sizes))})

    def receive(self, rank: int, limit: int, wait_s: float) -> Sequence[Delivery]:
        """See `MessageDriver.receive`."""
        deliveries: Sequence[Delivery] = ()
        try:
            deliveries = super().receive(rank, limit, wait_s)
        finally:
            sizes = self._sizes(deliveries)
            counts = {"receive_requests": 1, "receive_units": self._units(sum(sizes)), "messages_received": len(sizes)}
            self._meter.add_all(counts | {"message_units_received": sum(map(self._units, sizes))})
        return deliveries

    def ack(self, rank: int, tokens: Sequence[object]) -> Sequence[Rejected]:
        """See `MessageDriver.ack`."""
        self._meter.add("ack_requests")
        return super().ack(rank, tokens)

    def _sizes(self, entries: Sequence[Message] | Sequence[Delivery]) -> list[int]:
        return [len(entry.body) + self.limits.overhead_bytes for entry in entries]

    def _units(self, size: int) -> int:
        return max(1, -(-size // self.limits.billing_bytes))


class MeteredObjects(AroundObjects):
    """Counts puts, gets, lists, and the bytes of the bodies."""

    def __init__(self, driver: ObjectDriver, meter: Meter) -> None:
        super().__init__(driver)
        self._meter = meter

    def put(self, key: str, body: bytes | bytearray | memoryview, *, if_absent: bool = False) -> None:
        """See `ObjectDriver.put`."""
        self._meter.add_all({"object_puts": 1, "object_bytes_written": memoryview(body).nbytes})
        super().put(key, body, if_absent=if_absent)

    def get(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        """See `ObjectDriver.get`."""
        self._meter.add("object_gets")
        body = super().get(key, start, end)
        self._meter.add("object_bytes_read", len(body))
        return body

    def list(self, prefix: str, page: str | None = None) -> Page:
        """See `ObjectDriver.list`."""
        self._meter.add("object_lists")
        return super().list(prefix, page)


class MeteredInvoker(AroundInvoker):
    """Counts launches, and the requests to a queue of failures."""

    def __init__(self, driver: InvokeDriver, meter: Meter) -> None:
        super().__init__(driver)
        self._meter = meter

    def invoke(self, function: str, payload: bytes) -> Launch:
        """See `InvokeDriver.invoke`."""
        self._meter.add("invocations")
        return super().invoke(function, payload)

    def failures(self, take: Callable[[bytes], bool]) -> Failures:
        """See `InvokeDriver.failures`."""
        first = int(self.limits.failures == "queue")  # counted even if it raises
        self._meter.add_all({"receive_requests": first, "receive_units": first})  # ten failures fit one billing unit
        found = super().failures(take)
        more = found.receives - first
        self._meter.add_all({"receive_requests": more, "receive_units": more, "ack_requests": found.acks})
        return found
