"""The function app and its plan: making, changing and removing them, and what the app's settings say.

The function app is also the record of the app. Its settings say what there is (`RESOURCES`, the same that its workers read). They also
hold the key by which a worker launches others, and connection strings where the deployer chose those: that is where Azure keeps secrets.
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
from fsd_core.providers.environment import from_record, to_environment

if TYPE_CHECKING:
    from fsd_azure.api import Api
    from fsd_core.providers.package import Package

__all__ = ["ROUTE", "create", "key", "publish", "read", "remove", "say", "url"]

ROUTE = "api/worker"
_DEPLOYED, _CONFLICT, _FORGOTTEN = 4, 5, -2  # how a deployment ended: well; another one was under way; our own: nobody knows of it any more
_ENDED = {3: "failed", -1: "was cancelled", _CONFLICT: "met another deployment", 6: "succeeded in part"}
FORGOTTEN_S = 60.0  # a deployment without any status for so long is lost: the instance that ran it may be recycled
AGAIN_S = 10.0  # until code is sent again that met another deployment
_SURE_INSTANCES = 40  # that every region takes as an app's most; fewer are, or were, for a few regions
_INSTANCES = re.compile(r"(?i)maximum.?instance.?count|maximum.?scale")
_SENDS = 3  # of a deployment that is forgotten each time
# Of an account, an identity or a role that was made just now: what was reported from deployments that went well some minutes later.
_REFUSED = re.compile(
    r"Forbidden|Unauthorized|\b40[13]\b|AuthorizationPermissionMismatch|AuthorizationFailure|InaccessibleStorageException"
    r"|MSITokenUnavailableException|Unable to fetch MSI token|Name or service not known"
)


def _name(api: Api, app: str) -> str:
    return naming.function(app, api.subscription, api.group(app))


def _site(api: Api, app: str) -> str:
    return api.id(app, f"Microsoft.Web/sites/{_name(api, app)}")


def _plan(api: Api, app: str) -> str:
    return api.id(app, f"Microsoft.Web/serverfarms/{_name(api, app)}")  # Flex Consumption takes one app a plan


def _settings(api: Api, app: str) -> dict[str, str] | None:
    where = f"{_site(api, app)}/config/appsettings/list"
    found = api.unless(Code.NOT_FOUND, f"settings of function app {_name(api, app)}", lambda: api.request("POST", where))
    return None if found is None else dict(found.get("properties", {}))


def read(api: Api, app: str) -> Resources | None:
    """What the function app says of its app; None where there is none. `InputError`: it is somebody else's."""
    held = _settings(api, app)
    return None if held is None else from_record(held.get(RESOURCES), app, f"a function app {_name(api, app)}")


def say(api: Api, resources: Resources, secret: str) -> None:
    """Give the function app the settings that ``resources`` say, which starts its instances anew. Settings of others stay."""
    settings = (_settings(api, resources.app) or {}) | _own(resources) | {KEY: secret}
    api.call("PUT", f"{_site(api, resources.app)}/config/appsettings", {"properties": settings})


def create(api: Api, resources: Resources) -> dict[str, Any]:
    """Make or change the function app and its plan, and return it when it can be used; its settings are given when it is made."""
    names, tags = resources.names, {policy.APP_TAG: resources.app}
    plan, site = _plan(api, resources.app), _site(api, resources.app)
    new = api.find(site) is None
    if new:
        if (found := api.find(plan)) and not api.owns(found, resources.app):
            raise InputError(f"app {resources.app!r}: a plan {names['function']} is there that fsd did not make; choose another app")
        sku = {"name": "FC1", "tier": "FlexConsumption"}
        reserved = {"reserved": True}  # Azure's word for Linux
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
            f"[azure] concurrency = {names['concurrency']}: {names['region']} takes no function app of so few instances: "
            f"expected {_SURE_INSTANCES} to 1000"
        ) from error
    return api.until(f"function app {names['function']} running", lambda: _running(api, site))


def _running(api: Api, site: str) -> dict[str, Any] | None:
    found = api.find(site) or {}
    return found if found.get("properties", {}).get("state", "Running") == "Running" and "identity" in found else None


