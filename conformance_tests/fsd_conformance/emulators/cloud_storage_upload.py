"""Handles uploads: in one request with metadata, or in chunks to a session."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.message import Message
from typing import Any

from fsd_conformance.emulators.cloud_storage_fields import ServiceError, invalid, object_fields
from fsd_conformance.emulators.cloud_storage_store import Bucket, Conditions, Object, check_name

__all__ = ["Session", "Sessions", "boundary", "json_of", "related"]

CHUNK = 256 << 10  # a session keeps a multiple of this, until the last chunk
_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")


def boundary(content_type: str) -> bytes:
    """The delimiter of a multipart body. Raises `ServiceError` where the header has none."""
    header = Message()
    header["Content-Type"] = content_type
    found = header.get_boundary()
    if not found:
        raise invalid(f"Content-Type {content_type!r}: expected a boundary.")
    return f"--{found}".encode()


def json_of(body: bytes) -> dict[str, Any]:
    """A request's JSON object; an empty body is an empty object. Raises `ServiceError`."""
    try:
        value = json.loads(body or b"{}")
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise invalid("Parse Error")
    return value


def related(content_type: str, body: bytes) -> tuple[dict[str, Any], bytes]:
    """Metadata and media of a multipart/related body. Raises `ServiceError`."""
    mark = boundary(content_type)
    first, second, end = body.find(mark), body.find(b"\r\n" + mark, 1), body.rfind(b"\r\n" + mark + b"--")
    if first < 0 or not first < second < end:
        raise invalid("Malformed multipart body: expected two parts between the boundaries.")
    metadata = json_of(_part(body, first + len(mark), second)[1])
    head, media = _part(body, second + 2 + len(mark), end)
    if encoded := re.search(r"(?im)^content-(?:transfer-)?encoding:\s*(?!binary|[78]bit)([^\r\n]+)", head):
        raise ServiceError(501, f"a part with the encoding {encoded[1]} is not implemented by the local Cloud Storage")
    kind = re.search(r"(?im)^content-type:\s*([^\r\n]+)", head)
    return {"contentType": kind[1].strip() if kind else "application/octet-stream"} | metadata, media


def _part(body: bytes, start: int, end: int) -> tuple[str, bytes]:
    """Headers and content of one part."""
    split = body.find(b"\r\n\r\n", start, end)
    if split < 0:
        raise invalid("Malformed multipart body: expected headers in each part.")
    return body[start:split].decode("latin-1"), body[split + 4 : end]


@dataclass(slots=True)
class Session:
    """One resumable upload: its future object, and the bytes so far."""

    bucket: Bucket
    name: str
    given: Mapping[str, Any]
    sums: Sequence[Mapping[str, str]]
    conditions: Conditions
    total: int | None  # from the client; None before it is known
    body: bytearray = field(default_factory=bytearray)
    made: Object | None = None
    broken: str = ""  # why it accepts no more chunks


class Sessions:
    """All resumable uploads."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._sessions: dict[str, Session] = {}

    def begin(
        self, bucket: Bucket, name: str, given: Mapping[str, Any], sums: Mapping[str, str], total: int | None, when: Conditions
    ) -> str:
        """Begin a session and return its id. ``sums``: from headers; ``when``: checked at the end. Raises `ServiceError`."""
        check_name(name)
        object_fields(given, {}, replace=True)
        self._check(total or 0)
        key = secrets.token_urlsafe(24)
        self._sessions[key] = Session(bucket, name, given, [sums], when, total)
        return key

    def cancel(self, bucket: Bucket, key: str) -> None:
        """Remove a session. Raises `ServiceError` for an unknown one."""
        self._session(bucket, key)
        del self._sessions[key]

    def take(self, bucket: Bucket, key: str, asked: str | None, chunk: bytes, sums: Mapping[str, str]) -> Session:
        """Add a chunk to a session. ``asked``: Content-Range; ``sums``: from headers. Raises `ServiceError`."""
        session = self._session(bucket, key)
        if session.made:
            return session
        start, total = self._range(asked, chunk, len(session.body))
        if total is not None and session.total not in (None, total):
            raise invalid(f"The upload's size was {session.total} bytes before, and is {total} now.")
        session.total = total if total is not None else session.total
        have = len(session.body)
        if start > have:
            words = f"the upload offset is {start} byte(s), which exceeds already uploaded size of {have} byte(s)."
            raise ServiceError(503, f"Invalid request. According to the Content-Range header, {words}")
        fresh = memoryview(chunk)[have - start :]
        last = session.total is not None and start + len(chunk) == session.total
        self._check(have + len(fresh))
        if not last and 0 < len(chunk) < CHUNK:
            session.broken = (
                f"Invalid request.  The number of bytes uploaded is required to be equal or greater than {CHUNK}, except for the final "
                f"request (it's recommended to be the exact multiple of {CHUNK}).  The received request contained {len(chunk)} bytes, "
                "which does not meet this requirement."
            )
        if session.broken:
            raise ServiceError(400, session.broken, {"Content-Type": "text/plain; charset=utf-8"})
        session.body += fresh if last else fresh[: (have + len(fresh)) // CHUNK * CHUNK - have]
        if len(session.body) == session.total:
            session.made = bucket.put(session.name, bytes(session.body), session.given, [*session.sums, sums], session.conditions)
            session.body.clear()
        return session

    def _session(self, bucket: Bucket, key: str) -> Session:
        session = self._sessions.get(key)
        if session is None or session.bucket is not bucket:
            raise ServiceError(404, "No such upload session.")
        return session

    def _check(self, size: int) -> None:
        if size > self._max_bytes:
            raise ServiceError(413, f"An object of {size} bytes: expected at most {self._max_bytes}.")

    def _range(self, asked: str | None, chunk: bytes, have: int) -> tuple[int, int | None]:
        """The position of the chunk, and the total size or None. Without a header the chunk is the whole object."""
        if asked is None:
            return 0, len(chunk)
        match = _RANGE.fullmatch(asked)
        if match is None or (match[1] is not None and int(match[2]) - int(match[1]) + 1 != len(chunk)) or (match[1] is None and chunk):
            raise invalid(f"Content-Range {asked!r} does not fit a body of {len(chunk)} bytes.")
        total = None if match[3] == "*" else int(match[3])
        if total is not None and match[2] is not None and int(match[2]) >= total:
            raise invalid(f"Content-Range {asked!r}: ends past the whole.")
        return (have if match[1] is None else int(match[1])), total
