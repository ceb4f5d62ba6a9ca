"""An object store inside another one: the wrapper adds a prefix to each key of a request and removes it from each key of an answer."""

from __future__ import annotations

from collections.abc import Sequence

from fsd_core.driver import ObjectDriver, Page, Rejected
from fsd_core.wrappers.around import AroundObjects

__all__ = ["PrefixedObjects"]


class PrefixedObjects(AroundObjects):
    """The objects of ``driver`` whose keys start with ``prefix``. The wrapper adds no separator: the prefix of a folder ends with ``/``."""

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
