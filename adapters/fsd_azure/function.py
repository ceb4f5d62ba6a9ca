"""Makes, changes and removes the function app and its plan, and reads and writes the function app's settings.

The function app is also the record of the app: its setting `RESOURCES`, which its workers read, names the app's resources. The settings
also hold the key with which a worker starts other workers, and the deployer's connection strings, if any: settings are Azure's place for
secrets.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from azure.core.exceptions import HttpResponseError

from fsd_azure import connection_strings, policy
from fsd_azure import names as naming
from fsd_azure.variables import KEY, RESOURCES
from fsd_core.driver import Code, Resources
from fsd_core.errors import DriverError, InputError
from fsd_core.providers.environment import foreign, from_record, to_environment

if TYPE_CHECKING:
    from fsd_azure.api import Api
    from fsd_core.providers.package import Package

__all__ = ["ROUTE", "WEB", "create", "key", "publish", "read", "remove", "settings", "url", "write"]

ROUTE = "api/worker"
WEB = {"minTlsVersion": "1.2"}  # settings of the function app as a web site
_DEPLOYED, _CONFLICT, _FORGOTTEN = 4, 5, -2  # statuses of a deployment: done; refused, another one runs; -2 is fsd's own: Azure lost it
_ENDED = {3: "failed", -1: "was cancelled", _CONFLICT: "met another deployment", 6: "succeeded in part"}
FORGOTTEN_S = 60.0  # a deployment without a status for this time is lost: Azure may have recycled the instance that ran it
AGAIN_S = 10.0  # pause before the code is sent again, if another deployment ran
_SURE_INSTANCES = 40  # every region accepts this as an app's maximumInstanceCount; only a few regions accept less
_INSTANCES = re.compile(r"(?i)maximum.?instance.?count|maximum.?scale")
_SENDS = 3  # attempts, if Azure loses the state of each deployment
# Errors of deployments that succeeded some minutes later: the account, the identity or its role was new.
_REFUSED = re.compile(
    r"Forbidden|Unauthorized|\b40[13]\b|AuthorizationPermissionMismatch|AuthorizationFailure|InaccessibleStorageException"
    r"|MSITokenUnavailableException|Unable to fetch MSI token|Name or service not known"
)


def _name(api: Api, app: str) -> str:
    return naming.function(app, api.subscription, api.group(app))


def _site(api: Api, app: str) -> str:
    return api.id(app, f"Microsoft.Web/sites/{_name(api, app)}")


def _plan(api: Api, app: str) -> str:
    return api.id(app, f"Microsoft.Web/serverfarms/{_name(api, app)}")  # a plan of Flex Consumption can hold one app only


def settings(api: Api, app: str) -> dict[str, str] | None:
    """The settings of the function app, which may hold secrets; None where it does not exist."""
    where = f"{_site(api, app)}/config/appsettings/list"
    found = api.unless(Code.NOT_FOUND, f"settings of function app {_name(api, app)}", lambda: api.request("POST", where))
    return None if found is None else dict(found.get("properties", {}))


def read(api: Api, app: str) -> Resources | None:
    """The resources that the function app's settings name; None where the function app does not exist.

    Raises `InputError` where fsd did not make the function app.
    """
    found = settings(api, app)
    return None if found is None else from_record(found.get(RESOURCES), app, f"a function app {_name(api, app)}")


def write(api: Api, resources: Resources) -> None:
    """Write ``resources`` and the function app's present key into its settings. Other settings stay. Azure restarts the instances."""
    new = (settings(api, resources.app) or {}) | _own(resources) | {KEY: key(api, resources.app)}
    api.call("PUT", f"{_site(api, resources.app)}/config/appsettings", {"properties": new})


def create(api: Api, resources: Resources) -> dict[str, Any]:
    """Make or change the function app and its plan, wait until the function app runs, and return it. A new function app gets its settings
    at once.

    Raises `InputError` where the plan is not the app's, or where the region accepts no app of so few instances.
    """
    names, tags = resources.names, {policy.APP_TAG: resources.app}
    plan, site = _plan(api, resources.app), _site(api, resources.app)
    new = api.find(site) is None
    if new:
        if (found := api.find(plan)) and not api.owns(found, resources.app):
            raise foreign(resources.app, f"a plan {names['function']}")
        sku = {"name": "FC1", "tier": "FlexConsumption"}
        reserved = {"reserved": True}  # this is how Azure spells Linux
        api.put(plan, {"location": names["region"], "kind": "functionapp", "tags": tags, "sku": sku, "properties": reserved})
    properties: dict[str, Any] = {"serverFarmId": plan, "httpsOnly": True, "functionAppConfig": _config(names)}
    if new:
        properties["siteConfig"] = {"appSettings": [{"name": name, "value": value} for name, value in _own(resources).items()]}
    body = {"location": names["region"], "kind": "functionapp,linux", "tags": tags, "identity": {"type": "SystemAssigned"}}
    try:
        api.put(site, body | {"properties": properties})
    except DriverError as error:
        few = int(names["concurrency"]) < _SURE_INSTANCES and error.code is Code.INVALID and _INSTANCES.search(str(error))
        if not few:
            raise
        raise InputError(
            f"[azure] concurrency = {names['concurrency']}: {names['region']} accepts no function app of so few instances: "
            f"expected {_SURE_INSTANCES} to 1000"
        ) from error
    found = api.until(f"function app {names['function']} running", lambda: _running(api, site))
    api.call("PATCH", f"{site}/config/web", {"properties": WEB})
    return found


