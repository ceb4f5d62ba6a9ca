"""How Cloud Storage writes and reads HTTP: resources, parameters, ranges, partial answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from fsd_conformance.emulators import policies
from fsd_conformance.emulators.cloud_storage_fields import ServiceError, invalid
from fsd_conformance.emulators.cloud_storage_store import PAGE, Bucket, Conditions, Listing, Object
from fsd_conformance.emulators.web import Request, Response

__all__ = [
    "answer",
    "base",
    "bucket_form",
    "conditions",
    "header_sums",
    "listing",
    "media",
    "number",
    "object_form",
    "policy_form",
]


_MULTI, _DUAL = ("ASIA", "EU", "US"), ("ASIA1", "EUR4", "EUR5", "EUR7", "EUR8", "NAM4")


def base(request: Request) -> str:
    """The URL that the client uses."""
    return f"http://{request.headers.get('host', '')}"


def number(request: Request, name: str) -> int | None:
    """The whole number in a parameter; None where it is missing. Raises `ServiceError` for another value."""
    if name not in request.query:
        return None
    text = request.query[name][0]
    if not re.fullmatch(r"\d{1,19}", text):
        raise invalid(f"Invalid value for {name}: {text!r}")
    return int(text)


def conditions(request: Request) -> Conditions:
    """The preconditions of a request."""

    def etags(name: str) -> frozenset[str] | None:
        text = request.headers.get(name)
        return None if text is None else frozenset(each.strip().removeprefix("W/").strip('"') for each in text.split(","))

    return Conditions(
        number(request, "ifGenerationMatch"),
        number(request, "ifGenerationNotMatch"),
        number(request, "ifMetagenerationMatch"),
        number(request, "ifMetagenerationNotMatch"),
        etags("if-match"),
        etags("if-none-match") or frozenset(),
    )


def listing(request: Request) -> Listing:
    """The parameters of a list. Raises `ServiceError`."""
    max_items = number(request, "maxResults")
    if max_items == 0:
        raise invalid("Invalid value for maxResults: 0")

    def text(name: str) -> str | None:
        return request.query.get(name, [""])[0] or None

    return Listing(
        text("prefix") or "",
        text("delimiter") or "",
        text("startOffset") or "",
        text("endOffset"),
        text("pageToken"),
        min(max_items or PAGE, PAGE),
    )


def header_sums(request: Request) -> dict[str, str]:
    """The checksums in a request's headers, as fields of a resource. Raises `ServiceError` for a malformed one, or two that differ."""
    given = [part.strip().partition("=") for part in request.headers.get("x-goog-hash", "").split(",") if part.strip()]
    given += [("md5", "=", request.headers["content-md5"])] if "content-md5" in request.headers else []
    sums: dict[str, str] = {}
    for kind, _, value in given:
        name = {"md5": "md5Hash", "crc32c": "crc32c"}.get(kind)
        if name is None or not re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", value):
            raise invalid(f"Invalid checksum {kind}={value}: expected md5 or crc32c, in base64.")
        if sums.setdefault(name, value) != value:
            raise invalid(f"Two {kind} checksums that differ: {sums[name]}, {value}.")
    return sums


def answer(request: Request, value: Mapping[str, Any]) -> Response:
    """An answer with ``value``, or with the part that the parameter ``fields`` selects."""
    mask = request.query.get("fields", [""])[0]
    return Response.of(_masked(value, _mask(mask)) if mask else value)


