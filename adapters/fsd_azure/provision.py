"""Makes and removes an app: resource group, namespaces, storage account, containers, function app, queues, roles.

The settings are those of `fsd_azure.settings`; `fsd_core.providers.provisioning` has the course of ``ensure``. The container comes early:
if two clients make it at the same time, only one of them succeeds, and its generation becomes the app's. Then come queues and the function
app, whose settings name the resources. Resources that connection strings name are used as they are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, ClassVar

import attrs

from fsd_azure import audit, clients, connection_strings, function, keys, package, policy, queues
from fsd_azure import names as naming
from fsd_azure.api import SETTLE_S, Api
from fsd_azure.limits import check_queues
from fsd_azure.names import Names
from fsd_azure.settings import SUBSCRIPTION, Settings
from fsd_core.driver import Code, Resources
from fsd_core.errors import InputError
from fsd_core.providers.environment import foreign
from fsd_core.providers.names import new_generation
from fsd_core.providers.package import Package
from fsd_core.providers.probes import Pair
from fsd_core.providers.promises import Promise
from fsd_core.providers.provisioning import AppProvisioner
from fsd_core.providers.settings import RETENTION

if TYPE_CHECKING:
    from azure.storage.blob import ContainerClient

__all__ = ["AzureProvisioner"]

_KINDS = {"namespaces": "namespace", "storageAccounts": "storage account"}


class AzureProvisioner(AppProvisioner[Api, Settings]):
    """Implements `fsd_core.driver.Provisioner`."""

    kind = Settings
    recorded = ("region", "tier", "message_kb", RETENTION)
    fixed: ClassVar = {
        "namespaces": connection_strings.SERVICE_BUS,
        "tier": "[azure] tier",
        "message_kb": "[azure] message_kb",
        "blob_url": "[azure] storage_account",
        "region": "[azure] region",
        "kms_key": "[azure] kms_key",  # Azure gives a key only to an empty namespace
        "kms_identity": "[azure] kms_identity",
    }
    chosen = ("kms_key", "kms_identity")
    exclusive = ("storage_account",)
    queued = ("lease_s", "generation")
    tried = (*AppProvisioner.tried, "storage_account", "blob_url")
    ready_s = SETTLE_S
    recipe = staticmethod(package.recipe)

    def requests(self) -> Api:
        """An `Api` for the subscription of the settings, or of the environment. Checks the connection strings first, without a request."""
        connection_strings.service_bus_hosts()
        connection_strings.storage_string()
        subscription = self.settings.subscription or os.environ.get("AZURE_SUBSCRIPTION_ID", "")
        if not subscription:
            raise InputError(
                "no Azure subscription is set: expected [azure] subscription in fsd.toml, or AZURE_SUBSCRIPTION_ID: see 'az account list'"
            )
        if not re.fullmatch(SUBSCRIPTION, subscription):
            raise InputError(f"AZURE_SUBSCRIPTION_ID={subscription}: expected a subscription's id, as 'az account list' shows")
        return Api(subscription, self.settings.resource_group, self.settings.region)

    def read(self, api: Api, app: str) -> Resources | None:
        """The app's resources, which its function app records: see `fsd_azure.function.read`."""
        return function.read(api, app)

    def wanted(self) -> dict[str, str]:
        """The entries of `Resources.names` that follow from the settings and the connection strings."""
        settings, wanted = self.settings, super().wanted()
        if settings.kms_key and (connection_strings.service_bus_hosts() or connection_strings.storage_string()):
            raise InputError(
                "[azure] kms_key: connection strings name namespaces or an account, which have a key of their owner: "
                "expected no connection strings, or no kms_key"
            )
        if spaces := connection_strings.service_bus_hosts():
            wanted |= {"bus": "given", "namespaces": ",".join(spaces)}
        if connection_strings.storage_string():
            wanted |= {"storage_account": "", "blob_url": _account_url("")}
        elif settings.storage_account:
            wanted |= {"storage_account": settings.storage_account, "blob_url": _account_url(settings.storage_account)}
        return wanted

    def check(self, had: Resources, wanted: dict[str, str]) -> None:
        """Raise `InputError` where namespaces, tier, message size, storage account or region differ from those of the app."""
        app, names, spaces = had.app, had.names, had.names["namespaces"].count(",") + 1
        if names["bus"] != wanted.get("bus", names["bus"]):
            raise InputError(
                f"{connection_strings.SERVICE_BUS}: app {app!r} has namespaces that fsd made: "
                "expected no connection strings: unset the variable, or destroy the app first"
            )
        super().check(had, wanted)
        if names["bus"] == "made" and self.settings.namespaces not in (0, spaces):
            raise InputError(
                f"[azure] namespaces = {self.settings.namespaces}: app {app!r} has {spaces}: expected {spaces}, or destroy the app"
            )

    def begin(
        self, api: Api, had: Resources, wanted: dict[str, str], code: Package, ranks: int, slots: int
    ) -> tuple[Resources, dict[str, str]]:
        """Make resource group, namespaces, storage account and containers; the container's maker decides the generation."""
        app = had.app
        names = self._names(api, app, ranks) | dict(had.names) | wanted
        keys.check(api, names)
        check_queues(names["tier"], ranks, slots, names["namespaces"].count(",") + 1)
        _make_group(api, app)
        api.each(lambda work: work(api, app, names), (_make_account, _make_bus))
        if names["bus"] == "made" or names["storage_account"]:
            api.grant(policy.deployer(names, *api.member()))
        names["generation"] = _make_containers(api, app, names)
        if not had.names:
            queues.remove(api, app, names["namespaces"].split(","), keep=names["generation"])  # queues that an interrupted destroy left
        return had, names

    def make_queues(self, api: Api, resources: Resources, pairs: Sequence[Pair]) -> dict[str, str]:
        """Make the queues."""
        queues.make(api, Names.of(resources), pairs, self.settings.lease_s, self.settings.message_kb)
        return {}

    def deploy(self, api: Api, had: Resources, unproven: Resources, code: Package, changed: bool) -> dict[str, str]:
        """Make the function app and give it its roles; send the code and the settings where they changed."""
        site = function.create(api, unproven)
        found = {"url": function.url(api, site)}
        api.grant(policy.worker(unproven.names, str(site["identity"]["principalId"])))
        if changed:
            if self.settings.package:
                function.publish(api, site, code)
            function.write(api, attrs.evolve(unproven, names={**unproven.names, **found}))
        return found

    def logs(self, names: Mapping[str, str]) -> str:
        """The log stream of the function app."""
        return f"the log stream of function app {names['function']}"

    def record(self, api: Api, made: Resources, code: Package) -> None:
        """Write the function app's settings."""
        function.write(api, made)

    def _names(self, api: Api, app: str, ranks: int) -> dict[str, str]:
        """The names of a new app."""
        settings, store = self.settings, self._store(api, app)
        return store | {
            "function": naming.function(app, api.subscription, store["resource_group"]),
            "bus": "made",
            "namespaces": ",".join(queues.hosts(api, app, settings.namespaces or queues.count(settings.tier, ranks))),
            "url": "",
            "kms_key": "",
            "kms_identity": "",
        }

    def _store(self, api: Api, app: str) -> dict[str, str]:
        """Where the objects of a new app are."""
        group = api.group(app)
        account = self.settings.storage_account or naming.storage_account(app, api.subscription, group)
        account = "" if connection_strings.storage_string() else account
        return {
            "subscription": api.subscription,
            "resource_group": group,
            "storage_account": account,
            "blob_url": _account_url(account),
            "container": naming.container(app),
        }

    def promises(self, api: Api, had: Resources) -> list[Promise]:
        """The promises about the deployed app: see `fsd_azure.audit`."""
        return audit.promises(api, had)

    def remove_queues(self, api: Api, app: str, keep: str | None) -> list[str]:
        """Remove the queues of all generations except ``keep``: see `fsd_azure.queues.remove`."""
        return queues.remove(api, app, queues.existing_hosts(api, app), keep)

    def stored(self, api: Api, app: str, had: Resources | None) -> dict[str, str] | None:
        """The app's container. Asks an account that fsd makes only if it exists, because the address of no account has no server."""
        names = dict(had.names) if had else self._store(api, app)
        if names["storage_account"] and api.find(policy.storage_id(names)) is None:
            return None
        with closing(clients.container(names["blob_url"], names["container"])) as client:
            return names if _owned(api, client, app) else None

    def remove(self, api: Api, app: str, had: Resources | None) -> list[str]:
        """Remove function app, plan, and all resources of the app; in a namespace or account of a connection string, only what fsd made for
        the app.
        """
        removed = function.remove(api, app)
        if spaces := connection_strings.service_bus_hosts():
            removed += queues.remove(api, app, spaces)
        if connection_strings.storage_string():
            removed += _remove_containers(api, app)
        mine, others = api.owned(app)
        gone = [path for path, was in zip(mine, api.each(api.delete, mine), strict=True) if was]
        removed += [f"{_KINDS.get(path.split('/')[-2], 'resource')} {path.rpartition('/')[2]}" for path in gone]
        group = api.id(app)
        if not others and api.owns(api.find(group), app) and api.delete(group):
            removed.append(f"resource group {api.group(app)}")
        return removed


