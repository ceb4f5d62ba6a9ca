"""Files that a command or a call writes when it ends. It checks their paths before it starts, and never replaces a file of another program.

Opening a pipe may wait forever for a program at its other end, so no function here opens anything but a regular file.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from fsd_core.errors import InputError

__all__ = ["check_apart", "check_file", "check_folder", "open_regular", "read_regular", "replacing", "write_file"]

HEAD_BYTES = 1024


def check_file(name: str, path: Path, mark: str, expected: str = "a new path") -> None:
    """Raise `InputError` unless `write_file` can write ``path``.

    `write_file` can if ``path`` does not exist, or is a file that fsd made: its first `HEAD_BYTES` bytes hold the text ``mark``. ``name``
    is the argument that errors name, and ``expected`` what they ask for instead of a file that fsd did not make.
    """
    try:
        if os.path.lexists(path):
            with open_regular(path) as file:
                if mark.encode() not in file.read(HEAD_BYTES):
                    raise InputError(f"{name} {path}: exists and fsd did not make it: expected {expected}")
    except OSError as error:
        raise InputError(f"{name} {path}: cannot be written: {error.strerror or error}") from error
    check_folder(name, path)


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file. Raises `OSError` if ``path`` is anything else, for instance a folder or a pipe."""
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115  # the caller closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError("it is not a regular file")
    return file


def read_regular(path: Path, most: int) -> bytes:
    """The bytes of a regular file. Raises `FileNotFoundError`, and `InputError` for all other errors and for more than ``most`` bytes."""
    try:
        with open_regular(path) as file:
            data = file.read(most + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(data) > most:
        raise InputError(f"{path}: is larger than {most >> 20} MiB: expected a file that fsd wrote")
    return data


def check_folder(name: str, path: Path) -> None:
    """Raise `InputError` unless files can be made in the folder of ``path``."""
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"{name} {path}: cannot be written: {error.strerror or error}") from error


def check_apart(**paths: str | Path | None) -> None:
    """Raise `InputError` if two arguments name the same file. ``paths``: by argument."""
    seen: dict[Path, str] = {}
    for name, path in paths.items():
        if path is not None and (other := seen.setdefault(Path(path).resolve(), name)) != name:
            raise InputError(f"{name} {path}: {other} names the same file: expected two files")


def write_file(name: str, path: Path, text: str, mark: str) -> None:
    """Write a text file in one step. Raises `InputError`, see `check_file`."""
    check_file(name, path, mark)
    with replacing(path) as file:
        file.write(text.encode(errors="replace"))  # the name of a file need not be UTF-8


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that replaces ``path`` if the block ends without an error: other processes never see a part of it."""
    descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(aside, 0o666 & ~mask)
        os.replace(aside, path)
    except BaseException as error:
        os.unlink(aside)
        if isinstance(error, OSError):
            error.filename = str(path)  # the error of a full disk names no file
        raise
