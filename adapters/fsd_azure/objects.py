"""One container of Blob Storage as the object store: one call is one request.

azure-storage-blob needs 1.6 ms of processor time for a put or get of 1 KB, 2.2 and 4.1 ms for 1 MB. Import and client take 230 to 300 ms,
or 50 ms after azure-servicebus (benchmarks/azure_clients.py, Azurite, two cores).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from azure.core.exceptions import HttpResponseError

from fsd_azure.clients import container
from fsd_azure.errors import CODES, classify
from fsd_azure.limits import OBJECTS
from fsd_core.driver import Code, Page, Rejected, Resources
from fsd_core.providers.checks import check_delete, check_put
from fsd_core.providers.http_objects import HttpObjects

__all__ = ["AzureObjects"]


class AzureObjects(HttpObjects):
    """Implements `fsd_core.driver.ObjectDriver` over ``names["container"]``."""

    service = "Blob Storage"

    def __init__(self, resources: Resources) -> None:
        self.limits = OBJECTS
        self._container = container(resources.names["blob_url"], resources.names["container"])

    def put(self, key: str, body: bytes | bytearray | memoryview, *, if_absent: bool = False) -> None:
        """Write the object by one Put Blob. With ``if_absent``, the service answers 409 where the object exists."""
        check_put(self.limits, key, body)
        self._container.upload_blob(key, body if isinstance(body, bytes) else bytes(body), overwrite=not if_absent)

    def read(self, key: str, first: int, last: int | None) -> bytes:
        """One Get Blob. If a body is cut off, the SDK requests it twice more; no option turns this off."""
        body: bytes = self._container.download_blob(key, first, None if last is None else last - first + 1).readall()
        return body

    def status(self, error: Exception) -> int | None:
        """The HTTP status that Blob Storage answered."""
        return error.status_code if isinstance(error, HttpResponseError) else None

    def list(self, prefix: str, page: str | None = None) -> Page:
        """One page of the keys with ``prefix``, in ascending order. ``page`` is Blob Storage's marker."""
        pages = self._container.list_blob_names(name_starts_with=prefix, results_per_page=self.limits.page_keys).by_page(page)
        keys = list(next(pages))
        return Page(keys, pages.continuation_token or None)  # type: ignore[attr-defined]  # the SDK types by_page as any iterator

    def delete(self, keys: Sequence[str]) -> Sequence[Rejected]:
        """Remove the objects in one batch. Returns one `Rejected` for each object that Blob Storage could not remove."""
        check_delete(self.limits, keys)
        answers = self._container.delete_blobs(*keys, raise_on_any_failure=False)
        return [
            Rejected(number, CODES.answer(answer.status_code, word), f"{keys[number]}: {answer.status_code} {word or answer.reason}")
            for number, answer in enumerate(answers)
            if not 200 <= answer.status_code < 300 and (word := str(answer.headers.get("x-ms-error-code", ""))) != "BlobNotFound"
        ]

    def classify(self, error: BaseException) -> Code:
        """The `Code` of an error of this driver: see `fsd_azure.errors.classify`."""
        return classify(error)

    def native(self) -> Any:
        """The SDK's client of the container."""
        return self._container

    def close(self) -> None:
        """Close the connections."""
        self._container.close()