def _account_url(account: str) -> str:
    """The storage account's URL, from its name or from the connection string."""
    if not connection_strings.storage_string():
        return f"https://{account}.blob.core.windows.net"
    with clients.container("", "any") as client:
        return client.url.partition("?")[0].rpartition("/")[0]  # the URL without a signature


def _make_group(api: Api, app: str) -> None:
    if api.find(api.id(app)) is None:
        api.put(api.id(app), {"location": api.region, "tags": {policy.APP_TAG: app}})


def _make_bus(api: Api, app: str, names: Mapping[str, str]) -> None:
    if names["bus"] == "made":
        queues.make_namespaces(api, app, names)


def _make_account(api: Api, app: str, names: Mapping[str, str]) -> None:
    """Make a private storage account that accepts no keys and deletes old objects.

    Raises `InputError` where an account of this name is not the app's.
    """
    if not names["storage_account"]:
        return
    path = policy.storage_id(names)
    found = api.find(path)
    if found and not api.owns(found, app):
        raise InputError(
            f"storage account {names['storage_account']}: exists, and is not the app's: expected a new name: set [azure] storage_account"
        )
    kind = {"location": names["region"], "kind": "StorageV2", "sku": {"name": "Standard_LRS"}, "tags": {policy.APP_TAG: app}}
    api.put(path, kind | policy.account(names))
    rules = policy.life_cycle(names["container"], int(names[RETENTION]))
    api.put(f"{path}/managementPolicies/default", {"properties": {"policy": {"rules": rules}}})


