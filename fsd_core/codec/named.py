"""Named tensors as bytes, without loss: the inputs and outputs of an ONNX model, and what one of its stages sends to another.

Layout: the number of this form (one byte); the CRC-32 of all other bytes, little-endian; the number of tensors; then for each its name,
the number of its dtype, its axes and their sizes, and its values as planes: the first bytes of all values, then the second ones, and so on.
A plane is a zstd frame where that is shorter. Planes of exponents or of whole numbers become small, planes of the last digits do not.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsd_core.codec.parts import CodecError, Reader, compressed, number

__all__ = ["DTYPES", "FORM", "decode_tensors", "encode_tensors"]

FORM = 1
DTYPES = (
    *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64"),
)  # at most 256; new ones go to the end, because the place of a dtype is its number in the bytes
_START = struct.Struct("<BI")
_MOST = (1 << 35) - 1  # tensors, axes, bytes: what a number of the form can hold
_MOST_AXES = 64  # of numpy


def encode_tensors(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """Encode arrays and their names. Raises `ValueError` for a dtype that is not in `DTYPES`."""
    parts = [number(len(tensors))]
    for name, array in tensors.items():
        text = name.encode()
        head = (len(text), DTYPES.index(array.dtype.name), array.ndim, *array.shape)
        parts += [b"".join(map(number, head)), text]
        values = np.ascontiguousarray(array).reshape(-1).view(np.uint8).reshape(array.size, array.itemsize)
        for byte in range(array.itemsize):
            plane = compressed(values[:, byte].tobytes())
            parts += [number(len(plane)), plane]
    crc = FORM
    for part in parts:
        crc = zlib.crc32(part, crc)
    return b"".join((_START.pack(FORM, crc), *parts))


def decode_tensors(data: bytes | memoryview, names: Collection[str]) -> dict[str, NDArray[Any]]:
    """Decode what `encode_tensors` made of tensors with exactly these names. The caller may change the arrays.

    Raises `CodecError` if ``data`` is damaged or has other names, before it allocates more than its header justifies.
    """
    data = memoryview(data)
    if len(data) < _START.size:
        raise CodecError(f"tensors of {len(data)} bytes: expected at least {_START.size}, the size of a header")
    form, expected = _START.unpack_from(data)
    if form != FORM:
        raise CodecError(f"tensors of form {form}: expected form {FORM}")
    if (found := zlib.crc32(data[_START.size :], FORM)) != expected:
        raise CodecError(f"tensors of {len(data)} bytes with checksum {found:08x}: expected {expected:08x}")
    reader = Reader(data[_START.size :])
    tensors: dict[str, NDArray[Any]] = {}
    for _ in range(reader.number(_MOST, "the number of tensors")):
        length, kind = reader.number(len(data), "the length of a name"), reader.number(len(DTYPES) - 1, "the number of a dtype")
        shape = [reader.number(_MOST, "the size of an axis") for _ in range(reader.number(_MOST_AXES, "the number of axes"))]
        name = bytes(reader.raw(length, "a name")).decode(errors="replace")
        tensors[name] = _values(reader, np.dtype(DTYPES[kind]), shape, name)
    reader.end("tensors")
    if tensors.keys() != set(names):
        raise CodecError(f"tensors {', '.join(sorted(tensors)) or 'none'}: expected {', '.join(sorted(names)) or 'none'}")
    return tensors


def _values(reader: Reader, dtype: np.dtype[Any], shape: list[int], name: str) -> NDArray[Any]:
    """The values of one tensor, from its planes."""
    size = math.prod(shape)
    if size * dtype.itemsize > _MOST:
        raise CodecError(f"tensor {name!r} of shape {shape} of {dtype}: expected at most {_MOST} bytes")
    planes = []
    for _ in range(dtype.itemsize):
        plane = Reader.of_compressed(reader.raw(reader.number(_MOST, "the size of a plane"), "a plane"), size)
        planes.append(plane.array("u1", size, "a plane"))
        plane.end("a plane")
    values = np.stack(planes, axis=-1) if size else np.zeros((0, dtype.itemsize), np.uint8)
    found: NDArray[Any] = values.reshape(-1).view(dtype).reshape(shape)
    return found
