"""What a vendor publishes of an API, in one form for all of them, and what of a request and its answer breaks it.

`google`, `azure` and `aws` read the vendors' formats into it; `wheels` gets what they read; `recording` catches what is said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

__all__ = ["ANY", "UNKNOWN", "Api", "Exchange", "Field", "Operation", "Schema", "Terms", "breaches", "problems", "template"]

_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
}
_MEDIA = {("alt", "media"), ("uploadType", "resumable")}  # parameters of Google's: what is answered is no JSON


@dataclass(frozen=True)
class Schema:
    """What a value is: ``kind`` is a type of JSON, or "any".

    ``fields``: of an object; ``others``: what its further fields hold, None where there may be none; ``items``: of an array; ``enum``: all
    the texts that there are; ``pattern``: of the whole text; ``least`` and ``most``: of a number, or of a text's or an array's length.
    """

    kind: str = "any"
    fields: Mapping[str, Field] = field(default_factory=dict)
    others: Callable[[], Schema] | None = None
    items: Callable[[], Schema] | None = None
    enum: frozenset[str] = frozenset()
    pattern: str = ""
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True)
class Field:
    """A field of an object, or a parameter. ``schema`` is called when there is a value: schemas name each other in circles."""

    schema: Callable[[], Schema]
    required: bool = False
    read_only: bool = False


ANY = Schema()
UNKNOWN: Any = object()  # a value that is there, and is known only later: nothing of it breaks a schema


@dataclass(frozen=True)
class Terms:
    """What an operation takes and gives. ``named``: what its path names; ``body``: None where a request has none, or none of JSON.

    ``answers``: by status, None where they have no body. ``refusal``: what an answer of 400 and more holds; ``refused``: which of those
    there are; None and empty where the vendor does not say.
    """

    named: Mapping[str, Schema]
    query: Mapping[str, Field]
    body: Field | None
    answers: Mapping[int, Callable[[], Schema] | None]
    refusal: Callable[[], Schema] | None = None
    refused: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Operation:
    """``path``: as `template` makes it; ``terms`` is called when it is asked for: a service has hundreds."""

    method: str
    path: re.Pattern[str]
    terms: Callable[[], Terms]


class Api:
    """The operations of a service."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._operations = list(operations)

    def find(self, method: str, path: str) -> tuple[Terms, dict[str, str]] | None:
        """The terms of a request, and what its path names; of several operations' the one's that says most of the path itself."""
        matches = ((each, each.path.fullmatch(path)) for each in self._operations if each.method == method)
        named = [(each, {name: unquote(value) for name, value in match.groupdict().items()}) for each, match in matches if match]
        found = min(named, key=lambda one: sum(map(len, one[1].values())), default=None)
        return (found[0].terms(), found[1]) if found else None


@dataclass(frozen=True)
class Exchange:
    """A request and its answer. ``target``: path and query, percent-encoded; ``service``: whose, where a vendor has a schema for each."""

    service: str
    method: str
    target: str
    body: bytes
    status: int
    answer: bytes

    @property
    def path(self) -> str:
        """Without the query."""
        return urlsplit(self.target).path

    @property
    def query(self) -> list[tuple[str, str]]:
        """Names and values."""
        return parse_qsl(urlsplit(self.target).query, keep_blank_values=True)


def template(text: str, whole: Mapping[str, str] | None = None, *, case: bool = True) -> re.Pattern[str]:
    """A path with names in braces as an expression; ``whole``: of names that hold slashes, what they are."""
    parts = re.split(r"\{\+?([^}+]+)\+?\}", text)
    inside = ["(?P<{}>{})".format(re.sub(r"\W", "_", name), (whole or {}).get(name, "[^/]+")) for name in parts[1::2]]
    fixed = [re.escape(part) for part in parts[::2]]
    return re.compile("".join(sum(zip(fixed, [*inside, ""], strict=True), ())), 0 if case else re.I)


def problems(api: Api, exchange: Exchange) -> list[str]:
    """What of an exchange breaks the schema, a line for each."""
    found = api.find(exchange.method, exchange.path)
    what = f"{exchange.method} {exchange.target}"
    if found is None:
        return [f"{what}: there is no such operation"]
    terms, named = found
    return [f"{what}: {each}" for part in (_asked(terms, named, exchange), _answered(terms, exchange)) for each in part]


