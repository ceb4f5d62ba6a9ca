"""Service Bus: one queue a rank and slot. A publish is one transfer of a batch, an ack one disposition a message.

A receive makes no request: while its link is open, the service sends what there is as long as it has credit, 32 messages of the
Standard tier, and a receive takes what came. So a receiver that stays away may hold as many messages; their locks run out,
others get them, and a late acknowledgement of them is harmless. Every message sent, received and completed is an operation.

A link takes half a second to open, asleep in azure-servicebus for the most part: 31 senders and a receiver at once 1 s, 0.15 s of
the processor; all are closed within 0.1 s. From publish to a waiting receiver 1.3 ms, processor 0.3 ms a publish and 0.17 ms for
each message received and acknowledged, at 10 KB. Import 180 to 320 ms (benchmarks/azure_clients.py, the stand-in, two cores).
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
    """Implements `fsd_core.driver.MessageDriver` for one slot. Links are opened when they are needed, and stay open."""

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
        """The rank: it has a queue of its own."""
        return rank

    def publish(self, messages: Sequence[Message]) -> Sequence[Rejected]:
        """All or nothing: Service Bus refuses no single message. What is over a limit is refused here, before the network."""
        check_publish(self.limits, messages, self.route)
        sender = self._link(self._senders, messages[0].rank, lambda client, name: SenderLink(client, name, self.limits.batch_bytes))
        sender.send([message.body for message in messages])
        return ()

    def receive(self, rank: int, limit: int, wait_s: float) -> Sequence[Delivery]:
        """Up to ``limit`` messages of those that came; a wait of 0 looks at these only. The first receive opens the link, however long
        that takes."""
        check_receive(self.limits, limit, wait_s)
        receiver = self._receiver(rank)
        return [Delivery(message, _body(message)) for message in receiver.take(limit, wait_s)]

    def ack(self, rank: int, tokens: Sequence[object]) -> Sequence[Rejected]:
        """Remove deliveries for good. One that is gone, or was delivered again, is no refusal."""
        from azure.servicebus import ServiceBusReceivedMessage

        check_ack(self.limits, tokens)
        if not all(isinstance(token, ServiceBusReceivedMessage) for token in tokens):
            raise Refused(Code.INVALID, f"ack of {next(type(t).__name__ for t in tokens)}: must be the token of a delivery")
        self._receiver(rank).complete(tokens)
        return ()

    def _receiver(self, rank: int) -> ReceiverLink:
        return self._link(self._receivers, rank, lambda client, name: ReceiverLink(client, name, self.limits.receive_messages))

    def _link(self, links: dict[int, L], rank: int, make: Callable[[ServiceBusClient, str], L]) -> L:
        with self._changing:
            if self._closed:  # whoever is late must not leave a receiver that takes what the next run is sent
                raise ConnectionError("the driver is closed")
            if rank not in links or links[rank].stuck:
                links[rank] = make(self._clients[self._names.shard(rank)], self._names.queue(self._slot, rank))
            return links[rank]

    def classify(self, error: BaseException) -> Code:
        """See `fsd_azure.errors.classify`."""
        return classify(error)

    def native(self) -> Sequence[ServiceBusClient]:
        """The namespaces' clients."""
        return self._clients

    def close(self) -> None:
        """Close the links, all at once. One that is stuck is left to the end of the process."""
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
    body = message.body if message.body_type.value == "data" else (b"no data",)  # then it is not ours: core drops it
    return body if isinstance(body, bytes) else b"".join(body)
