"""IAM's rules for versions and conditions of policies, for all emulators that have policies. Conditions are stored and returned, but not
evaluated.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

__all__ = ["VERSIONS", "bindings", "readable"]

VERSIONS = (0, 1, 3)


def readable(policy: Mapping[str, Any], asked: int) -> dict[str, Any]:
    """``policy`` for a reader of version ``asked``. Below 3, a conditional binding appears without condition and with a changed role name.

    Raises `ValueError` for an unknown version.
    """
    if asked not in VERSIONS:
        raise ValueError(f"Requested policy version {asked}: expected 0, 1 or 3.")
    shown = [binding if asked == 3 else _without(binding) for binding in policy["bindings"]]
    return {**policy, "version": 3 if any(binding.get("condition") for binding in shown) else 1, "bindings": shown}


def _without(binding: Mapping[str, Any]) -> Mapping[str, Any]:
    if not binding.get("condition"):
        return binding
    digest = hashlib.sha256(json.dumps(binding["condition"], sort_keys=True).encode()).hexdigest()[:20]
    return {"role": f"{binding['role']}_withcond_{digest}", "members": binding["members"]}


def bindings(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The bindings of ``new`` that have members; ``new`` replaces ``old``.

    Only version 3 may change a policy with conditions; a policy without etag replaces any other. Raises `ValueError` for a malformed
    policy, or conditions with an older version.
    """
    version, asked = new.get("version") or 0, new.get("bindings") or []
    if version not in VERSIONS or isinstance(version, bool):
        raise ValueError(f"Policy version {version!r}: expected 0, 1 or 3.")
    if not isinstance(asked, list) or not all(isinstance(binding, dict) for binding in asked):
        raise ValueError("bindings: expected a list of {role, members, condition}.")
    for binding in asked:
        members, condition = binding.get("members") or [], binding.get("condition") or {}
        if not isinstance(members, list) or not all(isinstance(member, str) for member in members):
            raise ValueError(f"members of {binding.get('role')}: expected a list of texts.")
        if not isinstance(condition, dict) or (condition and not isinstance(condition.get("expression"), str)):
            raise ValueError(f"condition of {binding.get('role')}: expected {{title, expression}}.")
        if "_withcond_" in str(binding.get("role")):
            raise ValueError(f"Role {binding['role']} is not supported for this resource: read the policy by version 3.")
        if condition and version != 3:
            raise ValueError("A policy that has a binding with a condition: expected version 3.")
    if version != 3 and new.get("etag") and any(binding.get("condition") for binding in old["bindings"]):
        raise ValueError("The present policy has a binding with a condition: expected version 3 for reading and writing.")
    return [binding for binding in asked if binding.get("members")]
