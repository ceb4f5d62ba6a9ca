"""What ``fsd audit`` finds on Azure: each property of a deployed app, compared with what `fsd_azure.provision` makes.

Namespaces and accounts that connection strings name belong to somebody else: of these, the audit reads only the app's queues and
containers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from fsd_azure import clients, function, policy, queues
from fsd_azure.api import Api
from fsd_azure.names import Names
from fsd_core.driver import Code, Resources
from fsd_core.errors import DriverError
from fsd_core.providers.promises import REPAIR, Promise, exactly, same, shown, unread
from fsd_core.providers.settings import RETENTION
from fsd_core.storage.retry import TRANSIENT

__all__ = ["promises"]

KEYS = "keys of Microsoft"
EVENTS_S = 89 * 86400  # the activity log holds 90 days


def promises(api: Api, had: Resources) -> list[Promise]:
    """The promises about the deployed app. Makes a request for each queue, and about ten others."""
    names = had.names
    site = api.call("GET", api.id(had.app, f"Microsoft.Web/sites/{names['function']}"))
    return [
        *(_account(api, names) if names["storage_account"] else [shown("storage account", "given by a connection string: not audited")]),
        *_containers(api, names),
        *(_spaces(api, names) if names["bus"] == "made" else [shown("namespaces", "given by connection strings: not audited")]),
        *_queues(api, had),
        *_roles(api, names, site.get("identity") or {}),
        *_function(api, had, site),
    ]


def _account(api: Api, names: Mapping[str, str]) -> Iterator[Promise]:
    path, name = policy.storage_id(names), names["storage_account"]
    found: dict[str, Any] = (api.find(path) or {}).get("properties", {})
    yield same("storage account: encrypted at rest", {name: _key(found)}, names.get("kms_key") or KEYS)
    transit = {setting: found.get(setting) for setting in ("minimumTlsVersion", "supportsHttpsTrafficOnly")}
    yield _set("storage account: only by TLS", transit)
    access = {setting: found.get(setting) for setting in ("allowBlobPublicAccess", "allowSharedKeyAccess")}
    yield _set("storage account: no public access, no keys", access)
    rules = (api.find(f"{path}/managementPolicies/default") or {}).get("properties", {}).get("policy", {}).get("rules", [])
    wanted = [_rule(each) for each in policy.life_cycle(names["container"], int(names[RETENTION]))]
    yield exactly("storage account: life cycle", [_rule(each) for each in rules], wanted, "rule")


def _rule(rule: Mapping[str, Any]) -> str:
    """A rule as text. Azure answers with 7.0 days for 7."""
    return json.dumps(json.loads(json.dumps(rule), parse_float=lambda text: int(float(text))), sort_keys=True)


def _key(found: Mapping[str, Any]) -> str | None:
    """The URL of the key that encrypts a resource with these properties; `None` without the resource."""
    used = found.get("encryption") or {}
    if not used or used.get("keySource") == "Microsoft.Storage":
        return KEYS if found else None
    of_space = (used.get("keyVaultProperties") or [{}])[0]
    of_account = used.get("keyvaultproperties") or {}
    vault = str(of_space.get("keyVaultUri") or of_account.get("keyvaulturi") or used.get("keySource"))
    return f"{vault.rstrip('/')}/keys/{of_space.get('keyName') or of_account.get('keyname')}"


def _set(name: str, found: Mapping[str, object], wanted: Mapping[str, object] = policy.ACCOUNT) -> Promise:
    """The promise that settings have the values with which the deployment makes them."""
    now = {f"{setting} = {json.dumps(value)}" for setting, value in found.items()}
    return exactly(name, now, {f"{setting} = {json.dumps(wanted[setting])}" for setting in found}, "setting")


def _readable(name: str, role: str, read: Callable[[], Mapping[str, str | None]], expected: str, advice: str = REPAIR) -> Promise:
    """A promise from data that needs another role than the Resource Manager's. Without the role it does not hold: it is unread."""
    try:
        return same(name, read(), expected, advice)
    except DriverError as error:
        if error.code is not Code.DENIED:
            raise
        return unread(name, f"these credentials lack the role {role}", expected, f"audit with credentials that have the role {role}")


def _containers(api: Api, names: Mapping[str, str]) -> Iterator[Promise]:
    every, name = [names["container"], f"{names['container']}-code"], "containers: no public access"

    def one(container: str) -> str | None:
        with closing(clients.container(names["blob_url"], container)) as client:
            found = api.unless(Code.NOT_FOUND, f"container {container}", client.get_container_properties)
            return f"public access to each {found.public_access}" if found and found.public_access else "private" if found else None

    def read() -> dict[str, str | None]:
        return dict(zip(every, api.each(one, every), strict=True))

    account = names["blob_url"].partition("//")[2].partition(".")[0]
    advice = f"for each public container: az storage container set-permission --public-access off --account-name {account} --name CONTAINER"
    yield _readable(name, "Storage Blob Data Reader", read, "private", advice)


