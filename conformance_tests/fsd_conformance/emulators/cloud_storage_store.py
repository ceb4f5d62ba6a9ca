"""The data of the local Cloud Storage, and the service's rules: names, generations, preconditions, pages, checksums, policies."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import time
from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import google_crc32c

from fsd_conformance.emulators import policies
from fsd_conformance.emulators.cloud_storage_fields import ServiceError, bucket_fields, invalid, object_fields

__all__ = ["PAGE", "Bucket", "Checksums", "Conditions", "Listing", "Object", "Store", "check_name"]

PAGE = 1000


@dataclass(frozen=True, slots=True)
class Checksums:
    """The checksums of a body in base64: MD5, and CRC32C with the most significant byte first."""

    md5: str
    crc32c: str

    @staticmethod
    def of(body: bytes) -> Checksums:
        """Both checksums of ``body``."""
        crc = google_crc32c.value(body).to_bytes(4, "big")
        return Checksums(base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode(), base64.b64encode(crc).decode())

    def check(self, given: Mapping[str, Any]) -> None:
        """Raise `ServiceError` where ``given`` has another ``md5Hash`` or ``crc32c``."""
        for name, label, own in (("md5Hash", "MD5 hash", self.md5), ("crc32c", "CRC32C", self.crc32c)):
            if given.get(name) not in (None, own):
                raise invalid(f'Provided {label} "{given[name]}" doesn\'t match calculated {label} "{own}".')


@dataclass(slots=True)
class Object:
    """One live object. ``fields``: written by the client; times in seconds since 1970."""

    name: str
    body: bytes
    sums: Checksums
    fields: dict[str, Any]
    generation: int
    metageneration: int = 1
    created: float = field(default_factory=time.time)
    updated: float = field(default_factory=time.time)

    @property
    def etag(self) -> str:
        """The etag of the present state of this object or bucket."""
        return f"CA{self.generation}/{self.metageneration}="

    def update(self, given: Mapping[str, Any], *, replace: bool, default: str) -> None:
        """Change or replace the client's fields. ``default``: the bucket's storage class. Raises `ServiceError`."""
        self.fields = object_fields(given, self.fields, replace=replace, default=default)
        self.metageneration += 1
        self.updated = time.time()


@dataclass(frozen=True, slots=True)
class Conditions:
    """A request's preconditions; None for each that the request does not have. One of ``etags`` ("*": any) must match, and none of
    ``not_etags``.
    """

    generation: int | None = None
    not_generation: int | None = None
    metageneration: int | None = None
    not_metageneration: int | None = None
    etags: frozenset[str] | None = None
    not_etags: frozenset[str] = frozenset()

    def check(self, found: Object | Bucket | None, *, reading: bool) -> None:
        """Raise `ServiceError` 412, or 304 where a read finds the client's version. ``found`` None: no live object, generation 0."""
        generation = found.generation if isinstance(found, Object) else 0
        metageneration = found.metageneration if found else None
        etag = {found.etag, "*"} if found else set[str]()
        other = self.etags is not None and not self.etags & etag
        if other or self.generation not in (None, generation) or self.metageneration not in (None, metageneration):
            raise ServiceError(412, "At least one of the pre-conditions you specified did not hold.")
        asked = self.not_generation is not None or self.not_metageneration is not None
        same = self.not_generation == generation or (found and self.not_metageneration == metageneration)
        if self.not_etags & etag or (asked and (same or not found)):
            raise ServiceError(304 if reading else 412, "At least one of the pre-conditions you specified did not hold.")


