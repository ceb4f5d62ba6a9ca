"""The fields of buckets and objects that clients write, with the service's rules and errors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from fsd_conformance.emulators import cloud_storage_claims as claims

__all__ = ["ServiceError", "bucket_fields", "invalid", "merge", "object_fields"]

_ANY = object()
_CLASSES = claims.words("ARCHIVE COLDLINE DURABLE_REDUCED_AVAILABILITY MULTI_REGIONAL NEARLINE REGIONAL STANDARD")
# The form of a field's JSON: a type, a list of one form, or names with their forms, where "*" is any other name.
_CONDITION = {
    **dict.fromkeys(claims.words("age daysSinceCustomTime daysSinceNoncurrentTime numNewerVersions"), int),
    **dict.fromkeys(claims.words("createdBefore customTimeBefore noncurrentTimeBefore"), str),
    **{name: [str] for name in claims.words("matchesPrefix matchesStorageClass matchesSuffix")},
    "isLive": bool,
}
_BUCKET = {
    "encryption": {"defaultKmsKeyName": str},
    "iamConfiguration": {"publicAccessPrevention": str, "uniformBucketLevelAccess": {"enabled": bool, "lockedTime": str}},
    "labels": {"*": str},
    "lifecycle": {"rule": [{"action": {"type": str, "storageClass": str}, "condition": _CONDITION}]},
    "location": str,
    "softDeletePolicy": {"retentionDurationSeconds": (str, int), "effectiveTime": str},
    "storageClass": str,
    "*": _ANY,
}
_HEADERS = ("cacheControl", "contentDisposition", "contentEncoding", "contentLanguage", "contentType")  # also answered as HTTP headers
_OBJECT = {**dict.fromkeys(claims.OBJECT_FIELDS, str), "metadata": {"*": str}, "*": _ANY}
_METADATA_BYTES = 8 << 10  # the limit of an object's metadata, names and values
_RETAINED_S = (604_800, 7_776_000)
_REASONS = {
    304: "notModified",
    400: "invalid",
    403: "forbidden",
    404: "notFound",
    409: "conflict",
    412: "conditionNotMet",
    413: "uploadTooLarge",
    416: "requestedRangeNotSatisfiable",
    429: "rateLimitExceeded",
    501: "notImplemented",
    503: "backendError",
}


class ServiceError(Exception):
    """An error answer of the service, with its ``headers``."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """The body in Google's form."""
        reason = _REASONS.get(self.status, "internalError")
        errors = [{"message": self.message, "domain": "global", "reason": reason}]
        return {"error": {"code": self.status, "message": self.message, "errors": errors}}


def invalid(message: str) -> ServiceError:
    """The error for a malformed request."""
    return ServiceError(400, message)