def _spaces(api: Api, names: Mapping[str, str]) -> Iterator[Promise]:
    hosts = names["namespaces"].split(",")
    found = {host: (api.find(policy.namespace_id(names, host)) or {}).get("properties", {}) for host in hosts}
    yield same("namespaces: encrypted at rest", {host: _key(each) for host, each in found.items()}, names.get("kms_key") or KEYS)
    for name, setting in (("namespaces: only by TLS", "minimumTlsVersion"), ("namespaces: no keys", "disableLocalAuth")):
        yield same(name, {host: f"{setting} = {each.get(setting)}" for host, each in found.items()}, f"{setting} = {policy.SPACE[setting]}")


def _queues(api: Api, had: Resources) -> Iterator[Promise]:
    names, name = Names.of(had), "queues: retention"
    pairs = [(slot, rank) for slot in range(had.slots) for rank in range(had.ranks)]

    def read() -> dict[str, str | None]:
        with queues.administration(names.namespaces) as admins:

            def one(pair: tuple[int, int]) -> str | None:
                admin, queue = admins[names.shard(pair[1])], names.queue(*pair)
                found = api.unless(Code.NOT_FOUND, f"queue {queue}", lambda: admin.get_queue(queue))
                kept = found.default_message_time_to_live if found else None
                return f"{kept.total_seconds():.0f} s" if isinstance(kept, timedelta) else kept

            return dict(zip((names.queue(*pair) for pair in pairs), api.each(one, pairs), strict=True))

    yield _readable(name, "Azure Service Bus Data Owner", read, f"{queues.TTL_S} s")


def _roles(api: Api, names: Mapping[str, str], identity: Mapping[str, Any]) -> Iterator[Promise]:
    """``identity``: the identity of the function app; empty if it was removed. The roles of other identities are not read."""
    principal = str(identity.get("principalId", ""))
    more = [each.rpartition("/")[2] for each in identity.get("userAssignedIdentities") or {}]
    yield exactly("identity: only the function app's own", [*(["its own"] if principal else []), *more], ["its own"], "identity")

    def line(scope: str, role: str) -> str:
        return f"{policy.TITLES.get(role, role)} on {scope.lower()}"

    path = f"/subscriptions/{names['subscription']}/providers/Microsoft.Authorization/roleAssignments"
    asked = quote(f"principalId eq '{principal}'")
    found: list[dict[str, Any]] = []
    page = f"{path}?$filter={asked}" if principal else ""
    while page:
        answer = api.call("GET", page)
        found += answer.get("value", [])
        page = answer.get("nextLink") or ""
    held = {line(each["properties"]["scope"], each["properties"]["roleDefinitionId"].rpartition("/")[2]) for each in found}
    wanted = {line(each.scope, each.role) for each in policy.worker(names, principal)}
    advice = f"{REPAIR} assigns what is missing; remove a role that is too much: az role assignment delete --assignee {principal}"
    yield exactly("identity: exactly the roles that workers use", held, wanted, "role", advice)


def _function(api: Api, had: Resources, site: Mapping[str, Any]) -> Iterator[Promise]:
    name, found = had.names["function"], site["properties"]
    web = api.call("GET", f"{site['id']}/config/web")["properties"]
    now = {"httpsOnly": found.get("httpsOnly"), "minTlsVersion": web.get("minTlsVersion")}
    yield _set("function app: only by TLS", now, {"httpsOnly": True, **function.WEB})
    insights = [setting for setting in function.settings(api, had.app) or {} if setting.upper().startswith("APPLICATIONINSIGHTS")]
    kept = f"kept by Application Insights ({', '.join(insights)})" if insights else "not kept: log stream only"
    yield same("logs: retention", {name: kept}, "not kept: log stream only", f"remove the setting from function app {name}")
    changed = found.get("lastModifiedTimeUtc") or "the Resource Manager names no time"
    yield shown("function app: last change", f"{changed}{_who(api, had, str(site['id']))}")


def _who(api: Api, had: Resources, site: str) -> str:
    """Who changed the function app last, and by which operation, from the activity log."""
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - EVENTS_S))
    asked = quote(f"eventTimestamp ge '{since}' and resourceUri eq '{site}'")
    path = f"/subscriptions/{had.names['subscription']}/providers/Microsoft.Insights/eventtypes/management/values?$filter={asked}"
    try:
        events = (api.find(path) or {}).get("value", [])
    except DriverError as error:
        if error.code in TRANSIENT:
            raise
        return f"; the activity log does not say by whom: {error.message}"
    writes = [event for event in events if str(event.get("operationName", {}).get("value", "")).lower().endswith(("/write", "/action"))]
    if not writes:
        return "; the activity log names nobody for it"
    return f" by {writes[0].get('caller')} ({writes[0]['operationName']['value']})"
