"""Reads the vendor emulator's Config.json, and a queue's properties from that file or the administration API.

An unknown property, and a property that needs a feature which is not implemented, are refused. A subscription with a rule that is not
implemented is left out, so that the other entities of Microsoft's sample file can be used. Missing values in a file have the defaults of
the vendor emulator's schema, missing values in the administration API the service's defaults.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fsd_conformance.emulators.service_bus.broker import Tier
from fsd_conformance.emulators.service_bus.store import QueueSettings
from fsd_conformance.emulators.service_bus.topics import FIELDS, SUBSCRIPTIONS, Correlation, SubscriptionSettings, TopicSettings
from fsd_core.errors import InputError

__all__ = ["FOREVER", "Entities", "duration", "iso", "load", "queue_settings"]


@dataclass(frozen=True, slots=True)
class Entities:
    """The queues and topics of a namespace, by name."""

    queues: dict[str, QueueSettings] = field(default_factory=dict)
    topics: dict[str, TopicSettings] = field(default_factory=dict)


FOREVER = "P10675199DT2H48M5.4775807S"  # the longest duration that the service writes
_FOREVER_MS = 10675199 * 86_400_000
_DURATION = re.compile(r"P(?:(\d+)Y)?(?:(\d+)M)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,258}[A-Za-z0-9_])?")
_REFUSED = {  # flags
    "RequiresSession": "sessions are",
    "RequiresDuplicateDetection": "duplicate detection is",
    "EnablePartitioning": "partitioned queues are",
    "EnableExpress": "express queues are",
    "IsAnonymousAccessible": "anonymous access is",
}
_FORWARDS = {"ForwardTo", "ForwardDeadLetteredMessagesTo"}
# Source: Microsoft, azure-service-bus-emulator-installer, Config-schema.json (2026-11).
_DEFAULTS = {"MaxDeliveryCount": 3, "DefaultMessageTimeToLive": "PT1H"}
_TOPIC = {"DefaultMessageTimeToLive", "DuplicateDetectionHistoryTimeWindow", "RequiresDuplicateDetection", "EnableBatchedOperations"}
_TOPIC |= {"MaxSizeInMegabytes", "EnablePartitioning", "SupportOrdering", "Status", "UserMetadata", "AutoDeleteOnIdle"}


def load(file: Path, tier: Tier) -> dict[str, Entities]:
    """The entities of each namespace in a Config.json. Raises `InputError` for a wrong file, or a feature that is not implemented."""
    try:
        config = json.loads(file.read_text(encoding="utf-8-sig"), object_pairs_hook=_once)
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{file}: expected JSON: {error}") from None
    except RecursionError:
        raise InputError(f"{file}: expected JSON: it is nested too deeply") from None
    user = _only(_only(config, str(file), {"UserConfig", "$schema"}).get("UserConfig"), f"{file}: UserConfig", {"Namespaces", "Logging"})
    if user.get("Logging") is not None:
        _only(user["Logging"], f"{file}: Logging", {"Type"})
    found: dict[str, Entities] = {}
    for entry in _list(user, f"{file}: UserConfig", "Namespaces"):
        fields = _only(entry, f"{file}: a namespace", {"Name", "Queues", "Topics"})
        name = fields.get("Name")
        where = f"{file}: namespace {name!r}"
        if not isinstance(name, str) or not name or name in found:
            raise InputError(f"{where}: expected a name that no other namespace has")
        queues = {own: _settings(queue, tier, at) for own, queue, at in _named(fields, where, "Queues", "queue", set())}
        topics = {
            own: _topic(topic, tier, at) for own, topic, at in _named(fields, where, "Topics", "topic", {"Subscriptions"}, taken=queues)
        }
        found[name] = Entities(queues, topics)
    if not found:
        raise InputError(f"{file}: UserConfig: expected at least one namespace")
    return found


def _once(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} occurs twice in one object: expected each name once")
    return found


def _named(
    fields: Mapping[str, Any], where: str, key: str, kind: str, more: set[str], taken: Iterable[str] = ()
) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """Each entry of a list: name, fields, and its name in errors. Raises `InputError` where two names differ only by case."""
    known = {name.lower() for name in taken}
    for entry in _list(fields, where, key):
        each = _only(entry, f"{where}: a {kind}", {"Name", "Properties", *more})
        name = check_name(each.get("Name"), where, kind)
        if name.lower() in known:
            raise InputError(f"{where}: {kind} {name!r} occurs twice: expected each name once")
        known.add(name.lower())
        yield name, each, f"{where}: {kind} {name!r}"


def _settings(fields: Mapping[str, Any], tier: Tier, where: str) -> QueueSettings:
    given = {name: value for name, value in _properties(fields, where).items() if value is not None}
    return queue_settings({**_DEFAULTS, **given}, tier, where)


def _properties(fields: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    properties = fields.get("Properties", {})
    if not isinstance(properties, dict):
        raise InputError(f"{where}: Properties: expected an object")
    return properties


def _topic(fields: Mapping[str, Any], tier: Tier, where: str) -> TopicSettings:
    _only(_properties(fields, where), f"{where}: Properties", _TOPIC)
    own = _settings(fields, tier, where)
    found = {}
    for name, each, at in _named(fields, where, "Subscriptions", "subscription", {"Rules"}):
        settings = _settings(each, tier, at)
        lives = [ttl for ttl in (settings.ttl_ms, own.ttl_ms) if ttl is not None]  # the shorter time to live applies
        settings = replace(settings, ttl_ms=min(lives, default=None), max_bytes=own.max_bytes)
        found[name] = SubscriptionSettings(settings, *_rules(each, at))
    return TopicSettings(found)


def _rules(fields: Mapping[str, Any], where: str) -> tuple[tuple[Correlation, ...] | None, str]:
    """A subscription's filters (None: all messages), and the reason why it is left out, else ""."""
    filters: list[Correlation] = []
    passes, left_out = False, ""
    for rule, entry, at in _named(fields, where, "Rules", "rule", set()):
        given = _only(_properties(entry, at), at, {"FilterType", "CorrelationFilter", "SqlFilter", "TrueFilter", "Action"})
        kind = given.get("FilterType")
        if kind not in ("Correlation", "Sql", "True"):
            raise InputError(f"{at}: FilterType {kind!r}: expected Correlation, Sql or True")
        if kind == "Correlation":
            filters.append(_correlation(given.get("CorrelationFilter"), f"{at}: CorrelationFilter"))
        elif kind == "Sql" and _sql(given, at) not in ("1=1", "true"):
            left_out = f"rule {rule!r} is SQL, which is not implemented here: use a correlation filter"
        else:
            passes = True
        if given.get("Action") and not left_out:
            left_out = f"rule {rule!r} has an action, which is not implemented here"
    return (None if passes or not filters else tuple(filters)), left_out


