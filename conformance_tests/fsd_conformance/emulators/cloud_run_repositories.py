"""Repositories of Artifact Registry in the local Cloud Run: their names, formats and keys. They hold no images."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from fsd_conformance.emulators.cloud_run_store import ServiceError, invalid, now

__all__ = ["Repositories"]

_KIND = "type.googleapis.com/google.devtools.artifactregistry.v1."
_FIELDS = {"format", "kmsKeyName", "labels", "description"}


class Repositories:
    """Repositories by resource name. An operation has ended when its request is answered."""

    def __init__(self) -> None:
        self._all: dict[str, dict[str, Any]] = {}
        self._operations: dict[str, dict[str, Any]] = {}

    def make(self, place: str, short: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Make a repository, and return the operation. Raises `ServiceError` for an unknown field or format, or where it exists."""
        if not re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", short):
            raise invalid(f"repository_id {short!r}: expected a lower-case letter, then up to 62 of a-z, 0-9 and '-', not ending in '-'")
        if body.get("format") != "DOCKER" or body.keys() - _FIELDS:
            raise ServiceError("UNIMPLEMENTED", f"a repository with {dict(body)} is not implemented: expected the format DOCKER")
        name = f"{place}/repositories/{short}"
        if name in self._all:
            raise ServiceError("ALREADY_EXISTS", "the repository already exists")
        self._all[name] = {**body, "name": name, "mode": "STANDARD_REPOSITORY", "createTime": now(), "updateTime": now()}
        return self._ended(place, {"@type": f"{_KIND}Repository", **self._all[name]})

    def find(self, name: str) -> dict[str, Any]:
        """The repository with this name. Raises `ServiceError` where it does not exist."""
        if name not in self._all:
            raise ServiceError("NOT_FOUND", "Requested entity was not found.")
        return self._all[name]

    def delete(self, name: str) -> dict[str, Any]:
        """Remove a repository, and return the operation. Raises `ServiceError` where it does not exist."""
        self.find(name)
        del self._all[name]
        return self._ended(name.rpartition("/repositories/")[0], {"@type": "type.googleapis.com/google.protobuf.Empty"})

    def operation(self, name: str) -> dict[str, Any]:
        """The operation with this name. Raises `ServiceError` where there is none."""
        if name not in self._operations:
            raise ServiceError("NOT_FOUND", "Requested entity was not found.")
        return self._operations[name] | {"done": True}

    def check(self, function: Mapping[str, Any]) -> None:
        """Raise `ServiceError` unless a function has neither a key nor a repository, or a repository that has the function's key."""
        key, name = function.get("kmsKeyName", ""), function.get("buildConfig", {}).get("dockerRepository", "")
        if not key and not name:
            return
        if not key or not name:
            raise invalid("kms_key_name and build_config.docker_repository: expected both or neither")
        if name not in self._all:
            raise invalid(f"build_config.docker_repository {name}: does not exist")
        if (has := self._all[name].get("kmsKeyName")) != key:
            raise invalid(f"build_config.docker_repository {name}: is encrypted with {has}: expected {key}, the function's kms_key_name")

    def _ended(self, place: str, response: dict[str, Any]) -> dict[str, Any]:
        """An operation, as the request that begins it answers: not done, so that a client has to ask again."""
        name = f"{place}/operations/{uuid4()}"
        self._operations[name] = {"name": name, "metadata": {"@type": f"{_KIND}OperationMetadata"}, "response": response}
        return {"name": name, "metadata": {"@type": f"{_KIND}OperationMetadata"}}
