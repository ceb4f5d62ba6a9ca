"""The settings of a provider: reads its table of the configuration file, and writes settings as the texts of `Resources.names`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar

from fsd_core.common.fields import read

__all__ = ["FORGOTTEN", "FUNCTION", "RETENTION", "CloudSettings", "read_settings", "texts"]

FUNCTION = ("memory_mb", "timeout_s", "concurrency", "lease_s", "runtime")  # settings that every cloud has and that its functions need
RETENTION = "audit_retention_days"  # a setting: after so many days the store of an app forgets an entry of its audit log

# A name in `Resources.names`, of an app that once had a shorter retention: in seconds since 1970, entries from before may be missing.
FORGOTTEN = "audit_forgotten"


class CloudSettings(Protocol):
    """The settings of a cloud, an attrs class; those in `FUNCTION`, ``engine`` and ``package``."""

    @property
    def runtime(self) -> str:
        """The function's interpreter, as the cloud names it."""

    @property
    def engine(self) -> str:
        """What the functions can compute, one of `fsd_core.protocol.runconfig.ENGINES`: "onnx" needs ONNX Runtime in the package."""

    @property
    def package(self) -> bool:
        """Whether fsd uploads the code of the function."""


S = TypeVar("S", bound=CloudSettings)


def read_settings(kind: type[S], provider: str, table: Mapping[str, object], environ: Mapping[str, str] = os.environ) -> S:
    """The settings of a cloud from ``table``, its table of the configuration file. FSD_PROVIDER_PACKAGE=0 means ``package = false``.

    ``kind``: an attrs class with the keys. Raises `InputError`, which names the key, its value and the expected values.
    """
    without = {"package": False} if environ.get(f"FSD_{provider.upper()}_PACKAGE") == "0" else {}
    return read(kind, {**table, **without}, f"[{provider}] ")


def texts(settings: object, names: Iterable[str]) -> dict[str, str]:
    """Some of the settings as texts, for `Resources.names`: `None` as "", booleans as "true" and "false"."""
    found = {name: getattr(settings, name) for name in names}
    return {name: "" if value is None else str(value).lower() if isinstance(value, bool) else str(value) for name, value in found.items()}
