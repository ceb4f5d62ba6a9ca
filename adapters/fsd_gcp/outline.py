"""What Google Cloud allows an app, without a request: the limits of the services with the table ``[gcp]``."""

from __future__ import annotations

from collections.abc import Mapping

from fsd_core.providers.outline import Outline, sized
from fsd_core.providers.settings import read_settings
from fsd_gcp.limits import FUNCTIONS, OBJECTS, cpus, messages
from fsd_gcp.settings import Settings

__all__ = ["outline"]

PULLS = (
    'table gcp has the delivery of messages over an open stream ([gcp] receive = "stream"): with receive = "pull", as here, messages take '
    "several times as long, and nobody has measured how long inside a region"
)
SIZES_MB = (512, 1024, 2048, 4096, 8192, 16384, 32768)


def outline(table: Mapping[str, object]) -> Outline:
    """The limits of an app with the table ``[gcp]``. Raises `InputError` if a setting is wrong."""
    settings = read_settings(Settings, "gcp", table)
    return Outline(
        messages=messages(float(settings.lease_s), streams=settings.receive == "stream"),
        objects=OBJECTS,
        functions=sized(FUNCTIONS, settings.concurrency, settings.memory_mb, settings.timeout_s),
        memory_mb=tuple(sorted({*SIZES_MB, settings.memory_mb})),
        cores=cpus,
        route_ranks=1,
        caveat="" if settings.receive == "stream" else PULLS,
    )