def merge(old: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """``old`` after a JSON merge patch (RFC 7396), in which null removes a name."""
    new = dict(old)
    for name, value in patch.items():
        if value is None:
            new.pop(name, None)
        elif isinstance(value, Mapping):
            present = new.get(name)
            new[name] = merge(present if isinstance(present, Mapping) else {}, value)
        else:
            new[name] = value
    return new


def bucket_fields(given: Mapping[str, Any], old: Mapping[str, Any], *, replace: bool) -> dict[str, Any]:
    """A bucket's fields after a request with ``given``. ``old``: the present fields, empty for a new bucket. Raises `ServiceError`."""
    _known("Bucket", given, claims.BUCKET_FIELDS | claims.BUCKET_READ_ONLY)
    known = {name: value for name, value in given.items() if name not in claims.BUCKET_READ_ONLY | {"name"}}
    access = {"uniformBucketLevelAccess": {"enabled": False}, "publicAccessPrevention": "inherited"}
    fields = merge({"iamConfiguration": access} if replace else old, known)
    _shaped(fields, _BUCKET, "Bucket")
    fields["location"] = str(fields.get("location") or old.get("location") or "US").upper()
    if old and fields["location"] != old["location"]:
        raise invalid(f"Bucket.location is {old['location']} and cannot change to {fields['location']}.")
    fields.setdefault("storageClass", "STANDARD")
    _check_class(fields["storageClass"])
    _check_labels(fields.get("labels", {}))
    _check_access(fields.get("iamConfiguration", {}))
    for rule in fields.get("lifecycle", {}).get("rule", ()):
        _check_rule(rule)
    _check_deletion(str(fields.get("softDeletePolicy", {}).get("retentionDurationSeconds", 0)))
    return fields


def object_fields(given: Mapping[str, Any], old: Mapping[str, Any], *, replace: bool, default: str = "") -> dict[str, Any]:
    """An object's fields after a request with ``given``. ``old``: the present fields, empty for a new one; ``default``: the bucket's class.

    Raises `ServiceError`.
    """
    _known("Object", given, claims.OBJECT_FIELDS | claims.OBJECT_READ_ONLY)
    known = {name: value for name, value in given.items() if name in claims.OBJECT_FIELDS - {"name"}}
    fields = merge({} if replace else old, known)
    _shaped(fields, _OBJECT, "Object")
    for name in _HEADERS:
        if not re.fullmatch(r"[ -~]*", fields.get(name, "")):
            raise invalid(f"Invalid value for Object.{name}: {fields[name]!r:.100}: expected printable ASCII.")
    size = sum(len(text.encode()) for pair in fields.get("metadata", {}).items() for text in pair)
    if size > _METADATA_BYTES:
        raise invalid(f"Object.metadata of {size} bytes: expected at most {_METADATA_BYTES}.")
    if "storageClass" in fields:
        _check_class(fields["storageClass"])
    now, before = fields.get("storageClass", default), old.get("storageClass", default)
    if old and now != before:
        raise ServiceError(501, "a change of Object.storageClass is not implemented by the local Cloud Storage")
    if "customTime" in fields or "customTime" in old:
        _check_time(str(fields.get("customTime")), old.get("customTime"))
    return fields


def _known(resource: str, given: Mapping[str, Any], known: frozenset[str]) -> None:
    if reason := claims.refused(resource, given, known):
        raise ServiceError(501, reason)


def _shaped(value: Any, form: Any, where: str) -> None:
    """Raise `ServiceError` where JSON does not have the form."""
    if form is _ANY:
        return
    if isinstance(form, dict) and isinstance(value, dict):
        for name, inner in value.items():
            if name not in form and "*" not in form:
                raise ServiceError(501, f"{where}.{name} is not implemented by the local Cloud Storage")
            _shaped(inner, form.get(name, form.get("*")), f"{where}.{name}")
    elif isinstance(form, list) and isinstance(value, list):
        for inner in value:
            _shaped(inner, form[0], where)
    elif isinstance(form, dict | list) or not isinstance(value, form) or (isinstance(value, bool) and form is not bool):
        raise invalid(f"Invalid value for {where}: {value!r:.100}")


def _check_class(name: str) -> None:
    if name not in _CLASSES:
        raise invalid(f"Invalid storage class {name!r}: expected one of {', '.join(sorted(_CLASSES))}.")


def _check_labels(labels: Mapping[str, str]) -> None:
    if len(labels) > 64:
        raise invalid(f"{len(labels)} labels: at most 64.")
    for name, value in labels.items():
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", name) or not re.fullmatch(r"[a-z0-9_-]{0,63}", value):
            raise invalid(f"Invalid label: {name}={value}: up to 63 of a-z, 0-9, _ and -, the key beginning with a letter.")


def _check_access(access: Mapping[str, Any]) -> None:
    if access.get("publicAccessPrevention", "inherited") not in ("inherited", "enforced", "unspecified"):
        raise invalid(f"Invalid publicAccessPrevention: {access['publicAccessPrevention']!r}: expected inherited or enforced.")


def _check_deletion(seconds: str) -> None:
    low, high = _RETAINED_S
    if seconds != "0" and not (re.fullmatch(r"\d{1,9}", seconds) and low <= int(seconds) <= high):
        raise invalid(f"Invalid softDeletePolicy.retentionDurationSeconds {seconds}: expected 0, or {low} to {high}.")
    if seconds != "0":
        raise ServiceError(501, "softDeletePolicy.retentionDurationSeconds above 0 is not implemented by the local Cloud Storage")


def _check_rule(rule: Mapping[str, Any]) -> None:
    kind, condition = rule.get("action", {}).get("type"), rule.get("condition")
    if kind not in ("Delete", "SetStorageClass", "AbortIncompleteMultipartUpload") or not condition:
        raise invalid(f"Invalid lifecycle rule: action {kind!r} with condition {condition!r}.")
    if kind == "SetStorageClass":
        _check_class(rule["action"].get("storageClass", ""))


def _check_time(given: str, before: str | None) -> None:
    """Raise `ServiceError` where a customTime is not a time, or is earlier than the present one."""
    try:
        times = [datetime.fromisoformat(text) for text in (given, before or given)]
        if any(time.tzinfo is None for time in times):
            raise ValueError
    except ValueError:
        raise invalid(
            f"Invalid value for customTime: {given!r}: expected a time of RFC 3339; it can be moved to a later time, but not removed."
        ) from None
    if times[0] < times[1]:
        raise invalid(f"customTime {given} is before {before}: expected a later time.")
