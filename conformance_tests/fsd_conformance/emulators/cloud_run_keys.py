"""Keys of Cloud KMS in the local Cloud Run: their names, states and policies. Nothing is encrypted."""

from __future__ import annotations

import re
from typing import Any

from fsd_conformance.emulators.cloud_run_store import ServiceError, invalid, now

__all__ = ["Keys"]


class Keys:
    """Key rings and keys by resource name."""

    def __init__(self) -> None:
        self._rings: dict[str, dict[str, Any]] = {}
        self._keys: dict[str, dict[str, Any]] = {}

    def ring(self, place: str, name: str) -> dict[str, Any]:
        """Make a key ring. Raises `ServiceError` where it exists."""
        return _new(self._rings, f"{place}/keyRings/{_checked(name)}", {})

    def key(self, ring: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """Make a key of ``ring`` with one enabled version. Raises `ServiceError` for another purpose, or where it exists."""
        self.find(ring)
        if body.get("purpose") != "ENCRYPT_DECRYPT" or body.keys() - {"purpose"}:
            raise ServiceError("UNIMPLEMENTED", f"a key with {body} is not implemented: expected the purpose ENCRYPT_DECRYPT alone")
        whole = f"{ring}/cryptoKeys/{_checked(name)}"
        version = {"name": f"{whole}/cryptoKeyVersions/1", "state": "ENABLED", "createTime": now()}
        return _new(self._keys, whole, {**body, "primary": version})

    def disable(self, key: str) -> dict[str, Any]:
        """Disable the version of a key, and return the version."""
        version: dict[str, Any] = self.find(key)["primary"]
        version["state"] = "DISABLED"
        return version

    def find(self, name: str) -> dict[str, Any]:
        """The key or key ring with this name. Raises `ServiceError` where it does not exist."""
        found = self._keys.get(name) or self._rings.get(name)
        if found is None:
            raise ServiceError("NOT_FOUND", f"{name} not found.")
        return found


def _new(among: dict[str, dict[str, Any]], name: str, fields: dict[str, Any]) -> dict[str, Any]:
    if name in among:
        raise ServiceError("ALREADY_EXISTS", f"{name} already exists.")
    among[name] = {"name": name, "createTime": now(), **fields}
    return among[name]


def _checked(name: str) -> str:
    if not re.fullmatch(r"[\w-]{1,63}", name):
        raise invalid(f"name {name!r}: expected 1 to 63 letters, digits, _ and -")
    return name
