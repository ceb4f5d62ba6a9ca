"""Who may do what: which principal gets which built-in role on which resource, as data. No role is given on the subscription.

`worker` is for the function's own identity, `deployer` for whoever deploys; ``fsd deploy`` gives both. `client` is what somebody else
needs who only runs a deployed app, beside a role of your own, on the function app alone, that lets him do `CLIENT_ACTIONS`: every built-in
one that does also lets him change the app. `ACTIONS` is what ``fsd deploy`` and ``fsd destroy`` ask of the Resource Manager, likewise for a
role of your own. Sources: learn.microsoft.com/azure/role-based-access-control/built-in-roles, 2025-11.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

__all__ = [
    "ACTIONS",
    "APP_TAG",
    "CLIENT_ACTIONS",
    "Grant",
    "client",
    "deployer",
    "namespace_id",
    "storage_id",
    "worker",
]

APP_TAG = "fsd-app"  # on everything that an app is made of and that takes tags
SENDER = "69a216fc-b8fb-44d8-bc22-1f3c2cd27a39"  # Azure Service Bus Data Sender
RECEIVER = "4f6d3b9b-027b-4f4c-9142-0e5a2a2247e0"  # Azure Service Bus Data Receiver
OWNER = "090c5cfd-751d-490a-894a-3ce6f1109419"  # Azure Service Bus Data Owner: who makes queues
BLOBS = "ba92f5b4-2d11-453d-a403-e96b0029c9fe"  # Storage Blob Data Contributor
BLOBS_OWNER = "b7e6dc6d-f1e8-4753-8033-0f276bb0955b"  # Storage Blob Data Owner: what the Functions host needs of its own storage
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
CLIENT_ACTIONS = ("Microsoft.Web/sites/read", "Microsoft.Web/sites/config/list/action", "Microsoft.Web/sites/host/listkeys/action")


@attrs.frozen
class Grant:
    """A role (the built-in one's id) of a principal (its object id, and its kind: User, ServicePrincipal) on a resource's id."""

    scope: str
    role: str
    principal: str
    kind: str


def _group(names: Mapping[str, str]) -> str:
    return f"/subscriptions/{names['subscription']}/resourceGroups/{names['resource_group']}"


def namespace_id(names: Mapping[str, str], host: str) -> str:
    """The resource of a namespace's host."""
    return f"{_group(names)}/providers/Microsoft.ServiceBus/namespaces/{host.partition('.')[0]}"


def storage_id(names: Mapping[str, str]) -> str:
    """The resource of the storage account."""
    return f"{_group(names)}/providers/Microsoft.Storage/storageAccounts/{names['storage_account']}"


def _data(names: Mapping[str, str], bus: tuple[str, ...], blobs: str, principal: str, kind: str, role: str = BLOBS) -> list[Grant]:
    """Of what the app made itself: what a connection string opens needs no role."""
    spaces = names["namespaces"].split(",") if names["bus"] == "made" else []
    grants = [Grant(namespace_id(names, host), each, principal, kind) for host in spaces for each in bus]
    return grants + ([Grant(blobs, role, principal, kind)] if names["storage_account"] else [])


def worker(names: Mapping[str, str], principal: str) -> list[Grant]:
    """Of the function: to send and to receive, not to make or remove queues. The account is the app's own; the Functions host keeps its
    keys and its locks in containers of it that it makes itself, so the role is on all of it, and the one that the vendor names for that
    (learn.microsoft.com/azure/azure-functions/functions-reference, "Connecting to host storage with an identity", 2025-11)."""
    return _data(names, (SENDER, RECEIVER), storage_id(names), principal, "ServicePrincipal", BLOBS_OWNER)


def deployer(names: Mapping[str, str], principal: str, kind: str) -> list[Grant]:
    """Of whoever deploys, who makes queues and containers."""
    return _data(names, (OWNER,), storage_id(names), principal, kind)


def client(names: Mapping[str, str], principal: str, kind: str) -> list[Grant]:
    """Of whoever runs a deployed app: to send to workers, to put and get objects of the app's container."""
    return _data(names, (SENDER,), f"{storage_id(names)}/blobServices/default/containers/{names['container']}", principal, kind)
