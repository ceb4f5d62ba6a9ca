"""The provisioner's way to the services: core's `Requests` over Google's packages for Pub/Sub and Cloud Storage, REST for others."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from contextlib import closing
from functools import partial
from operator import attrgetter
from typing import Any

from google.api_core.iam import Policy
from google.auth import exceptions as auth
from google.auth.transport.requests import Request
from google.iam.v1 import iam_policy_pb2 as iam
from google.oauth2.credentials import Credentials
from google.protobuf.json_format import MessageToDict, ParseDict

from fsd_core.driver import Code
from fsd_core.errors import DriverError
from fsd_core.providers.addresses import address
from fsd_core.providers.requests import Requests
from fsd_gcp import errors
from fsd_gcp.clients import SCOPE, Session, default
from fsd_gcp.errors import Answered
from fsd_gcp.objects import client
from fsd_gcp.policy import Grant
from fsd_gcp.pubsub import Pubsub

__all__ = ["ENDPOINT", "Api"]

ENDPOINT = "FSD_GCP_ENDPOINT"  # where an emulator plays Google's control plane
SETTLE_S = 180.0
# A new account, and a new role on it, are known everywhere after some minutes; until then services say one of these.
_SETTLING = ("does not exist", "actAs", "getOpenIdToken", "Unknown service account")
_USERINFO = "https://openidconnect.googleapis.com"
_WHO = ("openid", "https://www.googleapis.com/auth/userinfo.email")


class Api(Requests):
    """Requests of one project in one region."""

    def __init__(self, project: str, region: str) -> None:
        super().__init__(self._understood, errors.advice, (auth.DefaultCredentialsError,))
        self.project, self.region = project, region
        self.settles_until = 0.0
        self.pubsub = self.closing.enter_context(closing(Pubsub()))
        self.storage = self.closing.enter_context(client())
        self._sessions: dict[str, Session] = {}

    def _understood(self, error: BaseException) -> Code:
        """`fsd_gcp.errors.classify`; for a while after something was made, what is not settled yet is worth asking again."""
        refused = isinstance(error, Answered) and error.status in (400, 403) and any(words in error.said for words in _SETTLING)
        return Code.UNAVAILABLE if refused and time.time() < self.settles_until else errors.classify(error)

    def settling(self) -> None:
        """An account, or a role on it, was made just now."""
        self.settles_until = time.time() + SETTLE_S

    def member(self) -> str:
        """Who this process is, as policies call it; "" where that cannot be found out."""
        found: Any = default([SCOPE, *_WHO])[0]
        person = isinstance(found, Credentials)
        if person or getattr(found, "service_account_email", "") == "default":  # of a machine of Google's, which must be asked
            self.repeat("who you are", lambda: found.refresh(Request()))
        if not person:
            address = str(getattr(found, "service_account_email", ""))
            return f"serviceAccount:{address}" if "@" in address else ""
        headers = {"Authorization": f"Bearer {found.token}"}
        with Session(_USERINFO, signed=False) as session:
            answer = self.unless(Code.DENIED, "who you are", lambda: session.request("GET", "/v1/userinfo", headers=headers).json())
        address = str((answer or {}).get("email", ""))
        return f"user:{address}" if address else ""

    def service(self, name: str) -> Session:
        """The connections to a service."""
        if name not in self._sessions:  # of two threads each may make one, and both are closed
            self._sessions[name] = self.closing.enter_context(Session(address(ENDPOINT, bare=True) or f"https://{name}.googleapis.com"))
        return self._sessions[name]

    def request(self, service: str, method: str, path: str, body: Any = None, **query: str) -> dict[str, Any]:
        """One request, once, with a body of JSON if any."""
        answer = self.service(service).request(method, f"/{path}", json=body, params=query)
        return dict(answer.json() if answer.content else {})

    def call(self, service: str, method: str, path: str, body: Any = None, **query: str) -> dict[str, Any]:
        """One request, again while its error is transient. Raises `DriverError`, or `InputError` where nothing is set up."""
        return self.repeat(f"{method} {path.rpartition('?')[0] or path}", lambda: self.request(service, method, path, body, **query))

    def find(self, service: str, path: str) -> dict[str, Any] | None:
        """A resource; None where it is not there."""
        return self.unless(Code.NOT_FOUND, f"GET {path}", lambda: self.request(service, "GET", path))

    def make(self, service: str, method: str, path: str, body: Any, **query: str) -> dict[str, Any] | None:
        """A new resource; None where it is there already."""
        return self.unless(Code.ALREADY_EXISTS, f"{method} {path}", lambda: self.request(service, method, path, body, **query))

    def delete(self, service: str, path: str) -> dict[str, Any] | None:
        """Remove a resource; None where there is none."""
        return self.unless(Code.NOT_FOUND, f"DELETE {path}", lambda: self.request(service, "DELETE", path))

    def ask(self, method: Any, request: Any, to: str, unless: Code | None = None) -> Any:
        """Like `fsd_gcp.pubsub.Pubsub.ask`, again while its error is transient; None where it is one of ``unless``."""
        what, call = f"{type(request).__name__} {attrgetter(to)(request)}", partial(self.pubsub.ask, method, request, to)
        return self.repeat(what, call) if unless is None else self.unless(unless, what, call)

    def grant(self, grants: Iterable[Grant]) -> None:
        """Give the roles that members do not have yet; the policies' other bindings stay."""
        by_resource: dict[tuple[str, str], list[Grant]] = {}
        for each in grants:
            by_resource.setdefault((each.service, each.resource), []).append(each)
        self.each(lambda item: self.repeat(f"roles on {item[0][1]}", lambda: self._bind(*item[0], item[1])), by_resource.items())

    def policy(self, service: str, resource: str) -> dict[str, Any]:
        """Who has which role on a resource, by version 3: an older one would show conditions as roles of other names, and lose them."""
        if service == "storage":
            found = self.storage.bucket(resource.rpartition("/")[2]).get_iam_policy(requested_policy_version=3, retry=None)
            return dict(found.to_api_repr())
        if service == "pubsub":
            asked = iam.GetIamPolicyRequest(resource=resource.removeprefix("v1/"), options={"requested_policy_version": 3})
            return dict(MessageToDict(self.pubsub.ask(self.pubsub.publisher.get_iam_policy, asked, "resource")))
        method, query = "POST" if service == "iam" else "GET", {"options.requestedPolicyVersion": "3"}
        return self.request(service, method, f"{resource}:getIamPolicy", **query)

    def _set_policy(self, service: str, resource: str, policy: dict[str, Any]) -> None:
        if service == "storage":
            self.storage.bucket(resource.rpartition("/")[2]).set_iam_policy(Policy.from_api_repr(policy), retry=None)
        elif service == "pubsub":
            new = ParseDict({"resource": resource.removeprefix("v1/"), "policy": policy}, iam.SetIamPolicyRequest())
            self.pubsub.ask(self.pubsub.publisher.set_iam_policy, new, "resource")
        else:
            self.request(service, "POST", f"{resource}:setIamPolicy", {"policy": policy})

    def _bind(self, service: str, resource: str, grants: list[Grant]) -> None:
        """Read, add, write. The service refuses the write, and core begins again, where another's came between."""
        try:
            policy = self.policy(service, resource)
            bindings = policy.setdefault("bindings", [])
            before = json.dumps(bindings)
            for each in grants:
                held = next((one for one in bindings if one["role"] == each.role and "condition" not in one), None)
                if held is None:
                    bindings.append(held := {"role": each.role, "members": []})
                if each.member not in held["members"]:
                    held["members"].append(each.member)
            if json.dumps(bindings) != before:
                self._set_policy(service, resource, policy)
        except Answered as error:
            if error.status == 412:  # of a bucket, where others say ABORTED
                raise Answered("ABORTED", error.said, 409) from error
            if not (error.word == "UNIMPLEMENTED" and service == "pubsub" and "PUBSUB_EMULATOR_HOST" in os.environ):
                raise  # Google's emulator of Pub/Sub has no policies

    def finished(self, what: str, operation: dict[str, Any]) -> dict[str, Any]:
        """What came of a long operation. Raises `DriverError` where it failed, with the service's words."""

        def check() -> dict[str, Any] | None:
            now = operation if operation.get("done") else self.call("cloudfunctions", "GET", f"v2/{operation['name']}")
            return now if now.get("done") else None

        ended = self.until(what, check)
        if failed := ended.get("error"):
            told = Answered(str(failed.get("status", "")), " ".join(str(failed.get("message", "")).split())[:1000])
            raise DriverError(Code.ALREADY_EXISTS if failed.get("code") == 6 else Code.INVALID, f"{what}: {told.said}") from told
        return ended