def _running(api: Api, site: str) -> dict[str, Any] | None:
    found = api.find(site) or {}
    return found if found.get("properties", {}).get("state", "Running") == "Running" and "identity" in found else None


def url(api: Api, site: Mapping[str, Any]) -> str:
    """The URL of the function app's HTTP trigger. ``site``: the resource."""
    return f"{api.scheme}://{site['properties']['defaultHostName']}/{ROUTE}"


def key(api: Api, app: str) -> str:
    """The function app's key. Azure makes the key when the function app first runs; this function waits for that."""

    def check() -> str | None:
        try:
            return str(api.request("POST", f"{_site(api, app)}/host/default/listkeys")["functionKeys"]["default"])
        except (HttpResponseError, KeyError) as error:
            if isinstance(error, KeyError) or (error.status_code or 0) in (400, 404, 500, 502, 503):
                return None
            raise

    return api.until(f"key of function app {_name(api, app)}", lambda: api.repeat("key of the function app", check))


def publish(api: Api, site: Mapping[str, Any], package: Package) -> None:
    """Send the code and its packages, and return when Azure has deployed them. Raises `DriverError` with Azure's reason where the
    deployment failed.

    The function app stores the code with its own identity. So this function sends the code again while the role of that identity may not be
    active yet, while another deployment runs, and when Azure lost the state of the deployment, which happens when Azure replaces an
    instance.
    """
    host = next(each["name"] for each in site["properties"]["hostNameSslStates"] if each["hostType"] == "Repository")
    at, what = f"{api.scheme}://{host}/api", f"code of function app {site['name']}"

    forgotten = 0

    def send() -> bool | None:
        nonlocal forgotten
        begun = api.call("POST", f"{at}/publish?RemoteBuild=false", package.body)
        last_seen = time.monotonic()

        def look() -> tuple[int, str] | None:
            nonlocal last_seen
            found = api.find(f"{at}/deployments/{begun['value']}")
            if found:
                last_seen = time.monotonic()
                return _ended(found)
            return (_FORGOTTEN, "") if time.monotonic() > last_seen + FORGOTTEN_S else None

        status, text = api.until(what, look)
        if status == _DEPLOYED:
            return True
        if status == _FORGOTTEN:
            forgotten += 1
            if forgotten < _SENDS:
                return None
            raise DriverError(Code.UNAVAILABLE, f"{what}: Azure forgot the deployment {_SENDS} times: run 'fsd deploy' again")
        if status == _CONFLICT:
            if not api.retry.pause(0, AGAIN_S):  # False at an interrupt or the deadline
                raise api.late(what)
            return None
        if api.settles(text, _REFUSED):
            return None
        raise DriverError(Code.INVALID, f"sending the code to function app {site['name']}: {_ENDED[status]}: {text}")

    api.until(what, send)


def _ended(found: Mapping[str, Any]) -> tuple[int, str] | None:
    """The status of a deployment and Azure's text about it; None while it runs."""
    status = found.get("status")
    if status not in (*_ENDED, _DEPLOYED):
        return None
    return int(status), " ".join(str(found.get("status_text") or found.get("message") or "").split())[:500]


def _config(names: Mapping[str, str]) -> dict[str, Any]:
    authentication = {"type": "SystemAssignedIdentity"}
    if not names["storage_account"]:
        authentication = {"type": "StorageAccountConnectionString", "storageAccountConnectionStringName": connection_strings.STORAGE}
    storage = {"type": "blobContainer", "value": f"{names['blob_url']}/{names['container']}-code", "authentication": authentication}
    return {
        "deployment": {"storage": storage},
        "scaleAndConcurrency": {
            "maximumInstanceCount": int(names["concurrency"]),
            "instanceMemoryMB": int(names["memory_mb"]),
            "triggers": {"http": {"perInstanceConcurrency": 1}},  # a worker needs the whole memory and CPU of an instance
        },
        "runtime": {"name": "python", "version": names["runtime"]},
    }


def _own(resources: Resources) -> dict[str, str]:
    """fsd's own settings of the function app, without the key."""
    names = resources.names
    seconds = int(names["timeout_s"])
    own = {
        RESOURCES: to_environment(resources),
        "AzureFunctionsJobHost__functionTimeout": f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}",
        "PYTHON_THREADPOOL_THREAD_COUNT": "1",
    }
    if names["storage_account"]:
        own["AzureWebJobsStorage__accountName"] = names["storage_account"]  # it logs in with its identity
    else:
        own[connection_strings.STORAGE] = own["AzureWebJobsStorage"] = connection_strings.storage_string() or ""
    if names["bus"] == "given":
        own[connection_strings.SERVICE_BUS] = os.environ[connection_strings.SERVICE_BUS]
    return own


def remove(api: Api, app: str) -> list[str]:
    """Remove the function app and its plan if they are the app's. Returns one line of text for each removed resource."""
    whole = (("function app", _site(api, app)), ("plan", _plan(api, app)))
    mine = [(what, path) for what, path in whole if api.owns(api.find(path), app)]
    for _, path in mine:
        api.delete(path)  # Azure removes a plan with its last app, so the plan may be gone already
    return [f"{what} {_name(api, app)}" for what, _ in mine]
