"""What a plan found, kept below ``$FSD_HOME/plans`` under a digest of all that it depends on.

The folder holds at most `MOST_FILES` files and `MOST_BYTES` bytes: the oldest are removed. A file that is damaged, or that cannot be
written, costs only time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from fsd_core.common.files import read_regular, replacing
from fsd_core.common.sealed import Damaged, seal, unseal
from fsd_core.errors import InputError

__all__ = ["digest", "input_digest", "remembered"]

MOST_FILES, MOST_BYTES = 64, 32 << 20
VERSION = 4  # of the content: another version is another digest


def digest(*parts: object) -> str:
    """The SHA-256 of the texts of ``parts``, hexadecimal."""
    found = hashlib.sha256(str(VERSION).encode())
    for part in parts:
        found.update(repr(part).encode(errors="backslashreplace") + b"\n")
    return found.hexdigest()


def input_digest(inputs: Any) -> str:
    """The SHA-256 of a scipy CSR matrix, hexadecimal."""
    found = hashlib.sha256(repr((inputs.shape, str(inputs.dtype))).encode())
    for array in (inputs.indptr, inputs.indices, inputs.data):
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def remembered(home: Path, key: str, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """What is kept below ``home`` under ``key``; if there is nothing, what ``make`` returns, values that JSON can hold, which is kept."""
    file = home / "plans" / f"{key}.json"
    with suppress(OSError, InputError, Damaged):
        return unseal(read_regular(file, MOST_BYTES), str(file))
    made = dict(make())
    with suppress(OSError, ValueError):  # a full disk, for instance, is no reason to fail
        data = seal(made)
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as out:
            out.write(data)
        _bound(file.parent.glob("*.json"))
    return made


def _bound(files: Iterable[Path]) -> None:
    """Remove the oldest files beyond the bounds."""
    known = []
    for file in files:
        with suppress(OSError):  # removed by another process
            found = file.stat()
            known.append((found.st_mtime, found.st_size, file))
    total = 0
    for number, (_, size, file) in enumerate(sorted(known, reverse=True)):
        total += size
        if number >= MOST_FILES or total > MOST_BYTES:
            with suppress(OSError):
                file.unlink()
