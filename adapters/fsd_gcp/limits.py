"""What the services take, as data. No SDK is needed to read it."""

from __future__ import annotations

from fsd_core.driver import MessageLimits, ObjectLimits

__all__ = ["LEASES_S", "OBJECTS", "messages"]

LEASES_S = (10, 600)  # what a subscription takes as its acknowledgement deadline
_REQUEST_BYTES = 10_000_000  # of one PublishRequest, encoded
_TOPIC_BYTES = 400  # of it, the topic's name: 255 characters, its project's and the words around them
_OVERHEAD_BYTES = 40  # of a message: at most 10 of the encoding; billed are 20 for its time, and its id

OBJECTS = ObjectLimits(
    object_bytes=5 << 40,
    delete_keys=100,  # calls in one batch request
    page_keys=1000,
    poll_s=0.02,  # about what a GET of a missing key takes
    source="https://cloud.google.com/storage/quotas, storage/docs/batch, storage/docs/json_api/v1/objects/list",
    as_of="2026-11-24",
)


def messages(lease_s: float, *, streams: bool = False) -> MessageLimits:
    """Of subscriptions whose acknowledgement deadline is ``lease_s``, whose messages come by a stream or by pulls.

    An AcknowledgeRequest may have 512 KiB: 1,000 tokens of 200 characters are well within it. Every publish and every pull is
    billed by the byte, and 1,000 at least.
    """
    return MessageLimits(
        batch_messages=1000,
        batch_bytes=_REQUEST_BYTES - _TOPIC_BYTES,
        message_bytes=_REQUEST_BYTES - _TOPIC_BYTES - _OVERHEAD_BYTES,
        overhead_bytes=_OVERHEAD_BYTES,
        receive_messages=1000,
        wait_s=20.0,
        lease_s=lease_s,
        billing_bytes=1000,
        body="binary",
        source="https://cloud.google.com/pubsub/quotas, pubsub/pricing, pubsub/docs/lease-management",
        as_of="2026-11-24",
        outstanding_messages=1000 if streams else None,  # ours to say: they wait in the worker's memory
        outstanding_bytes=64 << 20 if streams else None,
    )
