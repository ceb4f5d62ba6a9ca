"""Handles batches: one HTTP request that holds many requests, as multipart/mixed."""

from __future__ import annotations

import email
import secrets
from collections.abc import Sequence
from email.message import Message
from urllib.parse import parse_qs, urlsplit

from fsd_conformance.emulators.cloud_storage_fields import ServiceError, invalid
from fsd_conformance.emulators.cloud_storage_upload import boundary
from fsd_conformance.emulators.web import Request, Response, phrase

__all__ = ["joined", "requests_in"]

# https://cloud.google.com/storage/docs/batch, read 2026-11
CALLS, BYTES = 100, 10 << 20


def requests_in(outer: Request) -> list[Request]:
    """The requests in a batch. Raises `ServiceError` where it is malformed, or holds too many."""
    kind = outer.headers.get("content-type", "")
    boundary(kind)
    if len(outer.body) > BYTES:
        raise ServiceError(413, f"A batch of {len(outer.body)} bytes: at most {BYTES}.")
    parts = email.message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + outer.body).get_payload()
    if not isinstance(parts, list):
        raise invalid("Failed to parse batch request: no parts.")
    if len(parts) > CALLS:
        raise invalid(f"The batch request exceeded the maximum number of calls: {len(parts)}, at most {CALLS}.")
    return [_request(outer, str(part.get_payload())) for part in parts if isinstance(part, Message)]


def _request(outer: Request, text: str) -> Request:
    """One request of a batch, from its HTTP text."""
    head, _, body = text.replace("\r\n", "\n").partition("\n\n")
    first, *lines = head.split("\n")
    method, _, rest = first.partition(" ")
    url = urlsplit(rest.partition(" ")[0])
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    headers["host"] = outer.headers.get("host", "")
    return Request(method, url.path, parse_qs(url.query, keep_blank_values=True), headers, body.encode())


def joined(answers: Sequence[Response]) -> Response:
    """One answer with all answers, in the order of the requests."""
    mark = f"batch_{secrets.token_hex(12)}"
    body = b""
    for number, answer in enumerate(answers, 1):
        head = [f"--{mark}", "Content-Type: application/http", f"Content-ID: <response-{number}>", ""]
        head += [f"HTTP/1.1 {answer.status} {phrase(answer.status)}", *(f"{name}: {value}" for name, value in answer.headers.items())]
        body += "\r\n".join([*head, f"Content-Length: {len(answer.body)}", "", ""]).encode() + answer.body + b"\r\n"
    return Response(200, body + f"--{mark}--\r\n".encode(), {"Content-Type": f"multipart/mixed; boundary={mark}"})
