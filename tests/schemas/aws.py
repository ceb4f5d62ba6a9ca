"""AWS's own service models, as botocore carries them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any

import botocore.session

from schemas import ANY, Api, Field, Operation, Schema, Terms, template

__all__ = ["parameters", "read"]

_PLACES = {"querystring", "uri", "header", "headers", "statusCode"}  # everything else is in the body
_COMMON = frozenset({400, 403, 413, 429, 500, 503})  # statuses of the errors that every operation has beside its own
_BASE64 = Schema("string")  # what JSON holds of bytes


@cache
def _model(service: str) -> Mapping[str, Any]:
    model: Mapping[str, Any] = botocore.session.get_session().get_component("data_loader").load_service_model(service, "service-2")
    return model


def parameters(service: str, operation: str) -> Schema:
    """What a client is given for an operation, before botocore writes it: a blob may be bytes."""
    model = _model(service)
    asked = model["operations"][operation].get("input")
    return _schema(model["shapes"], asked["shape"], blob=ANY) if asked else Schema("object")


def read(service: str) -> Api:
    """A service whose protocol is REST and JSON."""
    return Api(_operations(_model(service)))


def _operations(model: Mapping[str, Any]) -> Iterator[Operation]:
    for said in model["operations"].values():
        http = said["http"]
        yield Operation(http["method"], template(http["requestUri"].rstrip("/")), partial(_terms, model["shapes"], said))


def _terms(shapes: Mapping[str, Any], said: Mapping[str, Any]) -> Terms:
    asked, answer = (shapes[said[way]["shape"]] if way in said else {"members": {}} for way in ("input", "output"))
    places: dict[str, dict[str, Field]] = {"uri": {}, "querystring": {}}
    for name, each in asked["members"].items():
        if each.get("location") in places:
            required = name in asked.get("required", ())
            places[each["location"]][each["locationName"]] = Field(partial(_schema, shapes, each["shape"]), required)
    statuses = {said["http"].get("responseCode", 200)}
    if any(each.get("location") == "statusCode" for each in answer["members"].values()):
        statuses = {200, 202, 204}
    held = partial(_body, shapes, answer) if _inside(answer) else None
    if "payload" in answer:  # of any form
        held = partial(Schema)
    errors = [shapes[each["shape"]] for each in said.get("errors", ())]
    return Terms(
        named={name: each.schema() for name, each in places["uri"].items()},
        query=places["querystring"],
        body=None if "payload" in asked or not _inside(asked) else Field(partial(_body, shapes, asked), required=True),
        answers=dict.fromkeys(statuses, held),
        refusal=partial(_refusal, shapes, errors),
        refused=_COMMON | {each.get("error", {}).get("httpStatusCode", 400) for each in errors},
    )


def _refusal(shapes: Mapping[str, Any], errors: Sequence[Mapping[str, Any]]) -> Schema:
    """Which error it is stands in a header: the fields of all."""
    fields = {name: field for each in errors for name, field in _body(shapes, each).fields.items()}
    return Schema("object", {"Type": Field(partial(Schema, "string")), "message": Field(partial(Schema, "string"))} | fields)


def _inside(shape: Mapping[str, Any]) -> dict[str, Any]:
    """The members that are in the body."""
    return {name: each for name, each in shape["members"].items() if each.get("location") not in _PLACES}


def _body(shapes: Mapping[str, Any], shape: Mapping[str, Any]) -> Schema:
    return _structure(shapes, {**shape, "members": _inside(shape)}, _BASE64)


def _structure(shapes: Mapping[str, Any], shape: Mapping[str, Any], blob: Schema) -> Schema:
    required = set(shape.get("required", ()))
    return Schema(
        "object",
        {
            each.get("locationName", name) if blob is not ANY else name: Field(
                partial(_schema, shapes, each["shape"], blob=blob), name in required
            )
            for name, each in shape["members"].items()
        },
    )


def _schema(shapes: Mapping[str, Any], name: str, blob: Schema = _BASE64) -> Schema:
    shape = shapes[name]
    least, most = shape.get("min"), shape.get("max")
    match shape["type"]:
        case "structure":
            return _structure(shapes, shape, blob)
        case "list":
            return Schema("array", items=partial(_schema, shapes, shape["member"]["shape"], blob=blob), least=least, most=most)
        case "map":
            return Schema("object", others=partial(_schema, shapes, shape["value"]["shape"], blob=blob))
        case "string":
            return Schema("string", enum=frozenset(shape.get("enum", ())), pattern=_pattern(shape), least=least, most=most)
        case "blob":
            return blob
        case "timestamp":
            return Schema("string") if shape.get("timestampFormat") == "iso8601" else Schema("number")
        case "integer" | "long":
            return Schema("integer", least=least, most=most)
        case "double" | "float":
            return Schema("number", least=least, most=most)
        case "boolean":
            return Schema("boolean")
    return ANY


def _pattern(shape: Mapping[str, Any]) -> str:
    """The pattern, where it is not one that Python has no word for (classes of Unicode)."""
    text = str(shape.get("pattern", ""))
    try:
        re.compile(text)
    except re.error:
        return ""
    return text
