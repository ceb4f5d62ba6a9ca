"""Encodes the activations of a block: equal rows once, frequent values by their number in a palette, the others as floats.

Layout of the part before compression:

- how many rows are distinct; if that is less than all: for each row 0 if it is new, else 1 + the number of the distinct row that it equals;
- one byte that says which of the following pieces are there and in which form;
- the base of each distinct row, float32, if one of them is not zero;
- the size of the palette, its values, and the number of values that are not in it;
- a code for each value: its place in the palette, or the size of the palette for a value that is not in it;
- the values that are not in the palette, float32: value by value, or as four byte planes (the first byte of each, then the second, and so
  on). Planes suit noisy floats.

Which palette and form a block gets is found by compressing a sample of it in each way; a small block is compressed as a whole in each way.
Values are compared as bits, so that -0.0 and every NaN come back as they were.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.codec.parts import CodecError, Reader, compressed, number, packed, smallest

__all__ = ["pack_values", "unpack_values"]

_BASE, _PLANES, _BYTES = 1, 2, 4  # _BYTES: a code takes a byte, although fewer bits would do
TRIAL = 1 << 14  # values that are compressed in each way
CHUNKS = 8  # pieces of a large block that make up these values
UNLIKE = 0.01  # a block is compressed as a whole in each way if this share of its values is unlike those of the sample
PALETTE = 256
FREQUENT = 1 / 16  # the share of a value that gets a place in a small palette
FEW = 3  # places of a small palette


@attrs.frozen(eq=False)
class _Form:
    """One way to write values."""

    palette: NDArray[np.uint32]  # ascending
    flags: int


def pack_values(values: NDArray[np.float32]) -> bytes:
    """Encode float32 (rows, 1 + live samples), of which column 0 is the base."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    first, back = _equal_rows(bits)
    if back is not None:
        bits = bits[first]
    head = number(len(bits))
    if back is not None:
        head += back.astype(smallest(len(bits))).tobytes()
    base = bits[:, 0]
    flags = _BASE if base.any() else 0
    tail = base.astype("<u4").tobytes() if flags else b""
    stored = np.ascontiguousarray(bits[:, 1:]).reshape(-1)
    if stored.size <= TRIAL:
        return min((_written(stored, form, head, flags, tail) for form in _forms(stored)), key=len)
    step = stored.size // CHUNKS
    trial = np.concatenate([stored[at * step : at * step + TRIAL // CHUNKS] for at in range(CHUNKS)])
    best = min(_forms(trial), key=lambda form: len(_written(trial, form, b"", 0, b"")))
    if len(best.palette) and _share_outside(stored, best) > _share_outside(trial, best) + UNLIKE:
        return min((_written(stored, form, head, flags, tail) for form in _forms(stored)), key=len)
    return _written(stored, best, head, flags, tail)


def unpack_values(data: memoryview, rows: int, live: int) -> NDArray[np.float32]:
    """Decode float32 (rows, 1 + live). Raises `CodecError` if ``data`` is not what `pack_values` made of such an array."""
    most = 64 + 4 * rows + 4 * PALETTE + 5 * rows * (1 + live)
    part = Reader.of_compressed(data, most)
    distinct = part.number(rows, "the number of distinct rows")
    index: NDArray[np.int64] | None = None
    if distinct < rows:
        back = part.array(smallest(distinct), rows, "the equal rows").astype(np.int64)
        new = back == 0
        seen = np.cumsum(new)
        if (back > seen).any() or seen[-1] != distinct:
            raise CodecError(f"{seen[-1]} distinct rows: expected {distinct}, and no row equal to a later one")
        index = np.where(new, seen, back) - 1
    flags = part.number(_BASE | _PLANES | _BYTES, "the form of the values")
    base = part.array("<u4", distinct, "the base") if flags & _BASE else np.zeros(distinct, np.uint32)
    size = distinct * live
    colours = part.number(PALETTE, "the size of the palette")
    palette = part.array("<u4", colours, "the palette")
    escapes = part.number(size, "the number of values outside of the palette")
    stored = _codes_read(part, palette, escapes, size, flags)
    part.end("the values")
    out = np.empty((rows, 1 + live), np.uint32)
    out[:, 0] = base if index is None else base[index]
    full = stored.reshape(distinct, live)
    out[:, 1:] = full if index is None else full[index]
    return out.view(np.float32)


def _codes_read(part: Reader, palette: NDArray[np.uint32], escapes: int, size: int, flags: int) -> NDArray[np.uint32]:
    """The values, uint32 (size,)."""
    colours = len(palette)
    if not colours:
        if escapes != size:
            raise CodecError(f"{escapes} values without a palette: expected {size}")
        return _floats_read(part, size, flags)
    width = _width(colours + bool(escapes), flags)
    if not width:
        return np.full(size, palette[0], np.uint32)
    codes = part.codes(width, size, "the codes")
    if int(codes.max(initial=0)) >= colours + bool(escapes):
        raise CodecError(f"code {codes.max()}: expected codes below {colours + bool(escapes)}")
    stored = np.append(palette, np.uint32(0)).astype(np.uint32)[codes]
    if escapes:
        outside = np.flatnonzero(codes == colours)
        if len(outside) != escapes:
            raise CodecError(f"{len(outside)} values outside of the palette: expected {escapes}")
        stored[outside] = _floats_read(part, escapes, flags)
    return stored


def _floats_read(part: Reader, count: int, flags: int) -> NDArray[np.uint32]:
    data = part.array("u1", 4 * count, "the values")
    if flags & _PLANES:
        data = np.ascontiguousarray(data.reshape(4, count).T).reshape(-1)
    return data.view("<u4").astype(np.uint32, copy=False)


def _equal_rows(bits: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
    """The first of each set of equal rows; and for each row 0 if it is the first, else 1 + the place of the first among the firsts.

    `None` instead of the latter if it would take more room than it saves.
    """
    place: dict[int, int] = {}  # the place of a row among the firsts, by its checksum
    index = np.array([place.setdefault(zlib.crc32(row), len(place)) for row in bits], np.int64)
    distinct = len(place)
    if (len(bits) - distinct) * bits.shape[1] < 8 * len(bits) or distinct == len(bits):
        return np.arange(len(bits)), None
    first = np.zeros(distinct, np.int64)
    first[index[::-1]] = np.arange(len(bits) - 1, -1, -1)
    if not np.array_equal(bits[first[index]], bits):
        return np.arange(len(bits)), None  # different rows have equal checksums, which is as good as impossible
    back = index + 1
    back[first] = 0
    return first, back


def _forms(stored: NDArray[np.uint32]) -> Iterator[_Form]:
    """The ways to write values like ``stored`` that may be the shortest."""
    if stored.size and (stored == stored[0]).all():
        yield _Form(stored[:1], _PLANES)
        return
    colours, counts = np.unique(stored[:: max(1, stored.size // (TRIAL // 4))], return_counts=True)
    none = np.zeros(0, np.uint32)
    if len(colours) < PALETTE:  # one place is left for values that are not among these
        yield _Form(colours, _PLANES)
        if 2 < len(colours) < 16:
            yield _Form(colours, _PLANES | _BYTES)
    few = colours[counts >= FREQUENT * counts.sum()]
    if 0 < len(few) < len(colours):
        yield _Form(np.sort(few[np.argsort(-counts[np.isin(colours, few)], kind="stable")][:FEW]), _PLANES)
    yield _Form(none, _PLANES)
    yield _Form(none, 0)


def _written(stored: NDArray[np.uint32], form: _Form, head: bytes, flags: int, tail: bytes) -> bytes:
    """The compressed part, in this form."""
    codes, outside = _codes(stored, form.palette)
    flags |= form.flags
    width = _width(len(form.palette) + bool(len(outside)), flags) if len(form.palette) else 0
    floats = outside.astype("<u4", copy=False)
    plain = floats.tobytes() if not form.flags & _PLANES else np.ascontiguousarray(floats.view(np.uint8).reshape(-1, 4).T).tobytes()
    pieces = (
        *(head, number(flags), tail, number(len(form.palette)), form.palette.astype("<u4").tobytes(), number(len(outside))),
        *(packed(codes, width) if width else b"", plain),
    )
    return compressed(b"".join(pieces))


def _share_outside(stored: NDArray[np.uint32], form: _Form) -> float:
    return len(_codes(stored, form.palette)[1]) / stored.size


def _width(symbols: int, flags: int) -> int:
    """The bits of a code."""
    if symbols < 2:
        return 0
    return 8 if flags & _BYTES or symbols > 16 else 4 if symbols > 4 else 2 if symbols > 2 else 1


def _codes(stored: NDArray[np.uint32], palette: NDArray[np.uint32]) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """The code of each value, and the values that are not in ``palette``."""
    if not len(palette):
        return np.zeros(0, np.uint8), stored
    if len(palette) <= 4:
        codes = np.full(stored.size, len(palette), np.uint8)
        for code, colour in enumerate(palette):
            codes[stored == colour] = code
    else:
        codes = np.searchsorted(palette, stored).astype(np.uint8)
        codes[palette[np.minimum(codes, len(palette) - 1)] != stored] = len(palette)
    return codes, stored[codes == len(palette)] if len(palette) < PALETTE else stored[:0]
