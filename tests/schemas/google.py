"""Google's discovery documents, as google-api-python-client carries them: an `Api` for each service."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from schemas import ANY, Api, Field, Operation, Schema, Terms, template

__all__ = ["DOCUMENTS", "read"]

DOCUMENTS = {
    "artifactregistry": "v1",
    "cloudfunctions": "v2",
    "cloudkms": "v1",
    "cloudresourcemanager": "v1",
    "iam": "v1",
    "logging": "v2",
    "run": "v2",
    "serviceusage": "v1",
    "storage": "v1",
}
_FORMATS = {  # of a text, where JSON's own types do not hold the value
    "int64": r"-?\d+",
    "uint64": r"\d+",
    "google-duration": r"-?\d+(\.\d+)?s",
    "google-datetime": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)",
    "date-time": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)",
}


def read(wheels: Path) -> Mapping[str, Api]:
    """The services of `DOCUMENTS`, from the wheel in a folder."""
    (wheel,) = wheels.glob("google_api_python_client-*.whl")
    with ZipFile(wheel) as files:
        texts = {name: files.read(f"googleapiclient/discovery_cache/documents/{name}.{DOCUMENTS[name]}.json") for name in DOCUMENTS}
    return {name: Api(_operations(json.loads(text))) for name, text in texts.items()}


def _operations(document: Mapping[str, Any]) -> Iterator[Operation]:
    for method in _methods(document):
        path = f"/{document['servicePath']}{method['path']}"
        yield _operation(document, method, path)
        if method.get("useMediaDownloadService"):
            yield _operation(document, method, f"/download{path}")
        if upload := method.get("mediaUpload", {}).get("protocols", {}).get("simple"):
            yield _operation(document, method, upload["path"], media=True)


def _methods(of: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from of.get("methods", {}).values()
    for inner in of.get("resources", {}).values():
        yield from _methods(inner)


def _operation(document: Mapping[str, Any], method: Mapping[str, Any], path: str, *, media: bool = False) -> Operation:
    parameters = method.get("parameters", {})
    named = {name: each for name, each in parameters.items() if each["location"] == "path"}
    whole = {name: each.get("pattern", "^.+$").strip("^$") for name, each in named.items() if f"{{+{name}}}" in path}
    query = document["parameters"] | {name: each for name, each in parameters.items() if each["location"] == "query"}
    asked, answered = _Messages(document, method), _Messages(document, None)
    body = None if media or "request" not in method else Field(partial(asked.schema, method["request"], set(named)), required=True)
    answer: Callable[[], Schema] | None = partial(answered.schema, method["response"]) if "response" in method else None
    terms = Terms(
        named={re.sub(r"\W", "_", name): Schema("string") for name in named},
        query={name: Field(partial(answered.parameter, each), bool(each.get("required"))) for name, each in query.items()},
        body=body,
        answers={200: answer} if answer else {200: None, 204: None},  # the documents name no status
    )
    return Operation(method["httpMethod"], template(path, whole), lambda: terms)


class _Messages:
    """The messages of a document, as a method's request has them, or as answers do (``method`` None), of which nothing is required."""

    def __init__(self, document: Mapping[str, Any], method: Mapping[str, Any] | None) -> None:
        self._all = document["schemas"]
        self._method = method

    def schema(self, said: Mapping[str, Any], bound: set[str] | None = None) -> Schema:
        """``bound``: fields that the request's path holds already."""
        if "$ref" in said:
            return self.schema(self._all[said["$ref"]], bound)
        more = said.get("additionalProperties")
        if said["type"] == "object":
            fields = {
                name: Field(partial(self.schema, each), name not in (bound or ()) and self._required(each), bool(each.get("readOnly")))
                for name, each in said.get("properties", {}).items()
            }
            return Schema("object", fields, partial(self.schema, more) if more else None)
        if said["type"] == "array":
            return Schema("array", items=partial(self.schema, said["items"]))
        if said["type"] == "any":
            return ANY
        return Schema(said["type"], enum=frozenset(said.get("enum", ())), pattern=_FORMATS.get(said.get("format", ""), ""))

    def parameter(self, said: Mapping[str, Any]) -> Schema:
        """Of a query."""
        return Schema("array", items=partial(self.schema, said)) if said.get("repeated") else self.schema(said)

    def _required(self, said: Mapping[str, Any]) -> bool:
        """Cloud Storage says it by method, others in the description; what a PATCH leaves out stays as it was."""
        if self._method is None or self._method["httpMethod"] == "PATCH":
            return False
        return self._method["id"] in said.get("annotations", {}).get("required", ()) or said.get("description", "").startswith("Required.")
