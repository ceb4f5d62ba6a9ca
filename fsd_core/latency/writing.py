"""Writes a table of latencies as the TOML file that `fsd_core.latency.load` reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs

from fsd_core.common.files import check_file, write_file
from fsd_core.common.home import made
from fsd_core.latency.table import Link, Measured, Row, Table

__all__ = ["HEAD", "as_text", "check", "write"]

HEAD = "# Written by fsd measure."  # marks the files that may be replaced
SOURCE = ("kind", "confidence", "region", "as_of", "source", "note")  # where a figure comes from


def check(path: Path) -> None:
    """Make the folder of ``path``. Raises `InputError` if `write` could not write the file: it replaces only a file that it made."""
    made(path.parent)
    check_file("measured latency", path, HEAD, "that fsd measure wrote it: remove the file, then measure again")


def write(table: Table, path: Path) -> None:
    """Write the file in one step, with its folder. Raises `InputError` as `check`."""
    made(path.parent)
    write_file("file", path, as_text(table), HEAD)


def as_text(table: Table) -> str:
    """The content of the file. Milliseconds and MB/s, with the source of each row."""
    lines = [HEAD, "# Milliseconds and MB/s (1e6 bytes a second). docs/latency.md explains the keys."]
    head = {name: getattr(table, name) for name in ("title", "as_of", "hour_share", "function_share")}
    lines += [f"{name} = {_value(value)}" for name, value in head.items()]
    tables: dict[str, Row | Link | Measured] = {**table.rows, **table.links}
    if table.measured is not None:
        tables["measured"] = table.measured
    for name, each in tables.items():
        fields = sorted(attrs.fields(type(each)), key=lambda field: field.name in SOURCE)  # the figures first
        values = {field.name: value for field in fields if _said(value := getattr(each, field.name), field)}
        lines += ["", f"[{name}]", *(f"{key} = {_value(value)}" for key, value in values.items())]
    return "\n".join(lines) + "\n"


def _said(value: Any, field: attrs.Attribute[Any]) -> bool:
    """Whether a key has to be written: its value is not the default of a missing key."""
    return value is not None and (field.name == "kind" or value != field.default)


def _value(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)  # texts and numbers of JSON are those of TOML
