"""Folders with a manifest: ``model.json`` names the data files of the folder, whose names hold the digest of what they contain.

So a folder is replaced without a gap: new data files come beside the old ones, then the manifest is replaced in one step, then the old
data files go. At any moment, a reader finds the complete old content (or no folder) or the complete new content.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from fsd_core.common.fields import Kind
from fsd_core.errors import InputError

__all__ = ["FILE", "MANIFEST", "Format", "replacing_path"]

MANIFEST = "model.json"
FILE = Kind("the name of a file in this folder", lambda value: isinstance(value, str) and value != "" and Path(value).name == value)
_DATA = ("graph-*", "weights-*")


@attrs.frozen
class Format:
    """A kind of folder. Its manifest has the entries ``format``, which is ``name``, and ``version``. ``what`` is its name in errors."""

    name: str
    version: int
    what: str

    def matches(self, folder: Path) -> bool:
        """Whether a folder has a manifest of this format, in any version."""
        try:
            return _entries(folder).get("format") == self.name
        except InputError:
            return False

    def manifest(self, folder: Path) -> dict[str, Any]:
        """The entries of a folder's manifest. Raises `InputError` if it has none, or one of another format or version."""
        path, found = folder / MANIFEST, _entries(folder)
        if found.get("format") != self.name:
            raise InputError(f"{path}: is not the manifest of {self.what}: expected format = {self.name!r}")
        if found.get("version") != self.version:
            raise InputError(f"{path}: version = {found.get('version')!r}: expected {self.version}, the version that this fsd reads")
        return found

    def save(self, folder: Path, write: Callable[[Path], tuple[dict[str, Any], set[str]]]) -> None:
        """Write ``folder``, or replace it if it has this format and version.

        ``write`` gets a folder, writes the data files into it, and returns the entries of the manifest and the names of these files. Raises
        `InputError` if ``folder`` exists and has no such manifest, or cannot be written.
        """
        replaces = os.path.lexists(folder)
        if replaces:
            try:
                self.manifest(folder)
            except InputError as error:
                raise InputError(f"{folder}: exists and is not {self.what}, so it is not replaced: expected a new path") from error
        target = folder if replaces else folder.parent / f".{folder.name}.{secrets.token_hex(8)}"
        try:
            target.mkdir(parents=True, exist_ok=replaces)
            try:
                entries, names = write(target)
                with replacing_path(target / MANIFEST) as new:
                    text = json.dumps({"format": self.name, "version": self.version} | entries, indent=1)
                    new.write_text(text + "\n", encoding="utf-8")
                if not replaces:
                    target.rename(folder)
            except BaseException:
                if not replaces:
                    shutil.rmtree(target, ignore_errors=True)
                raise
            for stale in (file for pattern in _DATA for file in folder.glob(pattern)):
                if stale.name not in names:
                    stale.unlink()
        except OSError as error:
            raise InputError(f"{folder}: the model cannot be written: {error}") from error


@contextmanager
def replacing_path(path: Path) -> Iterator[Path]:
    """The path of a new file, which replaces ``path`` when the block ends without an error.

    A file is never written in place, because a reader may have mapped the old one into its memory.
    """
    new = path.with_name(f"{path.name}.new")
    yield new
    new.replace(path)


def _entries(folder: Path) -> dict[str, Any]:
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
