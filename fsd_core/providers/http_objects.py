"""Reads of objects as HTTP requests: what is the same for all object stores with the header Range."""

from __future__ import annotations

from abc import ABC, abstractmethod

from fsd_core.providers.checks import check_range

__all__ = ["HttpObjects"]


class HttpObjects(ABC):
    """Implements ``get`` of `fsd_core.driver.ObjectDriver`: one call is one request of a subclass."""

    def get(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        """The bytes [``start``, ``end``) of the object, by default all. Raises the SDK's error if the object does not exist."""
        first = check_range(key, start, end)
        try:
            # HTTP has no empty range: a request for one byte shows whether the key exists
            body = self.read(key, first, None if end is None else max(first, end - 1))
        except Exception as error:
            if self.status(error) == 416:  # the object exists and ends before ``start``
                return b""
            raise
        return b"" if end == first else body

    @abstractmethod
    def read(self, key: str, first: int, last: int | None) -> bytes:
        """Request the bytes ``first`` to ``last`` of the object, both included; ``last`` `None`: to its end. Raises the SDK's errors."""

    @abstractmethod
    def status(self, error: Exception) -> int | None:
        """The HTTP status of an error that `read` raised; 0 or `None` if the error has no status."""
