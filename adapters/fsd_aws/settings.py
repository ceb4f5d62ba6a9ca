"""The table ``[aws]`` of the configuration file.

====================  ============================  =============================================================================

FSD_AWS_PACKAGE=0 means ``package = false``.
"""

from __future__ import annotations

import attrs

from fsd_core.common.fields import Kind, boolean, choice, integer, key, matching
from fsd_core.protocol.runconfig import ENGINES

__all__ = ["RUNTIMES", "Settings"]

RUNTIMES = ("python3.12", "python3.13", "python3.11")
_REGION = matching(r"[a-z]{2,}(-[a-z]+)+-\d+", "a region's name, for instance eu-west-1")
_BUCKET = matching(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", "3 to 63 of a-z, 0-9 and '-', as S3 names buckets")
_ROLE = matching(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+", "the ARN of a role: arn:aws:iam::ACCOUNT:role/NAME")
_KEY = matching(r"arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key/[a-zA-Z0-9-]+", "the ARN of a key: arn:aws:kms:REGION:ACCOUNT:key/ID")
_TEXT = Kind('"auto", true or false', lambda value: value == "auto" or isinstance(value, bool))


@attrs.frozen(kw_only=True)
class Settings:
    """The keys and their defaults; the table in the docstring of the module explains each key."""

    region: str = key(_REGION, default="")
    bucket: str = key(_BUCKET, default="")
    kms_key: str = key(_KEY, default="")
    role: str = key(_ROLE, default="")
    memory_mb: int = key(integer(128, 10240), default=1769)
    timeout_s: int = key(integer(1, 900, "seconds"), default=900)
    concurrency: int | None = key(integer(1, 1_000_000), default=None)
    lease_s: int = key(integer(1, 43200, "seconds"), default=3)
    text: bool | str = key(_TEXT, default="auto")
    message_kb: int = key(integer(256, 1024), default=256)
    runtime: str = key(choice(*RUNTIMES), default="python3.12")
    audit_retention_days: int = key(integer(1, 36500, "days"), default=365)
    engine: str = key(choice(*ENGINES), default="rows")
    package: bool = key(boolean(), default=True)
