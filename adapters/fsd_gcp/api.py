"""The provisioner's requests to Google Cloud: `fsd_core.providers.requests.Requests` over Google's packages for Pub/Sub and Cloud Storage,
and over the REST interfaces of the other services.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from contextlib import closing
from functools import cached_property, partial
from operator import attrgetter
from typing import Any

from google.api_core.iam import Policy
from google.auth import exceptions as auth
from google.iam.v1 import iam_policy_pb2 as iam
from google.oauth2.credentials import Credentials
from google.protobuf.json_format import MessageToDict, ParseDict

from fsd_core.driver import Code
from fsd_core.errors import DriverError
from fsd_core.providers.addresses import address
from fsd_core.providers.requests import Requests
from fsd_gcp import errors
from fsd_gcp.clients import SCOPE, Session, default, token_request
from fsd_gcp.errors import Answered
from fsd_gcp.objects import client
from fsd_gcp.policy import Grant
from fsd_gcp.pubsub import Pubsub

__all__ = ["ENDPOINT", "Api"]

ENDPOINT = "FSD_GCP_ENDPOINT"  # the address of an emulator of Google's control plane
SETTLE_S = 180.0  # seconds within which every service of Google Cloud accepts a new account or role
# Until then services refuse with one of these texts.
_SETTLING = ("does not exist", "actAs", "getOpenIdToken", "Unknown service account")
_USERINFO = "https://openidconnect.googleapis.com"
_WHO = ("openid", "https://www.googleapis.com/auth/userinfo.email")


class Api(Requests):
    """Makes requests in one project and one region."""

    def __init__(self, project: str, region: str) -> None:
        super().__init__(self._understood, errors.advice, (auth.DefaultCredentialsError,))
        self.project, self.region = project, region
        self.settles_until = 0.0
        self.pubsub = self.closing.enter_context(closing(Pubsub()))
        self.storage = self.closing.enter_context(client())
        self._sessions: dict[str, Session] = {}

    def _understood(self, error: BaseException) -> Code:
        """`fsd_gcp.errors.classify`, but for `SETTLE_S` after an account or role was made, a refusal that can be temporary is
        UNAVAILABLE.
        """
        refused = isinstance(error, Answered) and error.status in (400, 403) and any(words in error.said for words in _SETTLING)
        return Code.UNAVAILABLE if refused and time.time() < self.settles_until else errors.classify(error)

    def settling(self) -> None:
        """Note that an account or a role was just made.

        For the next `SETTLE_S` seconds `call` repeats requests that a service refuses with a text in `_SETTLING`.
        """
        self.settles_until = time.time() + SETTLE_S

    @cached_property
    def member(self) -> str:
        """The user or service account of this process's credentials, as policies write it; "" where Google gives no address.

        Either "user:ADDRESS" or "serviceAccount:ADDRESS".
        """
        found: Any = default([SCOPE, *_WHO])[0]
        person = isinstance(found, Credentials)
        if person or getattr(found, "service_account_email", "") == "default":  # only a request shows the account
            self.repeat("who you are", lambda: found.refresh(token_request()))
        if not person:
            address = str(getattr(found, "service_account_email", ""))
            return f"serviceAccount:{address}" if "@" in address else ""
        headers = {"Authorization": f"Bearer {found.token}"}
        with Session(_USERINFO, signed=False) as session:
            answer = self.unless(Code.DENIED, "who you are", lambda: session.request("GET", "/v1/userinfo", headers=headers).json())
        address = str((answer or {}).get("email", ""))
        return f"user:{address}" if address else ""

    def service(self, name: str) -> Session:
        """The session of a service. The first use makes it."""
        if name not in self._sessions:  # two threads may both make one; both are closed
            self._sessions[name] = self.closing.enter_context(Session(address(ENDPOINT, bare=True) or f"https://{name}.googleapis.com"))
        return self._sessions[name]

    def request(self, service: str, method: str, path: str, body: Any = None, **query: str) -> dict[str, Any]:
        """Make one request without repetition, and return its JSON. ``path``: without the first "/"; ``body``: a JSON value.

        Raises `Answered`, and the errors of google-auth and requests.
        """
        answer = self.service(service).request(method, f"/{path}", json=body, params=query)
        return dict(answer.json() if answer.content else {})

    def call(self, service: str, method: str, path: str, body: Any = None, **query: str) -> dict[str, Any]:
        """Make a request, repeated while its error is transient. Raises `DriverError`; `InputError` without credentials."""
        return self.repeat(f"{method} {path.rpartition('?')[0] or path}", lambda: self.request(service, method, path, body, **query))

    def find(self, service: str, path: str) -> dict[str, Any] | None:
        """Request a resource; returns None where it does not exist. Raises like `call`."""
        return self.unless(Code.NOT_FOUND, f"GET {path}", lambda: self.request(service, "GET", path))

    def make(self, service: str, method: str, path: str, body: Any, **query: str) -> dict[str, Any] | None:
        """Make a resource, and return the service's answer; None where the resource already exists. Raises like `call`."""
        return self.unless(Code.ALREADY_EXISTS, f"{method} {path}", lambda: self.request(service, method, path, body, **query))

    def delete(self, service: str, path: str) -> dict[str, Any] | None:
        """Remove a resource, and return the service's answer; None where the resource does not exist. Raises like `call`."""
        return self.unless(Code.NOT_FOUND, f"DELETE {path}", lambda: self.request(service, "DELETE", path))

    def ask(self, method: Any, request: Any, to: str, unless: Code | None = None) -> Any:
        """Like `fsd_gcp.pubsub.Pubsub.ask`, but repeated while its error is transient. Raises like `call`.

        Returns None where the service answers with an error of the code ``unless``.
        """
        what, call = f"{type(request).__name__} {attrgetter(to)(request)}", partial(self.pubsub.ask, method, request, to)
        return self.repeat(what, call) if unless is None else self.unless(unless, what, call)

    def grant(self, grants: Iterable[Grant]) -> None:
        """Give roles to members. A role that a member has already, and all other bindings of the policies, are kept."""
        by_resource: dict[tuple[str, str], list[Grant]] = {}
        for each in grants:
            by_resource.setdefault((each.service, each.resource), []).append(each)
        self.each(lambda item: self.repeat(f"roles on {item[0][1]}", lambda: self._bind(*item[0], item[1])), by_resource.items())

    def policy(self, service: str, resource: str) -> dict[str, Any]:
        """The policy of a resource: its bindings of roles to members.

        This requests version 3 of the policy: an older version shows a binding with a condition under another role name, and a write
        would then delete the condition.
        """
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
        """Read the policy, add the grants, write the policy.

        If another client wrote the policy in the meantime, the service refuses this write, and `repeat` calls this method again.
        """
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
            if error.status == 412:  # Cloud Storage's answer in this case; the other services answer ABORTED
                raise Answered("ABORTED", error.said, 409) from error
            if not no_policies(error):
                raise

    def held(self, service: str, resource: str) -> dict[str, Any] | None:
        """The policy of a resource, empty if the resource does not exist; `None` if an emulator has no policies. Raises like `call`."""
        try:
            return self.unless(Code.NOT_FOUND, f"roles on {resource}", lambda: self.policy(service, resource)) or {}
        except DriverError as error:
            if no_policies(error.__cause__):
                return None
            raise

    def finished(self, what: str, operation: dict[str, Any], service: str = "cloudfunctions", version: str = "v2") -> dict[str, Any]:
        """Wait for the end of an operation of a service, and return its last state. Raises `DriverError` with the service's text where it
        failed.
        """

        def check() -> dict[str, Any] | None:
            now = operation if operation.get("done") else self.call(service, "GET", f"{version}/{operation['name']}")
            return now if now.get("done") else None

        ended = self.until(what, check)
        if failed := ended.get("error"):
            told = Answered(str(failed.get("status", "")), " ".join(str(failed.get("message", "")).split())[:1000])
            raise DriverError(Code.ALREADY_EXISTS if failed.get("code") == 6 else Code.INVALID, f"{what}: {told.said}") from told
        return ended


def no_policies(error: BaseException | None) -> bool:
    """Whether an error says that Google's emulator of Pub/Sub has no policies."""
    return isinstance(error, Answered) and error.word == "UNIMPLEMENTED" and "PUBSUB_EMULATOR_HOST" in os.environ
