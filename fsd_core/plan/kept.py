"""Keeps the figures of plans below ``$FSD_HOME/plans``, under a digest of everything that they depend on.

The folder holds at most `MOST_FILES` files and `MOST_BYTES` bytes: the oldest are removed. A file that is damaged, or that cannot be
written, costs only time. So does one whose checksum is right but whose content has another form: another program may have written it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from fsd_core.common.fields import Kind, integer, number, read
from fsd_core.common.files import read_regular, replacing
from fsd_core.common.sealed import Damaged, seal, unseal
from fsd_core.errors import InputError

__all__ = ["SPLIT", "counts", "digest", "entry", "figures", "input_digest", "remembered"]

MOST_FILES, MOST_BYTES = 64, 32 << 20
VERSION = 6  # of the content: another version is another digest


def figures(*names: str) -> Kind:
    """A table of numbers that has at least these ``names``."""
    return _numbers(number(-math.inf), names)


def counts(*names: str) -> Kind:
    """A table of whole numbers that has at least these ``names``."""
    return _numbers(integer(0), names)


def _numbers(kind: Kind, names: tuple[str, ...]) -> Kind:
    def holds(value: Any) -> bool:
        return isinstance(value, Mapping) and value.keys() >= set(names) and all(map(kind.holds, value.values()))

    return Kind(f"a table of numbers with {', '.join(names)}", holds)


def entry(cls: type) -> Kind:
    """A table that `read` takes for the attrs class ``cls``."""

    def holds(value: Any) -> bool:
        with suppress(InputError):
            return isinstance(value, Mapping) and read(cls, value, "") is not None
        return False

    return Kind(f"a table of {cls.__name__}", holds)


SPLIT = Kind(
    "the sizes of a split",
    lambda value: (
        isinstance(value, Mapping) and value.keys() == {"data", "pipeline", "tensor"} and all(map(integer(1).holds, value.values()))
    ),
)


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


def remembered(home: Path, key: str, form: type, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """The values that are kept below ``home`` under ``key``; if there are none, keeps and returns those of ``make()``, as JSON can hold.

    ``form``: the attrs class whose keys the content has.
    """
    file = home / "plans" / f"{key}.json"
    with suppress(OSError, InputError, Damaged):
        found = unseal(read_regular(file, MOST_BYTES), str(file))
        read(form, found, f"{file}: ")
        return found
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
    for at, (_, size, file) in enumerate(sorted(known, reverse=True)):
        total += size
        if at >= MOST_FILES or total > MOST_BYTES:
            with suppress(OSError):
                file.unlink()
