"""Reads tables of ``row column value`` lines, 1-based, as the Graph Challenge publishes them: plain, ``.gz`` or ``.xz``."""

from __future__ import annotations

import codecs
import gzip
import io
import lzma
import warnings
import zlib
from pathlib import Path

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.common.files import open_regular
from fsd_core.errors import InputError

__all__ = ["Table", "read_table"]

_UNPACK = {".gz": gzip.decompress, ".xz": lzma.decompress}


@attrs.frozen(eq=False)
class Table:
    """A table in the order of its file. ``rows`` and ``columns`` are int64 (lines,), 0-based; ``values`` are float32 (lines,).

    Each pair of row and column occurs once.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    values: NDArray[np.float32]


def read_table(path: Path, rows: int, columns: int) -> Table:
    """Read and check one table. ``rows`` and ``columns`` are the largest allowed row and column numbers (1-based).

    Raises InputError, which names the file and the wrong line, if the file cannot be read or is malformed.
    """
    limits = (rows, columns)
    try:
        with open_regular(path) as file:
            text = file.read()
        if path.suffix in _UNPACK:
            text = _UNPACK[path.suffix](text)
        text = text.removeprefix(codecs.BOM_UTF8)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if not text.strip():
        raise InputError(f"{path}: is empty: expected lines of 'row column value'")
    parsed = _uniform(text)
    if parsed is None:
        parsed = _any(text)
    if parsed is None or parsed.shape[0] != 3:
        raise _fault(path, text, limits)
    ids = parsed[:2]
    with np.errstate(over="ignore"):
        values = parsed[2].astype(np.float32)
    if not (
        (ids >= 1).all()
        and (ids[0] <= rows).all()
        and (ids[1] <= columns).all()
        and (ids == np.floor(ids)).all()
        and np.isfinite(values).all()
    ):
        raise _fault(path, text, limits)
    first, second = ids.astype(np.int64) - 1
    key = first * columns + second
    if not (key[1:] > key[:-1]).all():
        order = np.argsort(key, kind="stable")
        twice = np.flatnonzero(key[order][1:] == key[order][:-1])
        if twice.size:
            line = int(order[twice + 1].min())
            pair = f"row {first[line] + 1}, column {second[line] + 1}"
            raise InputError(f"{path}: {pair} is given twice, the second time as entry {line + 1}: expected each pair once")
    return Table(first, second, values)


def _uniform(text: bytes) -> NDArray[np.float64] | None:
    """The columns, float64 (3, lines), of a table whose lines all have the same value, as in the challenge; `None` for another text.

    It is many times faster than the general parser: it adds up the digits place by place, for all lines at once.
    """
    data = np.frombuffer(text if text.endswith(b"\n") else text + b"\n", np.uint8)
    breaks = data == ord("\n")
    separators = np.flatnonzero(breaks | (data == ord("\t")) | (data == ord(" ")))
    if separators.size != 3 * np.count_nonzero(breaks) or not breaks[separators[2::3]].all():
        return None
    ends = separators.reshape(-1, 3)
    starts = np.concatenate([[0], separators[:-1] + 1]).reshape(-1, 3)
    lengths = ends - starts
    if lengths.min() < 1 or lengths[:, :2].max() > 10 or (lengths[:, 2] != lengths[0, 2]).any():
        return None
    value = data[starts[0, 2] : ends[0, 2]]
    if any((data[starts[:, 2] + k] != byte).any() for k, byte in enumerate(value)):
        return None
    parsed = np.zeros((3, len(ends)))
    for column in (0, 1):
        for place in range(lengths[:, column].max()):
            digits = data[np.maximum(ends[:, column] - 1 - place, 0)] - np.uint8(
                ord("0")
            )  # a byte that is not a digit gives more than 9, because uint8 wraps around
            digits[place >= lengths[:, column]] = 0
            if digits.max() > 9:
                return None
            parsed[column] += digits * 10.0**place
    try:
        parsed[2] = float(value.tobytes())
    except ValueError:
        return None
    return parsed


def _any(text: bytes) -> NDArray[np.float64] | None:
    """The columns, float64 (n, lines), of a table with any values; `None` if the text is not a table.

    Latin-1 decodes every byte, so that the parser refuses wrong bytes, not the decoder.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            return np.loadtxt(io.TextIOWrapper(io.BytesIO(text), "latin-1"), np.float64, comments=None, ndmin=2).T
        except ValueError:
            return None


def _fault(path: Path, text: bytes, limits: tuple[int, int]) -> InputError:
    """The error for a table that was refused: it names the first wrong line, which this function finds by reading line by line."""
    for number, line in enumerate(io.TextIOWrapper(io.BytesIO(text), "latin-1"), 1):
        where, fields = f"{path}, line {number}", line.split()
        if not fields:
            continue
        try:
            row, column, value = (float(field) for field in fields)
        except ValueError:
            return InputError(f"{where}: {line.strip()[:60]!r}: expected 'row column value'")
        for axis, index, limit in (("row", row, limits[0]), ("column", column, limits[1])):
            if not (index == index // 1 and 1 <= index <= limit):
                return InputError(f"{where}: {axis} {index:.17g}: expected a whole number from 1 to {limit}")
        if not abs(value) <= float(np.finfo(np.float32).max):
            return InputError(f"{where}: value {value}: expected a finite float32")
    return InputError(f"{path}: is not a table: expected lines of 'row column value'")
