"""What the local Cloud Storage holds, and the service's rules: names, labels, generations, preconditions, pages, checksums."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import time
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import google_crc32c

__all__ = ["Bucket", "Checksums", "Conditions", "Listing", "Object", "ServiceError", "Store", "invalid", "merge", "words"]

PAGE = 1000


def words(text: str) -> frozenset[str]:
    """The names in a text."""
    return frozenset(text.split())


_BUCKET_FIELDS = words(
    "acl autoclass billing cors customPlacementConfig defaultEventBasedHold defaultObjectAcl encryption hierarchicalNamespace "
    "iamConfiguration labels lifecycle location logging retentionPolicy rpo softDeletePolicy storageClass versioning website"
)
_OBJECT_FIELDS = words("acl cacheControl contentDisposition contentEncoding contentLanguage contentType customTime metadata storageClass")
# What would change how objects behave and does not here.
_REFUSED = (("versioning", "enabled"), ("hierarchicalNamespace", "enabled"), ("billing", "requesterPays"), ("retentionPolicy", None))
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
    """An answer of the service that is an error; ``headers`` go with it."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """Google's form of it."""
        reason = _REASONS.get(self.status, "internalError")
        told = [{"message": self.message, "domain": "global", "reason": reason}]
        return {"error": {"code": self.status, "message": self.message, "errors": told}}


def invalid(message: str) -> ServiceError:
    """A request that is malformed."""
    return ServiceError(400, message)


@dataclass(frozen=True, slots=True)
class Checksums:
    """Of a body, base64 as the service writes them: MD5, and CRC32C with the most significant byte first."""

    md5: str
    crc32c: str

    @staticmethod
    def of(body: bytes) -> Checksums:
        """Both."""
        crc = google_crc32c.value(body).to_bytes(4, "big")
        return Checksums(base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode(), base64.b64encode(crc).decode())

    def check(self, told: Mapping[str, Any]) -> None:
        """Raises `ServiceError` where ``told`` gives another ``md5Hash`` or ``crc32c``."""
        for name, label, own in (("md5Hash", "MD5 hash", self.md5), ("crc32c", "CRC32C", self.crc32c)):
            if told.get(name) not in (None, own):
                raise invalid(f'Provided {label} "{told[name]}" doesn\'t match calculated {label} "{own}".')


@dataclass(slots=True)
class Object:
    """One live object. ``fields`` are the client's own; times in seconds since 1970."""

    name: str
    body: bytes
    sums: Checksums
    fields: dict[str, Any]
    generation: int
    metageneration: int = 1
    created: float = field(default_factory=time.time)
    updated: float = field(default_factory=time.time)

    def update(self, told: Mapping[str, Any], *, replace: bool) -> None:
        """Change or replace the fields of the client's."""
        known = {name: value for name, value in told.items() if name in _OBJECT_FIELDS}
        self.fields = known if replace else merge(self.fields, known)
        self.metageneration += 1
        self.updated = time.time()


@dataclass(frozen=True, slots=True)
class Conditions:
    """A request's preconditions; None: not asked."""

    generation: int | None = None
    not_generation: int | None = None
    metageneration: int | None = None
    not_metageneration: int | None = None

    def check(self, found: Object | Bucket | None, *, reading: bool) -> None:
        """Raises `ServiceError` 412, or 304 where a read finds what the client has. ``found`` None: no live object, of generation 0."""
        generation = found.generation if isinstance(found, Object) else 0
        metageneration = found.metageneration if found else None
        if self.generation not in (None, generation) or self.metageneration not in (None, metageneration):
            raise ServiceError(412, "At least one of the pre-conditions you specified did not hold.")
        asked = self.not_generation is not None or self.not_metageneration is not None
        same = self.not_generation == generation or (found and self.not_metageneration == metageneration)
        if asked and (same or not found):
            raise ServiceError(304 if reading else 412, "At least one of the pre-conditions you specified did not hold.")


