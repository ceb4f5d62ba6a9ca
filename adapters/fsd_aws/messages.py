"""SNS topics to SQS queues, one a rank and slot: publish is one PublishBatch, receive one ReceiveMessage, ack one DeleteMessageBatch.

Every queue is subscribed, with raw delivery, to its topic with a filter on the attribute ``target`` (`fsd_aws.names`), so
one publish reaches as many ranks as have a subscription there. SNS and SQS bodies are Unicode text; bytes travel in a
binary attribute beside a body of one character, or, where an emulator cannot do that, as text in the body:
``names["body"]`` says which.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fsd_aws import limits
from fsd_aws.clients import client
from fsd_aws.errors import Refused, classify, entry_code
from fsd_aws.names import BODY, TARGET, Names, target
from fsd_core.driver import Code, Delivery, Message, MessageLimits, Rejected, Resources

__all__ = ["AwsMessages"]

_GONE = frozenset({"ReceiptHandleIsInvalid"})  # of a delete: the message went already, or was delivered again


class AwsMessages:
    """Implements `fsd_core.driver.MessageDriver` for one slot."""

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
        """The topic's number: messages to ranks with a subscription of one topic may share a publish."""
        return self._names.shard(rank)

    def publish(self, messages: Sequence[Message]) -> Sequence[Rejected]:
        """One `Rejected` for each entry that SNS refused. What is over a limit is refused here, before the network."""
        self._check(messages)
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

    def _check(self, messages: Sequence[Message]) -> None:
        limits = self.limits
        if not 1 <= len(messages) <= limits.batch_messages:
            raise Refused(Code.INVALID, f"publish of {len(messages)} messages: 1 to {limits.batch_messages}")
        sizes = [len(message.body) for message in messages]
        if max(sizes) > limits.message_bytes:
            raise Refused(Code.TOO_LARGE, f"message of {max(sizes)} bytes: at most {limits.message_bytes}")
        if (total := sum(sizes) + len(sizes) * limits.overhead_bytes) > limits.batch_bytes:
            raise Refused(Code.TOO_LARGE, f"publish of {total} bytes: at most {limits.batch_bytes}")
        if min(sizes) == 0:
            raise Refused(Code.INVALID, "message of 0 bytes: at least 1")
        if len({self.route(message.rank) for message in messages}) > 1:
            raise Refused(Code.INVALID, "publish to ranks of several topics: one at a time")
        if not self._binary and not all(message.body.isascii() for message in messages):
            raise Refused(Code.INVALID, "message with bytes that are not ASCII: this service takes text")

    def receive(self, rank: int, limit: int, wait_s: float) -> Sequence[Delivery]:
        """Up to ``limit`` messages. SQS waits whole seconds: ``wait_s`` is rounded up, and 0 stays 0, a short poll.

        Rounded up, since a wait cut to 0 would turn core's last fraction of a second into a storm of empty requests.
        """
        if not 1 <= limit <= self.limits.receive_messages or not 0 <= wait_s <= self.limits.wait_s:
            raise Refused(
                Code.INVALID, f"receive of {limit} messages in {wait_s} s: 1 to {self.limits.receive_messages} in 0 to {self.limits.wait_s}"
            )
        answer = self._sqs.receive_message(
            QueueUrl=self._url(rank),
            MaxNumberOfMessages=limit,
            WaitTimeSeconds=math.ceil(wait_s),
            VisibilityTimeout=self._lease_s,  # said each time: a change of the queue's own takes a minute to be known everywhere
            MessageAttributeNames=[BODY] if self._binary else [],
        )
        return [Delivery(message["ReceiptHandle"], self._body(message)) for message in answer.get("Messages", ())]

    def _url(self, rank: int) -> str:
        return self._urls + self._names.queue(self._slot, rank)

    def _body(self, message: Mapping[str, Any]) -> bytes:
        attribute = message.get("MessageAttributes", {}).get(BODY) if self._binary else None
        body: bytes = (
            message["Body"].encode() if attribute is None else attribute["BinaryValue"]
        )  # without it, it is not ours: core drops it
        return body

    def ack(self, rank: int, tokens: Sequence[object]) -> Sequence[Rejected]:
        """Remove deliveries for good. One that is gone, or was delivered again, is no refusal."""
        if not 1 <= len(tokens) <= self.limits.batch_messages:
            raise Refused(Code.INVALID, f"ack of {len(tokens)} tokens: 1 to {self.limits.batch_messages}")
        answer = self._sqs.delete_message_batch(
            QueueUrl=self._url(rank), Entries=[{"Id": str(number), "ReceiptHandle": token} for number, token in enumerate(tokens)]
        )
        return _rejected(answer, _GONE)

    def classify(self, error: BaseException) -> Code:
        """See `fsd_aws.errors.classify`."""
        return classify(error)

    def native(self) -> Mapping[str, Any]:
        """The clients: ``sns`` and ``sqs``."""
        return {"sns": self._sns, "sqs": self._sqs}

    def close(self) -> None:
        """Close the connections."""
        self._sns.close()
        self._sqs.close()


def _rejected(answer: Mapping[str, Any], harmless: frozenset[str] = frozenset()) -> list[Rejected]:
    return [
        Rejected(
            int(entry["Id"]), entry_code(entry["Code"], entry.get("SenderFault", False)), f"{entry['Code']}: {entry.get('Message', '')}"
        )
        for entry in answer.get("Failed", ())
        if entry["Code"] not in harmless
    ]
