"""This provider's limits, as data."""

from __future__ import annotations

from fsd_core.driver import InvokeLimits, MessageLimits, ObjectLimits
from fsd_local.wire import PAYLOAD_BYTES

__all__ = ["OBJECTS", "PAYLOAD_BYTES", "functions", "messages"]

OBJECTS = ObjectLimits(
    object_bytes=5 << 30,
    delete_keys=1000,
    page_keys=1000,
    poll_s=0.002,
    source="fsd_local: those of Amazon S3; poll_s from a look-up of 10 us",
    as_of="2025-11-01",
)


def messages(lease_s: float) -> MessageLimits:
    """The limits of queues that deliver an unacknowledged message again after ``lease_s`` seconds."""
    return MessageLimits(
        batch_messages=10,
        batch_bytes=1 << 20,
        message_bytes=256 << 10,
        overhead_bytes=0,
        receive_messages=10,
        wait_s=20.0,
        lease_s=lease_s,
        billing_bytes=64 << 10,
        body="binary",
        source="fsd_local: the smallest limits of the clouds, so that a run that works here works there",
        as_of="2025-11-01",
    )


def functions(concurrency: int, memory_mb: int, timeout_s: float) -> InvokeLimits:
    """The limits of the processes that run functions."""
    return InvokeLimits(
        payload_bytes=PAYLOAD_BYTES,
        concurrency=concurrency,
        memory_bytes=memory_mb << 20,
        timeout_s=timeout_s,
        source="fsd_local: the [local] settings",
        as_of="2025-11-01",
        end_with_client=True,
        process_bytes=32 << 20,  # of a forked process; 38 MB of one with an interpreter that is started for it
    )
