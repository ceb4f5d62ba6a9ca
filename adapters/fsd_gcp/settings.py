"""The table ``[gcp]`` of the configuration file.

====================  =======================  =================================================================================

FSD_GCP_PACKAGE=0 means ``package = false``.
"""

from __future__ import annotations

import attrs

from fsd_core.common.fields import boolean, choice, integer, key, matching
from fsd_core.protocol.runconfig import ENGINES
from fsd_gcp.limits import LEASES_S

__all__ = ["RUNTIMES", "Settings"]

RECEIVE = ("pull", "stream")
RUNTIMES = ("python312", "python313", "python311")
_PROJECT = matching(  # an old project's id may start with the domain of its organisation
    r"([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]", "a project's id: 6 to 30 of a-z, 0-9 and '-'"
)
_REGION = matching(r"[a-z]+-[a-z]+\d+", "a region's name, for instance europe-west1")
_BUCKET = matching(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", "3 to 63 of a-z, 0-9 and '-', as Cloud Storage names buckets")
_KEY = matching(
    r"projects/[^/]+/locations/[a-z0-9-]+/keyRings/[\w-]{1,63}/cryptoKeys/[\w-]{1,63}",
    "the name of a key: projects/PROJECT/locations/REGION/keyRings/RING/cryptoKeys/KEY",
)
_ACCOUNT = matching(r"[a-z][a-z0-9-]{4,28}[a-z0-9]@[a-z0-9.-]+\.gserviceaccount\.com", "an address: NAME@PROJECT.iam.gserviceaccount.com")


@attrs.frozen(kw_only=True)
class Settings:
    """The keys and their defaults; the table in the docstring of the module explains each key."""

    project: str = key(_PROJECT, default="")
    region: str = key(_REGION, default="us-central1")
    bucket: str = key(_BUCKET, default="")
    kms_key: str = key(_KEY, default="")
    service_account: str = key(_ACCOUNT, default="")
    memory_mb: int = key(integer(512, 32768), default=2048)
    timeout_s: int = key(integer(1, 3600, "seconds"), default=900)
    concurrency: int = key(integer(1, 1000), default=100)
    lease_s: int = key(integer(*LEASES_S, "seconds"), default=10)
    receive: str = key(choice(*RECEIVE), default="pull")
    runtime: str = key(choice(*RUNTIMES), default="python312")
    audit_retention_days: int = key(integer(1, 36500, "days"), default=365)
    engine: str = key(choice(*ENGINES), default="rows")
    package: bool = key(boolean(), default=True)
