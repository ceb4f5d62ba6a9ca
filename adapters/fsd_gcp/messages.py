"""Pub/Sub: one topic and one subscription for each rank of a slot. A publish is one Publish, a receive one Pull, an ack one Acknowledge.

With ``[gcp] receive = "stream"``, the first receive that waits opens a StreamingPull, which stays open until the driver closes. A receive
then returns messages that Pub/Sub sent over it, and makes no request. benchmarks/pubsub_pull.py compares pulls and streams.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from google.pubsub_v1 import types

from fsd_core.driver import Code, Delivery, Message, Rejected, Resources
from fsd_core.providers.checks import check_ack, check_publish, check_receive
from fsd_gcp import limits
from fsd_gcp.errors import Answered, classify
from fsd_gcp.names import Names
from fsd_gcp.pubsub import Pubsub, Stream

__all__ = ["GcpMessages"]

_PUBLISH_S, _ANSWER_S = 60.0, 15.0  # time limits for an answer, to a publish of 10 MB and to a short request
_EARLY_S = 1.0  # Google's emulator answers 0.94 s before the deadline


class GcpMessages:
    """Implements `fsd_core.driver.MessageDriver` for one slot."""

    service = "Pub/Sub"

    def __init__(self, resources: Resources, slot: int) -> None:
        self._streaming = resources.names.get("receive") == "stream"
        self.limits = limits.messages(float(resources.names["lease_s"]), streams=self._streaming)
        self._names, self._slot = Names.of(resources), slot
        self._pubsub = Pubsub()
        self._streams: dict[int, Stream] = {}
        self._opening = threading.Lock()

    def route(self, rank: int) -> int:
        """The rank itself: each rank has its own topic."""
        return rank

    def publish(self, messages: Sequence[Message]) -> Sequence[Rejected]:
        """Send all messages or none: Pub/Sub refuses no single message. Raises `Refused` over a limit, before any request."""
        check_publish(self.limits, messages, self.route)
        topic = self._names.topic(self._slot, messages[0].rank)
        request = types.PublishRequest.pb()(topic=topic, messages=[{"data": message.body} for message in messages])
        self._pubsub.ask(self._pubsub.publisher.publish, request, "topic", _PUBLISH_S)
        return ()

    def connect(self, rank: int) -> bool:
        """Open the connection, which all calls share."""
        self._pubsub.connect(_ANSWER_S)
        return True

    def receive(self, rank: int, limit: int, wait_s: float) -> Sequence[Delivery]:
        """Return up to ``limit`` messages; with ``wait_s`` 0 only those that have already arrived.

        A Pull carries its deadline, and Pub/Sub answers 1 s before the deadline at the latest. Otherwise it could deliver messages to a
        receiver that no longer waits, and these would be delivered again only after their leases. So the deadline is ``wait_s`` and 1 s
        more. If it passes without an answer, there was no message.
        """
        check_receive(self.limits, limit, wait_s)
        subscription = self._names.subscription(self._slot, rank)
        if self._streaming and wait_s:
            return self._stream(rank, subscription).take(limit, wait_s)
        if (stream := self._streams.get(rank)) and not stream.over and (found := stream.take(limit, 0.0)):
            return found
        request = types.PullRequest.pb()(subscription=subscription, return_immediately=wait_s == 0, max_messages=limit)
        try:
            answer = self._pubsub.ask(self._pubsub.subscriber.pull, request, "subscription", wait_s + _EARLY_S if wait_s else _ANSWER_S)
        except Answered as error:
            if wait_s and error.word == "DEADLINE_EXCEEDED":
                return ()
            raise
        return [Delivery(each.ack_id, each.message.data) for each in types.PullResponse.pb(answer).received_messages]

    def _stream(self, rank: int, subscription: str) -> Stream:
        with self._opening:
            if rank not in self._streams or self._streams[rank].over:
                self._streams[rank] = Stream(self._pubsub, subscription, self.limits)
            return self._streams[rank]

    def ack(self, rank: int, tokens: Sequence[object]) -> Sequence[Rejected]:
        """Remove deliveries. A message that is gone, or was delivered again, is not reported as refused."""
        check_ack(self.limits, tokens)
        request = types.AcknowledgeRequest.pb()(subscription=self._names.subscription(self._slot, rank), ack_ids=tokens)
        self._pubsub.ask(self._pubsub.subscriber.acknowledge, request, "subscription", _ANSWER_S)
        return ()

    def classify(self, error: BaseException) -> Code:
        """The `Code` of an error of this driver: see `fsd_gcp.errors.classify`."""
        return classify(error)

    def native(self) -> Any:
        """The gRPC channel, from which ``PublisherGrpcTransport(channel=...)`` of google-cloud-pubsub makes a client."""
        return self._pubsub.channel

    def close(self) -> None:
        """Close the streams and the connection."""
        with self._opening:
            for stream in self._streams.values():
                stream.close()
            self._streams.clear()
            self._pubsub.close()  # while the lock is held: a receive that waits for it cannot open a new stream
