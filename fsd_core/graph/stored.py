"""The manifest of an imported ONNX model: ``model.json`` in its folder names the file of the graph and the file of its weights."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import attrs

from fsd_core.common.fields import Kind, choice, key, read, table, text
from fsd_core.common.files import open_regular
from fsd_core.errors import InputError

__all__ = ["FORMAT", "MANIFEST", "VERSION", "Stored", "checksum", "is_stored", "stored"]

MANIFEST = "model.json"
FORMAT = "fsd-onnx"
VERSION = 1

_FILE = Kind("the name of a file in this folder", lambda value: isinstance(value, str) and value != "" and Path(value).name == value)


@attrs.frozen(kw_only=True)
class Stored:
    """The entries of ``model.json``, except format and version."""

    name: str = key(text())
    graph: str = key(_FILE)
    graph_sha256: str = key(text())
    weights: str = key(_FILE)
    weights_sha256: str = key(text())
    batch_axis: str = key(choice("0", "none"))
    shapes: dict[str, Any] = key(table())  # by input; a batch axis has size 1


def is_stored(folder: Path) -> bool:
    """Whether a folder has the manifest of an imported ONNX model."""
    try:
        return _manifest(folder).get("format") == FORMAT
    except InputError:
        return False


def stored(folder: Path) -> Stored:
    """The manifest of a folder whose two files have the bytes that were written. Raises `InputError` that names the file and the defect."""
    where = folder / MANIFEST
    manifest = _manifest(folder)
    if manifest.get("format") != FORMAT:
        raise InputError(f"{where}: is not the manifest of an imported ONNX model: expected format = {FORMAT!r}")
    if manifest.get("version") != VERSION:
        raise InputError(f"{where}: version = {manifest.get('version')!r}: expected {VERSION}, the version that this fsd reads")
    found = read(Stored, manifest, f"{where}: ", known=("format", "version"))
    for name, expected in ((found.graph, found.graph_sha256), (found.weights, found.weights_sha256)):
        if (sum_of := checksum(folder / name)) != expected:
            raise InputError(f"{folder / name}: corrupt: its SHA-256 is {sum_of}: expected {expected}, as in {MANIFEST}")
    return found


def checksum(file: Path) -> str:
    """The SHA-256 of a file, hexadecimal."""
    try:
        with open_regular(file) as data:
            return hashlib.file_digest(data, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror or error}") from error


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not os.path.isfile(path):
        raise InputError(f"{folder}: is not a model folder that fsd made: expected {MANIFEST} in it")
    try:
        manifest = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(manifest, dict):
        raise InputError(f"{path}: is a {type(manifest).__name__}: expected a JSON object")
    return manifest
