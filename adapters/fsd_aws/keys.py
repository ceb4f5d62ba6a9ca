"""Checks the key of ``[aws] kms_key`` before a deployment: without permission to use it, SNS loses messages and Lambda fails later."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from fsd_aws import policy
from fsd_aws.api import Api
from fsd_aws.names import Names
from fsd_core.errors import InputError

__all__ = ["check", "denied"]


def check(api: Api, names: Names, role: str) -> None:
    """Raise `InputError` if the app has a key that does not exist, is disabled, is in another region, or lacks a permission.

    ``role``: the name or the ARN of the function's role. The error names each principal and the actions that the key's policy denies it.
    """
    key = names.kms_key
    if not key:
        return
    if (region := key.split(":")[3]) != names.region:
        raise InputError(f"[aws] kms_key = {key}: is in {region}: expected a key in {names.region}, the region of the app")
    found = (api.find("kms", "describe_key", KeyId=key) or {}).get("KeyMetadata")
    if found is None:
        raise InputError(f"[aws] kms_key = {key}: KMS has no such key: expected the ARN of a key: aws kms list-keys")
    if (state := found["KeyState"]) != "Enabled" or found.get("KeySpec", "SYMMETRIC_DEFAULT") != "SYMMETRIC_DEFAULT":
        raise InputError(f"[aws] kms_key = {key}: is {state}, {found.get('KeySpec')}: expected an enabled symmetric key")
    document = json.loads(api.call("kms", "get_key_policy", KeyId=key, PolicyName="default")["Policy"])
    if refused := denied(document, names, role):
        text = "; ".join(f"{who} may not use {', '.join(actions)}" for who, actions in refused.items())
        raise InputError(f"[aws] kms_key = {key}: by its policy {text}: expected the statements that fsd_aws.policy.key gives")


def denied(document: Mapping[str, Any], names: Names, role: str) -> dict[str, list[str]]:
    """For each principal that uses the key, the actions that the key's policy denies it; empty if it denies none.

    An action that the policy allows to the account counts as allowed to the role, because ``fsd deploy`` gives it to the role in a policy
    of the account. This function takes conditions of statements that allow as fulfilled, and conditions of statements that deny as not
    fulfilled.
    """
    arn = role if role.startswith("arn:") else f"arn:{names.partition}:iam::{names.account}:role/{role}"
    account = {names.account, f"arn:{names.partition}:iam::{names.account}:root"}
    who: dict[str, tuple[str, set[str], tuple[str, ...]]] = {f"role {arn.rpartition('/')[2]}": ("AWS", {arn, *account}, policy.KEY_ACTIONS)}
    who |= {f"service {service}": ("Service", {service}, actions) for service, actions in policy.key_services(names).items()}
    refused = {}
    for name, (kind, principals, actions) in who.items():
        lacking = [action for action in actions if not _allowed(document, kind, principals, action)]
        if lacking:
            refused[name] = lacking
    return refused


def _allowed(document: Mapping[str, Any], kind: str, principals: set[str], action: str) -> bool:
    allowed = False
    for statement in _listed(document["Statement"]):
        named = statement.get("Principal", {})
        mine = named == "*" or any(each == "*" or each in principals for each in _listed(named.get(kind, [])))
        matches = any(fnmatchcase(action.lower(), each.lower()) for each in _listed(statement.get("Action", [])))
        if mine and matches:
            if statement["Effect"] == "Deny" and not statement.get("Condition"):
                return False
            allowed = allowed or statement["Effect"] == "Allow"
    return allowed


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
