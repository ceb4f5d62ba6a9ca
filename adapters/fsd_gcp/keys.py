"""Checks the key of ``[gcp] kms_key`` before a deployment: the services use it by their own accounts, which need a role on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fsd_core.driver import Code
from fsd_core.errors import DriverError, InputError
from fsd_gcp.api import Api

__all__ = ["ROLE", "check", "users"]

ROLE = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
_ACTIONS = "cloudkms.cryptoKeyVersions.useToEncrypt, cloudkms.cryptoKeyVersions.useToDecrypt"
_MORE = {ROLE, "roles/owner"}  # of Google's roles, those that allow both


def users(number: str) -> list[str]:
    """The accounts that use the key, of the project with this number: those of Cloud Storage, Pub/Sub, and of the services that build, keep
    and run the function.
    """
    services = ("gs-project-accounts", "gcp-sa-pubsub", "gcf-admin-robot", "gcp-sa-artifactregistry", "serverless-robot-prod")
    return [f"serviceAccount:service-{number}@{service}.iam.gserviceaccount.com" for service in services]


def check(api: Api, key: str) -> None:
    """Raise `InputError` if ``key`` does not exist, is disabled, is in another region, or if a service may not use it.

    The error names each account, and the permissions that it lacks on the key, its key ring and its project.
    """
    if not key:
        return
    what = f"[gcp] kms_key = {key}"
    _, project, _, region, *_ = key.split("/")
    if region != api.region:
        raise InputError(f"{what}: is in {region}: expected a key in {api.region}, the region of the app")
    found = api.find("cloudkms", f"v1/{key}")
    if found is None:
        raise InputError(f"{what}: Cloud KMS has no such key: expected the name that 'gcloud kms keys list' shows")
    state = found.get("primary", {}).get("state")
    if (found.get("purpose"), state) != ("ENCRYPT_DECRYPT", "ENABLED"):
        raise InputError(f"{what}: has purpose {found.get('purpose')}, state {state}: expected ENCRYPT_DECRYPT, ENABLED")
    number = api.call("cloudresourcemanager", "GET", f"v1/projects/{api.project}")["projectNumber"]
    asked = {"options": {"requestedPolicyVersion": 3}}
    unread = []  # the key may be in a project of others, who let nobody read its policy

    def read(name: str, request: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
        try:
            return request() or {}
        except DriverError as error:
            if error.code is not Code.DENIED:
                raise
            unread.append(name)
            return {}

    ring = key.rpartition("/cryptoKeys/")[0]
    policies = [
        read("the key", lambda: api.held("cloudkms", f"v1/{key}")),
        read("its key ring", lambda: api.held("cloudkms", f"v1/{ring}")),
        read("its project", lambda: api.call("cloudresourcemanager", "POST", f"v1/projects/{project}:getIamPolicy", asked)),
    ]
    bound = [each for policy in policies for each in policy.get("bindings", ()) if each["role"] in _MORE and "condition" not in each]
    if lacking := [who for who in users(str(number)) if not any(who in each.get("members", ()) for each in bound)]:
        name = key.rpartition("/")[2]
        where = f"--keyring {ring.rpartition('/')[2]} --location {region}"
        give = f"gcloud kms keys add-iam-policy-binding {name} {where} --role {ROLE} --member MEMBER"
        text = "; ".join(f"{who.partition(':')[2]} may not use {_ACTIONS}" for who in lacking)
        hidden = f" (these credentials may not read the policy of {', '.join(unread)})" if unread else ""
        raise InputError(f"{what}: {text}{hidden}: expected this permission: '{give}'")
