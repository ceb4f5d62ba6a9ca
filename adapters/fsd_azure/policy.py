"""Permissions as data: which principal gets which built-in role on which resource. No role covers the whole subscription.

`worker` is for the function's identity, `deployer` for the person who deploys; ``fsd deploy`` assigns both. `client` is for a person who
only runs a deployed app. That person also needs a custom role on the function app with `CLIENT_ACTIONS`: every built-in role with these
actions also allows changes of the app. `ACTIONS` are the Resource Manager's actions of ``fsd deploy`` and ``fsd destroy``, for a custom
role, and `AUDIT_ACTIONS` those of ``fsd audit``. `ACCOUNT`, `SPACE` and `life_cycle` are the security settings of what a deployment makes.
Sources: learn.microsoft.com/azure/role-based-access-control/built-in-roles, 2025-11.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from fsd_core.storage.keys import AUDIT, PASSING

__all__ = [
    "ACCOUNT",
    "ACTIONS",
    "APP_TAG",
    "AUDIT_ACTIONS",
    "CLIENT_ACTIONS",
    "KEY_ACTIONS",
    "SPACE",
    "TITLES",
    "Grant",
    "account",
    "client",
    "deployer",
    "life_cycle",
    "namespace_id",
    "space",
    "storage_id",
    "worker",
]

APP_TAG = "fsd-app"  # the tag of all resources of an app that can have tags
SENDER = "69a216fc-b8fb-44d8-bc22-1f3c2cd27a39"  # Azure Service Bus Data Sender
RECEIVER = "4f6d3b9b-027b-4f4c-9142-0e5a2a2247e0"  # Azure Service Bus Data Receiver
OWNER = "090c5cfd-751d-490a-894a-3ce6f1109419"  # Azure Service Bus Data Owner: may make queues
BLOBS = "ba92f5b4-2d11-453d-a403-e96b0029c9fe"  # Storage Blob Data Contributor
BLOBS_OWNER = "b7e6dc6d-f1e8-4753-8033-0f276bb0955b"  # Storage Blob Data Owner: the Functions host needs it on its storage
TITLES = {
    SENDER: "Azure Service Bus Data Sender",
    RECEIVER: "Azure Service Bus Data Receiver",
    OWNER: "Azure Service Bus Data Owner",
    BLOBS: "Storage Blob Data Contributor",
    BLOBS_OWNER: "Storage Blob Data Owner",
}
CRYPTO = "e147488a-f6f5-4113-8e2d-b22465e65bf6"  # Key Vault Crypto Service Encryption User: what the identity of a key needs
KEPT_DAYS = 7  # the storage account deletes older objects
PREFIXES = 10  # of a rule of a storage account, at most
ACCOUNT = {"minimumTlsVersion": "TLS1_2", "supportsHttpsTrafficOnly": True, "allowBlobPublicAccess": False, "allowSharedKeyAccess": False}
SPACE = {"minimumTlsVersion": "1.2", "disableLocalAuth": True}  # keys are disabled: clients log in with identities
_ALL = ("read", "write", "delete")
ACTIONS = (
    *("Microsoft.Authorization/roleAssignments/write",),
    *(f"Microsoft.Resources/subscriptions/resourceGroups/{verb}" for verb in _ALL),
    "Microsoft.Resources/subscriptions/resourceGroups/resources/read",
    "Microsoft.Resources/subscriptions/operationresults/read",
    *(f"Microsoft.ServiceBus/namespaces/{verb}" for verb in _ALL),
    *(f"Microsoft.Storage/storageAccounts/{verb}" for verb in _ALL),
    *(f"Microsoft.Storage/storageAccounts/managementPolicies/{verb}" for verb in ("read", "write")),
    *(f"Microsoft.Web/serverfarms/{verb}" for verb in _ALL),
    "Microsoft.Web/serverfarms/join/action",
    *(f"Microsoft.Web/sites/{verb}" for verb in _ALL),
    *(f"Microsoft.Web/sites/config/{verb}" for verb in ("list/action", "write")),
    "Microsoft.Web/sites/host/listkeys/action",
    "Microsoft.Web/sites/publish/action",
)
KEY_ACTIONS = (  # the further actions of ``fsd deploy`` where an app has a key of its own
    "Microsoft.Authorization/roleAssignments/read",
    "Microsoft.ManagedIdentity/userAssignedIdentities/read",
    "Microsoft.ManagedIdentity/userAssignedIdentities/assign/action",
)
CLIENT_ACTIONS = ("Microsoft.Web/sites/read", "Microsoft.Web/sites/config/list/action", "Microsoft.Web/sites/host/listkeys/action")
AUDIT_ACTIONS = (
    "Microsoft.Authorization/roleAssignments/read",
    "Microsoft.Insights/eventtypes/values/read",
    "Microsoft.ServiceBus/namespaces/read",
    "Microsoft.Storage/storageAccounts/managementPolicies/read",
    "Microsoft.Storage/storageAccounts/read",
    "Microsoft.Web/sites/config/list/action",
    "Microsoft.Web/sites/config/read",
    "Microsoft.Web/sites/read",
)


@attrs.frozen
class Grant:
    """One assignment: ``scope`` is a resource's id, ``role`` a built-in role's id, ``principal`` an object id.

    ``kind``: the principal's type, User or ServicePrincipal.
    """

    scope: str
    role: str
    principal: str
    kind: str


def account(names: Mapping[str, str]) -> dict[str, Any]:
    """The security settings of the storage account, and the identity by which it uses the app's key, if the app has one."""
    if not names.get("kms_key"):
        return {"properties": ACCOUNT}
    vault, _, key = names["kms_key"].partition("/keys/")
    who = {"userAssignedIdentity": names["kms_identity"]}
    used = {"keySource": "Microsoft.Keyvault", "identity": who, "keyvaultproperties": {"keyvaulturi": vault, "keyname": key}}
    return {"properties": {**ACCOUNT, "encryption": used}, **_identity(names)}


