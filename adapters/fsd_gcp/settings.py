"""The table ``[gcp]`` of the configuration.

===============  =======================  ========================================================================================
project          the SDK's own chain      whose everything is
region           us-central1              where everything is
bucket           fsd-APP-PROJECT          the app's bucket; one that holds something and is not the app's is refused
service_account  made, and removed again  the address of an account that you made for the function, where you may not make one
memory_mb        2048                     memory of one function; one CPU up to 4096, then 2, 4, 8
timeout_s        900                      time limit of one function
concurrency      100                      functions of this app at once: more may need a quota
lease_s          10                       a message that was delivered and not acknowledged is delivered again after this
receive          pull                     or stream: messages come as they are sent, over a connection that stays open
runtime          python312                the function's interpreter
package          true                     false uploads no code: for an emulator that runs what is installed here
===============  =======================  ========================================================================================

FSD_GCP_PACKAGE=0 means ``package = false``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from fsd_core.providers import settings
from fsd_core.providers.settings import flag, key, matches, whole
from fsd_gcp.limits import LEASES_S

__all__ = ["RUNTIMES", "Settings", "parse"]

RECEIVE = ("pull", "stream")
RUNTIMES = ("python312", "python313", "python311")
_PROJECT = r"([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]"  # an old one may be below its organisation's domain
_ACCOUNT = r"[a-z][a-z0-9-]{4,28}[a-z0-9]@[a-z0-9.-]+\.gserviceaccount\.com"


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """See the module."""

    project: str = key("", "a project's id: 6 to 30 of a-z, 0-9 and '-'", matches(_PROJECT))
    region: str = key("us-central1", "a region's name, for instance europe-west1", matches(r"[a-z]+-[a-z]+\d+"))
    bucket: str = key("", "3 to 63 of a-z, 0-9 and '-', as Cloud Storage names buckets", matches(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]"))
    service_account: str = key("", "an address: NAME@PROJECT.iam.gserviceaccount.com", matches(_ACCOUNT))
    memory_mb: int = key(2048, "a whole number from 512 to 32768", whole(512, 32768))
    timeout_s: int = key(900, "a whole number of seconds from 1 to 3600", whole(1, 3600))
    concurrency: int = key(100, "a whole number from 1 to 1000", whole(1, 1000))
    lease_s: int = key(10, f"a whole number of seconds from {LEASES_S[0]} to {LEASES_S[1]}", whole(*LEASES_S))
    receive: str = key("pull", f"one of {', '.join(RECEIVE)}", lambda value: value in RECEIVE)
    runtime: str = key("python312", f"one of {', '.join(RUNTIMES)}", lambda value: value in RUNTIMES)
    package: bool = key(True, "true or false", flag)


def parse(table: Mapping[str, object], environ: Mapping[str, str] = os.environ) -> Settings:
    """Check keys, types and ranges; `InputError` names what is wrong and what would be right."""
    parsed = settings.parse(Settings, "gcp", table)
    return replace(parsed, package=False) if environ.get("FSD_GCP_PACKAGE") == "0" else parsed