@dataclass(frozen=True, slots=True)
class Listing:
    """What a page is to hold: names within [start, end) that begin with ``prefix``, after ``token``, at most ``most``."""

    prefix: str = ""
    delimiter: str = ""
    start: str = ""
    end: str | None = None
    token: str | None = None
    most: int = PAGE

    def page(self, names: list[str]) -> tuple[list[str], list[str], str | None]:
        """Names, common prefixes and the next page's token of sorted ``names``. Order by code point is that of UTF-8's bytes."""
        after, folder = ("", False) if self.token is None else _untoken(self.token)
        first = max(bisect_left(names, max(self.prefix, self.start)), bisect_right(names, after) if self.token else 0)
        items: list[str] = []
        prefixes: list[str] = []
        done = after if folder else None  # the common prefix that was told last
        for name in (names[place] for place in range(first, len(names))):
            if not name.startswith(self.prefix) or (self.end is not None and name >= self.end):
                break
            if done is not None and name.startswith(done):
                continue
            if len(items) + len(prefixes) == self.most:
                return items, prefixes, _token(max(items[-1:] + prefixes[-1:]), prefixes[-1:] > items[-1:])
            cut = name.find(self.delimiter, len(self.prefix)) if self.delimiter else -1
            if cut < 0:
                items.append(name)
            else:
                done = name[: cut + len(self.delimiter)]
                prefixes.append(done)
        return items, prefixes, None


