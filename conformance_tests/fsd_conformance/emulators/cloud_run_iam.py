"""Service accounts and the policies of resources in the local Cloud Run."""

from __future__ import annotations

import re
import secrets
from typing import Any

from fsd_conformance.emulators import policies
from fsd_conformance.emulators.cloud_run_metadata import PROJECT_NUMBER
from fsd_conformance.emulators.cloud_run_store import ServiceError, invalid

__all__ = ["Iam"]

_MEMBER = re.compile(r"allUsers|allAuthenticatedUsers|(?:user|group|domain|serviceAccount|principal|principalSet):\S+")
_ADMINS = {"roles/owner", "roles/editor"}
_INVOKERS = {"roles/run.invoker", "roles/run.admin", "roles/owner", "roles/editor"}


class Iam:
    """Accounts by email, policies by resource name. ``owner``: the account that the emulator's metadata server gives a user; it has every
    permission.
    """

    def __init__(self, project: str) -> None:
        self.project = project
        self.owner = f"owner@{project}.iam.gserviceaccount.com"
        self.default = f"{PROJECT_NUMBER}-compute@developer.gserviceaccount.com"
        self._accounts: dict[str, dict[str, Any]] = {}
        self._policies: dict[str, dict[str, Any]] = {}
        for email in (self.owner, self.default):
            self._add(email, {})

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        """Make an account from {"accountId", "serviceAccount": {"displayName", "description"}}. Raises `ServiceError`."""
        if unknown := body.keys() - {"accountId", "serviceAccount"}:
            raise invalid(f'Invalid JSON payload received. Unknown name "{unknown.pop()}": Cannot find field.')
        name = str(body.get("accountId"))
        if not re.fullmatch(r"[a-z](?:[-a-z0-9]{4,28}[a-z0-9])", name):
            raise invalid(f"account_id {name!r}: expected 6 to 30 lower-case letters, digits and '-', beginning with a letter")
        email = f"{name}@{self.project}.iam.gserviceaccount.com"
        if email in self._accounts:
            text = f"Service account {name} already exists within project projects/{self.project}."
            raise ServiceError("ALREADY_EXISTS", text)
        return self._add(email, body.get("serviceAccount", {}))

    def account(self, email: str) -> dict[str, Any]:
        """The account with this email. Raises `ServiceError` where it does not exist."""
        if email not in self._accounts:
            raise ServiceError("NOT_FOUND", f"Unknown service account: {email}")
        return self._accounts[email]

    def accounts(self) -> list[dict[str, Any]]:
        """The project's accounts in the order of their emails, without ``owner``."""
        return [account for email, account in sorted(self._accounts.items()) if email != self.owner]

    def delete(self, email: str) -> None:
        """Delete an account. Policies keep its bindings. Raises `ServiceError` where it does not exist."""
        self.account(email)
        del self._accounts[email]

    def exists(self, email: str) -> bool:
        """Whether the account exists."""
        return email in self._accounts

    def policy(self, resource: str, asked: str = "0") -> dict[str, Any]:
        """The policy of a resource, for a reader of version ``asked``; empty where none was set. Raises `ServiceError`."""
        try:
            return policies.readable(self._policy(resource), int(asked))
        except ValueError as error:
            raise invalid(f"options.requestedPolicyVersion {asked!r}: {error}") from None

    def _policy(self, resource: str) -> dict[str, Any]:
        return self._policies.setdefault(resource, {"etag": secrets.token_urlsafe(8), "bindings": []})

    def set_policy(self, resource: str, body: dict[str, Any]) -> dict[str, Any]:
        """Set the policy from {"policy"}, and return it. Raises `ServiceError` for a wrong member or role, or an outdated etag."""
        policy, old = body.get("policy"), self._policy(resource)
        if not isinstance(policy, dict) or body.keys() - {"policy", "updateMask"}:
            raise invalid("set_iam_policy: expected the body {policy: {bindings: [...]}}")
        if policy.get("etag") not in (None, "", old["etag"]):
            raise ServiceError("ABORTED", "There were concurrent policy changes. Please retry the whole read-modify-write.")
        try:
            bindings = policies.bindings(policy, old)
        except ValueError as error:
            raise invalid(str(error)) from None
        for binding in bindings:
            if not re.fullmatch(r"(?:projects/[^/]+/)?roles/[\w.]+", str(binding.get("role"))):
                raise invalid(f"Role {binding.get('role')} is not supported for this resource.")
            for member in binding["members"]:
                if not _MEMBER.fullmatch(member):
                    raise invalid(f"Invalid member: {member}")
                kind, _, email = member.partition(":")
                if kind == "serviceAccount" and email.endswith(f"@{self.project}.iam.gserviceaccount.com") and email not in self._accounts:
                    raise invalid(f"Service account {email} does not exist.")
        self._policies[resource] = {"etag": secrets.token_urlsafe(8), "bindings": bindings}
        return policies.readable(self._policies[resource], policy.get("version") or 0)

    def forget(self, resource: str) -> None:
        """Remove the policy of a deleted resource."""
        self._policies.pop(resource, None)

    def may_manage(self, email: str) -> bool:
        """Whether an account may use the control plane."""
        return email == self.owner or self._has(f"projects/{self.project}", f"serviceAccount:{email}", _ADMINS)

    def may_invoke(self, email: str | None, service: str) -> bool:
        """Whether an account may call a service; None: a caller without account."""
        if email == self.owner:
            return True
        members = {"allUsers"} if email is None else {"allUsers", "allAuthenticatedUsers", f"serviceAccount:{email}"}
        return any(self._has(on, member, _INVOKERS) for on in (service, f"projects/{self.project}") for member in members)

    def _has(self, resource: str, member: str, roles: set[str]) -> bool:
        bindings = self._policies.get(resource, {}).get("bindings", [])
        plain = (binding for binding in bindings if not binding.get("condition"))  # a binding with a condition never applies here
        return any(binding["role"] in roles and member in binding["members"] for binding in plain)

    def _add(self, email: str, shown: dict[str, Any]) -> dict[str, Any]:
        self._accounts[email] = {
            **{name: shown[name] for name in ("displayName", "description") if name in shown},
            "name": f"projects/{self.project}/serviceAccounts/{email}",
            "projectId": self.project,
            "uniqueId": str(10**20 + secrets.randbelow(10**20)),
            "email": email,
            "oauth2ClientId": str(10**20 + secrets.randbelow(10**20)),
        }
        return self._accounts[email]
