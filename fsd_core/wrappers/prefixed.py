"""An object store inside an object store: every key gets a prefix on the way in and loses it on the way out."""

from __future__ import annotations

from collections.abc import Sequence

from fsd_core.driver import ObjectDriver, Page, Rejected
from fsd_core.wrappers.around import AroundObjects

__all__ = ["PrefixedObjects"]


class PrefixedObjects(AroundObjects):
    """The keys of ``driver`` that start with ``prefix``, which is put before a key as it is: end it with ``/`` for a folder."""

    def __init__(self, driver: ObjectDriver, prefix: str) -> None:
        super().__init__(driver)
        self._prefix = prefix

    def put(self, key: str, body: bytes | bytearray | memoryview, *, if_absent: bool = False) -> None:
        """See `ObjectDriver.put`."""
        super().put(self._prefix + key, body, if_absent=if_absent)

    def get(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        """See `ObjectDriver.get`."""
        return super().get(self._prefix + key, start, end)

    def list(self, prefix: str, page: str | None = None) -> Page:
        """See `ObjectDriver.list`."""
        found = super().list(self._prefix + prefix, page)
        return Page([key.removeprefix(self._prefix) for key in found.keys], found.next)

    def delete(self, keys: Sequence[str]) -> Sequence[Rejected]:
        """See `ObjectDriver.delete`."""
        return super().delete([self._prefix + key for key in keys])
