"""What this machine allows an app: the limits of the local services with the table ``[local]``."""

from __future__ import annotations

from collections.abc import Mapping

from fsd_core.common.fields import read
from fsd_core.providers.outline import Outline
from fsd_local.limits import OBJECTS, functions, messages
from fsd_local.settings import Settings

__all__ = ["outline"]


def outline(table: Mapping[str, object]) -> Outline:
    """The limits of an app with the table ``[local]``. Raises `InputError` if a setting is wrong."""
    settings = read(Settings, table, "[local] ")
    return Outline(
        messages=messages(settings.lease_s),
        objects=OBJECTS,
        functions=functions(settings.concurrency, settings.memory_mb, settings.timeout_s),
        memory_mb=(settings.memory_mb,),
    )
