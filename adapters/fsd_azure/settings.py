"""The table ``[azure]`` of the configuration file.

====================  =======================  ========================================================================================
subscription          AZURE_SUBSCRIPTION_ID    the subscription of all resources
region                eastus2                  the region of all resources
resource_group        fsd-APP                  the resource group of all resources, made if it does not exist
tier                  standard                 the tier of the Service Bus namespaces; premium is billed by the hour, used or not
namespaces            0                        how many namespaces share the ranks; 0: 1 for up to 8 ranks, 8 from 22 ranks on
message_kb            0                        the largest message of a queue (premium only); 0: the limit of its tier
storage_account       from the app's name     the storage account; an account that exists and is not the app's is refused
kms_key               keys of Microsoft        URL of a key in Key Vault, which costs money, for namespaces (premium only) and account
kms_identity          none                     resource id of a user-assigned identity that may use this key
memory_mb             2048                     memory of one function: 512, 2048 or 4096; one CPU at 2048
timeout_s             900                      time limit of one function, in seconds
concurrency           100                      functions of this app at once, which a run checks; see below
lease_s               10                       seconds until a delivered message that is not acknowledged is delivered again
runtime               3.12                     the function's Python
audit_retention_days  365                      days after which an entry of the audit log is removed
engine                rows                     onnx: the functions have ONNX Runtime too; an app that has it keeps it
package               true                     false uploads no code: for an emulator that runs what is installed on this machine
====================  =======================  ========================================================================================

``concurrency`` is also Azure's maximumInstanceCount, which is not a strict limit for HTTP triggers: several runs at once may get more
instances. Only a few regions accept less than 40; in the others the deployment ends with an error. The region's quota limits cores, not
functions.

FSD_AZURE_PACKAGE=0 means ``package = false``. Where connection strings are set (`fsd_azure.clients`), they decide the namespaces and the
storage account, and the keys of this table have no effect on these.
"""

from __future__ import annotations

import attrs

from fsd_azure.limits import LEASES_S, MESSAGE_KB, TIERS
from fsd_core.common.fields import Kind, boolean, choice, integer, key, matching
from fsd_core.errors import InputError
from fsd_core.protocol.runconfig import ENGINES

__all__ = ["RUNTIMES", "SUBSCRIPTION", "Settings"]

RUNTIMES = ("3.12", "3.13", "3.11")
SUBSCRIPTION = r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"  # as a pattern
_REGION = matching(r"[a-z]+[0-9]*", "a region's short name, for instance westeurope")
_GROUP = matching(r"[\w.-]{0,89}[\w-]", "1 to 90 letters, digits, '-', '_' and '.'")
_ACCOUNT = matching(r"[a-z0-9]{3,24}", "3 to 24 of a-z and 0-9")
_KEY = matching(
    r"https://[a-zA-Z0-9-]{3,24}\.vault\.[a-z.]+/keys/[a-zA-Z0-9-]{1,127}", "a key's URL: https://VAULT.vault.azure.net/keys/KEY"
)
_IDENTITY = matching(
    rf"/subscriptions/{SUBSCRIPTION}/resourceGroups/[^/]+/providers/Microsoft.ManagedIdentity/userAssignedIdentities/[\w-]+",
    "the resource id of a user-assigned identity, as 'az identity show --query id' prints it",
)
_SIZES_KB = integer(*MESSAGE_KB)
_MESSAGE = Kind(f"0, or {_SIZES_KB.expected}", lambda value: _SIZES_KB.holds(value) or integer(0, 0).holds(value), int)


@attrs.frozen(kw_only=True)
class Settings:
    """The keys and their defaults; the table in the docstring of the module explains each key."""

    subscription: str = key(matching(SUBSCRIPTION, "a subscription's id, as 'az account list' shows"), default="")
    region: str = key(_REGION, default="eastus2")
    resource_group: str = key(_GROUP, default="")
    tier: str = key(choice(*TIERS), default="standard")
    namespaces: int = key(integer(0, 100), default=0)
    message_kb: int = key(_MESSAGE, default=0)
    storage_account: str = key(_ACCOUNT, default="")
    kms_key: str = key(_KEY, default="")
    kms_identity: str = key(_IDENTITY, default="")
    memory_mb: int = key(choice(512, 2048, 4096), default=2048)
    timeout_s: int = key(integer(1, 86399, "seconds"), default=900)
    concurrency: int = key(integer(1, 1000), default=100)
    lease_s: int = key(integer(*LEASES_S, "seconds"), default=10)
    runtime: str = key(choice(*RUNTIMES), default="3.12")
    audit_retention_days: int = key(integer(1, 36500, "days"), default=365)
    engine: str = key(choice(*ENGINES), default="rows")
    package: bool = key(boolean(), default=True)

    def __attrs_post_init__(self) -> None:
        """Raise `InputError` for a message limit or a key in a tier that has none, and for a key without an identity."""
        if self.message_kb and self.tier != "premium":
            raise InputError(f"[azure] message_kb = {self.message_kb}: expected 0 in the {self.tier} tier, which has one limit")
        if self.kms_key and self.tier != "premium":
            raise InputError(
                f"[azure] kms_key: in the tier {self.tier} Service Bus encrypts with keys of Microsoft only: "
                "expected [azure] tier = 'premium', or no kms_key"
            )
        if bool(self.kms_key) != bool(self.kms_identity):
            raise InputError("[azure] kms_key and kms_identity: expected both: Azure uses the key by the identity; or neither")
