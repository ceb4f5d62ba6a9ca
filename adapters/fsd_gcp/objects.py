"""One Cloud Storage bucket as the object store: one call is one request, with one attempt.

This uses google-cloud-storage, but its classes of uploads and downloads instead of ``Blob``: a ``Blob`` needs two requests for more than
8 MiB.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Batch, Client
from google.cloud.storage._media.requests import MultipartUpload, RawDownload
from google.cloud.storage.exceptions import DataCorruption

from fsd_core.driver import Code, Page, Rejected, Resources
from fsd_core.providers.addresses import address
from fsd_core.providers.checks import check_delete, check_put
from fsd_core.providers.http_objects import HttpObjects
from fsd_gcp.clients import Session
from fsd_gcp.errors import CODES, Answered, classify
from fsd_gcp.limits import OBJECTS

__all__ = ["GcpObjects", "client"]

HOST = "https://storage.googleapis.com"


def client() -> Any:
    """The SDK's client of Cloud Storage, or of the emulator in STORAGE_EMULATOR_HOST. The first request looks up the credentials.

    Raises `InputError` where STORAGE_EMULATOR_HOST is malformed.
    """
    # Without this the SDK requests the bucket's metadata in the background.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    emulator = address("STORAGE_EMULATOR_HOST", bare=True)
    session = Session(emulator or HOST, signed=not emulator)
    return Client(None, AnonymousCredentials(), _http=session, client_options={"api_endpoint": session.base})


class GcpObjects(HttpObjects):
    """Implements `fsd_core.driver.ObjectDriver` over ``names["bucket"]``."""

    service = "Cloud Storage"

    def __init__(self, resources: Resources) -> None:
        self.limits = OBJECTS
        self._client = client()
        self._objects = f"/b/{quote(resources.names['bucket'], safe='')}/o"

    def put(self, key: str, body: bytes | bytearray | memoryview, *, if_absent: bool = False) -> None:
        """Write the object. The request also holds its checksum, which Cloud Storage verifies.

        With ``if_absent``, Cloud Storage answers 412 where the object exists: generation 0 means that no object exists.
        """
        check_put(self.limits, key, body)
        condition = "&ifGenerationMatch=0" if if_absent else ""
        upload = MultipartUpload(f"/upload/storage/v1{self._objects}?uploadType=multipart&fields=name{condition}", retry=None)
        upload.transmit(self._client._http, bytes(body), {"name": key}, "application/octet-stream")

    def read(self, key: str, first: int, last: int | None) -> bytes:
        """One download. The checksum is verified for a whole object only.

        Raises `Answered` where the object does not exist, and `ConnectionError` where the body is damaged or incomplete.
        """
        url = f"/download/storage/v1{self._objects}/{quote(key, safe='')}?alt=media"
        body = io.BytesIO()
        try:
            RawDownload(url, body, first or None, last, retry=None).consume(self._client._http)
        except (DataCorruption, ConnectionError) as error:
            raise ConnectionError(f"object {key!r}: {' '.join(str(error).split())}") from error
        return body.getvalue()

    def status(self, error: Exception) -> int:
        """The HTTP status that Cloud Storage answered."""
        return error.status if isinstance(error, Answered) else 0

    def list(self, prefix: str, page: str | None = None) -> Page:
        """One page of the keys with ``prefix``, in ascending order. ``page`` is Cloud Storage's page token."""
        asked: dict[str, object] = {"prefix": prefix, "maxResults": self.limits.page_keys, "fields": "items/name,nextPageToken"}
        answer = self._client._connection.api_request("GET", self._objects, asked | ({} if page is None else {"pageToken": page}))
        return Page([entry["name"] for entry in answer.get("items", ())], answer.get("nextPageToken"))

    def delete(self, keys: Sequence[str]) -> Sequence[Rejected]:
        """Remove the objects in one batch request. Returns one `Rejected` for each object that Cloud Storage could not remove."""
        check_delete(self.limits, keys)
        batch = Batch(self._client)
        for key in keys:
            batch.api_request("DELETE", f"{self._objects}/{quote(key, safe='')}")
        try:
            answers = [Answered.http(each.status_code, each.content) for each in batch.finish(raise_exception=False)]
        except ValueError as error:  # the SDK raises it where answers are missing
            raise Answered("backendError", f"a batch of {len(keys)} calls: {error}", 502) from error
        return [
            Rejected(number, CODES.answer(each.status, each.word), f"{keys[number]}: {each}")
            for number, each in enumerate(answers)
            if not 200 <= each.status < 300 and each.status != 404
        ]

    def classify(self, error: BaseException) -> Code:
        """The `Code` of an error of this driver: see `fsd_gcp.errors.classify`."""
        return classify(error)

    def native(self) -> Any:
        """The SDK's client of Cloud Storage."""
        return self._client

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
