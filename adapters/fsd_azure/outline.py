"""What Azure allows an app, without a request: the limits of the services with the table ``[azure]``."""

from __future__ import annotations

from collections.abc import Mapping

from fsd_azure.limits import FUNCTIONS, OBJECTS, check_connections, messages
from fsd_azure.queues import count
from fsd_azure.settings import Settings
from fsd_core.providers.outline import Outline, sized
from fsd_core.providers.settings import read_settings

__all__ = ["outline"]

SIZES_MB = (512, 2048, 4096)


def outline(table: Mapping[str, object]) -> Outline:
    """The limits of an app with the table ``[azure]``. Raises `InputError` if a setting is wrong."""
    settings = read_settings(Settings, "azure", table)

    def admit(workers: int) -> None:
        check_connections(settings.tier, workers, settings.namespaces or count(settings.tier, workers))

    return Outline(
        messages=messages(settings.tier, float(settings.lease_s), settings.message_kb),
        objects=OBJECTS,
        functions=sized(FUNCTIONS, settings.concurrency, settings.memory_mb, settings.timeout_s),
        memory_mb=SIZES_MB,
        cores=lambda memory_mb: memory_mb / 2048,  # learn.microsoft.com/azure/azure-functions/flex-consumption-plan#instance-memory
        route_ranks=1,
        admit=admit,
    )
