"""The control plane of the local Cloud Run, as REST: Cloud Functions v2, service accounts, policies, Service Usage, keys,
repositories, the log bucket.

All of Google's hosts have the same address here. Other operations are answered with 501 and their name.
"""

from __future__ import annotations

import asyncio
import json
import re
import traceback
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

from fsd_conformance.emulators.cloud_run_deploy import Deployer, Options
from fsd_conformance.emulators.cloud_run_iam import Iam
from fsd_conformance.emulators.cloud_run_keys import Keys
from fsd_conformance.emulators.cloud_run_metadata import PROJECT_NUMBER, Issuer
from fsd_conformance.emulators.cloud_run_repositories import Repositories
from fsd_conformance.emulators.cloud_run_store import Function, ServiceError, check, invalid, masked, now, status
from fsd_conformance.emulators.web import Request, Response

__all__ = ["Api"]

_P, _L, _K = "/projects/([^/]+)", "/locations/([^/]+)", "/projects/[^/]+/locations/[^/]+"
_ROUTES = [  # method, path, the API that must be enabled, operation
    ("POST", f"/v2{_P}{_L}/functions", "cloudfunctions", "create_function"),
    ("GET", f"/v2{_P}{_L}/functions", "cloudfunctions", "list_functions"),
    ("GET", f"/v2{_P}{_L}/functions/([^/:]+)", "cloudfunctions", "get_function"),
    ("PATCH", f"/v2{_P}{_L}/functions/([^/:]+)", "cloudfunctions", "update_function"),
    ("DELETE", f"/v2{_P}{_L}/functions/([^/:]+)", "cloudfunctions", "delete_function"),
    ("GET", f"/v2{_P}{_L}/operations/([^/:]+)", "cloudfunctions", "get_operation"),
    ("GET", f"/v2{_P}{_L}/services/([^/:]+):getIamPolicy", "run", "get_service_policy"),
    ("POST", f"/v2{_P}{_L}/services/([^/:]+):setIamPolicy", "run", "set_service_policy"),
    ("POST", f"/v1{_P}/serviceAccounts", "iam", "create_account"),
    ("GET", f"/v1{_P}/serviceAccounts", "iam", "list_accounts"),
    ("GET", f"/v1{_P}/serviceAccounts/([^/:]+)", "iam", "get_account"),
    ("DELETE", f"/v1{_P}/serviceAccounts/([^/:]+)", "iam", "delete_account"),
    ("POST", f"/v1{_P}/serviceAccounts/([^/:]+):getIamPolicy", "iam", "get_account_policy"),
    ("POST", f"/v1{_P}/serviceAccounts/([^/:]+):setIamPolicy", "iam", "set_account_policy"),
    ("POST", "/v1/projects/([^/:]+):getIamPolicy", "cloudresourcemanager", "get_project_policy"),
    ("POST", "/v1/projects/([^/:]+):setIamPolicy", "cloudresourcemanager", "set_project_policy"),
    ("GET", "/v1/projects/([^/:]+)", "cloudresourcemanager", "get_project"),
    ("GET", f"/v2{_P}/locations/global/buckets/_Default", "logging", "get_log_bucket"),
    ("PATCH", f"/v2{_P}/locations/global/buckets/_Default", "logging", "update_log_bucket"),
    ("POST", "/v2/entries:list", "logging", "list_log_entries"),
    ("POST", f"/v1{_P}{_L}/keyRings", "cloudkms", "create_key_ring"),
    ("POST", f"/v1/({_K[1:]}/keyRings/[^/:]+)/cryptoKeys", "cloudkms", "create_key"),
    ("GET", f"/v1/({_K[1:]}/keyRings/[^/:]+/cryptoKeys/[^/:]+)", "cloudkms", "get_key"),
    ("PATCH", f"/v1/({_K[1:]}/keyRings/[^/:]+/cryptoKeys/[^/:]+)/cryptoKeyVersions/1", "cloudkms", "disable_key"),
    ("GET", f"/v1/({_K[1:]}/keyRings/[^/:]+(?:/cryptoKeys/[^/:]+)?):getIamPolicy", "cloudkms", "get_key_policy"),
    ("POST", f"/v1/({_K[1:]}/keyRings/[^/:]+(?:/cryptoKeys/[^/:]+)?):setIamPolicy", "cloudkms", "set_key_policy"),
    ("POST", f"/v1/({_K[1:]})/repositories", "artifactregistry", "create_repository"),
    ("GET", f"/v1/({_K[1:]}/repositories/[^/:]+)", "artifactregistry", "get_repository"),
    ("DELETE", f"/v1/({_K[1:]}/repositories/[^/:]+)", "artifactregistry", "delete_repository"),
    ("GET", f"/v1/({_K[1:]}/operations/[^/:]+)", "artifactregistry", "get_repository_operation"),
    ("GET", f"/v1{_P}/services/([^/:]+)", "serviceusage", "get_service"),
    ("POST", f"/v1{_P}/services/([^/:]+):enable", "serviceusage", "enable_service"),
    ("POST", f"/v1{_P}/services/([^/:]+):disable", "serviceusage", "disable_service"),
    ("GET", "/v1/operations/([^/:]+)", "serviceusage", "get_usage_operation"),
]
_KIND = "type.googleapis.com/google.cloud.functions.v2."
_FUNCTION = r"[a-z]([a-z0-9-]{0,60}[a-z0-9])?"
_PAGE = 100


