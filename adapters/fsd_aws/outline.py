"""What AWS allows an app, without a request: the limits of the services with the table ``[aws]``."""

from __future__ import annotations

from collections.abc import Mapping

from fsd_aws.limits import FUNCTIONS, OBJECTS, direct, messages
from fsd_aws.names import ranks_per_topic
from fsd_aws.settings import Settings
from fsd_core.providers.outline import Outline, sized
from fsd_core.providers.settings import read_settings

__all__ = ["outline"]

CONCURRENCY = 1000  # functions at once that an account may run in a region, if nobody changed this quota
CORE_MB = 1769  # a function with so much memory has one vCPU: docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html
SIZES_MB = (885, 1769, 3538, 5307, 7076, 8845, 10240)


def outline(table: Mapping[str, object]) -> Outline:
    """The limits of an app with the table ``[aws]``. Raises `InputError` if a setting is wrong."""
    settings = read_settings(Settings, "aws", table)
    topics = messages("text" if settings.text is True else "binary", settings.message_kb, float(settings.lease_s))
    return Outline(
        messages=topics,
        objects=OBJECTS,
        functions=sized(FUNCTIONS, settings.concurrency or CONCURRENCY, settings.memory_mb, settings.timeout_s),
        memory_mb=tuple(sorted({*SIZES_MB, settings.memory_mb})),
        cores=lambda memory_mb: memory_mb / CORE_MB,
        route_ranks=ranks_per_topic(settings.message_kb),
        direct=direct(topics),
    )