def media(request: Request, found: Object) -> Response:
    """An object's body, or the requested range. Raises `ServiceError` 416 where the range begins past the end."""
    size = len(found.body)
    kind, encoding = found.fields.get("contentType", "application/octet-stream"), found.fields.get("contentEncoding")
    taken = "gzip" in request.headers.get("accept-encoding", "") or "no-transform" in found.fields.get("cacheControl", "")
    if encoding == "gzip" and not taken:  # the service would decompress it
        raise ServiceError(501, "decompression of gzip is not implemented by the local Cloud Storage")
    headers = {
        "Content-Type": kind,
        "ETag": found.etag,
        "X-Goog-Generation": str(found.generation),
        "X-Goog-Metageneration": str(found.metageneration),
        "X-Goog-Hash": f"crc32c={found.sums.crc32c},md5={found.sums.md5}",
        "X-Goog-Stored-Content-Encoding": encoding or "identity",
        "X-Goog-Stored-Content-Length": str(size),
        **({"Content-Encoding": encoding} if encoding else {}),
    }
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", "").replace(" ", ""))
    if asked is None or asked[0] == "bytes=-" or (asked[1] and asked[2] and int(asked[2]) < int(asked[1])):
        return Response(200, found.body, headers)  # an invalid range counts as missing
    first = int(asked[1]) if asked[1] else max(0, size - int(asked[2]))
    last = min(int(asked[2]), size - 1) if asked[1] and asked[2] else size - 1
    if first > last:
        raise ServiceError(416, "Request range not satisfiable", {"Content-Range": f"bytes */{size}"})
    return Response(206, found.body[first : last + 1], {**headers, "Content-Range": f"bytes {first}-{last}/{size}"})


def bucket_form(request: Request, bucket: Bucket) -> dict[str, Any]:
    """A bucket's resource."""
    place = bucket.fields["location"]
    kind = "dual-region" if place in _DUAL else "multi-region" if place in _MULTI else "region"
    return (
        bucket.fields
        | ({} if kind == "region" else {"rpo": "DEFAULT"})
        | {
            "kind": "storage#bucket",
            "id": bucket.name,
            "selfLink": f"{base(request)}/storage/v1/b/{bucket.name}",
            "projectNumber": "123456789012",
            "name": bucket.name,
            "timeCreated": _time(bucket.created),
            "updated": _time(bucket.updated),
            "metageneration": str(bucket.metageneration),
            "locationType": kind,
            "etag": bucket.etag,
        }
    )


def policy_form(bucket: Bucket, version: int) -> dict[str, Any]:
    """A bucket's IAM policy for a reader of ``version``. Raises `ServiceError`."""
    try:
        shown = policies.readable(bucket.policy, version)
    except ValueError as error:
        raise invalid(str(error)) from None
    return {"kind": "storage#policy", "resourceId": f"projects/_/buckets/{bucket.name}", **shown}


def object_form(request: Request, bucket: Bucket, found: Object) -> dict[str, Any]:
    """An object's resource."""
    path = f"storage/v1/b/{bucket.name}/o/{quote(found.name, safe='')}"
    fields = {"contentType": "application/octet-stream", "storageClass": bucket.fields["storageClass"]} | found.fields
    return fields | {
        "kind": "storage#object",
        "id": f"{bucket.name}/{found.name}/{found.generation}",
        "selfLink": f"{base(request)}/{path}",
        "mediaLink": f"{base(request)}/download/{path}?generation={found.generation}&alt=media",
        "name": found.name,
        "bucket": bucket.name,
        "generation": str(found.generation),
        "metageneration": str(found.metageneration),
        "size": str(len(found.body)),
        "md5Hash": found.sums.md5,
        "crc32c": found.sums.crc32c,
        "etag": found.etag,
        "timeCreated": _time(found.created),
        "updated": _time(found.updated),
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _mask(text: str) -> dict[str, Any]:
    """``a,b/c,d(e,f)`` as a tree of names. Raises `ServiceError`."""
    stack: list[dict[str, Any]] = [{}]
    place = stack[0]
    for word in re.findall(r"[\w*]+|.", text):
        if word == "(":
            stack.append(place)
        elif word == ")" and len(stack) > 1:
            stack.pop()
        elif word == ",":
            place = stack[-1]
        elif re.fullmatch(r"[\w*]+", word):
            place = place.setdefault(word, {})
        elif word != "/":
            raise invalid(f"Invalid field selection {text}")
    if len(stack) > 1:
        raise invalid(f"Invalid field selection {text}")
    return stack[0]


def _masked(value: Any, mask: Mapping[str, Any]) -> Any:
    """The part of ``value`` that is in the tree ``mask``; an empty tree selects all."""
    if not mask:
        return value
    if isinstance(value, list):
        return [_masked(each, mask) for each in value]
    if not isinstance(value, Mapping):
        return value
    return {name: _masked(each, mask.get(name, mask.get("*", {}))) for name, each in value.items() if name in mask or "*" in mask}
