"""The services' limits, as data, without the SDK."""

from __future__ import annotations

from typing import Literal

import attrs

from fsd_core.driver import InvokeLimits, MessageLimits, ObjectLimits

__all__ = ["FUNCTIONS", "OBJECTS", "PAYLOAD_BYTES", "TARGET_CHARS", "direct", "messages"]

PAYLOAD_BYTES = 256 << 10
TARGET_CHARS = 12  # the longest "SLOT.RANK"
# SNS counts the names, types and values of attributes: "target", "String" and its value; also "body", "Binary", and the message's one
# character.
_TEXT_OVERHEAD = len("targetString") + TARGET_CHARS
_DIRECT_OVERHEAD = len("bodyBinary") + 1  # SQS counts attributes in the same way
_BINARY_OVERHEAD = _TEXT_OVERHEAD + _DIRECT_OVERHEAD

OBJECTS = ObjectLimits(
    object_bytes=5 << 30,  # the limit of one PutObject; larger objects would need a multipart upload
    delete_keys=1000,
    page_keys=1000,
    poll_s=0.02,  # a GET of a missing key takes about as long
    source="https://docs.aws.amazon.com/general/latest/gr/s3.html, API_DeleteObjects, API_ListObjectsV2",
    as_of="2025-11-01",
)


def messages(body: Literal["binary", "text"], message_kb: int, lease_s: float) -> MessageLimits:
    """The limits of an app's queues. ``message_kb``: MaximumMessageSize of the topics in KiB; ``lease_s``: visibility time-out of the
    queues in seconds.

    MaximumMessageSize (256 KiB by default, 1 MiB at most) limits a whole PublishBatch as well as each entry. An SQS queue accepts 1 MiB.
    """
    overhead = _BINARY_OVERHEAD if body == "binary" else _TEXT_OVERHEAD
    return MessageLimits(
        batch_messages=10,
        batch_bytes=message_kb << 10,
        message_bytes=(message_kb << 10) - overhead,
        overhead_bytes=overhead,
        receive_messages=10,
        wait_s=20.0,
        lease_s=lease_s,
        billing_bytes=64 << 10,
        body=body,
        source="https://docs.aws.amazon.com/sns/latest/dg/large-message-payloads.html, sns/latest/api/API_PublishBatch.html, "
        "AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html, aws.amazon.com/sns/pricing, aws.amazon.com/sqs/pricing",
        as_of="2025-11-01",
    )


def direct(topics: MessageLimits) -> MessageLimits:
    """The limits of an app's queues without its topics, from the limits with them.

    A queue accepts 1 MiB by default, but one that Terraform or an older version of fsd made accepts 256 KiB. So the setting ``message_kb``
    limits a SendMessageBatch too.
    """
    overhead = _DIRECT_OVERHEAD if topics.body == "binary" else 0
    return attrs.evolve(
        topics,
        message_bytes=topics.batch_bytes - overhead,
        overhead_bytes=overhead,
        source="https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html, "
        "AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html, aws.amazon.com/sqs/pricing",
        direct=True,
    )


FUNCTIONS = InvokeLimits(  # see `fsd_core.providers.outline.sized`
    payload_bytes=PAYLOAD_BYTES,
    concurrency=None,
    memory_bytes=None,
    timeout_s=None,
    source="https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html: asynchronous payloads 1 MB since October 2025 "
    "and 256 KB before, which every region takes",
    as_of="2025-11-01",
    failures="queue",
    process_bytes=104 << 20,  # memory of the runtime and imports, mostly botocore's service models
    start_s=5.0,  # the 99th percentile of 1,000 cold starts at once was 2.6 s (eu-west-1, June 2022)
)