def _sql(properties: Mapping[str, Any], where: str) -> str:
    text = _only(properties.get("SqlFilter"), f"{where}: SqlFilter", {"SqlExpression"}).get("SqlExpression")
    if not isinstance(text, str):
        raise InputError(f"{where}: SqlFilter: SqlExpression: expected text")
    return "".join(text.split()).lower()


def _correlation(value: object, where: str) -> Correlation:
    given = _only(value, where, {*FIELDS, "Properties"})
    application = given.get("Properties", {})
    if not isinstance(application, dict) or any(isinstance(each, list | dict | None) for each in application.values()):
        raise InputError(f"{where}: Properties: expected an object of texts, numbers and flags")
    fields = {name: text for name, text in given.items() if name != "Properties"}
    if {"Label", "Subject"} <= fields.keys():
        raise InputError(f"{where}: Label and Subject are two names of one property: expected only one of them")
    wrong = [name for name, text in fields.items() if not isinstance(text, str)]
    if wrong or not (fields or application):
        raise InputError(f"{where}: {', '.join(wrong)}: expected text" if wrong else f"{where}: expected at least one field")
    return Correlation({FIELDS[name]: text for name, text in fields.items()}, application)


def check_name(name: object, where: str, kind: str = "queue") -> str:
    """Return a valid name. Raises `InputError` for a name that the service refuses."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(f"{where}: {kind} {name!r}: expected 1 to 260 letters and digits, with . - _ / between them")
    if kind in ("queue", "topic") and f"/{SUBSCRIPTIONS}/".lower() in name.lower():
        raise InputError(f"{where}: {kind} {name!r}: expected no name of a subscription, which has /{SUBSCRIPTIONS}/ in it")
    return name


def queue_settings(properties: Mapping[str, object], tier: Tier, where: str) -> QueueSettings:
    """The settings for these properties, whose values have JSON's types or are text. Missing ones have the service's defaults.

    Raises `InputError` for a wrong name or value, or a feature that is not implemented.
    """
    given: dict[str, Any] = {}
    for name, value in properties.items():
        if value is None:
            continue
        try:
            if name in _WITHOUT_EFFECT:
                _WITHOUT_EFFECT[name](value)
            elif name in _REFUSED:
                if _flag(value):
                    raise InputError(f"{where}: {name}: {_REFUSED[name]} not implemented here")
            elif name in _FORWARDS:
                if _words(value):
                    raise InputError(f"{where}: {name}: forwarding is not implemented here")
            elif name in _READ:
                field, read = _READ[name]
                given[field] = read(value)
            elif name == "AutoDeleteOnIdle":
                if duration(value) is not None:
                    raise InputError(f"{where}: {name}: queues that delete themselves are not implemented here")
            elif name == "Status":
                if value != "Active":
                    raise InputError(f"{where}: {name}: {value} queues are not implemented here")
            else:
                raise InputError(f"{where}: {name!r}: unknown property: expected a property of a queue")
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{where}: {name}: {error}") from None
    if "max_message_bytes" in given and not tier.own_limit:
        raise InputError(
            f"{where}: MaxMessageSizeInKilobytes: tier {tier.name} has one limit for all queues, {tier.message_bytes} bytes: "
            "leave this property out"
        )
    return QueueSettings(**given)


def duration(value: object) -> int | None:
    """The milliseconds of an ISO 8601 duration; None for the longest duration, which means "no limit". A year counts 365 days, a month 30.
    Raises `ValueError`.
    """
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None or not any(match.groups()):
        raise ValueError(f"{value!r}: expected an ISO 8601 duration such as PT1M")
    years, months, days, hours, minutes, seconds = (float(group or 0) for group in match.groups())
    milliseconds = 1000 * (seconds + 60 * (minutes + 60 * (hours + 24 * (days + 30 * months + 365 * years))))
    return round(milliseconds) if milliseconds < _FOREVER_MS else None


def iso(milliseconds: int | None) -> str:
    """The ISO 8601 duration of milliseconds; None: the longest."""
    return FOREVER if milliseconds is None else f"PT{milliseconds / 1000:g}S" if milliseconds % 1000 else f"PT{milliseconds // 1000}S"


def _whole(low: int, high: int, unit: int = 1) -> Callable[[object], int]:
    def read(value: object) -> int:
        number = int(value) if isinstance(value, str) and value.isdecimal() else value
        if isinstance(number, bool) or not isinstance(number, int) or not low <= number <= high:
            raise ValueError(f"{value!r}: expected a whole number from {low} to {high}")
        return number * unit

    return read


def _flag(value: object) -> bool:
    if str(value).lower() not in ("true", "false"):
        raise ValueError(f"{value!r}: expected true or false")
    return str(value).lower() == "true"


def _words(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r}: expected text")
    return value


def _lock(value: object) -> int:
    milliseconds = duration(value)
    if milliseconds is None or not 0 < milliseconds <= 300_000:
        raise ValueError(f"{value!r}: expected a lock duration above 0 and of at most 5 minutes")
    return milliseconds


def _life(value: object) -> int | None:
    milliseconds = duration(value)
    if milliseconds is not None and milliseconds < 1:
        raise ValueError(f"{value!r}: expected a time to live of at least 1 ms")
    return milliseconds


_READ: Mapping[str, tuple[str, Callable[[object], object]]] = {
    "LockDuration": ("lock_ms", _lock),
    "DefaultMessageTimeToLive": ("ttl_ms", _life),
    "MaxDeliveryCount": ("max_deliveries", _whole(1, 2000)),
    "DeadLetteringOnMessageExpiration": ("dead_letter_expired", _flag),
    "MaxSizeInMegabytes": ("max_bytes", _whole(1, 81_920, 1 << 20)),
    "MaxMessageSizeInKilobytes": ("max_message_bytes", _whole(1024, 102_400, 1 << 10)),
    "UserMetadata": ("user_metadata", _words),
}


_WITHOUT_EFFECT: Mapping[str, Callable[[object], object]] = {  # properties without effect on the implemented features
    "DuplicateDetectionHistoryTimeWindow": duration,
    "EnableBatchedOperations": _flag,
    "SupportOrdering": _flag,
    "DeadLetteringOnFilterEvaluationExceptions": _flag,
    "AuthorizationRules": lambda value: value,
}


def _only(value: object, where: str, names: set[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected an object with {', '.join(sorted(names))}")
    for name in value:
        if name not in names:
            raise InputError(f"{where}: {name!r}: unknown: expected {', '.join(sorted(names))}")
    return value


def _list(fields: Mapping[str, Any], where: str, name: str) -> list[Any]:
    value = fields.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise InputError(f"{where}: {name}: expected a list")
    return value
