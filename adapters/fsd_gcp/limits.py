"""The services' limits, as data, without the SDKs."""

from __future__ import annotations

from fsd_core.driver import InvokeLimits, MessageLimits, ObjectLimits

__all__ = ["FUNCTIONS", "LEASES_S", "OBJECTS", "PAYLOAD_BYTES", "cpus", "messages"]

LEASES_S = (10, 600)  # the acknowledgement deadlines that a subscription accepts, in seconds
_REQUEST_BYTES = 10_000_000  # the limit of one encoded PublishRequest
_TOPIC_BYTES = 400  # room for the topic's full name in it: 255 characters, the project's name, and fixed words
_OVERHEAD_BYTES = 40  # bytes for each message: the encoding adds at most 10; the bill adds 20 for its time, and its id

PAYLOAD_BYTES = 32_000_000
_CPUS = ((4096, 1), (8192, 2), (16384, 4), (32768, 8))  # up to so many MiB, and the fewest CPUs with which Cloud Run allows them
OBJECTS = ObjectLimits(
    object_bytes=5 << 40,
    delete_keys=100,  # the limit of one batch request
    page_keys=1000,
    poll_s=0.02,  # a GET of a missing key takes about as long
    source="https://cloud.google.com/storage/quotas, storage/docs/batch, storage/docs/json_api/v1/objects/list",
    as_of="2026-11-24",
)


def messages(lease_s: float, *, streams: bool = False) -> MessageLimits:
    """The limits of subscriptions. ``lease_s``: their acknowledgement deadline in seconds; ``streams``: by StreamingPull, not by pulls.

    The service allows 512 KiB for an AcknowledgeRequest: 1,000 tokens of 200 characters need less. Each publish and each pull is billed
    by its bytes, as at least 1,000 bytes.
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
        outstanding_messages=1000 if streams else None,  # our own limit: these messages wait in the worker's memory
        outstanding_bytes=64 << 20 if streams else None,
    )


def cpus(memory_mb: int) -> int:
    """The CPUs of a function with so many MiB, at most 32,768."""
    return next(count for most, count in _CPUS if memory_mb <= most)


FUNCTIONS = InvokeLimits(  # see `fsd_core.providers.outline.sized`
    payload_bytes=PAYLOAD_BYTES,
    concurrency=None,
    memory_bytes=None,
    timeout_s=None,
    source="https://cloud.google.com/run/quotas (HTTP/1 requests of 32 MiB), functions/docs/configuring/max-instances",
    as_of="2025-11-01",
    failures="launcher",
    process_bytes=112 << 20,  # memory of the runtime and imports, mostly grpc, google-auth and the server
    start_s=6.0,  # the 99th percentile of cold starts was 5.2 s (Flask, 1 vCPU, europe-west1, February 2026)
)