class Bucket:
    """One bucket: objects by name, the client's fields, an IAM policy."""

    def __init__(self, name: str, project: str, told: Mapping[str, Any]) -> None:
        self.name = name
        self.project = project
        self.metageneration = 0
        self.created = time.time()
        self.objects: dict[str, Object] = {}
        self.names: list[str] = []
        self.fields: dict[str, Any] = {}
        self._generation = 0
        self.update({"location": "US", "storageClass": "STANDARD"} | dict(told), replace=True)
        self.policy: dict[str, Any] = {"version": 1, "bindings": [], "etag": _etag(1)}

    def update(self, told: Mapping[str, Any], *, replace: bool) -> None:
        """Change or replace the fields. Raises `ServiceError`."""
        known = {name: value for name, value in told.items() if name in _BUCKET_FIELDS}
        access = {"uniformBucketLevelAccess": {"enabled": False}, "publicAccessPrevention": "inherited"}
        fields = merge({"iamConfiguration": access} if replace else self.fields, known)
        _check_bucket(fields)
        fields["location"] = str(fields["location"]).upper()
        self.fields = fields
        self.metageneration += 1
        self.updated = time.time()

    def set_policy(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """Replace the policy. Raises `ServiceError`: it is malformed, or made from another than the present one (412)."""
        if told.get("etag") not in (None, self.policy["etag"]):
            raise ServiceError(412, "The policy was changed since it was read: its etag is another.")
        version, bindings = told.get("version", 1), told.get("bindings", [])
        for binding in bindings:
            if not re.fullmatch(r"(roles|projects/[^/]+/roles|organizations/[^/]+/roles)/[\w.]+", str(binding.get("role"))):
                raise invalid(f"Role {binding.get('role')} is not supported for this resource.")
            for member in binding.get("members", ()):
                if not re.fullmatch(r"allUsers|allAuthenticatedUsers|[a-zA-Z]+:\S+", member):
                    raise invalid(f"The member {member} is of an unknown type.")
            if binding.get("condition") and version != 3:
                raise invalid("Requested policy version 3 is needed for a binding with a condition.")
        number = int.from_bytes(base64.b64decode(self.policy["etag"]), "big") + 1
        self.policy = {"version": version, "bindings": list(bindings), "etag": _etag(number)}
        return self.policy

    def find(self, name: str, generation: int | None = None) -> Object:
        """The live object. Raises `ServiceError` 404, also for another generation: there are no old ones."""
        found = self.objects.get(name)
        if found is None or generation not in (None, found.generation):
            raise ServiceError(404, f"No such object: {self.name}/{name}")
        return found

    def put(self, name: str, body: bytes, told: Mapping[str, Any], conditions: Conditions) -> Object:
        """Create or replace an object. Raises `ServiceError`: a precondition, a checksum or the name."""
        _check_name(name)
        conditions.check(self.objects.get(name), reading=False)
        sums = Checksums.of(body)
        sums.check(told)
        fields = {key: value for key, value in told.items() if key in _OBJECT_FIELDS}
        self._generation = max(self._generation + 1, time.time_ns() // 1000)  # microseconds, as on the platform, but never the same
        made = Object(name, body, sums, fields, self._generation)
        if name not in self.objects:
            insort(self.names, name)
        self.objects[name] = made
        return made

    def remove(self, name: str) -> None:
        """Delete an object that is there."""
        del self.objects[name]
        del self.names[bisect_left(self.names, name)]


class Store:
    """All buckets: their names are shared by all projects."""

    def __init__(self) -> None:
        self.buckets: dict[str, Bucket] = {}

    def create(self, name: str, project: str, told: Mapping[str, Any]) -> Bucket:
        """A new bucket. Raises `ServiceError`: the name is malformed or taken, a field is wrong."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{1,61}[a-z0-9]", name) or name.startswith("goog") or "google" in name:
            raise invalid(f"Invalid bucket name: '{name}'")
        if "." in name:
            raise ServiceError(403, "The bucket you tried to create is a domain name owned by another user.")
        if (there := self.buckets.get(name)) is not None:
            mine = "Your previous request to create the named bucket succeeded and you already own it."
            raise ServiceError(409, mine if there.project == project else "The requested bucket name is not available.")
        made = self.buckets[name] = Bucket(name, project, told)
        return made

    def find(self, name: str) -> Bucket:
        """A bucket. Raises `ServiceError` 404."""
        if name not in self.buckets:
            raise ServiceError(404, "The specified bucket does not exist.")
        return self.buckets[name]

    def remove(self, bucket: Bucket) -> None:
        """Delete a bucket. Raises `ServiceError` 409 while there is something in it."""
        if bucket.objects:
            raise ServiceError(409, "The bucket you tried to delete is not empty.")
        del self.buckets[bucket.name]


def merge(old: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """``old`` after a JSON merge patch (RFC 7396): null removes."""
    new = dict(old)
    for name, value in told.items():
        if value is None:
            new.pop(name, None)
        elif isinstance(value, Mapping):
            there = new.get(name)
            new[name] = merge(there if isinstance(there, Mapping) else {}, value)
        else:
            new[name] = value
    return new


def _etag(number: int) -> str:
    return base64.b64encode(number.to_bytes(8, "big")).decode()


def _token(name: str, folder: bool) -> str:
    return base64.urlsafe_b64encode(f"{'/' if folder else '-'}{name}".encode()).decode()


def _untoken(token: str) -> tuple[str, bool]:
    try:
        text = base64.urlsafe_b64decode(token.encode()).decode()
    except (ValueError, binascii.Error):
        text = ""
    if text[:1] not in ("/", "-"):
        raise invalid("Invalid argument: pageToken")
    return text[1:], text[0] == "/"


def _check_name(name: str) -> None:
    size = len(name.encode())
    if not 1 <= size <= 1024 or re.search(r"[\r\n]", name) or name in (".", "..") or name.startswith(".well-known/acme-challenge/"):
        raise invalid(f"Invalid object name: '{name:.100}' ({size} bytes): 1 to 1024 bytes of UTF-8 without line breaks.")


def _check_bucket(fields: Mapping[str, Any]) -> None:
    for name, inner in _REFUSED:
        value = fields.get(name)
        if value and (inner is None or value.get(inner)):
            raise ServiceError(501, f"Bucket.{name} is not implemented by the local Cloud Storage.")
    labels = fields.get("labels", {})
    if len(labels) > 64:
        raise invalid(f"{len(labels)} labels: at most 64.")
    for name, value in labels.items():
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", name) or not re.fullmatch(r"[a-z0-9_-]{0,63}", str(value)):
            raise invalid(f"Invalid label: {name}={value}: up to 63 of a-z, 0-9, _ and -, the key beginning with a letter.")
    rules: Iterable[Mapping[str, Any]] = fields.get("lifecycle", {}).get("rule", ())
    for rule in rules:
        kind = rule.get("action", {}).get("type")
        if kind not in ("Delete", "SetStorageClass", "AbortIncompleteMultipartUpload") or not rule.get("condition"):
            raise invalid(f"Invalid lifecycle rule: action {kind!r} with condition {rule.get('condition')!r}.")