def _make_containers(api: Api, app: str, names: Mapping[str, str]) -> str:
    """Make two private containers, for objects and for code, and return the generation: the container's maker decided it.

    Raises `InputError` where a container of this name is not the app's.
    """
    metadata = {"fsdapp": app, "generation": new_generation()}
    with closing(clients.container(names["blob_url"], names["container"])) as objects:
        what = f"container {names['container']}"
        made = api.unless(Code.ALREADY_EXISTS, what, lambda: objects.create_container(metadata=metadata))
        found = metadata if made else dict(api.repeat(what, objects.get_container_properties).metadata or {})
    if found.get("fsdapp") != app:
        raise foreign(app, f"a {what}")
    with closing(clients.container(names["blob_url"], f"{names['container']}-code")) as code:
        api.unless(Code.ALREADY_EXISTS, f"{what}-code", lambda: code.create_container(metadata={"fsdapp": app}))
    return str(found["generation"])


def _remove_containers(api: Api, app: str) -> list[str]:
    """Remove the app's containers from an account that was given; returns a line for each."""

    def one(name: str) -> str | None:
        with closing(clients.container("", name)) as client:
            return f"container {name}" if _gone(api, client, app) else None

    return [line for line in api.each(one, [naming.container(app), f"{naming.container(app)}-code"]) if line]


def _owned(api: Api, client: ContainerClient, app: str) -> bool:
    found = api.unless(Code.NOT_FOUND, f"container {client.container_name}", client.get_container_properties)
    return found is not None and (found.metadata or {}).get("fsdapp") == app


def _gone(api: Api, client: ContainerClient, app: str) -> bool:
    if not _owned(api, client, app):
        return False

    def delete() -> bool:
        client.delete_container()
        return True

    return api.unless(Code.NOT_FOUND, f"removing container {client.container_name}", delete) is not None
