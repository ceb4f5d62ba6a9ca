"""Pub/Sub: publish is one Publish, receive one Pull, ack one Acknowledge. One topic and one subscription a rank and slot.

Why pulls and not a stream (StreamingPull), measured by benchmarks/pubsub_pull.py on the emulator, which takes 30 ms by itself,
two cores, four turns each: from publish to receive of 1 KB a pull's median was 31.2 to 33.0 ms, a stream's 30.0 to 30.1 ms; p99 36
to 41 and 34 to 74 ms. Of 30 messages of 10 KB until the last was there, 32.2 to 34.6 and 30.0 to 30.2 ms; p99 71 to 156 and 56
to 91 ms. CPU time is the same. For those 2 ms a stream would be no request with an answer: it takes messages that nobody asked
for, and keeps them until their leases end when its worker dies. What the cloud itself takes was not measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.pubsub_v1 import types

from fsd_core.driver import Code, Delivery, Message, MessageLimits, Rejected, Resources
from fsd_core.providers.checks import check_ack, check_publish, check_receive
from fsd_gcp import limits
from fsd_gcp.errors import Answered, classify
from fsd_gcp.names import Names
from fsd_gcp.pubsub import Pubsub

__all__ = ["GcpMessages"]

_PublishRequest, _PubsubMessage = types.PublishRequest.pb(), types.PubsubMessage.pb()
_PullRequest, _AcknowledgeRequest = types.PullRequest.pb(), types.AcknowledgeRequest.pb()
_PUBLISH_S, _ANSWER_S = 60.0, 15.0  # until an answer, of 10 MB and of a few bytes
_EARLY_S = 1.0  # the emulator answers 0.94 s before the deadline


class GcpMessages:
    """Implements `fsd_core.driver.MessageDriver` for one slot."""

    service = "Pub/Sub"
    limits: MessageLimits

    def __init__(self, resources: Resources, slot: int) -> None:
        self.limits = limits.messages(float(resources.names["lease_s"]))
        self._names, self._slot = Names.of(resources), slot
        self._pubsub = Pubsub()

    def route(self, rank: int) -> int:
        """The rank: it has a topic of its own."""
        return rank

    def publish(self, messages: Sequence[Message]) -> Sequence[Rejected]:
        """All or nothing: Pub/Sub refuses no single message. What is over a limit is refused here, before the network."""
        check_publish(self.limits, messages, self.route)
        topic = self._names.topic(self._slot, messages[0].rank)
        request = _PublishRequest(topic=topic, messages=[_PubsubMessage(data=message.body) for message in messages])
        self._pubsub.ask(self._pubsub.publisher.publish, request, "topic", _PUBLISH_S)
        return ()

    def receive(self, rank: int, limit: int, wait_s: float) -> Sequence[Delivery]:
        """Up to ``limit`` messages. A wait of 0 asks what is there now.

        Pub/Sub sees a request's deadline and answers a second before it, where it waits that long at all: so it does not hand
        out what nobody waits for any more, and what would come again after its lease only. Hence a deadline of ``wait_s`` and a
        second; and should it pass, nothing was there.
        """
        check_receive(self.limits, limit, wait_s)
        subscription = self._names.subscription(self._slot, rank)
        request = _PullRequest(subscription=subscription, return_immediately=wait_s == 0, max_messages=limit)
        try:
            answer = self._pubsub.ask(self._pubsub.subscriber.pull, request, "subscription", wait_s + _EARLY_S if wait_s else _ANSWER_S)
        except Answered as error:
            if wait_s and error.word == "DEADLINE_EXCEEDED":
                return ()
            raise
        return [Delivery(each.ack_id, each.message.data) for each in types.PullResponse.pb(answer).received_messages]

    def ack(self, rank: int, tokens: Sequence[object]) -> Sequence[Rejected]:
        """Remove deliveries for good. One that is gone, or was delivered again, is no refusal."""
        check_ack(self.limits, tokens)
        request = _AcknowledgeRequest(subscription=self._names.subscription(self._slot, rank), ack_ids=tokens)
        self._pubsub.ask(self._pubsub.subscriber.acknowledge, request, "subscription", _ANSWER_S)
        return ()

    def classify(self, error: BaseException) -> Code:
        """See `fsd_gcp.errors.classify`."""
        return classify(error)

    def native(self) -> Any:
        """The channel; ``PublisherGrpcTransport(channel=...)`` of google-cloud-pubsub takes it."""
        return self._pubsub.channel

    def close(self) -> None:
        """Close the connection."""
        self._pubsub.close()
