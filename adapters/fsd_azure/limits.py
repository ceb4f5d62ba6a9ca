"""What the services take, as data. No SDK is needed to read it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

import attrs

from fsd_azure.connection_strings import SERVICE_BUS
from fsd_core.driver import MessageLimits, ObjectLimits
from fsd_core.errors import InputError

__all__ = ["LEASES_S", "MESSAGE_KB", "OBJECTS", "TIERS", "Tier", "check_connections", "check_queues", "messages"]

LEASES_S = (5, 300)  # what a queue takes as its lock duration
MESSAGE_KB = (1024, 102_400)  # what a queue of the premium tier takes as its own limit of a message
_MARGIN_BYTES = 512  # of a message or a batch: its sections, properties of a batch
_OVERHEAD_BYTES = 80  # of a message in a batch: 72 for its sections, as azure-servicebus counts
_PREFETCH_BYTES = 16 << 20  # what one receiver may hold that nobody asked for yet


@attrs.frozen
class Tier:
    """What a namespace takes. ``credits``: messages in or out a second, where it is throttled."""

    message_bytes: int
    batch_bytes: int
    connections: int  # AMQP; every sender and every receiver of azure-servicebus has its own
    credits: int | None
    queues: int
    source: str
    as_of: str


_QUOTAS = (
    "https://learn.microsoft.com/azure/service-bus-messaging/service-bus-quotas, service-bus-throttling, service-bus-premium-messaging"
)
TIERS: Final[Mapping[str, Tier]] = {
    "standard": Tier(256 << 10, 256 << 10, 5000, 1000, 10_000, _QUOTAS, "2025-11-01"),
    "premium": Tier(1 << 20, 1 << 20, 5000, None, 1000, _QUOTAS, "2025-11-01"),
}

OBJECTS = ObjectLimits(
    object_bytes=5000 << 20,  # of one Put Blob; larger ones are put in blocks
    delete_keys=256,  # subrequests of one batch
    page_keys=1000,  # of 5,000
    poll_s=0.02,  # about what a GET of a missing key takes
    source="https://learn.microsoft.com/rest/api/storageservices/put-blob, blob-batch, list-blobs; "
    "learn.microsoft.com/azure/storage/blobs/scalability-targets",
    as_of="2025-11-01",
)


def messages(tier: str, lease_s: float, message_kb: int = 0) -> MessageLimits:
    """Of queues of a tier whose lock duration is ``lease_s``; ``message_kb``: their own limit of a message, 0 for the tier's.

    Every message sent, received and completed is an operation, billed per started 64 KB; a receive that finds nothing is none.
    """
    data = TIERS[tier]
    whole = message_kb << 10 or data.message_bytes
    return MessageLimits(
        batch_messages=100,  # by bytes alone it would be thousands; and an ack is a disposition for each
        batch_bytes=data.batch_bytes - _MARGIN_BYTES,  # message_kb raises the limit of a message alone
        message_bytes=whole - _MARGIN_BYTES - _OVERHEAD_BYTES,
        overhead_bytes=_OVERHEAD_BYTES,
        receive_messages=max(1, min(32, _PREFETCH_BYTES // whole)),
        wait_s=20.0,
        lease_s=lease_s,
        billing_bytes=64 << 10,
        body="binary",
        source=f"{data.source}; azure.microsoft.com/pricing/details/service-bus",
        as_of=data.as_of,
    )


def check_connections(tier: str, ranks: int, namespaces: int) -> None:
    """`InputError`: ``ranks`` workers that all send to each other may open more connections than a namespace takes.

    Each opens one to receive and one to each peer that it sends to. That is of one run, alone: of several at once each opens its own, but
    few partitions make all ranks neighbours, and Service Bus refuses what is over.
    """
    most, there = -(-ranks // namespaces) * ranks, TIERS[tier].connections
    if most > there:
        enough = next(count for count in range(namespaces + 1, ranks + 2) if -(-ranks // count) * ranks <= there or count > ranks)
        strings = f"{enough} connection strings in {SERVICE_BUS}, or none and " if os.environ.get(SERVICE_BUS) else ""
        more = f"destroy the app and deploy it with {strings}[azure] namespaces = {enough}, or " if enough <= ranks else ""
        raise InputError(
            f"{ranks} ranks over {namespaces} Service Bus namespaces may open {most} connections to one: at most {there}: "
            f"{more}--channel object, which opens none"
        )


def check_queues(tier: str, ranks: int, slots: int, namespaces: int) -> None:
    """`InputError`: so many ranks and slots need more queues than a namespace takes."""
    most, there = -(-ranks // namespaces) * slots, TIERS[tier].queues
    if most > there:
        raise InputError(
            f"{ranks} ranks, {slots} slots over {namespaces} Service Bus namespaces need {most} queues in one: "
            f"at most {there} in the {tier} tier: fewer slots, or more namespaces"
        )
