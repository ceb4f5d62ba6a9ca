"""The provisioner's requests to Azure: `fsd_core.providers.requests.Requests` over the REST interface of Azure Resource Manager."""

from __future__ import annotations

import base64
import json
import os
import re
import time
import uuid
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from azure.core import PipelineClient
from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError, ResourceExistsError
from azure.core.pipeline.transport import RequestsTransport
from azure.core.rest import HttpRequest
from azure.identity import CredentialUnavailableError

from fsd_azure import clients, errors
from fsd_azure import names as naming
from fsd_azure.policy import APP_TAG, Grant
from fsd_core.driver import Code
from fsd_core.errors import DriverError
from fsd_core.providers.addresses import address
from fsd_core.providers.requests import Requests

__all__ = ["ENDPOINT", "SETTLE_S", "Api", "key"]

ENDPOINT = "FSD_AZURE_ENDPOINT"  # the address of an emulator of the Resource Manager
MANAGER = "https://management.azure.com"
SETTLE_S = 900.0  # seconds within which every service of Azure accepts a new identity, role or host
# Until then services refuse with one of these codes. The administration of Service Bus has no code of its own: its answer holds 401 or
# 403, or a text in place of it.
_SETTLING = re.compile(
    "PrincipalNotFound|AuthorizationPermissionMismatch|ServiceBusAuthorizationError|unauthorized-access|Status code: 401"
    "|<Code>40[13]</Code>|Authorization failed for specified action"
)
_BUDGET = 50_000  # retries: many requests at once repeat about every second until the last role is active
_VERSIONS = (
    ("/roleassignments", "2022-04-01"),
    ("microsoft.insights", "2015-04-01"),
    ("microsoft.managedidentity", "2023-01-31"),
    ("microsoft.servicebus", "2024-01-01"),
    ("microsoft.storage", "2023-05-01"),
    ("microsoft.web", "2024-04-01"),
)


