"""Redis's client for all drivers, the names of keys, and the codes of Redis's errors.

All keys of an app contain ``{APP}`` in braces: so a Redis Cluster keeps them on one node, where one script can reach them.
"""

import os
from typing import Any

import redis
from redis import exceptions as sdk
from redis.backoff import NoBackoff
from redis.retry import Retry

from fsd_core.driver import Code, Resources
from fsd_core.providers.codes import Codes
from fsd_redis.settings import PASSWORD

CONNECT_S, BLOCK_S, ANSWER_S = 5.0, 5.0, 20.0  # one request waits at most BLOCK_S in Redis
IDLE_S = 25.0  # Redis or a router may close an idle connection: after so many seconds a PING tries it first, and opens it again
DENIED = (sdk.AuthenticationError, sdk.AuthorizationError, sdk.NoPermissionError)
_WORDS = {  # the first word of an answer; those of our scripts are NOAPP, NOKEY, NOQUEUE and EXISTS
    Code.NOT_FOUND: "NOAPP NOKEY NOQUEUE NOGROUP UNBLOCKED",
    Code.ALREADY_EXISTS: "EXISTS",
    Code.UNAVAILABLE: "MISCONF NOREPLICAS BUSY",
}
_KINDS = (  # the first match counts
    (DENIED, Code.DENIED),
    (sdk.OutOfMemoryError, Code.TOO_LARGE),  # memory does not come back by itself: a retry would wait for nothing
    (sdk.MaxConnectionsError, Code.THROTTLED),
    ((sdk.ReadOnlyError, sdk.ClusterDownError, sdk.MasterDownError, sdk.TryAgainError), Code.UNAVAILABLE),
    ((sdk.ConnectionError, sdk.TimeoutError, ConnectionError, TimeoutError), Code.UNAVAILABLE),
    ((sdk.DataError, sdk.ResponseError), Code.INVALID),
)
_CODES = Codes(_WORDS, _KINDS)


def client(url: str) -> redis.Redis:
    """A thread-safe client. It tries twice to connect, but `RedisDriver.ask` sends each request once: fsd_core repeats requests."""
    waits: Any = {"socket_connect_timeout": CONNECT_S, "socket_timeout": ANSWER_S, "retry": Retry(NoBackoff(), 1), "protocol": 2}
    return redis.Redis.from_url(url, password=os.environ.get(PASSWORD), max_connections=1024, health_check_interval=IDLE_S, **waits)


def name(app: str, *parts: object) -> str:
    """The name of a key of an app."""
    return ":".join(["fsd", f"{{{app}}}", *map(str, parts)])


def classify(error: BaseException) -> Code:
    """The `Code` of an error of Redis, by its first word or by its class; UNKNOWN for any other exception."""
    word = str(error).partition(" ")[0] if isinstance(error, sdk.ResponseError) else ""
    return _CODES.word(word) or _CODES.error(error)


class RedisDriver:
    """What the drivers of messages and of objects share."""

    service = "Redis"

    def __init__(self, resources: Resources) -> None:
        self._app = resources.app
        self._redis: Any = client(resources.names["url"])
        self._idle: list[Any] = []  # connections that no thread uses

    def ask(self, *words: object) -> Any:
        """Send one command, and return what Redis answers. Raises the errors of redis-py.

        This takes a third of the processor time of redis-py's `execute_command`.
        """
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._redis.connection_pool.make_connection()
        try:
            connection.send_command(*words)
            return connection.read_response()
        except BaseException as error:
            if not isinstance(error, sdk.ResponseError):  # a part of the answer may be unread: the next command connects again
                connection.disconnect()
            raise
        finally:
            self._idle.append(connection)

    def classify(self, error: BaseException) -> Code:
        """The `Code` of an error of this driver."""
        return classify(error)

    def native(self) -> Any:
        """Redis's client."""
        return self._redis

    def close(self) -> None:
        """Close the connections."""
        while self._idle:
            self._idle.pop().disconnect()
        self._redis.close()
