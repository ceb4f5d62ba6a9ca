"""The function apps of the local Functions host: configuration, settings, keys, publishing, and the routing of calls.

Rules as of 2026-11, at learn.microsoft.com/azure/azure-functions: plans and limits, functions-scale; memory, instances and settings
that Flex Consumption refuses, flex-consumption-plan and functions-app-settings; keys, function-keys-how-to; routes and the size of a
request, functions-bindings-http-webhook-trigger.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hmac
import json
import re
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

from fsd_conformance.emulators.azure_functions_deploy import Broken, Deployed, Deployer, Options, Route, Scale
from fsd_conformance.emulators.dispatcher import Dispatcher
from fsd_conformance.emulators.web import Request, Response

__all__ = ["REQUEST_BYTES", "Refusal", "Site", "Sites", "object_of"]

REQUEST_BYTES = 104_857_600
_MEMORY_MB = (512, 2048, 4096)
_MAX_INSTANCES = 1000
_NAME = r"[A-Za-z0-9][A-Za-z0-9-]{0,58}[A-Za-z0-9]"
_PYTHON = ("3.10", "3.11", "3.12", "3.13")
_REFUSED = frozenset(  # settings of other plans; Flex Consumption has functionAppConfig instead
    (
        *("FUNCTIONS_WORKER_RUNTIME", "FUNCTIONS_EXTENSION_VERSION", "FUNCTIONS_WORKER_PROCESS_COUNT", "WEBSITE_RUN_FROM_PACKAGE"),
        *("WEBSITE_CONTENTSHARE", "WEBSITE_CONTENTAZUREFILECONNECTIONSTRING", "SCM_DO_BUILD_DURING_DEPLOYMENT", "ENABLE_ORYX_BUILD"),
    )
)
_URL_CHARS = 8192
_CONFLICT = 5  # a deployment's status: another one was running


class Refusal(Exception):
    """An error of the control plane: HTTP status, Resource Manager's code, message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(eq=False)
class Site:
    """One function app. ``body``: as a client wrote it; ``deployed``: the running app, or None."""

    id: str
    name: str
    body: dict[str, Any]
    scale: Scale
    settings: dict[str, str] = field(default_factory=dict)
    web: dict[str, Any] = field(default_factory=lambda: {"minTlsVersion": "1.2", "ftpsState": "FtpsOnly"})  # stored only
    keys: dict[str, str] = field(default_factory=lambda: {"default": secrets.token_urlsafe(40)})
    master: str = field(default_factory=lambda: secrets.token_urlsafe(40))
    principal: str = field(default_factory=lambda: str(uuid4()))
    looks: Counter[str] = field(default_factory=Counter)  # requests by kind
    package: bytes | None = None
    deployed: Deployed | None = None
    deployments: dict[str, dict[str, Any]] = field(default_factory=dict)
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)


