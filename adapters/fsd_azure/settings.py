"""The table ``[azure]`` of the configuration.

===============  =======================  ========================================================================================
subscription     AZURE_SUBSCRIPTION_ID    whose everything is
region           eastus2                  where everything is
resource_group   fsd-APP                  what everything is in: made, unless it is there
tier             standard                 of the Service Bus namespaces; premium is billed by the hour, used or not
namespaces       0                        how many of them ranks are spread over; 0: by the app's first ranks, 1 up to 8, 8 from 22 on
message_kb       0                        what a queue takes as one message; 0: what its tier takes (premium only)
storage_account  made from the app's      the storage account; one that is there and not the app's is refused
memory_mb        2048                     memory of one function: 512, 2048 or 4096; one CPU at 2048
timeout_s        900                      time limit of one function
concurrency      100                      functions of this app at once, which a run checks; see below
lease_s          10                       a message that was delivered and not acknowledged is delivered again after this
runtime          3.12                     the function's Python
package          true                     false uploads no code: for an emulator that runs what is installed here
===============  =======================  ========================================================================================

``concurrency`` is also Azure's maximumInstanceCount, which for HTTP is no hard cap: several runs at once may get more instances. Azure
takes less than 40 in some regions only, if at all; where it does not, the deployment says so. The region's own quota is on cores.

FSD_AZURE_PACKAGE=0 means ``package = false``. Where connection strings are set (`fsd_azure.clients`), the namespaces and the storage
account are those that they name, and nothing here changes them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from fsd_azure.limits import LEASES_S, MESSAGE_KB, TIERS
from fsd_core.errors import InputError
from fsd_core.providers import settings
from fsd_core.providers.settings import flag, key, matches, whole

__all__ = ["RUNTIMES", "SUBSCRIPTION", "Settings", "parse"]

RUNTIMES = ("3.12", "3.13", "3.11")
SUBSCRIPTION = r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"  # as a pattern
_MEMORIES = (512, 2048, 4096)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """See the module."""

    subscription: str = key("", "a subscription's id, as 'az account list' shows", matches(SUBSCRIPTION))
    region: str = key("eastus2", "a region's short name, for instance westeurope", matches(r"[a-z]+[0-9]*"))
    resource_group: str = key("", "1 to 90 letters, digits, '-', '_' and '.'", matches(r"[\w.-]{0,89}[\w-]"))
    tier: str = key("standard", f"one of {', '.join(TIERS)}", lambda value: value in TIERS)
    namespaces: int = key(0, "a whole number from 0 to 100", whole(0, 100))
    message_kb: int = key(0, f"0, or a whole number from {MESSAGE_KB[0]} to {MESSAGE_KB[1]}", lambda v: v == 0 or whole(*MESSAGE_KB)(v))
    storage_account: str = key("", "3 to 24 of a-z and 0-9", matches(r"[a-z0-9]{3,24}"))
    memory_mb: int = key(2048, f"one of {', '.join(map(str, _MEMORIES))}", lambda value: type(value) is int and value in _MEMORIES)
    timeout_s: int = key(900, "a whole number of seconds from 1 to 86399", whole(1, 86399))
    concurrency: int = key(100, "a whole number from 1 to 1000", whole(1, 1000))
    lease_s: int = key(10, f"a whole number of seconds from {LEASES_S[0]} to {LEASES_S[1]}", whole(*LEASES_S))
    runtime: str = key("3.12", f"one of {', '.join(RUNTIMES)}", lambda value: value in RUNTIMES)
    package: bool = key(True, "true or false", flag)


def parse(table: Mapping[str, object], environ: Mapping[str, str] = os.environ) -> Settings:
    """Check keys, types and ranges; `InputError` names what is wrong and what would be right."""
    parsed = settings.parse(Settings, "azure", table)
    if parsed.message_kb and parsed.tier != "premium":
        raise InputError(f"[azure] message_kb = {parsed.message_kb}: must be 0 in the {parsed.tier} tier, which has one limit for all")
    return replace(parsed, package=False) if environ.get("FSD_AZURE_PACKAGE") == "0" else parsed
