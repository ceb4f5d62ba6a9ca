"""What this provider takes, as data."""

from __future__ import annotations

from fsd_core.driver import MessageLimits, ObjectLimits

__all__ = ["OBJECTS", "messages"]

OBJECTS = ObjectLimits(
    object_bytes=5 << 30,
    delete_keys=1000,
    page_keys=1000,
    poll_s=0.002,
    source="fsd_local: as Amazon S3 has them, poll_s from a look-up of 10 us",
    as_of="2025-11-01",
)


def messages(lease_s: float) -> MessageLimits:
    """Of queues whose deliveries come back after ``lease_s``."""
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
        source="fsd_local: the tightest of the clouds, so that what runs here runs there",
        as_of="2025-11-01",
    )