class Sites:
    """All function apps. ``all``: by id in lower case; ``address``: HOST:PORT of this emulator."""

    def __init__(self, options: Options, deployer: Deployer, dispatcher: Dispatcher) -> None:
        self.all: dict[str, Site] = {}
        self.address = ""
        self._options = options
        self._deployer = deployer
        self._dispatcher = dispatcher
        self._tasks: set[asyncio.Task[None]] = set()

    def named(self, name: str) -> Site | None:
        """The site with this name, or None. The name is part of a host name, so it is unique."""
        return next((site for site in self.all.values() if site.name.lower() == name.lower()), None)

    def plan(self, key: str) -> str:
        """The id of a site's plan in lower case; "" where the site or the plan does not exist."""
        site = self.all.get(key)
        return str(site.body.get("properties", {}).get("serverFarmId") or "").lower() if site else ""

    def shown(self, key: str) -> dict[str, Any]:
        """The resource as the service returns it."""
        site = self.all[key]
        host, scm = self._hosts(site)
        properties = {name: value for name, value in site.body.get("properties", {}).items() if name != "siteConfig"}
        own: dict[str, Any] = {"state": "Running", "defaultHostName": host, "enabledHostNames": [host, scm], "hostNames": [host]}
        own["hostNameSslStates"] = [{"name": host, "hostType": "Standard"}, {"name": scm, "hostType": "Repository"}]
        identity = site.body.get("identity")
        found = site.body | {"id": site.id, "name": site.name, "type": "Microsoft.Web/sites", "properties": properties | own}
        if identity:
            found["identity"] = identity | {"principalId": site.principal, "tenantId": self._options.subscription}
        return found

    async def remove(self, key: str) -> None:
        """Remove a site. Its idle instances end; running calls continue."""
        site = self.all.pop(key)
        if site.deployed:
            site.deployed.revision.retired = True

    def close(self) -> None:
        """Cancel running deployments."""
        for task in self._tasks:
            task.cancel()

    # the control plane

    async def route(self, request: Request, whole: str, rest: Sequence[str]) -> Response:
        """Answer a request about a site. ``rest``: the path after its id."""
        key, asked = whole.lower(), [request.method, *(part.lower() for part in rest)]
        if asked == ["PUT"] or asked == ["PATCH"]:
            return await self._put(request, whole)
        site = self.all.get(key)
        if asked == ["DELETE"]:
            if site is None:
                return Response(204)
            await self.remove(key)
            return Response(200)
        if site is None:
            raise Refusal(404, "ResourceNotFound", f"The Resource '{whole}' was not found.")
        match asked:
            case ["GET"] if self._settles(site, "site"):
                raise Refusal(404, "ResourceNotFound", f"The Resource '{whole}' was not found.")
            case ["GET"]:
                return Response.of(self.shown(key))
            case ["PUT", "config", "appsettings"]:
                site.settings = await self._changed(site, settings=_settings(object_of(request).get("properties", {})))
                return Response.of(self._config(site))
            case ["GET", "config", "web"]:
                return Response.of(self._web(site))
            case ["PUT" | "PATCH", "config", "web"]:
                site.web |= object_of(request).get("properties", {})
                return Response.of(self._web(site))
            case ["POST", "config", "appsettings", "list"]:
                return Response.of(self._config(site))
            case ["POST", "host", "default", "listkeys"] if not self._hosted(site):
                raise Refusal(400, "BadRequest", "Encountered an error (ServiceUnavailable) from host runtime.")
            case ["POST", "host", "default", "listkeys"]:
                return Response.of({"masterKey": site.master, "functionKeys": site.keys, "systemKeys": {}})
            case ["GET", "functions"]:
                return Response.of({"value": [self._function(site, each) for each in (site.deployed.routes if site.deployed else ())]})
        raise Refusal(404, "NotFound", f"{request.method} {request.path}: not implemented by this emulator.")

    def _hosted(self, site: Site) -> bool:
        """Whether its host has run, and so has written its keys into its storage."""
        stored = any(name.startswith("AzureWebJobsStorage") for name in site.settings)
        return not self._options.settle or (stored and not self._settles(site, "keys"))

    def _settles(self, site: Site, what: str) -> bool:
        """Whether this is one of the first requests of this kind."""
        site.looks[what] += 1
        return site.looks[what] <= self._options.settle

    async def _put(self, request: Request, whole: str) -> Response:
        body, key = object_of(request), whole.lower()
        name, site = whole.rpartition("/")[2], self.all.get(key)
        if site is None and request.method == "PATCH":
            raise Refusal(404, "ResourceNotFound", f"The Resource '{whole}' was not found.")
        if site is None and (not re.fullmatch(_NAME, name) or self.named(name)):
            raise Refusal(409, "Conflict", f"Website with given name {name} already exists, or the name is invalid.")
        entries = body.get("properties", {}).get("siteConfig", {}).get("appSettings")
        if site is not None and request.method == "PATCH":
            body = _merged(site.body, body)
        scale = _scale(body, self._options.min_instances)
        given = None if entries is None else _settings({each.get("name"): each.get("value") for each in entries})
        new = site is None
        site = site or Site(whole, name, body, scale, given or {})
        self.all[key] = site
        try:
            site.settings = await self._changed(site, settings=given, scale=scale)
        except BaseException:
            if new:
                self.all.pop(key, None)
            raise
        site.body = body
        return Response.of(self.shown(key))

    async def _changed(
        self, site: Site, *, settings: dict[str, str] | None = None, scale: Scale | None = None, package: bytes | None = None
    ) -> dict[str, str]:
        """Restart the site with these values, and return its settings. Raises `Refusal` where it cannot start; it then runs as before."""
        async with site.changing:
            settings, scale, package = settings if settings is not None else site.settings, scale or site.scale, package or site.package
            same = site.deployed is not None and (settings, scale, package) == (site.settings, site.scale, site.package)
            if not same and (self._options.code == "installed" or package is not None):
                try:
                    deployed = await self._deployer.deploy(site.name, self._hosts(site)[0], scale, settings, package)
                except Broken as error:
                    raise Refusal(400, "BadRequest", f"Site {site.name}: {error}") from None
                if site.deployed:
                    site.deployed.revision.retired = True
                site.deployed = deployed
            site.settings, site.scale, site.package = settings, scale, package
            return settings

    def _hosts(self, site: Site) -> tuple[str, str]:
        """The addresses of its functions and of its deployment service."""
        return f"{self.address}/sites/{site.name}", f"{self.address}/scm/{site.name}"

    def _config(self, site: Site) -> dict[str, Any]:
        fixed = {"id": f"{site.id}/config/appsettings", "name": "appsettings", "type": "Microsoft.Web/sites/config"}
        return {**fixed, "properties": site.settings}

    def _web(self, site: Site) -> dict[str, Any]:
        return {"id": f"{site.id}/config/web", "name": site.name, "type": "Microsoft.Web/sites/config", "properties": site.web}

    def _function(self, site: Site, route: Route) -> dict[str, Any]:
        properties = {"config": route.config, "isDisabled": False, "language": "python"}
        properties["invoke_url_template"] = f"http://{self._hosts(site)[0]}/{route.path}"
        named = {"id": f"{site.id}/functions/{route.name}", "name": f"{site.name}/{route.name}", "type": "Microsoft.Web/sites/functions"}
        return {**named, "properties": properties}

    # publishing

    async def publish(self, request: Request, name: str, rest: Sequence[str]) -> Response:
        """Answer a request to the site's deployment service."""
        site = self.named(name)
        if site is None:
            return Response(404)
        if not request.headers.get("authorization", "").startswith("Bearer "):
            return Response(401)
        if (request.method, list(rest)) == ("POST", ["api", "publish"]):
            if "true" in (value.lower() for value in request.query.get("RemoteBuild", ())):
                return Response(501, b"RemoteBuild is not implemented by this emulator\n", {"Content-Type": "text/plain"})
            deployment: dict[str, Any] = {"id": str(uuid4()), "status": 0, "status_text": "", "complete": False}
            if not all(each["complete"] for each in site.deployments.values()):
                site.deployments[deployment["id"]] = deployment | {"status": _CONFLICT, "status_text": "Conflict", "complete": True}
                return Response.of(deployment["id"], 202)
            site.deployments[deployment["id"]] = site.deployments["latest"] = deployment
            task = asyncio.create_task(self._publish(site, request.body, deployment))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return Response.of(deployment["id"], 202)
        if request.method == "GET" and rest[:2] == ["api", "deployments"] and len(rest) == 3 and rest[2] in site.deployments:
            return Response.of(site.deployments[rest[2]])
        return Response(404)

    async def _publish(self, site: Site, package: bytes, deployment: dict[str, Any]) -> None:
        status, text = 4, ""
        try:
            await asyncio.sleep(self._options.pending_s)
            if self._settles(site, "roles"):
                raise Broken("[StorageAccessibleCheck] Error while checking access: Status: 403 (Forbidden)")
            self._deployer.check(package)
            await self._changed(site, package=package)
        except Exception as error:  # any error: it is the status of the deployment
            status, text = 3, str(error) if isinstance(error, Broken | Refusal) else f"{type(error).__name__}: {error}"
        deployment.update(status=status, status_text=text, complete=True)

    # calls

    async def call(self, request: Request, name: str) -> Response:
        """Find the function of a call, check its key, and serve it."""
        site = self.named(name)
        if site is None:
            return _plain(404, "404 Web Site not found.")
        if site.deployed is None:
            return _plain(404, "")
        if len(request.path) + len(urlencode(request.query, doseq=True)) > _URL_CHARS:
            return _plain(414, "")
        for route in site.deployed.routes:
            if (params := route.match(request.method, request.parts()[2:])) is not None:
                break
        else:
            return _plain(404, "")
        if not _allowed(site, route.level, request):
            return _plain(401, "")
        if len(request.body) > REQUEST_BYTES:
            return _plain(413, "")
        query = {key: ",".join(values) for key, values in request.query.items()}
        headers = {key: value for key, value in request.headers.items() if key != "x-fsd-call"}
        url = f"http://{self.address}{request.path}"
        described = {"method": request.method, "url": url, "headers": headers, "query": query, "params": params}
        kept = {key: headers[key] for key in ("content-type",) if key in headers} | {"x-fsd-call": json.dumps(described)}
        sent = dataclasses.replace(request, method="POST", path=f"/call/{route.name}", query={}, headers=kept)
        return await self._dispatcher.call(site.deployed.revision, sent)


