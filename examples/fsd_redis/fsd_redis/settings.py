"""The table ``[redis]`` of the configuration file, and the environment variables of this provider.

=============  ============  ====================================================================================================
url            ""            redis://HOST:PORT/DB, rediss://... or unix://PATH, without a password, which FSD_REDIS_PASSWORD holds.
                             Empty: $FSD_REDIS_URL, else servers on this machine that end with the command
workers        []            the addresses of the worker hosts, http://HOST:PORT each. Empty: $FSD_REDIS_WORKERS, with commas
bucket         ""            objects go to the bucket BUCKET-APP of an S3-compatible store (AWS_ENDPOINT_URL_S3); empty: to Redis
region         us-east-1     of the bucket
memory_mb      2048          memory limit of one function (resident set)
timeout_s      900           time limit of one function, in seconds
concurrency    128           functions of an app at once on one worker host
lease_s        5             seconds until a delivered message that is not acknowledged is delivered again
=============  ============  ====================================================================================================

Secrets travel in variables alone: never in `Resources`, in settings or in a launch.
"""

from __future__ import annotations

import attrs

from fsd_core.common.fields import Kind, integer, key, listed, matching, number, text

__all__ = ["PASSWORD", "RESOURCES", "TOKEN", "URL", "WORKERS", "Settings"]

URL, WORKERS = "FSD_REDIS_URL", "FSD_REDIS_WORKERS"  # like the settings
PASSWORD, TOKEN = "FSD_REDIS_PASSWORD", "FSD_REDIS_TOKEN"  # of Redis; that a worker host asks for
RESOURCES = "FSD_REDIS_RESOURCES"  # in a function: the app's `Resources`, as JSON
_TIME = number(0.1, 1e9, "seconds")
_HOST = matching(r"https?://[\w.\[\]:-]+", "")
_URL = matching(
    r"((rediss?|unix)://[^@\s]+)?", f"redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix://PATH; a password belongs into {PASSWORD}"
)
_NAME = matching(r"([a-z0-9][a-z0-9-]{0,20}[a-z0-9])?", "2 to 22 lower-case letters, digits or hyphens")


@attrs.frozen(kw_only=True)
class Settings:
    """The keys and their defaults; the table in the docstring of the module explains each key."""

    url: str = key(_URL, default="")
    workers: tuple[str, ...] = key(Kind("a list of addresses, http://HOST:PORT", listed(_HOST).holds, tuple), default=())
    bucket: str = key(_NAME, default="")
    region: str = key(text(), default="us-east-1")
    memory_mb: int = key(integer(64, 10**9), default=2048)
    timeout_s: float = key(_TIME, default=900.0)
    concurrency: int = key(integer(1, 10**9), default=128)
    lease_s: float = key(_TIME, default=5.0)
