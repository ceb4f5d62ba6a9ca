"""The table ``[redis]`` of the configuration file, the environment variables and the limits of this provider.

=============  ============  ====================================================================================================
url            ""            redis://HOST:PORT/DB, rediss://... or unix://PATH, without a password, which FSD_REDIS_PASSWORD holds.
                             Empty: $FSD_REDIS_URL, else servers on this machine that end with the command
workers        []            the addresses of the worker hosts, http://HOST:PORT each. Empty: $FSD_REDIS_WORKERS, with commas
bucket         ""            objects go to the bucket BUCKET-APP of an S3-compatible store (AWS_ENDPOINT_URL_S3); empty: to Redis
region         us-east-1     of the bucket
memory_mb      2048          memory limit of one function, without its code
timeout_s      900           time limit of one function, in seconds
concurrency    128           functions of an app at once on one worker host
lease_s        5             seconds until a delivered message that is not acknowledged is delivered again
=============  ============  ====================================================================================================

Secrets are only in the two variables FSD_REDIS_PASSWORD and FSD_REDIS_TOKEN: never in addresses, `Resources`, settings or launches.
"""

from collections.abc import Mapping

import attrs

from fsd_core.common.fields import Kind, integer, key, listed, matching, number, read, text
from fsd_core.driver import InvokeLimits, MessageLimits, ObjectLimits
from fsd_core.providers.outline import Outline, sized

URL, WORKERS = "FSD_REDIS_URL", "FSD_REDIS_WORKERS"  # like the settings
PASSWORD, TOKEN = "FSD_REDIS_PASSWORD", "FSD_REDIS_TOKEN"  # of Redis; that a worker host asks for
RESOURCES = "FSD_REDIS_RESOURCES"  # in a function: the app's `Resources`, as JSON
ADVICE = (  # patterns of the class and text of an error, and what a person can do
    ("OutOfMemoryError|OOM", "Redis has no memory left: raise its maxmemory, or set [redis] bucket"),
    ("NOAUTH|WRONGPASS|AuthenticationError", f"set {PASSWORD} to the password of Redis, here and on each worker host"),
    ("Connection refused", "nothing listens there: start Redis or the worker host, or correct [redis] url or workers"),
    ("max number of clients reached", "raise maxclients of Redis"),
)
OBJECTS = ObjectLimits(
    object_bytes=512 << 20, delete_keys=1000, page_keys=1000, poll_s=0.002, as_of="2026-11-26",
    source="https://redis.io/docs/latest/develop/data-types/strings/: 512 MB a value; poll_s from a look-up of 0.1 ms",
)  # fmt: skip
FUNCTIONS = InvokeLimits(
    payload_bytes=1 << 20, concurrency=None, memory_bytes=None, timeout_s=None, failures="launcher",
    source="fsd_redis: the [redis] settings", as_of="2026-11-26",
)  # fmt: skip
_TIME = number(0.1, 1e9, "seconds")
_SHAPE = f"redis://HOST:PORT/DB, rediss://... or unix://PATH, without @ and ?: a password belongs into {PASSWORD}"
HOSTS = Kind("a list of addresses, http://HOST:PORT", listed(matching(r"https?://[\w.\[\]:-]+", "")).holds, tuple, secret=True)
ADDRESS = matching(r"((rediss?|unix)://[^@?\s]+)?", _SHAPE, secret=True)


@attrs.frozen(kw_only=True)
class Settings:
    """The keys and their defaults; the table in the docstring of the module explains each key."""

    url: str = key(ADDRESS, default="")
    workers: tuple[str, ...] = key(HOSTS, default=())
    bucket: str = key(matching(r"([a-z0-9][a-z0-9-]{0,20}[a-z0-9])?", "2 to 22 lower-case letters, digits or hyphens"), default="")
    region: str = key(text(), default="us-east-1")
    memory_mb: int = key(integer(256, 10**9), default=2048)
    timeout_s: float = key(_TIME, default=900.0)
    concurrency: int = key(integer(1, 10**9), default=128)
    lease_s: float = key(_TIME, default=5.0)


def messages(lease_s: float) -> MessageLimits:
    """The limits of queues. A script stops all other requests of the server, so a batch is far below what Redis could take."""
    return MessageLimits(
        batch_messages=100, batch_bytes=4 << 20, message_bytes=1 << 20, overhead_bytes=0, receive_messages=100, wait_s=20.0,
        lease_s=lease_s, billing_bytes=64 << 10, body="binary", as_of="2026-11-26", source="fsd_redis: Redis takes 512 MB a value",
    )  # fmt: skip


def outline(table: Mapping[str, object]) -> Outline:
    """The limits of an app with the table ``[redis]``. Raises `InputError` if a setting is wrong."""
    has = read(Settings, table, "[redis] ")
    limits = sized(FUNCTIONS, has.concurrency * max(1, len(has.workers)), has.memory_mb, has.timeout_s)
    return Outline(messages=messages(has.lease_s), objects=OBJECTS, functions=limits, memory_mb=(has.memory_mb,))