def _allowed(site: Site, level: str, request: Request) -> bool:
    """Whether the request has a valid key for this authorization level."""
    key = request.headers.get("x-functions-key") or next(iter(request.query.get("code", ())), "")
    known = [site.master] if level == "ADMIN" else [site.master, *site.keys.values()]
    return level == "ANONYMOUS" or any(hmac.compare_digest(key.encode(), each.encode()) for each in known)


def _plain(status: int, text: str) -> Response:
    return Response(status, text.encode(), {"Content-Type": "text/plain"})


def object_of(request: Request) -> dict[str, Any]:
    """A request's JSON object. Raises `Refusal`."""
    try:
        body = json.loads(request.body)
    except ValueError as error:
        raise Refusal(400, "InvalidRequestContent", f"The request content was invalid and could not be deserialized: {error}") from None
    if not isinstance(body, dict) or not isinstance(body.get("properties", {}), dict):
        raise Refusal(400, "InvalidRequestContent", "The request content and its properties: expected objects.")
    return body


def _merged(old: dict[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a PATCH with ``new``."""
    return old | {name: _merged(old.get(name) or {}, value) if isinstance(value, dict) else value for name, value in new.items()}


def _scale(body: Mapping[str, Any], min_instances: int) -> Scale:
    """The scale of a site. Raises `Refusal` for values that Flex Consumption refuses, or that are not implemented."""
    config = body.get("properties", {}).get("functionAppConfig") or {}
    scale, runtime = config.get("scaleAndConcurrency") or {}, config.get("runtime") or {}
    memory, count = scale.get("instanceMemoryMB", 2048), scale.get("maximumInstanceCount", 100)
    at_once = scale.get("triggers", {}).get("http", {}).get("perInstanceConcurrency")
    if not str(body.get("kind", "")).startswith("functionapp,linux") or not config:
        raise _invalid("only apps of Flex Consumption, of kind functionapp,linux and with a functionAppConfig, are implemented here")
    if not (config.get("deployment") or {}).get("storage", {}).get("value"):
        raise _invalid("functionAppConfig.deployment.storage: expected the URL of a container as its value")
    if memory not in _MEMORY_MB:
        raise _invalid(f"instanceMemoryMB is {memory}: expected one of {', '.join(map(str, _MEMORY_MB))}")
    if not isinstance(count, int) or not min_instances <= count <= _MAX_INSTANCES:
        raise _invalid(f"maximumInstanceCount is {count}: expected {min_instances} to {_MAX_INSTANCES}")
    if at_once != 1:
        raise _invalid(f"triggers.http.perInstanceConcurrency is {at_once}: only 1 is implemented here")
    if runtime.get("name") != "python" or runtime.get("version") not in _PYTHON:
        raise _invalid(f"runtime is {runtime}: expected python, {', '.join(_PYTHON)}")
    if scale.get("alwaysReady"):
        raise _invalid("alwaysReady is not implemented here")
    return Scale(memory_mb=memory, max_instances=count, python=runtime["version"])


def _settings(given: Mapping[Any, Any]) -> dict[str, str]:
    for name, value in given.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_.]+", name):
            raise _invalid(f"app setting {name!r}: expected letters, digits, underscores and periods")
        if not isinstance(value, str):
            raise _invalid(f"app setting {name}: expected text as its value")
        if name in _REFUSED:
            raise _invalid(f"The following app setting (Site.SiteConfig.AppSettings.{name}) for Flex Consumption sites is invalid")
    return dict(given)


def _invalid(message: str) -> Refusal:
    return Refusal(400, "BadRequest", message)