@dataclass(frozen=True, slots=True)
class Listing:
    """A request for one page: up to ``max_items`` names in [start, end) with ``prefix``, after ``token``."""

    prefix: str = ""
    delimiter: str = ""
    start: str = ""
    end: str | None = None
    token: str | None = None
    max_items: int = PAGE

    def page(self, names: list[str]) -> tuple[list[str], list[str], str | None]:
        """Names, common prefixes and the next page's token, from sorted ``names``. The order of code points equals that of UTF-8 bytes."""
        after, folder = ("", False) if self.token is None else _untoken(self.token)
        first = max(bisect_left(names, max(self.prefix, self.start)), bisect_right(names, after) if self.token else 0)
        items: list[str] = []
        prefixes: list[str] = []
        done = after if folder else None  # the last common prefix
        for name in (names[place] for place in range(first, len(names))):
            if not name.startswith(self.prefix) or (self.end is not None and name >= self.end):
                break
            if done is not None and name.startswith(done):
                continue
            if len(items) + len(prefixes) == self.max_items:
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

    def __init__(self, name: str, project: str, given: Mapping[str, Any]) -> None:
        self.name = name
        self.project = project
        self.metageneration = 0
        self.created = time.time()
        self.objects: dict[str, Object] = {}
        self.names: list[str] = []
        self.fields: dict[str, Any] = {}
        self._generation = 0
        self.update(given, replace=True)
        self.policy: dict[str, Any] = {"bindings": [], "etag": _etag(1)}

    @property
    def etag(self) -> str:
        """The etag of the present state of this object or bucket."""
        return f"CA{self.metageneration}="

    def update(self, given: Mapping[str, Any], *, replace: bool) -> None:
        """Change or replace the fields. Raises `ServiceError`."""
        self.fields = bucket_fields(given, self.fields, replace=replace)
        self.metageneration += 1
        self.updated = time.time()

    def set_policy(self, given: Mapping[str, Any]) -> None:
        """Replace the policy. Raises `ServiceError` where it is malformed, or has the etag of another version (412)."""
        if given.get("etag") not in (None, "", self.policy["etag"]):
            raise ServiceError(412, "The policy has changed since it was read: it has another etag.")
        try:
            bindings = policies.bindings(given, self.policy)
        except ValueError as error:
            raise invalid(str(error)) from None
        uniform = self.fields["iamConfiguration"].get("uniformBucketLevelAccess", {}).get("enabled")
        if not uniform and any(binding.get("condition") for binding in bindings):
            raise invalid("A policy with a condition: expected a bucket with uniform bucket-level access.")
        for binding in given.get("bindings") or ():
            if not re.fullmatch(r"(roles|projects/[^/]+/roles|organizations/[^/]+/roles)/[\w.]+", str(binding.get("role"))):
                raise invalid(f"Role {binding.get('role')} is not supported for this resource.")
            for member in binding.get("members") or ():
                if not re.fullmatch(r"allUsers|allAuthenticatedUsers|[a-zA-Z]+:\S+", member):
                    raise invalid(f"The member {member} is of an unknown type.")
        number = int.from_bytes(base64.b64decode(self.policy["etag"]), "big") + 1
        self.policy = {"bindings": bindings, "etag": _etag(number)}

    def find(self, name: str, generation: int | None = None) -> Object:
        """The live object. Raises `ServiceError` 404, also for an older generation."""
        found = self.objects.get(name)
        if found is None or generation not in (None, found.generation):
            raise ServiceError(404, f"No such object: {self.name}/{name}")
        return found

    def put(self, name: str, body: bytes, given: Mapping[str, Any], sums: Sequence[Mapping[str, Any]], conditions: Conditions) -> Object:
        """Create or replace an object. ``sums``: from headers. Raises `ServiceError` for a precondition, checksum, field or name."""
        check_name(name)
        fields = object_fields(given, {}, replace=True)
        conditions.check(self.objects.get(name), reading=False)
        own = Checksums.of(body)
        for each in (given, *sums):
            own.check(each)
        self._generation = max(self._generation + 1, time.time_ns() // 1000)  # microseconds, as on the platform, and always increasing
        made = Object(name, body, own, fields, self._generation)
        if name not in self.objects:
            insort(self.names, name)
        self.objects[name] = made
        return made

    def remove(self, name: str) -> None:
        """Delete an existing object."""
        del self.objects[name]
        del self.names[bisect_left(self.names, name)]


class Store:
    """All buckets. Their names are unique over all projects."""

    def __init__(self) -> None:
        self.buckets: dict[str, Bucket] = {}

    def create(self, name: str, project: str, given: Mapping[str, Any]) -> Bucket:
        """Make a bucket. Raises `ServiceError` for a malformed or taken name, or a wrong field."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{1,61}[a-z0-9]", name) or name.startswith("goog") or "google" in name:
            raise invalid(f"Invalid bucket name: '{name}'")
        if "." in name:
            raise ServiceError(403, "The bucket you tried to create is a domain name owned by another user.")
        if (present := self.buckets.get(name)) is not None:
            mine = "Your previous request to create the named bucket succeeded and you already own it."
            raise ServiceError(409, mine if present.project == project else "The requested bucket name is not available.")
        made = self.buckets[name] = Bucket(name, project, given)
        return made

    def find(self, name: str) -> Bucket:
        """A bucket. Raises `ServiceError` 404."""
        if name not in self.buckets:
            raise ServiceError(404, "The specified bucket does not exist.")
        return self.buckets[name]

    def remove(self, bucket: Bucket) -> None:
        """Delete a bucket. Raises `ServiceError` 409 while it holds objects."""
        if bucket.objects:
            raise ServiceError(409, "The bucket you tried to delete is not empty.")
        del self.buckets[bucket.name]


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


def check_name(name: str) -> None:
    """Raise `ServiceError` where no object can have the name."""
    size = len(name.encode())
    if not 1 <= size <= 1024 or re.search(r"[\r\n]", name) or name in (".", "..") or name.startswith(".well-known/acme-challenge/"):
        raise invalid(f"Invalid object name: '{name:.100}' ({size} bytes): expected 1 to 1024 bytes of UTF-8 without line breaks.")
