"""An object driver with the retry layer around it: what workers and clients use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from fsd_core.common.crew import each
from fsd_core.driver import Code, ObjectDriver
from fsd_core.errors import DriverError
from fsd_core.storage.retry import Retry

__all__ = ["Store"]

DELETES = 8  # requests at a time


class Store:
    """Reads and writes objects; transient errors are retried, the rest raise `DriverError`."""

    def __init__(self, driver: ObjectDriver, retry: Retry) -> None:
        self.driver = driver
        self.retry = retry

    def put(self, key: str, body: bytes) -> None:
        """Create or replace."""
        self.retry.call(self.driver, f"put {key}", lambda: self.driver.put(key, body))

    def create(self, key: str, body: bytes) -> bool:
        """Create only; `False` if somebody else did. ``body`` must be the caller's own (hold a nonce).

        A create can take effect and lose its reply, so a refusal is believed only after reading another's body back.
        """
        try:
            self.retry.call(self.driver, f"create {key}", lambda: self.driver.put(key, body, if_absent=True))
        except DriverError as error:
            if error.code is not Code.ALREADY_EXISTS:
                raise
            return self.find(key) == body
        return True

    def get(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        """The object, or its bytes [start, end). A missing key raises `DriverError` of `Code.NOT_FOUND`."""
        return self.retry.call(self.driver, f"get {key}", lambda: self.driver.get(key, start, end))

    def find(self, key: str, start: int | None = None, end: int | None = None) -> bytes | None:
        """Like `get`, but `None` where there is no such key."""
        try:
            return self.get(key, start, end)
        except DriverError as error:
            if error.code is Code.NOT_FOUND:
                return None
            raise

    def keys(self, prefix: str) -> Iterator[str]:
        """All keys that start with ``prefix``, ascending."""
        page: str | None = None
        while True:
            listed = self.retry.call(self.driver, f"list {prefix}", partial(self.driver.list, prefix, page))
            yield from listed.keys
            page = listed.next
            if page is None:
                return

    def delete(self, keys: Sequence[str]) -> None:
        """Remove the keys: as many in a request as the store takes, and several requests at a time."""
        step = self.driver.limits.delete_keys
        groups = [keys[first : first + step] for first in range(0, len(keys), step)]

        def delete(group: Sequence[str]) -> None:
            self.retry.entries(self.driver, "delete", group, self.driver.delete)

        if len(groups) == 1:
            delete(groups[0])
        else:
            each(delete, groups, DELETES)

    def delete_prefix(self, prefix: str) -> int:
        """Remove everything below ``prefix``; how many keys that were."""
        keys = list(self.keys(prefix))
        self.delete(keys)
        return len(keys)
