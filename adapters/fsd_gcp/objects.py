"""One Cloud Storage bucket as the object store, by its JSON API: one call is one request.

`fsd_gcp.clients` says why not by google-cloud-storage.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Sequence
from email.parser import BytesParser
from typing import Any
from urllib.parse import quote, urlencode

import google_crc32c

from fsd_core.driver import Code, Page, Rejected, Resources
from fsd_core.providers.addresses import address
from fsd_core.providers.checks import check_delete, check_put, check_range
from fsd_gcp.clients import Http
from fsd_gcp.errors import Answered, classify, status_code
from fsd_gcp.limits import OBJECTS

__all__ = ["GcpObjects"]

HOST = "https://storage.googleapis.com"


_CHUNK_BYTES = 1 << 20


class Damaged(ConnectionError):
    """A body is not what its checksum says."""


class GcpObjects:
    """Implements `fsd_core.driver.ObjectDriver` over ``names["bucket"]``. STORAGE_EMULATOR_HOST leads to an emulator."""

    service = "Cloud Storage"

    def __init__(self, resources: Resources) -> None:
        self.limits = OBJECTS
        emulator = address("STORAGE_EMULATOR_HOST", bare=True)
        self._http = Http(emulator or HOST, signed=not emulator)
        self._objects = f"/storage/v1/b/{quote(resources.names['bucket'], safe='')}/o"

    def put(self, key: str, body: bytes | bytearray | memoryview, *, if_absent: bool = False) -> None:
        """Write the object, whose checksum goes ahead. With ``if_absent``, 412 says that it is there: generation 0 means none."""
        check_put(self.limits, key, body)
        view = memoryview(body)
        view = view.cast("B") if view.c_contiguous and view.nbytes else memoryview(bytes(view))
        boundary = secrets.token_hex(16)
        told = json.dumps({"name": key, "crc32c": _checksum(view)})
        head = (
            f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{told}\r\n"
            f"--{boundary}\r\nContent-Type: application/octet-stream\r\n\r\n"
        ).encode()
        tail = f"\r\n--{boundary}--\r\n".encode()
        headers = {
            "Content-Type": f'multipart/related; boundary="{boundary}"',
            "Content-Length": str(len(head) + len(view) + len(tail)),
        }
        condition = "&ifGenerationMatch=0" if if_absent else ""
        self._http.request("POST", f"/upload{self._objects}?uploadType=multipart&fields=name{condition}", (head, view, tail), headers)

    def get(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        """The bytes [start, end) of the object; of a whole one, the checksum is verified."""
        first = check_range(key, start, end)
        empty = end is not None and end == first  # HTTP has no empty range: ask for a byte, to learn whether the key is there
        last = "" if end is None else max(first, end - 1)
        whole = first == 0 and end is None
        asked = {} if whole else {"Range": f"bytes={first}-{last}"}
        try:
            answer = self._http.request("GET", f"/download{self._objects}/{quote(key, safe='')}?alt=media", headers=asked)
        except Answered as error:
            if error.status == 416:  # the object is there and ends before ``start``
                return b""
            raise
        body: bytes = answer.data
        sums = answer.headers.get("X-Goog-Hash", "")
        if whole and "crc32c=" in sums and f"crc32c={_checksum(memoryview(body))}" not in sums:
            raise Damaged(f"object {key!r}: {len(body)} bytes that do not have the checksum {sums}")
        return b"" if empty else body

    def list(self, prefix: str, page: str | None = None) -> Page:
        """The next keys, in ascending order; a page is Cloud Storage's token."""
        asked = {"prefix": prefix, "maxResults": self.limits.page_keys, "fields": "items/name,nextPageToken"}
        query = urlencode(asked if page is None else {**asked, "pageToken": page})
        answer = json.loads(self._http.request("GET", f"{self._objects}?{query}").data)
        return Page([entry["name"] for entry in answer.get("items", ())], answer.get("nextPageToken"))

    def delete(self, keys: Sequence[str]) -> Sequence[Rejected]:
        """Remove the objects in one batch request; one `Rejected` for each that Cloud Storage could not remove."""
        check_delete(self.limits, keys)
        boundary = secrets.token_hex(16)
        calls = [
            f"--{boundary}\r\nContent-Type: application/http\r\n\r\nDELETE {self._objects}/{quote(key, safe='')} HTTP/1.1\r\n\r\n\r\n"
            for key in keys
        ]
        answer = self._http.request(
            "POST",
            "/batch/storage/v1",
            "".join([*calls, f"--{boundary}--\r\n"]).encode(),
            {"Content-Type": f'multipart/mixed; boundary="{boundary}"'},
        )
        answers = _answers(answer.headers.get("Content-Type", ""), answer.data)
        if len(answers) != len(keys):
            raise Answered("backendError", f"a batch of {len(keys)} calls got {len(answers)} answers", 502)
        return [
            Rejected(number, status_code(each.status, each.word), f"{keys[number]}: {each}")
            for number, each in enumerate(answers)
            if not 200 <= each.status < 300 and each.status != 404
        ]

    def classify(self, error: BaseException) -> Code:
        """See `fsd_gcp.errors.classify`."""
        return classify(error)

    def native(self) -> Any:
        """The connections, a urllib3.PoolManager; `fsd_gcp.clients.signer` gives the headers of a request."""
        return self._http.pool

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


def _checksum(view: memoryview) -> str:
    crc = 0
    for first in range(0, len(view), _CHUNK_BYTES):
        crc = google_crc32c.extend(crc, bytes(view[first : first + _CHUNK_BYTES]))  # takes bytes only
    return base64.b64encode(crc.to_bytes(4, "big")).decode()


def _answers(kind: str, body: bytes) -> list[Answered]:
    """What a batch says of its calls, in their order: each part is an answer of HTTP."""
    found = []
    for part in BytesParser().parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + body).walk():
        if part.get_content_type() == "application/http":
            text = part.get_payload(decode=True)
            head, _, content = (text if isinstance(text, bytes) else b"").replace(b"\r\n", b"\n").partition(b"\n\n")
            status = head.split()[1:2]
            found.append(Answered.http(int(status[0]) if status and status[0].isdigit() else 502, content))
    return found
