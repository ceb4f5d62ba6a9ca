"""Service Bus: one queue for each rank of a slot. A publish is one transfer of a batch; an ack is one disposition for each message.

A receive makes no request: the service sends messages while the link is open and has credit (32 messages in the Standard tier), and
``receive`` returns those that have arrived. So a receiver that is no longer called may hold up to 32 messages: their locks expire, other
receivers get them, and a late acknowledgement has no effect. Every message sent, received or completed is a billed operation.

Measured with benchmarks/azure_clients.py on this project's emulator of Service Bus and two cores: a link opens in half a second, mostly a
sleep of azure-servicebus; 31 senders and a receiver at once take 1 s (0.15 s of processor time) and close within 0.1 s. At 10 KB a message
takes 1.3 ms from publish to a waiting receiver; a publish costs 0.3 ms of processor time, a received and acknowledged message 0.17 ms. The
import takes 180 to 320 ms.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from fsd_azure import limits
from fsd_azure.clients import service_bus
from fsd_azure.errors import classify
from fsd_azure.links import CLOSE_S, Link, ReceiverLink, SenderLink
from fsd_azure.names import Names
from fsd_core.driver import Code, Delivery, Message, MessageLimits, Refused, Rejected, Resources
from fsd_core.providers.checks import check_ack, check_publish, check_receive

if TYPE_CHECKING:
    from azure.servicebus import ServiceBusClient, ServiceBusReceivedMessage

__all__ = ["AzureMessages"]

L = TypeVar("L", bound=Link)


class AzureMessages:
    """Implements `fsd_core.driver.MessageDriver` for one slot. A link opens with the first call that uses it, and stays open."""

    service = "Service Bus"
    limits: MessageLimits

    def __init__(self, resources: Resources, slot: int) -> None:
        names = resources.names
        self._names, self._slot = Names.of(resources), slot
        hosts = self._names.namespaces
        self.limits = limits.messages(names["tier"], float(names["lease_s"]), int(names.get("message_kb", "0")))
        self._clients: Sequence[ServiceBusClient] = tuple(service_bus(hosts, number) for number in range(len(hosts)))
        self._changing = threading.Lock()
        self._closed = False
        self._senders: dict[int, SenderLink] = {}
        self._receivers: dict[int, ReceiverLink] = {}

    def route(self, rank: int) -> int:
        """The rank itself: each rank has its own queue."""
        return rank

    def publish(self, messages: Sequence[Message]) -> Sequence[Rejected]:
        """Send all messages or none: Service Bus refuses no single message. Raises `Refused` over a limit, before any request."""
        check_publish(self.limits, messages, self.route)
        self._sender(messages[0].rank).send([message.body for message in messages])
        return ()

    def connect(self, rank: int) -> bool:
        """Open the link to the queue of ``rank``. Service Bus bills messages, not links."""
        self._sender(rank).open()
        return True

    def receive(self, rank: int, limit: int, wait_s: float) -> Sequence[Delivery]:
        """Return up to ``limit`` messages; with ``wait_s`` 0 only those that have already arrived. The first call also opens the link."""
        check_receive(self.limits, limit, wait_s)
        receiver = self._receiver(rank)
        return [Delivery(message, _body(message)) for message in receiver.take(limit, wait_s)]

    def ack(self, rank: int, tokens: Sequence[object]) -> Sequence[Rejected]:
        """Remove deliveries. A message that is gone, or was delivered again, is not reported as refused."""
        from azure.servicebus import ServiceBusReceivedMessage

        check_ack(self.limits, tokens)
        if not all(isinstance(token, ServiceBusReceivedMessage) for token in tokens):
            raise Refused(Code.INVALID, f"ack of {next(type(t).__name__ for t in tokens)}: expected the token of a delivery")
        self._receiver(rank).complete(tokens)
        return ()

    def _sender(self, rank: int) -> SenderLink:
        return self._link(self._senders, rank, lambda client, name: SenderLink(client, name, self.limits.batch_bytes))

    def _receiver(self, rank: int) -> ReceiverLink:
        return self._link(self._receivers, rank, lambda client, name: ReceiverLink(client, name, self.limits.receive_messages))

    def _link(self, links: dict[int, L], rank: int, make: Callable[[ServiceBusClient, str], L]) -> L:
        with self._changing:
            if self._closed:  # a call after `close` must not open a receiver, which would take messages of the next run
                raise ConnectionError("the driver is closed")
            if rank not in links or links[rank].stuck:
                links[rank] = make(self._clients[self._names.shard(rank)], self._names.queue(self._slot, rank))
            return links[rank]

    def classify(self, error: BaseException) -> Code:
        """The `Code` of an error of this driver: see `fsd_azure.errors.classify`."""
        return classify(error)

    def native(self) -> Sequence[ServiceBusClient]:
        """The SDK's client of each namespace."""
        return self._clients

    def close(self) -> None:
        """Close all links at the same time. A stuck link ends with the process."""
        with self._changing:
            self._closed = True
            links: list[Link] = [*self._senders.values(), *self._receivers.values()]
            self._senders, self._receivers = {}, {}
        for link in links:
            link.close()
        until = time.monotonic() + CLOSE_S
        for link in links:
            link.join(max(0.0, until - time.monotonic()))


def _body(message: ServiceBusReceivedMessage) -> bytes:
    body = message.body if message.body_type.value == "data" else (b"no data",)  # another program's message: core drops it
    return body if isinstance(body, bytes) else b"".join(body)
