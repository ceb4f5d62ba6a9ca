"""`Store`: an object driver with retries. Workers and clients use it instead of the driver."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from fsd_core.common.crew import each
from fsd_core.driver import Code, ObjectDriver
from fsd_core.errors import DriverError
from fsd_core.storage.retry import Retry

__all__ = ["Store"]

DELETE_THREADS = 8


class Store:
    """Reads and writes objects. Retries transient errors. Raises `DriverError` for every other error of the driver."""

    def __init__(self, driver: ObjectDriver, retry: Retry) -> None:
        self.driver = driver
        self.retry = retry

    def put(self, key: str, body: bytes) -> None:
        """Create or replace the object at ``key``."""
        self.retry.call(self.driver, f"put {key}", lambda: self.driver.put(key, body))

    def put_once(self, key: str, body: bytes) -> bool:
        """Create the object at ``key`` if it does not exist. An existing object stays: the bodies of all callers have to be equivalent.

        Returns `False` if the object exists already. This call itself may have created it, if the reply to its first try was lost.
        """
        try:
            self.retry.call(self.driver, f"create {key}", lambda: self.driver.put(key, body, if_absent=True))
        except DriverError as error:
            if error.code is not Code.ALREADY_EXISTS:
                raise
            return False
        return True

    def create(self, key: str, body: bytes) -> bool:
        """Create the object at ``key`` if it does not exist. Returns `True` if this call created it.

        ``body`` has to differ from the bodies of all other callers, for instance by a nonce. If the reply of a successful create is lost,
        the store refuses the retry. So after a refusal this method reads the object: an equal body shows that this call created it.
        """
        try:
            self.retry.call(self.driver, f"create {key}", lambda: self.driver.put(key, body, if_absent=True))
        except DriverError as error:
            if error.code is not Code.ALREADY_EXISTS:
                raise
            return self.find(key) == body
        return True

    def get(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return the object's bytes [``start``, ``end``), by default all. Raises `DriverError` (`Code.NOT_FOUND`) if it does not exist."""
        return self.retry.call(self.driver, f"get {key}", lambda: self.driver.get(key, start, end))

    def find(self, key: str, start: int | None = None, end: int | None = None) -> bytes | None:
        """Like `get`, but returns `None` if the object does not exist."""
        try:
            return self.get(key, start, end)
        except DriverError as error:
            if error.code is Code.NOT_FOUND:
                return None
            raise

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield all keys that start with ``prefix``, ascending."""
        page: str | None = None
        while True:
            listed = self.retry.call(self.driver, f"list {prefix}", partial(self.driver.list, prefix, page))
            yield from listed.keys
            page = listed.next
            if page is None:
                return

    def delete(self, keys: Sequence[str]) -> None:
        """Remove the objects, with as many keys per request as the store allows, and up to `DELETE_THREADS` requests at once."""
        step = self.driver.limits.delete_keys
        groups = [keys[first : first + step] for first in range(0, len(keys), step)]

        def delete(group: Sequence[str]) -> None:
            self.retry.entries(self.driver, "delete", group, self.driver.delete)

        if len(groups) == 1:
            delete(groups[0])
        else:
            each(delete, groups, DELETE_THREADS)

    def delete_prefix(self, prefix: str) -> int:
        """Remove all objects whose keys start with ``prefix``. Returns their number."""
        keys = list(self.keys(prefix))
        self.delete(keys)
        return len(keys)
