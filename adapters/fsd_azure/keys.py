"""Checks the key of ``[azure] kms_key`` before a deployment: Azure uses it through a user-assigned identity, which needs a role on it."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, urlsplit

from fsd_azure.api import Api
from fsd_azure.policy import CRYPTO
from fsd_core.errors import InputError

__all__ = ["check"]

_ACTIONS = tuple(f"Microsoft.KeyVault/vaults/keys/{verb}" for verb in ("read", "wrap/action", "unwrap/action"))


def check(api: Api, names: Mapping[str, str]) -> None:
    """Raise `InputError` if the identity of the app's key does not exist, or may not use the key.

    The error names the actions that the identity may not use. The vault must use Azure RBAC and be in the app's subscription.
    """
    identity, key = names.get("kms_identity", ""), names.get("kms_key", "")
    if not key:
        return
    found = api.find(identity)
    if found is None:
        raise InputError(f"[azure] kms_identity = {identity}: does not exist: expected the resource id of a user-assigned identity")
    principal = str(found["properties"]["principalId"])
    asked = quote(f"principalId eq '{principal}'")
    path = f"/subscriptions/{api.subscription}/providers/Microsoft.Authorization/roleAssignments?$filter={asked}"
    held = [each["properties"] for each in api.call("GET", path).get("value", [])]
    vault = str(urlsplit(key).hostname).partition(".")[0]
    scopes = [str(each["scope"]).lower() for each in held if str(each["roleDefinitionId"]).lower().endswith(CRYPTO)]
    if not any("/vaults/" not in scope or f"/vaults/{vault.lower()}/" in f"{scope}/" for scope in scopes):
        raise InputError(
            f"[azure] kms_key = {key}: identity {identity.rpartition('/')[2]} may not use {', '.join(_ACTIONS)}: "
            f"expected the role Key Vault Crypto Service Encryption User on vault {vault}"
        )
