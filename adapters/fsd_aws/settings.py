"""The table ``[aws]`` of the configuration.

=============  ============================  ====================================================================================
region         the SDK's own chain           where everything is
bucket         fsd-APP-ACCOUNT-REGION        the app's bucket; one that holds something and is not the app's is refused
role           made, and removed again       ARN of a role that you made for the function, where you may not make roles
memory_mb      1769                          memory of one function: 1,769 MB is one vCPU
timeout_s      900                           time limit of one function
concurrency    the account's                 functions of this app at once, reserved from the account's quota
lease_s        3                             a message that was delivered and not acknowledged is delivered again after this
text           "auto"                        bodies as text (true), as binary attributes (false), or what the service can do
message_kb     256                           the largest publish; above 256 a topic takes 100 ranks instead of 200
runtime        python3.12                    the function's interpreter; python3.11 is on Amazon Linux 2, the others on 2023
package        true                          false uploads no code: for an emulator that runs what is installed here
=============  ============================  ====================================================================================

FSD_AWS_PACKAGE=0 means ``package = false``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from fsd_core.providers import settings
from fsd_core.providers.settings import flag, key, matches, whole

__all__ = ["RUNTIMES", "Settings", "parse"]

RUNTIMES = ("python3.12", "python3.13", "python3.11")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """See the module."""

    region: str = key("", "a region's name, for instance eu-west-1", matches(r"[a-z]{2,}(-[a-z]+)+-\d+"))
    bucket: str = key("", "3 to 63 of a-z, 0-9 and '-', as S3 names buckets", matches(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]"))
    role: str = key("", "the ARN of a role: arn:aws:iam::ACCOUNT:role/NAME", matches(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+"))
    memory_mb: int = key(1769, "a whole number from 128 to 10240", whole(128, 10240))
    timeout_s: int = key(900, "a whole number of seconds from 1 to 900", whole(1, 900))
    concurrency: int | None = key(None, "a whole number of at least 1", whole(1, 1_000_000))
    lease_s: int = key(3, "a whole number of seconds from 1 to 43200", whole(1, 43200))
    text: bool | str = key("auto", '"auto", true or false', lambda value: value == "auto" or isinstance(value, bool))
    message_kb: int = key(256, "a whole number from 256 to 1024", whole(256, 1024))
    runtime: str = key("python3.12", f"one of {', '.join(RUNTIMES)}", lambda value: value in RUNTIMES)
    package: bool = key(True, "true or false", flag)


def parse(table: Mapping[str, object], environ: Mapping[str, str] = os.environ) -> Settings:
    """Check keys, types and ranges; `InputError` names what is wrong and what would be right."""
    parsed = settings.parse(Settings, "aws", table)
    return replace(parsed, package=False) if environ.get("FSD_AWS_PACKAGE") == "0" else parsed
