"""The models and operations of Azure's management packages, read from their source and never imported: one `Api` for all.

Older packages write a model down as ``_attribute_map`` and ``_validation``, and the enum of a text in the class's description; newer ones
as ``rest_field`` with annotations. Operations have one form: a function that builds the request, a method that sends it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from textwrap import dedent
from typing import Any
from zipfile import ZipFile

from schemas import ANY, Api, Field, Operation, Schema, Terms, template

__all__ = ["PACKAGES", "Package", "read"]


@dataclass(frozen=True)
class Package:
    """Where the schema of a namespace is. ``asked``: the api-version that is asked for where the package's own is ``version``."""

    wheel: str
    folder: str
    operations: tuple[str, ...]
    version: str
    asked: str = ""


# Not every version of an API is in a package: then the next one that is.
PACKAGES = (
    Package("azure_mgmt_resource", "azure/mgmt/resource/resources", ("_operations",), "2025-04-01", "2021-04-01"),
    Package("azure_mgmt_web", "azure/mgmt/web/v2024_04_01", ("_web_apps_operations", "_app_service_plans_operations"), "2024-04-01"),
    Package(
        "azure_mgmt_storage",
        "azure/mgmt/storage/v2024_01_01",
        ("_storage_accounts_operations", "_management_policies_operations", "_blob_services_operations", "_blob_containers_operations"),
        "2024-01-01",
        "2023-05-01",
    ),
    Package(
        "azure_mgmt_servicebus",
        "azure/mgmt/servicebus/v2022_10_01_preview",
        ("_namespaces_operations", "_queues_operations"),
        "2022-10-01-preview",
        "2024-01-01",
    ),
    Package("azure_mgmt_authorization", "azure/mgmt/authorization/v2022_04_01", ("_role_assignments_operations",), "2022-04-01"),
    Package("azure_mgmt_msi", "azure/mgmt/msi/v2024_11_30", ("_user_assigned_identities_operations",), "2024-11-30"),
)
_KINDS = {
    **dict.fromkeys(("str", "iso-8601", "rfc-1123", "date", "time", "duration", "bytearray", "datetime", "timedelta"), "string"),
    **dict.fromkeys(("int", "long", "unix-time"), "integer"),
    **dict.fromkeys(("float", "decimal"), "number"),
    "bool": "boolean",
}


def read(wheels: Path) -> Api:
    """All that `PACKAGES` name, from the wheels in a folder."""
    return Api(operation for package in PACKAGES for operation in _operations(wheels, package))


def _operations(wheels: Path, package: Package) -> Iterator[Operation]:
    (wheel,) = wheels.glob(f"{package.wheel}-*.whl")
    with ZipFile(wheel) as files:
        inside = [name for name in files.namelist() if re.fullmatch(rf"{package.folder}/models/_\w*(models(_py3)?|enums)\.py", name)]
        models = _Models("\n".join(files.read(name).decode() for name in inside))
        for name in package.operations:
            text = files.read(f"{package.folder}/operations/{name}.py").decode()
            yield from _Module(text, models, package).operations()


def _parts(text: str, indent: str) -> Iterator[tuple[str, str]]:
    """The functions and classes of this indentation, and their source: parsing all of a file of 2 MB would take seconds."""
    for part in re.split(rf"^(?={indent}(?:def |class |@))", text, flags=re.M):
        if found := re.match(rf"{indent}(?:def|class) (\w+)", part):
            yield found[1], part


def _function(text: str) -> ast.FunctionDef:
    node = ast.parse(dedent(text)).body[0]
    assert isinstance(node, ast.FunctionDef)
    return node