def url(api: Api, site: Mapping[str, Any]) -> str:
    """Where its HTTP trigger listens."""
    return f"{api.scheme}://{site['properties']['defaultHostName']}/{ROUTE}"


def key(api: Api, app: str) -> str:
    """The function app's key. It is there once its host has run: until then the answer is an error."""

    def check() -> str | None:
        try:
            return str(api.request("POST", f"{_site(api, app)}/host/default/listkeys")["functionKeys"]["default"])
        except (HttpResponseError, KeyError) as error:
            if isinstance(error, KeyError) or (error.status_code or 0) in (400, 404, 500, 502, 503):
                return None
            raise

    return api.until(f"key of function app {_name(api, app)}", lambda: api.repeat("key of the function app", check))


def publish(api: Api, site: Mapping[str, Any], package: Package) -> None:
    """Send the code, with all that it imports, and return when it is in place. Raises `DriverError` with Azure's words where it failed.

    The site stores the code by its own identity: it is sent again while the role of that may not be in force yet, while another
    deployment is in the way, and where the state of its deployment was forgotten, as happens when an instance is replaced.
    """
    host = next(each["name"] for each in site["properties"]["hostNameSslStates"] if each["hostType"] == "Repository")
    at, what = f"{api.scheme}://{host}/api", f"code of function app {site['name']}"

    forgotten = 0

    def send() -> bool | None:
        nonlocal forgotten
        begun = api.call("POST", f"{at}/publish?RemoteBuild=false", package.body)
        heard = time.monotonic()

        def look() -> tuple[int, str] | None:
            nonlocal heard
            found = api.find(f"{at}/deployments/{begun['value']}")
            if found:
                heard = time.monotonic()
                return _ended(found)
            return (_FORGOTTEN, "") if time.monotonic() > heard + FORGOTTEN_S else None

        status, said = api.until(what, look)
        if status == _DEPLOYED:
            return True
        if status == _FORGOTTEN:
            forgotten += 1
            if forgotten < _SENDS:
                return None
            raise DriverError(Code.UNAVAILABLE, f"{what}: Azure forgot the deployment {_SENDS} times: run 'fsd deploy' again")
        if status == _CONFLICT:
            if not api.retry.pause(0, AGAIN_S):  # hears an interrupt and the deadline
                raise api.late(what)
            return None
        if api.settles(said, _REFUSED):
            return None
        raise DriverError(Code.INVALID, f"sending the code to function app {site['name']}: {_ENDED[status]}: {said}")

    api.until(what, send)


def _ended(found: Mapping[str, Any]) -> tuple[int, str] | None:
    """How a deployment ended, and what was said of it; None while it is under way."""
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
            "triggers": {"http": {"perInstanceConcurrency": 1}},  # one worker has its memory and its CPU for itself
        },
        "runtime": {"name": "python", "version": names["runtime"]},
    }


def _own(resources: Resources) -> dict[str, str]:
    """The settings that are fsd's, but the key."""
    names = resources.names
    whole = int(names["timeout_s"])
    settings = {
        RESOURCES: to_environment(resources),
        "AzureFunctionsJobHost__functionTimeout": f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}",
        "PYTHON_THREADPOOL_THREAD_COUNT": "1",
    }
    if names["storage_account"]:
        settings["AzureWebJobsStorage__accountName"] = names["storage_account"]  # by its identity
    else:
        settings[connection_strings.STORAGE] = settings["AzureWebJobsStorage"] = connection_strings.storage_string() or ""
    if names["bus"] == "given":
        settings[connection_strings.SERVICE_BUS] = os.environ[connection_strings.SERVICE_BUS]
    return settings


def remove(api: Api, app: str) -> list[str]:
    """Remove the function app and its plan, if they are the app's."""
    whole = (("function app", _site(api, app)), ("plan", _plan(api, app)))
    mine = [(what, path) for what, path in whole if api.owns(api.find(path), app)]
    for _, path in mine:
        api.delete(path)  # Azure removes an empty plan with its last app: then it is gone already
    return [f"{what} {_name(api, app)}" for what, _ in mine]
