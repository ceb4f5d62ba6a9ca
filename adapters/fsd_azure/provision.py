"""Makes and removes an app: resource group, namespaces, storage account, containers, function app, queues, roles.

The settings are those of `fsd_azure.settings`. ``ensure`` makes the container early: if two clients make it at the same time, only one of
them succeeds, and its generation becomes the app's. Then it makes the function app, whose settings name the resources. Last, it sends a
test message to every queue and starts the function once. Only then it writes into the settings that they are usable: so a later ``ensure``
completes an interrupted one. Resources that connection strings name are used as they are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import closing
from typing import TYPE_CHECKING

from fsd_azure import clients, connection_strings, function, package, policy, queues
from fsd_azure import names as naming
from fsd_azure.api import SETTLE_S, Api
from fsd_azure.limits import check_queues
from fsd_azure.names import Names
from fsd_azure.settings import SUBSCRIPTION, parse
from fsd_core.driver import Code, Provider, Resources
from fsd_core.errors import InputError
from fsd_core.providers.names import new_generation
from fsd_core.providers.probes import probe_function, probe_queues
from fsd_core.providers.provisioning import AppProvisioner

if TYPE_CHECKING:
    from azure.storage.blob import ContainerClient

__all__ = ["AzureProvisioner"]

KEPT_DAYS = 7
_TRIED = ("code", "runtime", "memory_mb", "storage_account", "blob_url")  # a change of one of these needs a new test launch of the function
_FIXED = {  # names that cannot change after the app was made, and the setting or variable of each
    "namespaces": connection_strings.SERVICE_BUS,
    "tier": "[azure] tier",
    "message_kb": "[azure] message_kb",
    "blob_url": "[azure] storage_account",
    "region": "[azure] region",
}
_KINDS = {"namespaces": "namespace", "storageAccounts": "storage account"}


class AzureProvisioner(AppProvisioner[Api]):
    """Implements `fsd_core.driver.Provisioner`."""

    def __init__(self, table: Mapping[str, object], provider: Provider) -> None:
        self._provider = provider
        self._settings = parse(table)

    def requests(self) -> Api:
        """An `Api` for the subscription of the settings, or of the environment. Checks the connection strings first, without a request."""
        connection_strings.service_bus_hosts()
        connection_strings.storage_string()
        subscription = self._settings.subscription or os.environ.get("AZURE_SUBSCRIPTION_ID", "")
        if not subscription:
            raise InputError(
                "no Azure subscription is set: [azure] subscription in fsd.toml, or AZURE_SUBSCRIPTION_ID; see 'az account list'"
            )
        if not re.fullmatch(SUBSCRIPTION, subscription):
            raise InputError(f"AZURE_SUBSCRIPTION_ID={subscription}: expected a subscription's id, as 'az account list' shows")
        return Api(subscription, self._settings.resource_group, self._settings.region)

    def read(self, api: Api, app: str) -> Resources | None:
        """The app's resources, which its function app records: see `fsd_azure.function.read`."""
        return function.read(api, app)

    def wanted(self) -> dict[str, str]:
        """The entries of `Resources.names` that follow from the settings."""
        settings = self._settings
        wanted = {
            "region": settings.region,
            "tier": settings.tier,
            "message_kb": str(settings.message_kb),
            "memory_mb": str(settings.memory_mb),
            "timeout_s": str(settings.timeout_s),
            "concurrency": str(settings.concurrency),
            "lease_s": str(settings.lease_s),
            "runtime": settings.runtime,
            "code": package.digest(settings.runtime) if settings.package else "installed",
        }
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
                f"{connection_strings.SERVICE_BUS}: app {app!r} was made with namespaces of its own: "
                "expected no connection strings: unset the variable, or destroy the app first"
            )
        for name, setting in _FIXED.items():
            if name in names and names[name] != wanted.get(name, names[name]):
                raise InputError(
                    f"{setting}: app {app!r} was made with {names[name]}, not {wanted[name]}: "
                    f"expected {names[name]}: set that, or destroy the app first"
                )
        if names["bus"] == "made" and self._settings.namespaces not in (0, spaces):
            raise InputError(
                f"[azure] namespaces = {self._settings.namespaces}: app {app!r} was made with {spaces}: destroy it first, or keep {spaces}"
            )

    def make(self, api: Api, app: str, ranks: int, slots: int, had: Resources | None, wanted: dict[str, str]) -> Resources:
        """Make or complete the app; the docstring of the module describes the order."""
        settings = self._settings
        code = package.build(settings.runtime, within_s=api.left()) if settings.package else package.stub()
        now = self._names(api, app, ranks) | (dict(had.names) if had else {}) | wanted
        now["package"] = str(code) if settings.package else "none"
        ranks, slots = max(ranks, had.ranks if had else 0), max(slots, had.slots if had else 0)
        check_queues(now["tier"], ranks, slots, now["namespaces"].count(",") + 1)
        _make_group(api, app)
        api.each(lambda work: work(api, app, now), (_make_account, _make_bus))
        if now["bus"] == "made" or now["storage_account"]:
            api.grant(policy.deployer(now, *api.member()))
        now["generation"] = _make_containers(api, app, now)
        named = Names.of(Resources(app, 0, 0, now))
        if had is None:
            queues.remove(api, app, named.namespaces, keep=named.generation)  # queues that an interrupted destroy left
        begun = Resources(app, had.ranks if had else 0, had.slots if had else 0, now | {"code": ""})  # written after the test launch
        site = function.create(api, begun)
        now["url"] = function.url(api, site)
        api.grant(policy.worker(now, str(site["identity"]["principalId"])))
        same = had is not None and (had.names["lease_s"], had.names["generation"]) == (now["lease_s"], now["generation"])
        old = had if had and same else Resources(app, 0, 0)
        pairs = [(s, r) for s in range(slots) for r in range(ranks) if not (s < old.slots and r < old.ranks)]
        queues.make(api, named, pairs, settings.lease_s, settings.message_kb)
        changed = had is None or not had.ranks or any(had.names.get(key) != now[key] for key in _TRIED)
        if changed and settings.package:
            function.publish(api, site, code)
        secret = function.key(api, app)
        made = Resources(app, ranks, slots, now)
        if changed:
            function.write(api, Resources(app, begun.ranks, begun.slots, now | {"code": ""}), secret)
        probe_queues(self._provider, made, pairs, api)
        if changed:
            fresh = had is None or not had.ranks  # its roles may not be active yet
            probe_function(self._provider, made, api, f"the log stream of function app {now['function']}", SETTLE_S if fresh else None)
        function.write(api, made, secret)
        return made

    def _names(self, api: Api, app: str, ranks: int) -> dict[str, str]:
        """The names of a new app."""
        settings, group = self._settings, api.group(app)
        account = settings.storage_account or naming.storage_account(app, api.subscription, group)
        return {
            "subscription": api.subscription,
            "resource_group": group,
            "function": naming.function(app, api.subscription, group),
            "bus": "made",
            "namespaces": ",".join(queues.hosts(api, app, settings.namespaces or queues.count(settings.tier, ranks))),
            "storage_account": account,
            "blob_url": _account_url(account),
            "container": naming.container(app),
            "url": "",
        }

    def remove_queues(self, api: Api, app: str, keep: str | None) -> list[str]:
        """Remove the queues of all generations except ``keep``: see `fsd_azure.queues.remove`."""
        return queues.remove(api, app, queues.existing_hosts(api, app), keep)

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
            f"storage account {names['storage_account']}: exists, and is not the app's; choose another in [azure] storage_account"
        )
    properties = {
        "minimumTlsVersion": "TLS1_2",
        "supportsHttpsTrafficOnly": True,
        "allowBlobPublicAccess": False,
        "allowSharedKeyAccess": False,
    }
    kind = {"location": names["region"], "kind": "StorageV2", "sku": {"name": "Standard_LRS"}, "tags": {policy.APP_TAG: app}}
    api.put(path, kind | {"properties": properties})
    filters = {"blobTypes": ["blockBlob"], "prefixMatch": [f"{names['container']}/"]}  # not the container of the code
    actions = {"baseBlob": {"delete": {"daysAfterModificationGreaterThan": KEPT_DAYS}}}
    rule = {"name": "forget", "enabled": True, "type": "Lifecycle", "definition": {"filters": filters, "actions": actions}}
    api.put(f"{path}/managementPolicies/default", {"properties": {"policy": {"rules": [rule]}}})


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
        raise InputError(f"app {app!r}: a {what} is there that fsd did not make; choose another app")
    with closing(clients.container(names["blob_url"], f"{names['container']}-code")) as code:
        api.unless(Code.ALREADY_EXISTS, f"{what}-code", lambda: code.create_container(metadata={"fsdapp": app}))
    return str(found["generation"])


def _remove_containers(api: Api, app: str) -> list[str]:
    """Remove the app's containers from an account that was given; returns a line for each."""

    def one(name: str) -> str | None:
        with closing(clients.container("", name)) as client:
            return f"container {name}" if _gone(api, client, app) else None

    return [line for line in api.each(one, [naming.container(app), f"{naming.container(app)}-code"]) if line]


def _gone(api: Api, client: ContainerClient, app: str) -> bool:
    what = f"container {client.container_name}"
    found = api.unless(Code.NOT_FOUND, what, client.get_container_properties)
    if found is None or (found.metadata or {}).get("fsdapp") != app:
        return False

    def delete() -> bool:
        client.delete_container()
        return True

    return api.unless(Code.NOT_FOUND, f"removing {what}", delete) is not None
