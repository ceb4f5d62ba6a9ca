"""Objects in Redis: a string for each object, and one sorted set of all keys, which Redis lists in the order of bytes.

Each request is one script, so a reader never sees a part of a put, and only one of several creates succeeds. All objects are in memory: use
a bucket (`fsd_redis.bucket`) for weights of many gigabytes.
"""

from collections.abc import Sequence

from fsd_core.driver import Page, Rejected, Resources
from fsd_core.providers.checks import check_delete, check_put, check_range
from fsd_redis.client import RedisDriver, name
from fsd_redis.settings import OBJECTS

MARK = "app"  # the key that exists as long as the app does
_APP = "if redis.call('EXISTS', KEYS[1]) == 0 then return redis.error_reply('NOAPP ' .. KEYS[1] .. ' does not exist') end\n"
_PUT = f"""{_APP}if ARGV[3] == '1' and redis.call('EXISTS', KEYS[2]) == 1 then return redis.error_reply('EXISTS ' .. ARGV[1]) end
redis.call('SET', KEYS[2], ARGV[2])
redis.call('ZADD', KEYS[3], 0, ARGV[1])"""
_GET = f"""{_APP}if redis.call('EXISTS', KEYS[2]) == 0 then return redis.error_reply('NOKEY ' .. KEYS[2] .. ' does not exist') end
if ARGV[1] == '' then return redis.call('GET', KEYS[2]) end
return redis.call('GETRANGE', KEYS[2], ARGV[1], ARGV[2])"""
_LIST = f"{_APP}return redis.call('ZRANGEBYLEX', KEYS[2], ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])"
_DELETE = f"""{_APP}for i, key in ipairs(ARGV) do
  redis.call('DEL', KEYS[i + 2])
  redis.call('ZREM', KEYS[2], key)
end"""


class RedisObjects(RedisDriver):
    """Implements `fsd_core.driver.ObjectDriver`."""

    def __init__(self, resources: Resources) -> None:
        super().__init__(resources)
        self.limits = OBJECTS
        self._mark, self._keys = name(self._app, MARK), name(self._app, "keys")

    def _key(self, key: str) -> str:
        return name(self._app, "object", key)

    def put(self, key: str, body: bytes | bytearray | memoryview, *, if_absent: bool = False) -> None:
        """Write the object. With ``if_absent``, Redis answers EXISTS unless this call created it."""
        check_put(self.limits, key, body)
        self.ask("EVAL", _PUT, 3, self._mark, self._key(key), self._keys, key, bytes(body), int(if_absent))

    def get(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        """The bytes [start, end) of the object."""
        first = check_range(key, start, end)
        last = -1 if end is None else max(first, end - 1)  # an empty range shows whether the object exists
        body: bytes = self.ask("EVAL", _GET, 2, self._mark, self._key(key), "" if (first, end) == (0, None) else first, last)
        return b"" if end == first else body

    def list(self, prefix: str, page: str | None = None) -> Page:
        """One page of the keys with ``prefix``. ``page`` is the last key of the page before."""
        low = f"[{prefix}" if page is None else f"({page}"
        found = self.ask("EVAL", _LIST, 2, self._mark, self._keys, low, b"(" + prefix.encode() + b"\xff", self.limits.page_keys)
        keys = [key.decode() for key in found]
        return Page(keys, keys[-1] if len(keys) == self.limits.page_keys else None)

    def delete(self, keys: Sequence[str]) -> Sequence[Rejected]:
        """Remove the objects."""
        check_delete(self.limits, keys)
        self.ask("EVAL", _DELETE, 2 + len(keys), self._mark, self._keys, *map(self._key, keys), *keys)
        return []
