"""Encodes the activations of a block: equal rows once, frequent values by their number in a palette, the others as floats.

Layout: the size of the first part; the first part; the floats. Before it is compressed, the first part has:

- how many rows are distinct; if that is less than all: for each row 0 if it is new, else 1 + the number of the distinct row that it equals;
- one byte that says which of the following pieces are there and in which form;
- the base of each distinct row, float32, if one of them is not zero;
- the size of the palette, its values, and the number of values that are not in it;
- a code for each value: its place in the palette, or the size of the palette for a value that is not in it.

The floats are the values that are not in the palette, float32, compressed. They are written value by value, or as four byte planes (the
first byte of each, then the second, and so on), which suit noisy floats; the planes are compressed together or each on its own.

Which palette and form a block gets is found by compressing a sample of it in each way; a small block is compressed as a whole in each way.
Values are compared as bits, so that -0.0 and every NaN come back as they were.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.codec.parts import CodecError, Reader, compressed, compressed_together, number, packed, smallest

__all__ = ["pack_values", "unpack_values"]

_BASE, _BYTES, _PLANES, _APART = 1, 2, 4, 8  # _BYTES: a code takes a byte, although fewer bits are enough
_FORMS = _BASE | _BYTES | _PLANES | _APART
TRIAL = 1 << 14  # values that are compressed in each way
CHUNKS = 8  # pieces of a large block that make up these values
UNLIKE = 0.01  # a block is compressed as a whole in each way if this share of its values is unlike those of the sample
PIECE = 1 << 16  # values that are looked up at a time: numpy makes positions of 8 bytes each
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
    base = bits[:, 0].copy()
    flags = _BASE if base.any() else 0
    tail = base.astype("<u4").tobytes() if flags else b""
    stored = np.ascontiguousarray(bits[:, 1:]).reshape(-1)
    del values, bits  # what is no longer needed makes room: a block may take half of a worker's memory
    if stored.size <= TRIAL:
        return min((b"".join(_written(stored, form, head, flags, tail)) for form in _forms(stored)), key=len)
    step = stored.size // CHUNKS
    trial = np.concatenate([stored[at * step : at * step + TRIAL // CHUNKS] for at in range(CHUNKS)])
    best = min(_forms(trial), key=lambda form: sum(map(len, _written(trial, form, b"", 0, b""))))
    if len(best.palette) and _share_outside(stored, best) > _share_outside(trial, best) + UNLIKE:
        return min((b"".join(_written(stored, form, head, flags, tail)) for form in _forms(stored)), key=len)
    pieces = _written(stored, best, head, flags, tail)
    del stored
    return b"".join(pieces)


def unpack_values(data: memoryview, rows: int, live: int) -> NDArray[np.float32]:
    """Decode float32 (rows, 1 + live). Raises `CodecError` if ``data`` is not what `pack_values` made of such an array."""
    reader = Reader(data)
    first = reader.raw(reader.number(len(data), "the size of the first part"), "the first part")
    part = Reader.of_compressed(first, 64 + 4 * PALETTE + 8 * rows + rows * live)
    distinct = part.number(rows, "the number of distinct rows")
    index: NDArray[np.int64] | None = None
    if distinct < rows:
        back = part.array(smallest(distinct), rows, "the equal rows").astype(np.int64)
        new = back == 0
        seen = np.cumsum(new)
        if (back > seen).any() or seen[-1] != distinct:
            raise CodecError(f"{seen[-1]} distinct rows: expected {distinct}, and no row equal to a later one")
        index = np.where(new, seen, back) - 1
    flags = part.number(_FORMS, "the form of the values")
    base = part.array("<u4", distinct, "the base") if flags & _BASE else np.zeros(distinct, np.uint32)
    size = distinct * live
    colours = part.number(PALETTE, "the size of the palette")
    palette = part.array("<u4", colours, "the palette")
    escapes = part.number(size, "the number of values outside of the palette")
    floats = _floats_read(reader, escapes, flags)
    stored = _codes_read(part, palette, floats, size, flags)
    part.end("the first part")
    reader.end("the values")
    out = np.empty((rows, 1 + live), np.uint32)
    same = index is None or distinct == 1  # numpy repeats one row by itself
    out[:, 0] = base if same else base[index]
    full = stored.reshape(distinct, live)
    out[:, 1:] = full if same else full[index]
    return out.view(np.float32)


def _codes_read(part: Reader, palette: NDArray[np.uint32], floats: NDArray[np.uint32], size: int, flags: int) -> NDArray[np.uint32]:
    """The values, uint32 (size,). ``floats`` are those outside of the palette."""
    if not len(palette):
        if len(floats) != size:
            raise CodecError(f"{len(floats)} values without a palette: expected {size}")
        return floats
    symbols = len(palette) + bool(len(floats))
    width = _width(symbols, flags)
    if not width:
        return np.full(size, palette[0], np.uint32)
    codes = part.codes(width, size, "the codes")
    if int(codes.max(initial=0)) >= symbols:
        raise CodecError(f"code {codes.max()}: expected codes below {symbols}")
    table = np.append(palette, np.uint32(0)).astype(np.uint32)
    if not len(floats):
        return table[codes]
    stored, used = np.empty(size, np.uint32), 0
    for at in range(0, size, PIECE):
        some = codes[at : at + PIECE]
        outside = np.flatnonzero(some == len(palette))
        own = floats[used : used + len(outside)]
        stored[at : at + PIECE] = table[some]
        stored[at + outside[: len(own)]] = own
        used += len(outside)
    if used != len(floats):
        raise CodecError(f"{used} values outside of the palette: expected {len(floats)}")
    return stored


def _floats_written(floats: NDArray[np.uint32], flags: int) -> list[bytes]:
    """The pieces of the floats. One byte plane at a time takes a quarter of the memory of all."""
    if not len(floats):
        return []
    planes = floats.astype("<u4", copy=False).view(np.uint8).reshape(-1, 4)
    if flags & _APART:
        return [piece for plane in (compressed(planes[:, k].tobytes()) for k in range(4)) for piece in (number(len(plane)), plane)]
    if flags & _PLANES:
        return [compressed_together(planes.size, lambda: (planes[:, k].tobytes() for k in range(4)))]
    return [compressed(planes.data.cast("B"))]


def _floats_read(reader: Reader, count: int, flags: int) -> NDArray[np.uint32]:
    if not count:
        return np.zeros(0, np.uint32)
    if flags & _APART:
        planes = np.empty((count, 4), np.uint8)
        for k in range(4):
            size = reader.number(1 + count, "the size of a plane")
            planes[:, k] = _whole(reader.raw(size, "a plane"), count)
    else:
        data = _whole(reader.rest(), 4 * count)
        planes = np.ascontiguousarray(data.reshape(4, count).T) if flags & _PLANES else data
    return planes.reshape(-1).view("<u4").astype(np.uint32, copy=False)


def _whole(data: memoryview, size: int) -> NDArray[np.uint8]:
    """The ``size`` bytes of a compressed part."""
    part = Reader.of_compressed(data, size)
    found: NDArray[np.uint8] = part.array("u1", size, "the values")
    part.end("the values")
    return found


def _equal_rows(bits: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
    """The first of each set of equal rows; and for each row 0 if it is the first, else 1 + the place of the first among the firsts.

    `None` instead of the latter if it would take more room than it saves.
    """
    if (len(bits) - 1) * bits.shape[1] < 8 * len(bits):
        return np.arange(len(bits)), None
    if (bits[-1] == bits[0]).all() and (bits == bits[0]).all():  # the usual case in the last layers of a deep network
        return np.zeros(1, np.int64), np.minimum(np.arange(len(bits)), 1)
    place: dict[int, int] = {}  # the place of a row among the firsts, by its checksum
    index = np.array([place.setdefault(zlib.crc32(row), len(place)) for row in bits], np.int64)
    distinct = len(place)
    if (len(bits) - distinct) * bits.shape[1] < 8 * len(bits) or distinct == len(bits):
        return np.arange(len(bits)), None
    first = np.zeros(distinct, np.int64)
    first[index[::-1]] = np.arange(len(bits) - 1, -1, -1)
    if not np.array_equal(bits[first[index]], bits):
        # Different rows have equal checksums: about 3 % of blocks with 16,384 distinct rows. All rows are written then, so only the saving
        # is lost.
        return np.arange(len(bits)), None
    back = index + 1
    back[first] = 0
    return first, back


def _forms(stored: NDArray[np.uint32]) -> Iterator[_Form]:
    """The ways to write values like ``stored`` that may be the shortest."""
    if stored.size and (stored == stored[0]).all():
        yield _Form(stored[:1], _PLANES)
        return
    colours, counts = np.unique(stored[:: max(1, stored.size // TRIAL)], return_counts=True)
    none = np.zeros(0, np.uint32)
    if len(colours) < PALETTE:  # one place is left for values that are not among these
        yield _Form(colours, _PLANES)
        if 2 < len(colours) < 16:
            yield _Form(colours, _PLANES | _BYTES)
    few = colours[counts >= FREQUENT * counts.sum()]
    if 0 < len(few) < len(colours):
        most = np.sort(few[np.argsort(-counts[np.isin(colours, few)], kind="stable")][:FEW])
        yield _Form(most, _APART)
    yield _Form(none, _PLANES)
    yield _Form(none, _APART)
    yield _Form(none, 0)


def _written(stored: NDArray[np.uint32], form: _Form, head: bytes, flags: int, tail: bytes) -> list[bytes]:
    """The pieces of the encoded values, in this form."""
    codes, outside = _codes(stored, form.palette)
    flags |= form.flags
    width = _width(len(form.palette) + bool(len(outside)), flags) if len(form.palette) else 0
    pieces = (
        *(head, number(flags), tail, number(len(form.palette)), form.palette.astype("<u4").tobytes(), number(len(outside))),
        packed(codes, width) if width else b"",
    )
    first = compressed(b"".join(pieces))
    return [number(len(first)), first, *_floats_written(outside, flags)]


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
        codes = np.empty(stored.size, np.uint8)
        for at in range(0, stored.size, PIECE):
            some, values = codes[at : at + PIECE], stored[at : at + PIECE]
            some[:] = np.searchsorted(palette, values)
            some[palette[np.minimum(some, len(palette) - 1)] != values] = len(palette)
    return codes, stored[codes == len(palette)] if len(palette) < PALETTE else stored[:0]