class _Module:
    """A module of operations."""

    def __init__(self, text: str, models: _Models, package: Package) -> None:
        parts = list(_parts(text, ""))
        self._builders = {name: part for name, part in parts if part.startswith("def ")}
        self._groups = [dict(_parts(part, "    ")) for _, part in parts if part.startswith("class ")]  # of overloads, the last has the code
        self._models = models
        self._versions = frozenset({package.version, package.asked} - {""})

    def operations(self) -> Iterator[Operation]:
        """All of it but those whose path names a resource of any kind."""
        for group in self._groups:
            for name, method in group.items():
                found = re.search(r"= (build_\w+)\(", method)
                if found is None:
                    continue
                builder = self._builders[found[1]]
                path = re.search(r'"(/.*)"', builder)
                verb = re.search(r'HttpRequest\(method="(\w+)"', builder)
                assert path
                assert verb
                if "{resourceType}" not in path[1] and re.search(r"/\w", path[1]):
                    begin = group.get(f"begin{name.removesuffix('_initial')}", "") if name.endswith("_initial") else ""
                    terms = cache(partial(self._terms, builder, method, begin))
                    yield Operation(verb[1], template(path[1], {"scope": ".+"}, case=False), terms)

    def _terms(self, builder: str, method: str, begin: str) -> Terms:
        statuses = re.search(r"status_code not in \[([\d, ]+)\]", method)
        refusal = re.search(r"failsafe_deserialize\(\s*_models\.(\w+)", method)
        assert statuses
        answer, code = self._answer(_function(begin or method)), _function(builder)
        return Terms(
            named={name: each.schema() for name, each in self._parameters(code, "url")},
            query=dict(self._parameters(code, "query")),
            body=self._body(_function(method)),
            answers={int(each): None if each == "204" else answer for each in statuses[1].split(", ")},
            refusal=partial(self._models.schema, refusal[1]) if refusal else None,
        )

    def _body(self, method: ast.FunctionDef) -> Field | None:
        for each in method.args.args:
            said = ast.unparse(each.annotation) if each.annotation else ""
            if "IO" in said and (model := re.search(r"_models\.(\w+)", said)):
                return Field(partial(self._models.schema, model[1]), "Optional" not in said)
        return None

    def _answer(self, method: ast.FunctionDef) -> Callable[[], Schema] | None:
        """What comes of it: of a long operation, what its poller gives; of a list, a page."""
        notes = [node for node in ast.walk(method) if isinstance(node, ast.AnnAssign) and _is(node.target, "cls")]
        said = ast.unparse(method.returns if method.returns and method.name.startswith("begin_") else notes[0].annotation)
        model = re.search(r"_models\.(\w+)", said)
        if model is None:
            return None
        one = partial(self._models.schema, model[1])
        if not re.match(r"ClsType\[[Ll]ist\[", said):
            return one
        many = partial(Schema, "array", items=one)
        return partial(Schema, "object", {"value": Field(many, required=True), "nextLink": Field(partial(Schema, "string"))})

    def _parameters(self, builder: ast.FunctionDef, place: str) -> Iterator[tuple[str, Field]]:
        """The names in the path ("url") or of the query; required are those that no condition stands before."""
        optional = {id(inner) for node in builder.body if isinstance(node, ast.If) for inner in ast.walk(node)}
        for node in ast.walk(builder):
            if isinstance(node, ast.Dict):
                said = {ast.literal_eval(key): value for key, value in zip(node.keys, node.values, strict=True) if key is not None}
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
                said = {ast.literal_eval(node.targets[0].slice): node.value}
            else:
                continue
            for name, call in said.items():
                if isinstance(call, ast.Call) and ast.unparse(call.func) == f"_SERIALIZER.{place}":
                    schema = self._models.type(ast.literal_eval(call.args[2]))
                    told = {each.arg: ast.literal_eval(each.value) for each in call.keywords if each.arg}
                    if name == "api-version":
                        schema = replace(schema, enum=self._versions)
                    yield name, Field(partial(_within, schema, told), id(node) not in optional)


