"""The services' limits, as data, without the SDKs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

import attrs

from fsd_azure.connection_strings import SERVICE_BUS
from fsd_core.driver import InvokeLimits, MessageLimits, ObjectLimits
from fsd_core.errors import InputError

__all__ = [
    "FUNCTIONS",
    "LEASES_S",
    "MESSAGE_KB",
    "OBJECTS",
    "PAYLOAD_BYTES",
    "TIERS",
    "Tier",
    "check_connections",
    "check_queues",
    "messages",
]

LEASES_S = (5, 300)  # the lock durations that a queue accepts, in seconds
MESSAGE_KB = (1024, 102_400)  # the message limits that a queue of the premium tier accepts, in KiB
_MARGIN_BYTES = 512  # room for the sections of a message, or the properties of a batch
_OVERHEAD_BYTES = 80  # bytes that each message adds to a batch: azure-servicebus counts 72 for its sections
_PREFETCH_BYTES = 16 << 20  # bytes of messages that one receiver may hold before `receive` takes them


@attrs.frozen
class Tier:
    """The limits of a namespace. ``credits``: messages per second, sent and received together; None where the tier is not throttled. Sizes
    in bytes.
    """

    message_bytes: int
    batch_bytes: int
    connections: int  # AMQP connections; azure-servicebus opens one for every sender and every receiver
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

PAYLOAD_BYTES = 100 << 20
OBJECTS = ObjectLimits(
    object_bytes=5000 << 20,  # the limit of one Put Blob; larger objects would need blocks
    delete_keys=256,  # the limit of one batch request
    page_keys=1000,  # the service allows 5,000
    poll_s=0.02,  # a GET of a missing key takes about as long
    source="https://learn.microsoft.com/rest/api/storageservices/put-blob, blob-batch, list-blobs; "
    "learn.microsoft.com/azure/storage/blobs/scalability-targets",
    as_of="2025-11-01",
)


def messages(tier: str, lease_s: float, message_kb: int = 0) -> MessageLimits:
    """The limits of queues of a tier. ``lease_s``: the queues' lock duration in seconds; ``message_kb``: the largest message in KiB, 0: the
    tier's limit.

    Each message sent, received or completed is an operation, billed per started 64 KB; a receive that finds nothing is not billed.
    """
    data = TIERS[tier]
    whole = message_kb << 10 or data.message_bytes
    return MessageLimits(
        batch_messages=100,  # the bytes would allow thousands, but an ack sends one frame for each message
        batch_bytes=data.batch_bytes - _MARGIN_BYTES,  # message_kb raises the limit of single messages only
        message_bytes=whole - _MARGIN_BYTES - _OVERHEAD_BYTES,
        overhead_bytes=_OVERHEAD_BYTES,
        receive_messages=max(1, min(32, _PREFETCH_BYTES // whole)),
        wait_s=20.0,
        lease_s=lease_s,
        billing_bytes=64 << 10,
        body="binary",
        side_by_side=False,  # a queue has one link, whose transfers go one after another
        source=f"{data.source}; azure.microsoft.com/pricing/details/service-bus",
        as_of=data.as_of,
    )


def check_connections(tier: str, ranks: int, namespaces: int) -> None:
    """Raise `InputError` where ``ranks`` workers that all send to each other may open more connections than a namespace allows.

    Each worker opens one connection to receive, and one to each peer that it sends to. The check counts one run, in which every rank sends
    to every other rank. With most partitions a rank sends to a few ranks only, so several runs at the same time mostly stay below the
    limit; if not, Service Bus refuses the connection.
    """
    needed, limit = -(-ranks // namespaces) * ranks, TIERS[tier].connections
    if needed > limit:
        enough = next(count for count in range(namespaces + 1, ranks + 2) if -(-ranks // count) * ranks <= limit or count > ranks)
        strings = f"{enough} connection strings in {SERVICE_BUS}, or none and " if os.environ.get(SERVICE_BUS) else ""
        more = f"destroy the app and deploy it with {strings}[azure] namespaces = {enough}, or " if enough <= ranks else ""
        raise InputError(
            f"{ranks} ranks over {namespaces} Service Bus namespaces may open {needed} connections to one namespace: "
            f"expected at most {limit}: {more}use --channel object, which opens no connection to Service Bus"
        )


def check_queues(tier: str, ranks: int, slots: int, namespaces: int) -> None:
    """Raise `InputError` where the ranks and slots need more queues than a namespace allows."""
    needed, limit = -(-ranks // namespaces) * slots, TIERS[tier].queues
    if needed > limit:
        raise InputError(
            f"{ranks} ranks, {slots} slots over {namespaces} Service Bus namespaces need {needed} queues in one: "
            f"expected at most {limit} in the {tier} tier: use fewer slots, or more namespaces"
        )


FUNCTIONS = InvokeLimits(  # see `fsd_core.providers.outline.sized`
    payload_bytes=PAYLOAD_BYTES,
    concurrency=None,
    memory_bytes=None,
    timeout_s=None,
    source="https://learn.microsoft.com/azure/azure-functions/functions-scale (request size, 230 s), flex-consumption-plan",
    as_of="2025-11-01",
    failures="launcher",
    process_bytes=96 << 20,  # memory of the runtime and imports, mostly the Functions host's worker, grpc and the SDKs
    start_s=15.0,  # an estimate from few published runs of Flex Consumption: 1.7 to 3.2 s, once 30 s
)
