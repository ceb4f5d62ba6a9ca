"""The resources of a Bicep file as requests would make them, where that is known before a deployment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pycep import BicepParser
from pycep.models import BicepElement

from schemas import UNKNOWN

__all__ = ["Resource", "resources"]

_BICEPS = {"name", "parent", "scope", "dependsOn"}  # what says where a resource is and when it is made, and is in no body


@dataclass(frozen=True)
class Resource:
    """``path``: of its PUT, names left open as "-", the singletons' apart; ``body``: with `UNKNOWN` where an expression stands."""

    name: str
    path: str
    version: str
    body: dict[str, Any]


def resources(text: str) -> Iterator[Resource]:
    """Those of a file, each as it is if all conditions hold, and as it is if none does."""
    parsed = BicepParser().parse(text=text)
    for holds in (True, False):
        known = _Known(parsed, holds)
        for name, said in parsed["resources"].items():
            config = said["config"].get("config", said["config"])  # a loop has one in it
            body = {key: known.value(each) for key, each in config.items() if key not in _BICEPS}
            yield Resource(name, _path(said["type"], known.value(config["name"]), "scope" in config), said["api_version"], body)


def _path(kind: str, name: Any, scoped: bool) -> str:
    namespace, *types = kind.split("/")
    names = ["default" if each == "blobServices" else "-" for each in types[:-1]] + [name if isinstance(name, str) else "-"]
    inside = "/".join(f"{each}/{own}" for each, own in zip(types, names, strict=True))
    return f"/subscriptions/-/resourceGroups/-{'/providers/any/any/-' if scoped else ''}/providers/{namespace}/{inside}"


class _Known:
    """What the expressions of a file come to."""

    def __init__(self, parsed: Mapping[str, Any], holds: bool) -> None:
        self._names = {name: each["value"] for name, each in parsed["variables"].items()}
        self._names |= {name: each["default"] for name, each in parsed["parameters"].items() if each["default"] is not None}
        self._holds = holds

    def value(self, said: Any) -> Any:
        """Of an expression."""
        if isinstance(said, BicepElement):
            return self.value(self._names[said]) if said in self._names else UNKNOWN
        if isinstance(said, list):
            return [self.value(each) for each in said]
        if isinstance(said, str):
            return UNKNOWN if "${" in said else str(said)
        if not isinstance(said, dict):
            return said
        match said:
            case {"function": {"type": "union", "parameters": parts}}:
                return {key: each for part in parts.values() for key, each in self.value(part).items()}
            case {"operator": {"type": "conditional", "operands": parts}}:
                return self.value(parts["true_value" if self._holds else "false_value"])
            case {"operator": {"operands": {"operand_2": {"operator": {"type": "conditional"}} as part}}}:
                return self.value(part)  # the parser binds "a == b ? c : d" as "a == (b ? c : d)"
            case {"function": {"type": _, "parameters": _}} | {"operator": {"type": _, "operands": _}}:
                return UNKNOWN
        return {key: self.value(each) for key, each in said.items()}