def space(names: Mapping[str, str]) -> dict[str, Any]:
    """The security settings of a namespace, and the identity by which it uses the app's key, if the app has one."""
    if not names.get("kms_key"):
        return {"properties": SPACE}
    vault, _, key = names["kms_key"].partition("/keys/")
    used = {"keyVaultUri": vault, "keyName": key, "identity": {"userAssignedIdentity": names["kms_identity"]}}
    return {"properties": {**SPACE, "encryption": {"keySource": "Microsoft.KeyVault", "keyVaultProperties": [used]}}, **_identity(names)}


def _identity(names: Mapping[str, str]) -> dict[str, Any]:
    return {"identity": {"type": "UserAssigned", "userAssignedIdentities": {names["kms_identity"]: {}}}}


def life_cycle(container: str, audit_days: int) -> list[dict[str, Any]]:
    """The rules that delete old objects: of the app's container, not of that of the code. A rule takes `PREFIXES` prefixes.

    ``audit_days``: after so many days an entry of the audit log is deleted.
    """
    parts = [(KEPT_DAYS, PASSING[first : first + PREFIXES]) for first in range(0, len(PASSING), PREFIXES)]
    rules = []
    for number, (days, prefixes) in enumerate([*parts, (audit_days, (AUDIT,))]):
        filters = {"blobTypes": ["blockBlob"], "prefixMatch": [f"{container}/{prefix}" for prefix in prefixes]}
        actions = {"baseBlob": {"delete": {"daysAfterModificationGreaterThan": days}}}
        definition = {"filters": filters, "actions": actions}
        rules.append({"name": f"forget{number}", "enabled": True, "type": "Lifecycle", "definition": definition})
    return rules


def _group(names: Mapping[str, str]) -> str:
    return f"/subscriptions/{names['subscription']}/resourceGroups/{names['resource_group']}"


def namespace_id(names: Mapping[str, str], host: str) -> str:
    """The resource id of the namespace with this host."""
    return f"{_group(names)}/providers/Microsoft.ServiceBus/namespaces/{host.partition('.')[0]}"


def storage_id(names: Mapping[str, str]) -> str:
    """The resource id of the storage account."""
    return f"{_group(names)}/providers/Microsoft.Storage/storageAccounts/{names['storage_account']}"


def _data(names: Mapping[str, str], bus: tuple[str, ...], blobs: str, principal: str, kind: str, role: str = BLOBS) -> list[Grant]:
    """Roles on the namespaces and the storage account that the app made: a connection string needs no role."""
    spaces = names["namespaces"].split(",") if names["bus"] == "made" else []
    grants = [Grant(namespace_id(names, host), each, principal, kind) for host in spaces for each in bus]
    return grants + ([Grant(blobs, role, principal, kind)] if names["storage_account"] else [])


def worker(names: Mapping[str, str], principal: str) -> list[Grant]:
    """The roles of the function: it may send and receive, but not make or remove queues.

    The Functions host keeps keys and locks in containers that it makes in the app's storage account. So the role covers the whole account;
    Microsoft documents this role for the purpose (learn.microsoft.com/azure/azure-functions/functions-reference, "Connecting to host
    storage with an identity", 2025-11).
    """
    return _data(names, (SENDER, RECEIVER), storage_id(names), principal, "ServicePrincipal", BLOBS_OWNER)


def deployer(names: Mapping[str, str], principal: str, kind: str) -> list[Grant]:
    """The roles of the person who deploys: they allow making queues and containers."""
    return _data(names, (OWNER,), storage_id(names), principal, kind)


def client(names: Mapping[str, str], principal: str, kind: str) -> list[Grant]:
    """The roles of a person who runs a deployed app: they allow sending to workers, and putting and getting objects of its container."""
    return _data(names, (SENDER,), f"{storage_id(names)}/blobServices/default/containers/{names['container']}", principal, kind)
