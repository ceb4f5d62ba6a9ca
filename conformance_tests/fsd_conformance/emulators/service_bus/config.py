"""The vendor emulator's Config.json, and a queue's properties as it and the administration API name them.

What is not implemented is refused: a property that asks for it, a topic, and a name that nobody knows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fsd_conformance.emulators.service_bus.broker import Tier
from fsd_conformance.emulators.service_bus.store import QueueSettings
from fsd_core.errors import InputError

__all__ = ["FOREVER", "Namespaces", "duration", "iso", "load", "queue_settings"]

Namespaces = dict[str, dict[str, QueueSettings]]  # namespace -> queue -> what it is made with

FOREVER = "P10675199DT2H48M5.4775807S"  # the longest that the service writes
_FOREVER_MS = 10675199 * 86_400_000
_DURATION = re.compile(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?")
_QUEUE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,258}[A-Za-z0-9_])?")
# Without effect on what is implemented.
_IGNORED = {"DuplicateDetectionHistoryTimeWindow", "EnableBatchedOperations", "SupportOrdering", "AuthorizationRules"}
_REFUSED = {
    "RequiresSession": "sessions are",
    "RequiresDuplicateDetection": "duplicate detection is",
    "ForwardTo": "forwarding is",
    "ForwardDeadLetteredMessagesTo": "forwarding is",
    "EnablePartitioning": "partitioned queues are",
    "EnableExpress": "express queues are",
    "IsAnonymousAccessible": "anonymous access is",
}


def load(file: Path, tier: Tier) -> Namespaces:
    """Read a Config.json. Raises `InputError`: it is none, or asks for what is not implemented."""
    try:
        config = json.loads(file.read_text())
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{file}: is no JSON: {error}") from None
    user = _only(config, str(file), {"UserConfig"})["UserConfig"] if config else None
    found: Namespaces = {}
    for entry in _list(_only(user, f"{file}: UserConfig", {"Namespaces", "Logging"}), f"{file}: UserConfig", "Namespaces"):
        fields = _only(entry, f"{file}: a namespace", {"Name", "Queues", "Topics"})
        name = fields.get("Name")
        where = f"{file}: namespace {name!r}"
        if not isinstance(name, str) or not name or name in found:
            raise InputError(f"{where}: namespaces need names, each its own")
        if _list(fields, where, "Topics"):
            raise InputError(f"{where}: topics are not implemented here: give each rank a queue of its own")
        found[name] = _queues(fields, where, tier)
    if not found:
        raise InputError(f"{file}: UserConfig has no namespace")
    return found


def _queues(fields: Mapping[str, Any], where: str, tier: Tier) -> dict[str, QueueSettings]:
    queues: dict[str, QueueSettings] = {}
    for entry in _list(fields, where, "Queues"):
        queue = _only(entry, f"{where}: a queue", {"Name", "Properties"})
        name = check_name(queue.get("Name"), where)
        if name.lower() in (other.lower() for other in queues):
            raise InputError(f"{where}: queue {name!r} is there twice")
        properties = queue.get("Properties", {})
        if not isinstance(properties, dict):
            raise InputError(f"{where}: queue {name!r}: Properties is no object")
        queues[name] = queue_settings(properties, tier, f"{where}: queue {name!r}")
    return queues


def check_name(name: object, where: str) -> str:
    """A queue's name. Raises `InputError`: the service would not take it."""
    if not isinstance(name, str) or not _QUEUE.fullmatch(name):
        raise InputError(f"{where}: queue {name!r}: 1 to 260 letters, digits, and . - _ / between them")
    return name