class Api(Requests):
    """Makes requests in one subscription. ``group``: the resource group of the settings; "": each app gets its own resource group."""

    def __init__(self, subscription: str, group: str, region: str) -> None:
        super().__init__(self._understood, errors.advice, (CredentialUnavailableError,))
        self.subscription, self.region = subscription, region
        self._group = group
        self.settles_until = 0.0
        self._manager = address(ENDPOINT).rstrip("/")
        transport = RequestsTransport(connection_timeout=clients.CONNECT_S, read_timeout=230.0)
        self._client: PipelineClient[Any, Any] = PipelineClient(self._manager or MANAGER, policies=[], transport=transport)
        self.closing.callback(self._client.close)

    def _understood(self, error: BaseException) -> Code:
        """`fsd_azure.errors.classify`, but for `SETTLE_S` after an identity was made, a refusal that may be temporary is UNAVAILABLE."""
        # A 409 without an error code is about a queue: Blob Storage gives a code, and has other reasons for a 409.
        if isinstance(error, ResourceExistsError) and not getattr(error, "error_code", None):
            busy = "SubCode=40901" in str(error)  # another operation on the queue is under way
            return Code.UNAVAILABLE if busy else Code.ALREADY_EXISTS
        code = errors.classify(error)
        refused = code in (Code.DENIED, Code.INVALID)
        return Code.UNAVAILABLE if refused and self.settles(f"{type(error).__name__} {error}", _SETTLING) else code

    def settling(self) -> None:
        """Note that an identity or a role was just made: for the next `SETTLE_S` seconds `call` repeats requests that Azure refuses."""
        self.settles_until = time.time() + SETTLE_S
        self.retry.renew(self.retry.deadline, _BUDGET)

    def settles(self, text: str, words: re.Pattern[str]) -> bool:
        """Whether an error is temporary: its ``text`` holds one of the ``words`` of a new identity, role or host, and `SETTLE_S` has not
        passed.
        """
        return time.time() < self.settles_until and words.search(text) is not None

    def group(self, app: str) -> str:
        """The name of the app's resource group."""
        return self._group or naming.resource_group(app)

    def id(self, app: str, kind: str = "") -> str:
        """The id of a resource in the app's group, or of the group itself. ``kind``: for instance "Microsoft.Web/sites/NAME"."""
        return f"/subscriptions/{self.subscription}/resourceGroups/{self.group(app)}" + (f"/providers/{kind}" if kind else "")

    @property
    def scheme(self) -> str:
        """The scheme of the addresses of function apps: http for an emulator, else https."""
        return "http" if self._manager.startswith("http://") else "https"

    def _token(self) -> str:
        if self._manager:
            return os.environ.get("FSD_AZURE_TOKEN", "emulator")
        try:
            return str(clients.credential().get_token(f"{MANAGER}/.default").token)
        except CredentialUnavailableError:
            raise
        except ClientAuthenticationError as error:
            if "failed to retrieve a token" not in str(error) or "AADSTS" in str(error):
                raise
            raise CredentialUnavailableError(clients.attempts(str(error))) from error  # no credential is set up

    def member(self) -> tuple[str, str]:
        """The object id of the user or service principal that this process is logged in as, and its type: User or ServicePrincipal."""
        claims = self.repeat("token of the credentials", self._token).split(".")[1]
        found = json.loads(base64.urlsafe_b64decode(claims + "=="))
        return str(found["oid"]), "ServicePrincipal" if found.get("idtyp") == "app" else "User"

    def request(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Make one request without repetition, and return its JSON. ``path``: a resource's id, or a URL; ``body``: a JSON value, or the
        bytes of a zip.

        Raises the SDK's errors.
        """
        return self._send(method, path, body)[0]

    def _send(self, method: str, path: str, body: Any = None) -> tuple[dict[str, Any], str]:
        """The answer, and the URL of the operation that Azure continues after the answer; "" if it continues none."""
        url, query = path, {}
        if path.startswith("/"):
            low = path.lower()
            query = {"api-version": next((version for word, version in _VERSIONS if word in low), "2021-04-01")}
            url = (self._manager or MANAGER) + path
        headers = {"Authorization": f"Bearer {self._token()}"}
        content: dict[str, Any] = {} if body is None else {"json": body}
        if isinstance(body, bytes):
            headers["Content-Type"], content = "application/zip", {"content": body}
        answer = self._client.send_request(HttpRequest(method, url, params=query, headers=headers, **content))
        answer.raise_for_status()
        found = json.loads(answer.text() or "{}")
        operation = answer.headers.get("Azure-AsyncOperation") or answer.headers.get("Location") or ""
        inside = operation.startswith(f"{self._manager or MANAGER}/")  # no other host may get the token
        return found if isinstance(found, dict) else {"value": found}, operation if inside else ""

    def call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Make a request, repeated while its error is transient. Raises `DriverError`; `InputError` without credentials."""
        return self.repeat(f"{method} {_short(path)}", lambda: self.request(method, path, body))

    def find(self, path: str) -> dict[str, Any] | None:
        """Request a resource; returns None where it does not exist. Raises like `call`."""
        return self.unless(Code.NOT_FOUND, f"GET {_short(path)}", lambda: self.request("GET", path))

    def put(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Make or change a resource, wait until Azure has finished, and return the resource. Raises `DriverError` where Azure failed."""
        what = f"making {_short(path)}"
        _, operation = self.repeat(f"PUT {_short(path)}", lambda: self._send("PUT", path, body))

        def check() -> dict[str, Any] | None:
            self._look(what, operation)
            found = self.find(path) or {}
            state = str(found.get("properties", {}).get("provisioningState") or "Succeeded") if found else ""
            if state in ("Failed", "Canceled"):
                raise DriverError(Code.INVALID, f"{what}: {state}: 'az resource show --ids {path}' shows why")
            return found if state in ("Succeeded", "Active") else None

        return self.until(what, check)

    def _look(self, what: str, operation: str) -> None:
        """Raise `DriverError` with the reason if an operation failed. Whether it is over, the resource itself shows."""
        try:
            found = self.request("GET", operation) if operation else {}
        except AzureError as error:  # most roles may not read operations; Azure also forgets an operation that has ended
            if getattr(error, "status_code", None) not in (400, 409) or errors.classify(error) is Code.UNAVAILABLE:
                return
            raise DriverError(Code.INVALID, f"{what}: {' '.join(str(error).split())[:500]}") from error
        if (status := str(found.get("status"))) in ("Failed", "Canceled"):
            why = found.get("error") or {}
            raise DriverError(Code.INVALID, f"{what}: {status}: {why.get('code')}: {why.get('message')}")

    def delete(self, path: str) -> bool:
        """Remove a resource, wait until it is gone, and return whether it existed."""
        if self.find(path) is None:
            return False
        what = f"removing {_short(path)}"
        begun = self.unless(Code.NOT_FOUND, f"DELETE {_short(path)}", lambda: self._send("DELETE", path))

        def check() -> bool | None:
            self._look(what, begun[1] if begun else "")
            return True if self.find(path) is None else None

        return self.until(what, check)

    def owned(self, app: str) -> tuple[list[str], list[str]]:
        """Two lists of resource ids in the app's group: the app's resources, and all other resources."""
        path, items = self.id(app), []
        page: str | None = f"{path}/resources"
        while page:
            found = self.unless(Code.NOT_FOUND, f"list of {_short(path)}", partial(self.request, "GET", page)) or {}
            items += found.get("value", ())
            page = found.get("nextLink")
        mine = [str(each["id"]) for each in items if self.owns(each, app)]
        return mine, [each["id"] for each in items if not f"{each['id']}/".startswith(tuple(f"{path}/" for path in mine))]

    def owns(self, found: dict[str, Any] | None, app: str) -> bool:
        """Whether a resource exists and has the app's tag."""
        return bool(found) and ((found or {}).get("tags") or {}).get(APP_TAG) == app

    def grant(self, grants: Iterable[Grant]) -> None:
        """Assign roles. An assignment that exists already is kept."""
        wanted = list(grants)
        self.settling()
        self.each(self._bind, wanted)

    def _bind(self, grant: Grant) -> None:
        name = uuid.uuid5(uuid.NAMESPACE_URL, f"{grant.scope.lower()}/{grant.principal}/{grant.role}")
        role = f"/subscriptions/{self.subscription}/providers/Microsoft.Authorization/roleDefinitions/{grant.role}"
        properties = {"roleDefinitionId": role, "principalId": grant.principal, "principalType": grant.kind}

        def bind() -> None:
            try:
                self.request("PUT", f"{grant.scope}/providers/Microsoft.Authorization/roleAssignments/{name}", {"properties": properties})
            except HttpResponseError as error:
                if error.status_code != 409:  # 409: the role is already assigned, under another name
                    raise

        self.repeat(f"role on {_short(grant.scope)}", bind)


def key(names: Mapping[str, str]) -> str:
    """Request the key of the function app, with which a client starts workers. One request. ``names``: `Resources.names`. Raises the SDK's
    errors.
    """
    with Api(names["subscription"], names["resource_group"], names["region"]) as api:
        path = api.id("", f"Microsoft.Web/sites/{names['function']}/host/default/listkeys")
        return str(api.request("POST", path)["functionKeys"]["default"])


def _short(path: str) -> str:
    """A resource without whose it is."""
    return re.sub(r"^/subscriptions/[^/]+/(resourceGroups/[^/]+/providers/)?", "", path.partition("?")[0])