def _asked(terms: Terms, named: Mapping[str, str], exchange: Exchange) -> Iterator[str]:
    for name, schema in terms.named.items():
        yield from breaches(schema, named[name], f"path {name}", sent=True)
    given: dict[str, list[str]] = {}
    for name, value in exchange.query:
        given.setdefault(name, []).append(value)
    for name, values in given.items():
        if name not in terms.query:
            yield f"query {name}: there is no such parameter"
            continue
        schema = terms.query[name].schema()
        if schema.kind == "array":
            yield from breaches(schema, values, f"query {name}", sent=True)
        elif len(values) > 1:
            yield f"query {name}: is given {len(values)} times"
        else:
            yield from breaches(schema, _value(schema, values[0]), f"query {name}", sent=True)
    yield from (f"query {name}: is missing" for name, each in terms.query.items() if each.required and name not in given)
    if terms.body is None:
        return
    if exchange.body:
        yield from breaches(terms.body.schema(), _parsed(exchange.body), "request", sent=True)
    elif terms.body.required:
        yield "request: has no body"


def _answered(terms: Terms, exchange: Exchange) -> Iterator[str]:
    if exchange.status >= 400:
        if terms.refused and exchange.status not in terms.refused:
            yield f"answer {exchange.status}: expected one of {', '.join(map(str, sorted(terms.refused)))}"
        if terms.refusal:
            yield from breaches(terms.refusal(), _parsed(exchange.answer), f"answer {exchange.status}", sent=False)
        return
    if exchange.status not in terms.answers:
        yield f"answer {exchange.status}: expected {', '.join(map(str, terms.answers))}"
        return
    schema = terms.answers[exchange.status]
    if not _MEDIA.isdisjoint(exchange.query):
        return
    if schema and (exchange.answer or exchange.status == 200):
        yield from breaches(schema(), _parsed(exchange.answer), f"answer {exchange.status}", sent=False)
    elif exchange.answer and not schema:
        yield f"answer {exchange.status}: has a body, expected none"


def breaches(schema: Schema, value: Any, at: str, *, sent: bool) -> Iterator[str]:
    """What of a value breaks its schema; ``sent``: a client says it, so nothing in it may be the service's alone to say."""
    if value is UNKNOWN:
        return
    kind: Any = _TYPES.get(schema.kind, object)
    if not isinstance(value, kind) or (isinstance(value, bool) and schema.kind in ("integer", "number")):
        yield f"{at}: is {json.dumps(value, default=repr)[:80]}, expected {schema.kind}"
        return
    if isinstance(value, str):
        if schema.enum and value not in schema.enum:
            yield f"{at}: is {value!r}, expected one of {', '.join(sorted(schema.enum))}"
        if schema.pattern and not re.fullmatch(schema.pattern, value):
            yield f"{at}: is {value!r}, expected {schema.pattern}"
    if schema.kind in ("string", "array", "integer", "number"):
        size = value if isinstance(value, int | float) else len(value)
        if not (-float("inf") if schema.least is None else schema.least) <= size <= (float("inf") if schema.most is None else schema.most):
            yield f"{at}: is or holds {size}, expected {schema.least} to {schema.most}"
    if schema.kind == "array" and schema.items:
        for number, item in enumerate(value):
            yield from breaches(schema.items(), item, f"{at}[{number}]", sent=sent)
    if schema.kind == "object":
        yield from _object(schema, value, at, sent)


def _object(schema: Schema, value: Mapping[str, Any], at: str, sent: bool) -> Iterator[str]:
    for name, item in value.items():
        if known := schema.fields.get(name):
            if known.read_only and sent:
                yield f"{at}.{name}: is for the service alone to say"
            yield from breaches(known.schema(), item, f"{at}.{name}", sent=sent)
        elif schema.others:
            yield from breaches(schema.others(), item, f"{at}.{name}", sent=sent)
        else:
            yield f"{at}.{name}: there is no such field"
    for name, each in schema.fields.items():
        if each.required and name not in value and not (sent and each.read_only):
            yield f"{at}.{name}: is missing"


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body  # which is of no type of JSON


def _value(schema: Schema, text: str) -> Any:
    """A parameter's text as what it stands for."""
    if schema.kind in ("integer", "number", "boolean"):
        return _parsed(text.encode())
    return text
