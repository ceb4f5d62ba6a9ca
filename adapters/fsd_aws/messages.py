"""SNS topics and SQS queues, one queue for each rank of a slot.

A publish is one PublishBatch, or without topics one SendMessageBatch to the queue of one rank. A receive is one ReceiveMessage, an ack one
DeleteMessageBatch. Every queue has a raw-delivery subscription to its topic with a filter on the attribute ``target`` (`fsd_aws.names`), so
one publish reaches all ranks of the topic. SNS and SQS bodies are Unicode text: bytes travel in a binary attribute beside a body of one
character, or as base64 text in the body where an emulator does not support binary attributes. ``names["body"]`` is ``binary`` or ``text``.
A message has the same form with topics and without, except that only topics need ``target``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fsd_aws import limits
from fsd_aws.clients import client, connect
from fsd_aws.errors import classify, entry_code
from fsd_aws.names import BODY, TARGET, Names, target
from fsd_core.driver import Code, Delivery, Message, MessageLimits, Rejected, Resources
from fsd_core.providers.checks import check_ack, check_publish, check_receive

__all__ = ["AwsDirectMessages", "AwsMessages"]

_GONE = frozenset({"ReceiptHandleIsInvalid"})  # errors of a delete: the message is gone, or was delivered again


class AwsMessages:
    """Implements `fsd_core.driver.MessageDriver` for one slot."""

    service = "Amazon SNS and SQS"
    limits: MessageLimits

    def __init__(self, resources: Resources, slot: int) -> None:
        names = resources.names
        self._names, self._slot, self._urls = Names.of(resources), slot, names["queue_url_prefix"]
        self._binary = names["body"] == "binary"
        self._lease_s = math.ceil(float(names["lease_s"]))
        self.limits = limits.messages("binary" if self._binary else "text", self._names.message_kb, float(self._lease_s))
        self._sns = client("sns", names["region"], read_s=15.0)
        self._sqs = client("sqs", names["region"], read_s=self.limits.wait_s + 15.0)

    def route(self, rank: int) -> int:
        """The number of the rank's topic: messages to ranks of one topic may share a publish."""
        return self._names.shard(rank)

    def publish(self, messages: Sequence[Message]) -> Sequence[Rejected]:
        """Send messages; returns one `Rejected` for each that SNS refused. Raises `Refused` over a limit, before any request."""
        check_publish(self.limits, messages, self.route)
        answer = self._sns.publish_batch(
            TopicArn=self._names.topic_arn(self._slot, messages[0].rank),
            PublishBatchRequestEntries=[{"Id": str(number), **self._entry(message)} for number, message in enumerate(messages)],
        )
        return _rejected(answer)

    def _entry(self, message: Message) -> dict[str, Any]:
        to = {TARGET: {"DataType": "String", "StringValue": target(self._slot, message.rank)}}
        if not self._binary:
            return {"Message": message.body.decode("ascii"), "MessageAttributes": to}
        return {"Message": "-", "MessageAttributes": {**to, BODY: {"DataType": "Binary", "BinaryValue": message.body}}}

    def connect(self, rank: int) -> bool:
        """Open a connection to SNS."""
        return connect(self._sns)

    def receive(self, rank: int, limit: int, wait_s: float) -> Sequence[Delivery]:
        """Return up to ``limit`` messages. SQS waits whole seconds, so ``wait_s`` is rounded up; 0 returns at once (a short poll).

        If it were rounded down, a last wait of less than 1 s would become many empty requests.
        """
        check_receive(self.limits, limit, wait_s)
        answer = self._sqs.receive_message(
            QueueUrl=self._url(rank),
            MaxNumberOfMessages=limit,
            WaitTimeSeconds=math.ceil(wait_s),
            VisibilityTimeout=self._lease_s,  # in each request: a change of the queue's attribute takes a minute
            MessageAttributeNames=[BODY] if self._binary else [],
        )
        return [Delivery(message["ReceiptHandle"], self._body(message)) for message in answer.get("Messages", ())]

    def _url(self, rank: int) -> str:
        return self._urls + self._names.queue(self._slot, rank)

    def _body(self, message: Mapping[str, Any]) -> bytes:
        attribute = message.get("MessageAttributes", {}).get(BODY, {}) if self._binary else {}
        body: bytes | None = attribute.get("BinaryValue")
        return message["Body"].encode() if body is None else body  # else another program's, which core drops

    def ack(self, rank: int, tokens: Sequence[object]) -> Sequence[Rejected]:
        """Remove deliveries. A message that is gone, or was delivered again, is not reported as refused."""
        check_ack(self.limits, tokens)
        answer = self._sqs.delete_message_batch(
            QueueUrl=self._url(rank), Entries=[{"Id": str(number), "ReceiptHandle": token} for number, token in enumerate(tokens)]
        )
        return _rejected(answer, _GONE)

    def classify(self, error: BaseException) -> Code:
        """The `Code` of an error of this driver: see `fsd_aws.errors.classify`."""
        return classify(error)

    def native(self) -> Mapping[str, Any]:
        """The SDK's clients, by ``sns`` and ``sqs``."""
        return {"sns": self._sns, "sqs": self._sqs}

    def close(self) -> None:
        """Close the connections."""
        self._sns.close()
        self._sqs.close()


class AwsDirectMessages(AwsMessages):
    """Publishes straight to the queues, which saves the way through a topic. One publish reaches one rank."""

    service = "Amazon SQS"

    def __init__(self, resources: Resources, slot: int) -> None:
        super().__init__(resources, slot)
        self.limits = limits.direct(self.limits)

    def route(self, rank: int) -> int:
        """The rank itself: a publish goes to one queue."""
        return rank

    def publish(self, messages: Sequence[Message]) -> Sequence[Rejected]:
        """Send messages; returns one `Rejected` for each that SQS refused. Raises `Refused` over a limit, before any request."""
        check_publish(self.limits, messages, self.route)
        answer = self._sqs.send_message_batch(
            QueueUrl=self._url(messages[0].rank),
            Entries=[{"Id": str(number), **self._entry(message)} for number, message in enumerate(messages)],
        )
        return _rejected(answer)

    def _entry(self, message: Message) -> dict[str, Any]:
        if not self._binary:
            return {"MessageBody": message.body.decode("ascii")}
        return {"MessageBody": "-", "MessageAttributes": {BODY: {"DataType": "Binary", "BinaryValue": message.body}}}

    def connect(self, rank: int) -> bool:
        """Open a connection to SQS."""
        return connect(self._sqs)


def _rejected(answer: Mapping[str, Any], harmless: frozenset[str] = frozenset()) -> list[Rejected]:
    return [
        Rejected(
            int(entry["Id"]), entry_code(entry["Code"], entry.get("SenderFault", False)), f"{entry['Code']}: {entry.get('Message', '')}"
        )
        for entry in answer.get("Failed", ())
        if entry["Code"] not in harmless
    ]
