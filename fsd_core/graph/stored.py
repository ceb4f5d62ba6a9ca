"""The manifest of an imported ONNX model: ``model.json`` in its folder names the file of the graph and the file of its weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import attrs

from fsd_core.common.fields import choice, key, read, table, text
from fsd_core.common.files import open_regular
from fsd_core.common.folders import FILE, MANIFEST, Format
from fsd_core.errors import InputError

__all__ = ["FORMAT", "Stored", "checksum", "stored"]

FORMAT = Format("fsd-onnx", 1, "an ONNX model that fsd imported")


@attrs.frozen(kw_only=True)
class Stored:
    """The entries of ``model.json``, except format and version."""

    name: str = key(text())
    graph: str = key(FILE)
    graph_sha256: str = key(text())
    weights: str = key(FILE)
    weights_sha256: str = key(text())
    batch_axis: str = key(choice("0", "none"))
    shapes: dict[str, Any] = key(table())  # by input; a batch axis has size 1


def stored(folder: Path) -> Stored:
    """Read the manifest of a folder, and check the SHA-256 of its two files. Raises `InputError`, which names the file and the defect."""
    found = read(Stored, FORMAT.manifest(folder), f"{folder / MANIFEST}: ", known=("format", "version"))
    for name, expected in ((found.graph, found.graph_sha256), (found.weights, found.weights_sha256)):
        if (sum_of := checksum(folder / name)) != expected:
            raise InputError(f"{folder / name}: corrupt: its SHA-256 is {sum_of}: expected {expected}, as in {MANIFEST}; import again")
    return found


def checksum(file: Path) -> str:
    """The SHA-256 of a file, hexadecimal. Raises `InputError` if the file cannot be read."""
    try:
        with open_regular(file) as data:
            return hashlib.file_digest(data, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror or error}") from error
