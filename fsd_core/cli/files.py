"""Files that a command writes at its end: refused before it begins where they cannot be, or would replace what is not ours."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from fsd_core.errors import InputError

__all__ = ["check_apart", "check_file", "write_file"]

HEAD_BYTES = 1024


def check_file(flag: str, path: Path, mark: str) -> None:
    """Raise `InputError` unless `write_file` can write ``path``: nothing is there, or a file whose beginning has ``mark``."""
    try:
        if os.path.lexists(path):
            with path.open("rb") as file:
                if mark.encode() not in file.read(HEAD_BYTES):
                    raise InputError(f"{flag} {path}: exists and fsd did not make it; it is not replaced")
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"{flag} {path}: cannot be written: {error.strerror or error}") from error


def check_apart(**paths: str | Path | None) -> None:
    """Raise `InputError` where two flags, by their names, mean one file."""
    seen: dict[Path, str] = {}
    for flag, path in paths.items():
        if path is not None and (other := seen.setdefault(Path(path).resolve(), flag)) != flag:
            raise InputError(f"--{flag} {path}: is the file of --{other}: must be another")


def write_file(flag: str, path: Path, text: str, mark: str) -> None:
    """Write it in one step. Raises `InputError`."""
    check_file(flag, path, mark)
    descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(aside, 0o666 & ~mask)
        os.replace(aside, path)
    except BaseException:
        os.unlink(aside)
        raise