class _Models:
    """The models and enums of a version, by name."""

    def __init__(self, text: str) -> None:
        self._sources = dict(_parts(text, ""))
        self._class = cache(self._read)

    def _read(self, name: str) -> ast.ClassDef:
        node = ast.parse(self._sources[name]).body[0]
        assert isinstance(node, ast.ClassDef)
        return node

    def schema(self, name: str) -> Schema:
        """What a name stands for."""
        node = self._class(name)
        if any(_is(base, "Enum") for base in node.bases):
            return Schema("string", enum=frozenset(_constants(node)))
        return _nested({**self._new(node), **self._old(node)})

    def type(self, text: str) -> Schema:
        """A type as older packages write it: "str", "[Sku]", "{str}"."""
        if text[0] in "[{":
            inner = partial(self.type, text[1:-1])
            return Schema("array", items=inner) if text[0] == "[" else Schema("object", others=inner)
        if text in _KINDS:
            return Schema(_KINDS[text])
        return self.schema(text) if text in self._sources else ANY

    def _old(self, node: ast.ClassDef) -> dict[tuple[str, ...], Field]:
        """Fields by their path in JSON."""
        told = {_name(each): each.value for each in node.body if isinstance(each, ast.Assign)}
        if "_attribute_map" not in told:
            return {}
        limits = ast.literal_eval(told["_validation"]) if "_validation" in told else {}
        enums = self._enums(node)
        fields: dict[tuple[str, ...], Field] = {}
        for name, said in ast.literal_eval(told["_attribute_map"]).items():
            path = tuple(part.replace("\\.", ".") for part in re.split(r"(?<!\\)\.", said["key"]))
            limit, kind = limits.get(name, {}), said["type"]
            if kind == "str" and name in enums:
                kind = enums[name]
            fields[path] = Field(partial(self._limited, kind, limit), bool(limit.get("required")), bool(limit.get("readonly")))
        return fields

    def _limited(self, kind: str, limits: Mapping[str, Any]) -> Schema:
        return _within(self.type(kind), limits)

    def _enums(self, node: ast.ClassDef) -> dict[str, str]:
        """Attribute -> its enum, by the class's description."""
        told = re.findall(r":vartype (\w+):\s*str or\s+~[\w.]+\.(\w+)", ast.get_docstring(node) or "")
        return {name: enum for name, enum in told if enum in self._sources}

    def _new(self, node: ast.ClassDef) -> dict[tuple[str, ...], Field]:
        """Likewise, with what the bases have."""
        fields: dict[tuple[str, ...], Field] = {}
        for base in node.bases:
            if isinstance(base, ast.Name) and base.id in self._sources:
                fields |= self._new(self._class(base.id))
        for each in node.body:
            if isinstance(each, ast.AnnAssign) and isinstance(each.value, ast.Call) and _is(each.value.func, "rest_field"):
                told = {word.arg: ast.literal_eval(word.value) for word in each.value.keywords if word.arg in ("name", "visibility")}
                read_only, optional = told.get("visibility") == ["read"], _head(each.annotation) == "Optional"
                kind = partial(self._annotated, each.annotation)
                fields[(told.get("name", _name(each)),)] = Field(kind, not optional and not read_only, read_only)
        return fields

    def _annotated(self, said: ast.expr) -> Schema:
        """A type as newer packages write it: an annotation."""
        if isinstance(said, ast.Constant):  # a model's name
            return self._annotated(ast.parse(str(said.value), mode="eval").body)
        if not isinstance(said, ast.Subscript):
            return self.type(ast.unparse(said).rpartition(".")[2])
        inner = said.slice.elts if isinstance(said.slice, ast.Tuple) else [said.slice]
        match _head(said):  # "List" as well as "list"
            case "Optional":
                return self._annotated(inner[0])
            case "List":
                return Schema("array", items=partial(self._annotated, inner[0]))
            case "Dict":
                return Schema("object", others=partial(self._annotated, inner[1]))
            case "Union":  # str or an enum
                return self._annotated(inner[-1])
        return ANY


def _nested(flat: Mapping[tuple[str, ...], Field]) -> Schema:
    """An object whose fields are given by their paths; one that holds required ones is required, of read-only ones alone is so, too."""
    fields, others = {}, None
    for first, group in groupby(sorted(flat.items(), key=lambda item: item[0]), key=lambda item: item[0][0]):
        inside = {path[1:]: each for path, each in group}
        if first == "":  # additional properties
            others = partial(Schema)
        elif () in inside:
            fields[first] = inside[()]
        else:
            own = inside.values()
            required, read_only = any(each.required for each in own), all(each.read_only for each in own)
            fields[first] = Field(partial(_nested, inside), required, read_only)
    return Schema("object", fields, others)


def _within(schema: Schema, limits: Mapping[str, Any]) -> Schema:
    """A schema with the limits of the validation rules."""
    low, high = "min_length", "max_length"
    if schema.kind in ("integer", "number"):
        low, high = "minimum", "maximum"
    elif schema.kind == "array":
        low, high = "min_items", "max_items"
    return replace(schema, pattern=limits.get("pattern", ""), least=limits.get(low), most=limits.get(high))


def _head(said: ast.expr) -> str:
    return ast.unparse(said.value).rpartition(".")[2].capitalize() if isinstance(said, ast.Subscript) else ""


def _is(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _name(node: ast.Assign | ast.AnnAssign) -> str:
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
    return target.id if isinstance(target, ast.Name) else ""


def _constants(node: ast.ClassDef) -> Iterator[str]:
    for each in node.body:
        if isinstance(each, ast.Assign) and isinstance(each.value, ast.Constant):
            yield str(each.value.value)
