"""The control plane of the local Functions host: the part of Azure Resource Manager's REST interface that a function app needs.

It has resource groups, function apps (`azure_functions_sites`), and records of plans, Service Bus namespaces, storage accounts and role
assignments: a client can write and read a record, but the resource itself does not exist. Every request except the deletion of a group
takes effect before its answer, unless `Options.settle` is set. Upper and lower case are equal in names. Other paths are answered with 404,
with an error in Resource Manager's form.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from fsd_conformance.emulators.azure_functions_deploy import Options
from fsd_conformance.emulators.azure_functions_sites import Refusal, Sites, object_of
from fsd_conformance.emulators.web import Request, Response

__all__ = ["Arm"]

_ROLES = "microsoft.authorization/roleassignments"
_IDENTITIES = "microsoft.managedidentity/userassignedidentities"
_BUS = "microsoft.servicebus/namespaces"
_PLANS = "microsoft.web/serverfarms"
# The status of a PUT that makes a resource of each kind, and whether the kind has a provisioningState. A PUT of a resource that exists
# changes it and answers 200, except for a role, which cannot change.
# Source: Microsoft's OpenAPI descriptions of these services, github.com/Azure/azure-rest-api-specs (2026-11).
_RECORDS: Mapping[str, tuple[int, bool]] = {
    _ROLES: (201, False),
    _IDENTITIES: (201, False),
    _BUS: (201, True),
    "microsoft.storage/storageaccounts": (200, True),
    "microsoft.storage/storageaccounts/blobservices/containers": (201, False),
    "microsoft.storage/storageaccounts/managementpolicies": (200, False),
    _PLANS: (200, True),
}
_SITES = "microsoft.web/sites"
_GROUP = r"[\w.()-]{1,89}[\w()-]"
_BODY_BYTES = 4 << 20  # the limit of a request


class Arm:
    """Answers requests. ``sites``: the function apps."""

    def __init__(self, options: Options, sites: Sites) -> None:
        self.sites = sites
        self._options = options
        self._groups: dict[str, dict[str, Any]] = {}  # keys are ids in lower case
        self._records: dict[str, dict[str, Any]] = {}
        self._looks: Counter[str] = Counter()  # requests for each record
        self._deletions: dict[str, asyncio.Task[None]] = {}

    async def route(self, request: Request) -> Response:
        """Answer one request."""
        try:
            if not request.headers.get("authorization", "").startswith("Bearer "):
                raise Refusal(401, "AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing.")
            if len(request.body) > _BODY_BYTES:
                raise Refusal(413, "RequestContentTooLarge", f"The request content is over {_BODY_BYTES} bytes.")
            if "api-version" not in request.query:
                raise Refusal(
                    400, "MissingApiVersionParameter", "The api-version query parameter (?api-version=) is required for all requests."
                )
            return await self._route(request)
        except Refusal as refusal:
            return refused(refusal)

    def close(self) -> None:
        """Cancel running deletions."""
        for task in self._deletions.values():
            task.cancel()

    async def _route(self, request: Request) -> Response:
        parts = [part for part in request.parts() if part]
        low = [part.lower() for part in parts]
        if low[:1] != ["subscriptions"] or len(parts) < 2:
            raise _nowhere(request)
        if low[1] != self._options.subscription.lower():
            raise Refusal(404, "SubscriptionNotFound", f"The subscription '{parts[1]}' could not be found.")
        here = f"/subscriptions/{parts[1]}"
        if len(parts) == 2 and request.method == "GET":
            return Response.of({"id": here, "subscriptionId": parts[1], "displayName": "emulator", "state": "Enabled"})
        if low[2:3] == ["operationresults"] and len(parts) == 4 and request.method == "GET":
            return self._deletion(request, parts[3])
        if low[2:3] == ["resourcegroups"] and len(parts) <= 4:
            return await self._group(request, here, parts[3] if len(parts) == 4 else None)
        group = "/".join(["", *low[:4]])
        if low[2:3] == ["resourcegroups"] and group not in self._groups and not (request.method == "DELETE" and "providers" in low):
            raise Refusal(404, "ResourceGroupNotFound", f"Resource group '{parts[3]}' could not be found.")
        if low[4:] == ["resources"] and request.method == "GET":
            keys = ("id", "name", "type", "location", "tags")
            return _list(
                {key: each[key] for key in keys if key in each} for each in self._within(group) if _ROLES not in each["type"].lower()
            )
        if "providers" not in low:
            raise _nowhere(request)
        return await self._resource(request, parts, len(low) - 1 - low[::-1].index("providers"))

    # groups

    async def _group(self, request: Request, here: str, name: str | None) -> Response:
        if name is None and request.method == "GET":
            return _list(self._groups.values())
        if name is None:
            raise _nowhere(request)
        key = f"{here}/resourcegroups/{name}".lower()
        known = self._groups.get(key)
        if request.method in ("PUT", "PATCH"):
            body = object_of(request)
            if known is None and (request.method == "PATCH" or not body.get("location")):
                raise Refusal(400, "LocationRequired", "The location property is required for this definition.")
            if not re.fullmatch(_GROUP, name):
                raise Refusal(400, "InvalidResourceGroup", f"The provided resource group name '{name}' has invalid characters.")
            if known and body.get("location", known["location"]) != known["location"]:
                raise Refusal(
                    409, "InvalidResourceGroupLocation", f"The resource group '{name}' already exists in location '{known['location']}'."
                )
            kept = {"location": body.get("location") or (known or {})["location"], "tags": body.get("tags") or {}}
            fixed = {"id": f"{here}/resourceGroups/{name}", "name": name, "type": "Microsoft.Resources/resourceGroups"}
            self._groups[key] = fixed | kept | {"properties": {"provisioningState": "Succeeded"}}
            return Response.of(self._groups[key], 200 if known else 201)
        if known is None:
            raise Refusal(404, "ResourceGroupNotFound", f"Resource group '{name}' could not be found.")
        if request.method == "GET":
            return Response.of(known)
        if request.method == "DELETE":
            operation = uuid4().hex
            known["properties"]["provisioningState"] = "Deleting"
            self._deletions[operation] = asyncio.create_task(self._delete_group(key))
            return Response(202, b"", self._later(request, here, operation))
        raise _nowhere(request)

    async def _delete_group(self, key: str) -> None:
        await asyncio.sleep(self._options.pending_s)
        for each in list(self._within(key)):
            await self._remove(each["id"].lower())
        self._groups.pop(key, None)

    def _deletion(self, request: Request, operation: str) -> Response:
        if operation not in self._deletions:
            raise _nowhere(request)
        if self._deletions[operation].done():
            return Response(200)
        return Response(202, b"", self._later(request, f"/subscriptions/{request.parts()[1]}", operation))

    def _later(self, request: Request, here: str, operation: str) -> Mapping[str, str]:
        version = request.query["api-version"][0]
        return {"Location": f"http://{self.sites.address}{here}/operationresults/{operation}?api-version={version}", "Retry-After": "0"}

    # resources

    def _within(self, group: str) -> list[dict[str, Any]]:
        prefix = f"{group}/"
        shown = [self.sites.shown(key) for key in self.sites.all]
        return [each for each in [*self._records.values(), *shown] if each["id"].lower().startswith(prefix)]

    async def _remove(self, key: str) -> bool:
        """Remove a resource with its children and its roles; returns whether it existed."""
        if key in self.sites.all:
            await self.sites.remove(key)
        elif key not in self._records:
            return False
        for each in [each for each in self._records if each == key or each.startswith(f"{key}/")]:
            del self._records[each]
        return True

    async def _resource(self, request: Request, parts: list[str], at: int) -> Response:
        """Answer a request below the last "providers": about a resource, a list of them, or an action of one."""
        named = parts[at + 1 :]
        if len(named) < 2:
            raise _nowhere(request)
        kind = "/".join([named[0], *named[1::2]]).lower()
        whole = "/" + "/".join(parts)
        if kind.startswith(_SITES) and len(named) > 2:
            site = "/" + "/".join(parts[: at + 4])
            plan = self.sites.plan(site.lower())
            answer = await self.sites.route(request, site, named[3:])
            kept = request.query.get("deleteEmptyServerFarm", ["true"])[0].lower() == "false"
            if request.method == "DELETE" and len(named) == 3 and not kept and not self._apps(plan):
                await self._remove(plan)  # Azure removes a plan with its last app
            return answer
        if kind == _ROLES and len(named) == 2 and request.method == "GET" and "$filter" in request.query:
            return _list(self._assigned(whole.lower().rpartition("/providers/")[0], request.query["$filter"][0]))
        if len(named) == 2 and request.method == "GET" and (kind in _RECORDS or kind == _SITES):
            return _list(each for each in self._everything() if each["id"].lower().rpartition("/")[0] == whole.lower())
        if kind not in _RECORDS or len(named) % 2 == 0:
            raise _nowhere(request)
        return await self._record(request, kind, whole)

    def _assigned(self, scope: str, asked: str) -> list[dict[str, Any]]:
        """The assignments of a principal at, above and below a scope."""
        match = re.fullmatch(r"principalId eq '?([\w-]+)'?", asked)
        if match is None:
            raise Refusal(
                400, "UnsupportedQuery", f"The filter '{asked}' is not implemented by this emulator: expected principalId eq 'ID'."
            )
        found = []
        for key, record in self._records.items():
            on = key.partition("/providers/microsoft.authorization/")[0]
            near = f"{on}/".startswith(f"{scope}/") or f"{scope}/".startswith(f"{on}/")
            if _ROLES in key and near and record["properties"]["principalId"] == match[1]:
                found.append(record)
        return found

    def _everything(self) -> list[dict[str, Any]]:
        return [*self._records.values(), *(self.sites.shown(key) for key in self.sites.all)]

    def _apps(self, plan: str) -> list[str]:
        """The names of a plan's function apps."""
        return [site.name for key, site in self.sites.all.items() if self.sites.plan(key) == plan]

    async def _record(self, request: Request, kind: str, whole: str) -> Response:
        key, known = whole.lower(), self._records.get(whole.lower())
        if request.method == "GET" and known:
            self._looks[key] += 1
            if (looks := self._looks[key]) > self._options.settle:
                state = {"provisioningState": "Accepted"} if looks <= 2 * self._options.settle and _RECORDS[kind][1] else {}
                return Response.of(known | {"properties": known["properties"] | state})
        if request.method == "GET" or (request.method == "PATCH" and not known):
            raise Refusal(404, "ResourceNotFound", f"The Resource '{whole}' was not found.")
        if request.method == "DELETE":
            if kind == _PLANS and (used := self._apps(key)):
                raise Refusal(
                    409, "Conflict", f"Server farm '{whole}' cannot be deleted because it has web app(s) {', '.join(used)} assigned to it."
                )
            if not await self._remove(key):
                return Response(204)
            return Response.of(known) if kind == _ROLES else Response(200)
        if request.method not in ("PUT", "PATCH"):
            raise _nowhere(request)
        body = object_of(request)
        if kind == _ROLES:
            self._check_role(key, body)
        if "minimumTlsVersion" in body.get("properties", {}) and kind == _BUS and request.query["api-version"][0] < "2022":
            raise Refusal(400, "BadRequest", "Could not find member 'minimumTlsVersion' on object of type 'ServiceBusNamespaceProperties'.")
        if known is None:
            self._looks[key] = 0
        parts = whole.split("/")
        at = len(parts) - 1 - [part.lower() for part in parts][::-1].index("providers")
        fixed = {"id": whole, "name": parts[-1], "type": "/".join([parts[at + 1], *parts[at + 2 :: 2]])}
        before = known if known and request.method == "PATCH" else {}
        made, stated = _RECORDS[kind]
        properties = {
            **before.get("properties", {}),
            **body.get("properties", {}),
            **({"provisioningState": "Succeeded"} if stated else {}),
        }
        if kind == _IDENTITIES:
            properties["principalId"] = (known or {}).get("properties", {}).get("principalId") or str(uuid4())
        if kind == _ROLES:
            properties["scope"] = whole[: key.index("/providers/microsoft.authorization/")]
        self._records[key] = before | body | fixed | {"properties": properties}
        return Response.of(self._records[key], 200 if known and kind != _ROLES else made)

    def _check_role(self, key: str, body: Mapping[str, Any]) -> None:
        """Raise `Refusal` where the same assignment exists, or one would change."""
        wanted = body.get("properties", {})
        if missing := {"roleDefinitionId", "principalId"} - wanted.keys():
            raise Refusal(400, "InvalidCreateRoleAssignmentRequest", f"The properties {', '.join(sorted(missing))} are missing.")
        for other, record in self._records.items():
            same = all(record["properties"].get(name) == wanted[name] for name in ("roleDefinitionId", "principalId"))
            if same and other != key and other.rpartition("/")[0] == key.rpartition("/")[0]:
                raise Refusal(409, "RoleAssignmentExists", f"The role assignment already exists. Its ID is {record['name']}.")
            if not same and other == key:
                raise Refusal(409, "RoleAssignmentUpdateNotPermitted", "Role definition and principal are not permitted to be updated.")


def refused(refusal: Refusal) -> Response:
    """The answer of Resource Manager for a refusal."""
    return Response.of({"error": {"code": refusal.code, "message": str(refusal)}}, refusal.status)


def _list(values: Any) -> Response:
    return Response.of({"value": list(values)})


def _nowhere(request: Request) -> Refusal:
    return Refusal(404, "NotFound", f"{request.method} {request.path}: not implemented by this emulator.")