class Api:
    """Answers requests. ``functions``: by resource name; ``address``: of this emulator."""

    def __init__(self, options: Options, deployer: Deployer, iam: Iam, issuer: Issuer) -> None:
        self.functions: dict[str, Function] = {}
        self.address = ""
        self._options = options
        self._deployer = deployer
        self._iam = iam
        self._issuer = issuer
        self._operations: dict[str, dict[str, Any]] = {}
        self._keys = Keys()
        self._repositories = Repositories()
        self._log_days = 30  # how long the log bucket _Default keeps entries
        self._disabled = {name.removesuffix(".googleapis.com") for name in options.disabled.split(",") if name}
        self._tasks: set[asyncio.Task[None]] = set()
        self._routes = [(method, re.compile(path), api, getattr(self, f"_{name}")) for method, path, api, name in _ROUTES]

    async def route(self, request: Request) -> Response:
        """Answer one request."""
        path = "/" + "/".join(request.parts())
        try:
            self._authorize(request)
            for method, pattern, api, operation in self._routes:
                match = pattern.fullmatch(path)
                if match and method == request.method:
                    self._check_place(path, api)
                    return Response.of(operation(request, *match.groups()))
            raise ServiceError("UNIMPLEMENTED", f"{request.method} {path} is not implemented by the local Cloud Run")
        except ServiceError as error:
            return Response.of(error.body(), error.http)
        except Exception as error:
            traceback.print_exc()
            return Response.of(ServiceError("INTERNAL", f"the local Cloud Run failed: {type(error).__name__}: {error}").body(), 500)

    def close(self) -> None:
        """Cancel the running operations."""
        for task in self._tasks:
            task.cancel()

    def named(self, service: str) -> Function | None:
        """The function with this Cloud Run service, or None."""
        return next((it for it in self.functions.values() if it.service.rpartition("/")[2] == service), None)

    def _authorize(self, request: Request) -> None:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        claims = self._issuer.read(token) if kind == "Bearer" else None
        if claims is None or "aud" in claims:
            text = "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid "
            raise ServiceError("UNAUTHENTICATED", text + "authentication credential.")
        if not self._iam.may_manage(claims["email"]):
            raise ServiceError("PERMISSION_DENIED", f"{claims['email']} has no permission for {request.method} {request.path}")

    def _check_place(self, path: str, api: str) -> None:
        """Raise `ServiceError` unless the project is the emulator's, the location is a region, and the API is enabled."""
        parts = path.replace(":", "/").split("/")
        project = parts[3] if parts[2] == "projects" else self._options.project
        if project not in (self._options.project, PROJECT_NUMBER) and not (project == "-" and api == "iam"):
            raise ServiceError("PERMISSION_DENIED", f"Permission denied on resource project {project}.")
        if api in self._disabled:
            name = f"{api}.googleapis.com"
            info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SERVICE_DISABLED", "domain": "googleapis.com"}
            text = (
                f"{name} has not been used in project {project} before or it is disabled. Enable it by visiting "
                f"https://console.developers.google.com/apis/api/{name}/overview?project={project} then retry."
            )
            details = {**info, "metadata": {"consumer": f"projects/{project}", "service": name}}
            raise ServiceError("PERMISSION_DENIED", text, details)
        if "locations" in parts and api != "logging" and not re.fullmatch(r"[a-z]+-[a-z]+\d+|-", parts[5]):
            raise ServiceError("PERMISSION_DENIED", f"Location {parts[5]} is not found or access is unauthorized.")

    # functions

    def _create_function(self, request: Request, project: str, region: str) -> dict[str, Any]:
        short = request.query.get("functionId", [""])[0]
        if not re.fullmatch(_FUNCTION, short):
            raise invalid(f"function_id {short!r}: expected a lower-case letter, then up to 61 of a-z, 0-9 and '-', not ending in '-'")
        body = _json(request)
        name = f"projects/{project}/locations/{region}/functions/{short}"
        if body.get("name", name) != name:
            raise invalid(f"function.name {body['name']!r}: expected {name}")
        fields = check(body)
        self._repositories.check(fields)
        if name in self.functions:
            raise ServiceError("ALREADY_EXISTS", f"Resource '{name}' already exists")
        if self.named(short) is not None:
            raise ServiceError("UNIMPLEMENTED", f"function {short} in a second region is not implemented by the local Cloud Run")
        function = Function(name, f"{self.address}/run/{short}", fields)
        self.functions[name] = function
        return self._begin(function, "create", self._deploy(function, fields))

    def _list_functions(self, request: Request, project: str, region: str) -> dict[str, Any]:
        place = "" if region == "-" else f"/locations/{region}/"
        after, size = request.query.get("pageToken", [""])[0], int(request.query.get("pageSize", [str(_PAGE)])[0]) or _PAGE
        rest = [function for name, function in sorted(self.functions.items()) if place in name and name > after]
        page: dict[str, Any] = {"functions": [function.wire() for function in rest[:size]]}
        return page | ({"nextPageToken": rest[size - 1].name} if len(rest) > size else {})

    def _get_function(self, request: Request, project: str, region: str, short: str) -> dict[str, Any]:
        return self._function(project, region, short).wire()

    def _update_function(self, request: Request, project: str, region: str, short: str) -> dict[str, Any]:
        function = self._function(project, region, short)
        fields = check(masked(function.fields, _json(request), request.query.get("updateMask", [""])[0]))
        self._repositories.check(fields)
        return self._begin(function, "update", self._deploy(function, fields))

    def _delete_function(self, request: Request, project: str, region: str, short: str) -> dict[str, Any]:
        function = self._function(project, region, short)

        async def delete() -> dict[str, Any]:
            if function.revision is not None:
                function.revision.retired = True
            self._iam.forget(function.service)
            del self.functions[function.name]
            return {"@type": "type.googleapis.com/google.protobuf.Empty"}

        return self._begin(function, "delete", delete)

    def _function(self, project: str, region: str, short: str) -> Function:
        name = f"projects/{project}/locations/{region}/functions/{short}"
        if name not in self.functions:
            raise ServiceError("NOT_FOUND", f"Resource '{name}' was not found")
        return self.functions[name]

    def _deploy(self, function: Function, fields: dict[str, Any]) -> Callable[[], Awaitable[dict[str, Any]]]:
        async def deploy() -> dict[str, Any]:
            revision = await self._deployer.deploy(function, fields)
            if function.revision is not None:
                function.revision.retired = True
            function.revision, function.fields, function.state = revision, fields, "ACTIVE"
            function.messages, function.updated = [], now()
            return {"@type": f"{_KIND}Function", **function.wire()}

        return deploy

    def _begin(self, function: Function, verb: str, work: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        """Start a long-running operation; a function allows one at a time."""
        if function.busy:
            raise ServiceError("ABORTED", f"unable to queue the operation: an operation on {function.name} is already in progress")
        function.busy = True
        place = function.name.rpartition("/functions/")[0]
        meta = {"@type": f"{_KIND}OperationMetadata", "createTime": now(), "target": function.name, "verb": verb, "apiVersion": "v2"}
        operation: dict[str, Any] = {"name": f"{place}/operations/operation-{uuid4()}", "metadata": meta, "done": False}
        self._operations[operation["name"]] = operation

        async def run() -> None:
            await asyncio.sleep(self._options.pending_s)
            try:
                ended = {"response": await work()}
            except ServiceError as error:
                ended = {"error": status(error)}
                if function.revision is None:
                    function.state = "FAILED"
                function.messages = [{"severity": "ERROR", "type": "DeployFailed", "message": str(error)}]
            except Exception as error:  # an error of this machine: the operation must end with it
                traceback.print_exc()
                ended = {"error": status(ServiceError("INTERNAL", f"the local Cloud Run failed: {type(error).__name__}: {error}"))}
            function.busy = False
            operation.update(ended, done=True, metadata={**meta, "endTime": now()})

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return dict(operation)

    def _get_operation(self, request: Request, project: str, region: str, short: str) -> dict[str, Any]:
        name = f"projects/{project}/locations/{region}/operations/{short}"
        if name not in self._operations:
            raise ServiceError("NOT_FOUND", f"Operation '{name}' was not found")
        return self._operations[name]

    # policies and accounts

    def _service(self, project: str, region: str, short: str) -> str:
        function = self.functions.get(f"projects/{project}/locations/{region}/functions/{short}")
        if function is None or function.revision is None:
            raise ServiceError(
                "NOT_FOUND", f"Resource '{short}' of kind 'SERVICE' in region '{region}' in project '{project}' does not exist."
            )
        return function.service

    def _get_service_policy(self, request: Request, project: str, region: str, short: str) -> dict[str, Any]:
        return self._iam.policy(self._service(project, region, short), _version(request))

    def _set_service_policy(self, request: Request, project: str, region: str, short: str) -> dict[str, Any]:
        return self._iam.set_policy(self._service(project, region, short), _json(request))

    def _create_account(self, request: Request, project: str) -> dict[str, Any]:
        return self._iam.create(_json(request))

    def _list_accounts(self, request: Request, project: str) -> dict[str, Any]:
        return {"accounts": self._iam.accounts()}

    def _get_account(self, request: Request, project: str, email: str) -> dict[str, Any]:
        return self._iam.account(email)

    def _delete_account(self, request: Request, project: str, email: str) -> dict[str, Any]:
        self._iam.delete(email)
        return {}

    def _get_account_policy(self, request: Request, project: str, email: str) -> dict[str, Any]:
        return self._iam.policy(self._iam.account(email)["name"], _version(request))

    def _set_account_policy(self, request: Request, project: str, email: str) -> dict[str, Any]:
        return self._iam.set_policy(self._iam.account(email)["name"], _json(request))

    def _get_project_policy(self, request: Request, project: str) -> dict[str, Any]:
        asked = _json(request).get("options", {}) if request.body else {}
        return self._iam.policy(f"projects/{self._options.project}", str(asked.get("requestedPolicyVersion", 0)))

    def _set_project_policy(self, request: Request, project: str) -> dict[str, Any]:
        return self._iam.set_policy(f"projects/{self._options.project}", _json(request))

    def _get_project(self, request: Request, project: str) -> dict[str, Any]:
        return {"projectId": self._options.project, "projectNumber": PROJECT_NUMBER, "lifecycleState": "ACTIVE"}

    # keys

    def _create_key_ring(self, request: Request, project: str, region: str) -> dict[str, Any]:
        return self._keys.ring(f"projects/{project}/locations/{region}", request.query.get("keyRingId", [""])[0])

    def _create_key(self, request: Request, ring: str) -> dict[str, Any]:
        return self._keys.key(ring, request.query.get("cryptoKeyId", [""])[0], _json(request))

    def _get_key(self, request: Request, name: str) -> dict[str, Any]:
        return self._keys.find(name)

    def _disable_key(self, request: Request, name: str) -> dict[str, Any]:
        if (_json(request), request.query.get("updateMask")) != ({"state": "DISABLED"}, ["state"]):
            raise ServiceError("UNIMPLEMENTED", "a change of a key's version other than state DISABLED is not implemented")
        return self._keys.disable(name)

    def _get_key_policy(self, request: Request, name: str) -> dict[str, Any]:
        return self._iam.policy(self._keys.find(name)["name"], _version(request))

    def _set_key_policy(self, request: Request, name: str) -> dict[str, Any]:
        return self._iam.set_policy(self._keys.find(name)["name"], _json(request))

    # repositories

    def _create_repository(self, request: Request, place: str) -> dict[str, Any]:
        return self._repositories.make(place, request.query.get("repositoryId", [""])[0], _json(request))

    def _get_repository(self, request: Request, name: str) -> dict[str, Any]:
        return self._repositories.find(name)

    def _delete_repository(self, request: Request, name: str) -> dict[str, Any]:
        return self._repositories.delete(name)

    def _get_repository_operation(self, request: Request, name: str) -> dict[str, Any]:
        return self._repositories.operation(name)

    # logs: their retention is stored and nothing is deleted; requests make no entries in an audit log

    def _get_log_bucket(self, request: Request, project: str) -> dict[str, Any]:
        name = f"projects/{project}/locations/global/buckets/_Default"
        return {"name": name, "retentionDays": self._log_days, "lifecycleState": "ACTIVE"}

    def _update_log_bucket(self, request: Request, project: str) -> dict[str, Any]:
        body, mask = _json(request), request.query.get("updateMask", [""])[0]
        days = body.get("retentionDays")
        if mask != "retentionDays" or body.keys() - {"retentionDays"}:
            raise ServiceError("UNIMPLEMENTED", f"updateMask {mask!r} of a log bucket is not implemented by the local Cloud Run")
        if not isinstance(days, int) or isinstance(days, bool) or not 1 <= days <= 3650:
            raise invalid(f"retentionDays {days!r}: expected 1 to 3650")
        self._log_days = days
        return self._get_log_bucket(request, project)

    def _list_log_entries(self, request: Request) -> dict[str, Any]:
        names = _json(request).get("resourceNames")
        if names not in ([f"projects/{self._options.project}"], [f"projects/{PROJECT_NUMBER}"]):
            raise invalid(f"resourceNames {names}: expected the project")
        return {}

    # which APIs are enabled

    def _get_service(self, request: Request, project: str, name: str) -> dict[str, Any]:
        enabled = name.removesuffix(".googleapis.com") not in self._disabled
        parent = f"projects/{PROJECT_NUMBER}"
        return {"name": f"{parent}/services/{name}", "parent": parent, "state": "ENABLED" if enabled else "DISABLED"}

    def _enable_service(self, request: Request, project: str, name: str) -> dict[str, Any]:
        self._disabled.discard(name.removesuffix(".googleapis.com"))
        return self._usage_operation(project, name)

    def _disable_service(self, request: Request, project: str, name: str) -> dict[str, Any]:
        self._disabled.add(name.removesuffix(".googleapis.com"))
        return self._usage_operation(project, name)

    def _usage_operation(self, project: str, name: str) -> dict[str, Any]:
        operation = f"operations/acat.{uuid4()}"
        kind = "type.googleapis.com/google.api.serviceusage.v1.EnableServiceResponse"
        done = {"name": operation, "done": True, "response": {"@type": kind, "service": {"name": f"projects/{project}/services/{name}"}}}
        self._operations[operation] = done
        return done

    def _get_usage_operation(self, request: Request, short: str) -> dict[str, Any]:
        if f"operations/{short}" not in self._operations:
            raise ServiceError("NOT_FOUND", f"Operation 'operations/{short}' was not found")
        return self._operations[f"operations/{short}"]


def _version(request: Request) -> str:
    """The requested version of a policy."""
    return request.query.get("options.requestedPolicyVersion", ["0"])[0]


def _json(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(request.body or b"{}")
    except ValueError as error:
        raise invalid(f"Invalid JSON payload received. {error}") from None
    if not isinstance(body, dict):
        raise invalid("Invalid JSON payload received. An object is expected.")
    return body