def queue_settings(properties: Mapping[str, object], tier: Tier, where: str) -> QueueSettings:
    """Of a queue with these properties, values in JSON's types or as text; names that are not given have the service's defaults.

    Raises `InputError`: a name or value is wrong, or asks for what is not implemented.
    """
    given: dict[str, Any] = {}
    for name, value in properties.items():
        if value is None or name in _IGNORED:
            continue
        try:
            if name in _REFUSED:
                if str(value).lower() not in ("", "false"):
                    raise InputError(f"{where}: {name}: {_REFUSED[name]} not implemented here")
            elif name in _READ:
                field, read = _READ[name]
                given[field] = read(value)
            elif name == "AutoDeleteOnIdle":
                if duration(value) is not None:
                    raise InputError(f"{where}: {name}: queues that delete themselves are not implemented here")
            elif name == "Status":
                if value != "Active":
                    raise InputError(f"{where}: {name}: queues that are {value} are not implemented here")
            else:
                raise InputError(f"{where}: no property {name!r} is known")
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{where}: {name}: {error}") from None
    if "max_message_bytes" in given and not tier.own_limit:
        raise InputError(f"{where}: MaxMessageSizeInKilobytes: tier {tier.name} has one limit for all, {tier.message_bytes} bytes")
    return QueueSettings(**given)


def duration(value: object) -> int | None:
    """Milliseconds of an ISO 8601 duration in days and less; `None` for ever. Raises `ValueError`: it is none."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None or not any(match.groups()):
        raise ValueError(f"{value!r} is no ISO 8601 duration such as PT1M")
    days, hours, minutes, seconds = (float(group or 0) for group in match.groups())
    milliseconds = round(1000 * (seconds + 60 * (minutes + 60 * (hours + 24 * days))))
    return milliseconds if milliseconds < _FOREVER_MS else None


def iso(milliseconds: int | None) -> str:
    """The ISO 8601 duration of milliseconds; `None`: for ever."""
    return FOREVER if milliseconds is None else f"PT{milliseconds / 1000:g}S" if milliseconds % 1000 else f"PT{milliseconds // 1000}S"


def _whole(low: int, high: int, unit: int = 1) -> Callable[[object], int]:
    def read(value: object) -> int:
        number = int(value) if isinstance(value, str) and value.isdecimal() else value
        if isinstance(number, bool) or not isinstance(number, int) or not low <= number <= high:
            raise ValueError(f"{value!r} is no number from {low} to {high}")
        return number * unit

    return read


def _flag(value: object) -> bool:
    if str(value).lower() not in ("true", "false"):
        raise ValueError(f"{value!r} is neither true nor false")
    return str(value).lower() == "true"


def _lock(value: object) -> int:
    milliseconds = duration(value)
    if milliseconds is None or not 0 < milliseconds <= 300_000:
        raise ValueError(f"{value!r}: a lock lasts 5 minutes at most")
    return milliseconds


def _life(value: object) -> int | None:
    milliseconds = duration(value)
    if milliseconds is not None and milliseconds < 1:
        raise ValueError(f"{value!r}: a message lives for some time")
    return milliseconds


_READ: Mapping[str, tuple[str, Callable[[object], object]]] = {
    "LockDuration": ("lock_ms", _lock),
    "DefaultMessageTimeToLive": ("ttl_ms", _life),
    "MaxDeliveryCount": ("max_deliveries", _whole(1, 2000)),
    "DeadLetteringOnMessageExpiration": ("dead_letter_expired", _flag),
    "MaxSizeInMegabytes": ("max_bytes", _whole(1, 81_920, 1 << 20)),
    "MaxMessageSizeInKilobytes": ("max_message_bytes", _whole(1024, 102_400, 1 << 10)),
    "UserMetadata": ("user_metadata", str),
}


def _only(value: object, where: str, names: set[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where}: is no object with {', '.join(sorted(names))}")
    for name in value:
        if name not in names:
            raise InputError(f"{where}: {name!r} is not known: {', '.join(sorted(names))} are")
    return value


def _list(fields: Mapping[str, Any], where: str, name: str) -> list[Any]:
    value = fields.get(name) or []
    if not isinstance(value, list):
        raise InputError(f"{where}: {name} is no list")
    return value
