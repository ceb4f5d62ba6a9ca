"""IAM's rules of versions and conditions, for all stand-ins that keep policies: conditions are kept and told, and never evaluated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

__all__ = ["VERSIONS", "bindings", "told"]

VERSIONS = (0, 1, 3)


def told(policy: Mapping[str, Any], asked: int) -> dict[str, Any]:
    """``policy`` for a reader of version ``asked``: below 3, a binding with a condition has no condition and a role of another name.

    Raises `ValueError`: there is no such version.
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
    """Those of ``new``, which is to replace ``old``, with members. Raises `ValueError`: malformed, or conditions by an older version.

    A policy with conditions is changed by version 3 alone; one that names no etag overwrites whatever is there.
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
        raise ValueError("The policy that is there has a binding with a condition: expected version 3, read and written.")
    return [binding for binding in asked if binding.get("members")]
