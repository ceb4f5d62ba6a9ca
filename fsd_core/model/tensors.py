"""Reads and writes the safetensors format without copying arrays: 8 bytes of header length, a JSON header, then the arrays.

The README of the safetensors project defines the format. This module imports numpy only, so that a worker can use it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, TypeGuard

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.errors import InputError

__all__ = ["TensorInfo", "header", "header_bytes", "pack", "view"]

_LENGTH = 8
_MAX_HEADER = 100_000_000  # bytes; the bound of the safetensors library
_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}

Buffer = bytes | bytearray | memoryview


@attrs.frozen
class TensorInfo:
    """The dtype, the shape and the place of one array: bytes ``start`` to ``end`` (excluded) of the buffer or file."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    end: int


def header_bytes(head: Buffer) -> int:
    """The number of bytes before the arrays (length field and header). ``head`` has the first 8 bytes of the file, or more.

    Raises InputError if ``head`` has fewer than 8 bytes, or if the length in it is too small or too large for a header.
    """
    if len(head) < _LENGTH:
        raise InputError(f"not a safetensors file: {len(head)} bytes: expected at least {_LENGTH}, the length of the header")
    size = int.from_bytes(head[:_LENGTH], "little")
    if not 2 <= size <= _MAX_HEADER:
        raise InputError(f"not a safetensors file: a header of {size} bytes: expected 2 to {_MAX_HEADER}")
    return _LENGTH + size


def header(head: Buffer) -> tuple[dict[str, TensorInfo], dict[str, str], int]:
    """Read the header. Returns the arrays by name in the order of their bytes, the metadata, and the offset of the first array in bytes.

    ``head`` has at least `header_bytes` bytes. Raises InputError if the header does not follow the format, or if the arrays are not
    adjacent. Wrong sizes in the header cannot cause a large allocation.
    """
    offset = header_bytes(head)
    if len(head) < offset:
        raise InputError(f"truncated safetensors header: {len(head)} bytes: expected {offset}")
    try:
        entries = json.loads(bytes(head[_LENGTH:offset]))
    except (ValueError, RecursionError) as error:
        raise InputError(f"the safetensors header: expected JSON: {error}") from error
    if not isinstance(entries, dict):
        raise InputError(f"the safetensors header is a {type(entries).__name__}: expected a JSON object")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise InputError("the safetensors metadata: expected a JSON object of texts")
    infos = sorted(((name, _info(name, entry, offset)) for name, entry in entries.items()), key=lambda item: (item[1].start, item[1].end))
    position = offset
    for name, info in infos:
        if info.start != position:
            raise InputError(f"safetensors array {name!r} starts at byte {info.start}: expected {position}")
        position = info.end
    return dict(infos), metadata, offset


def _info(name: str, entry: object, offset: int) -> TensorInfo:
    """One entry of the header, checked."""
    if not isinstance(entry, dict):
        raise InputError(f"safetensors array {name!r}: its entry has type {type(entry).__name__}: expected a JSON object")
    dtype, shape, span = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise InputError(f"safetensors array {name!r}: dtype {dtype!r}: expected one of {', '.join(_DTYPES)}")
    if not _naturals(shape) or not _naturals(span) or len(span) != 2:
        raise InputError(f"safetensors array {name!r}: shape {shape!r}, data_offsets {span!r}: expected lists of whole numbers from 0")
    kind = np.dtype(_DTYPES[dtype])
    size = math.prod(shape) * kind.itemsize
    if span[1] - span[0] != size:
        raise InputError(f"safetensors array {name!r}: {span[1] - span[0]} bytes: expected {size} for its dtype and shape")
    return TensorInfo(kind, tuple(shape), offset + span[0], offset + span[1])


def _naturals(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def view(buffer: Any, info: TensorInfo) -> NDArray[Any]:
    """Return the array in ``buffer`` (bytes, memoryview, mmap, ...) as a view. Raises InputError if the buffer ends before the array."""
    size = memoryview(buffer).nbytes
    if size < info.end:
        raise InputError(f"truncated: {size} bytes: expected at least {info.end}, where an array ends")
    count = (info.end - info.start) // info.dtype.itemsize
    return np.frombuffer(buffer, info.dtype, count, info.start if count else 0).reshape(info.shape)


def pack(tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None) -> list[Buffer]:
    """Encode a safetensors file as buffers, which the caller writes in order: the header, then each array (a view if it is contiguous).

    Wide dtypes come first and the header is padded to 8 bytes, so that every array is aligned. Equal input gives equal bytes.
    Raises InputError for a dtype that the format does not have.
    """
    arrays = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    bodies: list[Buffer] = []
    position = 0
    for name, array in sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
        if array.dtype not in _NAMES:
            raise InputError(f"array {name!r} has dtype {array.dtype}: expected one of safetensors: {', '.join(_DTYPES)}")
        end = position + array.nbytes
        entries[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [position, end]}
        if array.nbytes:
            bodies.append(array.reshape(-1).data.cast("B"))
        position = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(_LENGTH, "little") + text, *bodies]
