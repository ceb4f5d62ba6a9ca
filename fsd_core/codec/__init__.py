"""Encodes blocks of activations as bytes and decodes them again, without loss.

Layout, little-endian: a header (codec number, flags, rows, live samples, samples of the batch, stored values), the CRC-32 of the header
and of all bytes after the CRC, then one zstd frame with these parts:

- the numbers of the live samples, as a bitmap or as int32, whichever is shorter; this part is empty if all samples are live;
- the base column, float32 (rows,); this part is empty if all its values are zero;
- a bitmap of the nonzero values; this part is empty if it would not save bytes;
- the values, float32: the nonzero ones if the bitmap is present, else all. They are stored either value by value, or as four byte planes
  (the first byte of every value, then the second, and so on), whichever compresses better. Planes suit noisy floats.

The caller of `decode` passes the expected rows and samples, so that damaged data cannot cause a larger allocation than the block needs.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
import zstandard
from numpy.typing import NDArray

from fsd_core.kernel import Block

__all__ = ["CodecError", "decode", "encode"]

_HEADER = struct.Struct("<BBIIII")  # codec, flags, rows, live, samples, stored values
_CRC = struct.Struct("<I")
_START = _HEADER.size + _CRC.size
_CODEC = 2
_BITMAP, _BASE, _MASK, _PLANES = 1, 2, 4, 8
_LEVEL = 3  # on the challenge's first layers, level 1 took a third less time and a tenth more bytes
_TRIAL = 1 << 14  # the number of values that are compressed in both ways, to choose between planes and plain floats


class CodecError(ValueError):
    """The bytes are not an encoded block, or the block has another shape than expected. The message describes the difference."""


def encode(block: Block) -> bytes:
    """Encode ``block`` as bytes. The result leaves out samples that are equal to the block's base in every row."""
    block = block.trimmed()
    live, values = len(block.live), block.values[:, 1:]
    flags = 0
    parts: list[bytes] = []
    if live < block.samples:
        if live * 32 > block.samples:
            flags |= _BITMAP
            parts.append(_bits(_flags(block.live, block.samples)))
        else:
            parts.append(block.live.astype("<i4").tobytes())
    base = np.ascontiguousarray(block.values[:, 0])
    if base.view(np.uint32).any():
        flags |= _BASE
        parts.append(base.astype("<f4").tobytes())
    stored = np.ascontiguousarray(values).reshape(-1)
    mask = stored.view(np.uint32) != 0  # compared as bits, so that -0.0 is kept
    nonzeros = int(np.count_nonzero(mask))
    if 4 * (stored.size - nonzeros) > stored.size:
        flags |= _MASK
        parts.append(_bits(mask))
        stored = stored[mask]
    stored = stored.astype("<f4", copy=False)
    compress = zstandard.ZstdCompressor(level=_LEVEL).compress
    trial = stored[:_TRIAL]
    if len(compress(_planes(trial))) < len(compress(trial.tobytes())):
        flags |= _PLANES
        parts.append(_planes(stored))
    else:
        parts.append(stored.tobytes())
    header = _HEADER.pack(_CODEC, flags, block.rows, live, block.samples, stored.size)
    body = compress(b"".join(parts))
    return b"".join((header, _CRC.pack(zlib.crc32(body, zlib.crc32(header))), body))


def decode(data: bytes | memoryview, rows: int, samples: int) -> Block:
    """Decode a block. Raises `CodecError` if ``data`` is damaged, or if the block does not have ``rows`` rows and ``samples`` samples."""
    data = memoryview(data)
    if len(data) < _START:
        raise CodecError(f"a block of {len(data)} bytes: expected at least {_START}, the size of a header")
    codec, flags, has_rows, live, has_samples, count = _HEADER.unpack_from(data)
    if codec != _CODEC:
        raise CodecError(f"a block of codec {codec}: expected codec {_CODEC}")
    (expected,), found = _CRC.unpack_from(data, _HEADER.size), zlib.crc32(data[_START:], zlib.crc32(data[: _HEADER.size]))
    if found != expected:
        raise CodecError(f"a block of {len(data)} bytes with checksum {found:08x}: expected {expected:08x}")
    if (has_rows, has_samples) != (rows, samples):
        raise CodecError(f"a block of {has_rows} rows and {has_samples} samples: expected {rows} rows and {samples} samples")
    size = rows * live
    if live > samples or count > size or (count != size and not flags & _MASK):
        raise CodecError(f"{live} live samples and {count} values: expected at most {samples} live samples, and {rows} values for each")
    live_bytes = 0 if live == samples else (samples + 7) // 8 if flags & _BITMAP else 4 * live
    base_bytes = 4 * rows if flags & _BASE else 0
    mask_bytes = (size + 7) // 8 if flags & _MASK else 0
    body = _decompress(data[_START:], live_bytes + base_bytes + mask_bytes + 4 * count)

    values = np.zeros((rows, 1 + live), np.float32)
    at = live_bytes
    if base_bytes:
        values[:, 0] = np.frombuffer(body, "<f4", rows, at)
        at += base_bytes
    tail = body[at + mask_bytes :]
    if flags & _PLANES:
        stored = np.frombuffer(tail, np.uint8).reshape(4, count).T.copy().reshape(-1).view("<f4")
    else:
        stored = np.frombuffer(tail, "<f4")
    if flags & _MASK:
        mask = _unbits(body[at : at + mask_bytes], size)
        if np.count_nonzero(mask) != count:
            raise CodecError(f"the bitmap marks {np.count_nonzero(mask)} values: expected {count}, as in the header")
        full = np.zeros(size, np.float32)
        full[mask] = stored
        stored = full
    values[:, 1:] = stored.reshape(rows, live)
    return Block(values, _live(body[:live_bytes], bool(flags & _BITMAP), live, samples), samples)


def _live(data: memoryview, bitmap: bool, live: int, samples: int) -> NDArray[np.int32]:
    """The numbers of the live samples, int32 (``live``,), from their part of the body. Raises `CodecError` if they are wrong."""
    if live == samples:
        return np.arange(samples, dtype=np.int32)
    numbers = np.flatnonzero(_unbits(data, samples)).astype(np.int32) if bitmap else np.frombuffer(data, "<i4").astype(np.int32)
    ascending = len(numbers) == live and (live == 0 or (numbers[0] >= 0 and numbers[-1] < samples and bool((np.diff(numbers) > 0).all())))
    if not ascending:
        raise CodecError(f"{len(numbers)} numbers of live samples: expected {live} ascending numbers from 0 to {samples - 1}")
    return numbers


def _decompress(data: memoryview, size: int) -> memoryview:
    """The ``size`` bytes of a zstd frame. The frame's header has their number, which is checked before memory is allocated."""
    try:
        if zstandard.frame_content_size(data) != size:
            raise CodecError(f"the compressed part has {zstandard.frame_content_size(data)} bytes uncompressed: expected {size}")
        return memoryview(zstandard.ZstdDecompressor().decompress(data, max_output_size=size, allow_extra_data=False))
    except zstandard.ZstdError as error:
        raise CodecError(f"the compressed part is damaged: {error}") from error


def _planes(values: NDArray[np.float32]) -> bytes:
    return np.ascontiguousarray(values.view(np.uint8).reshape(-1, 4).T).tobytes()


def _flags(numbers: NDArray[np.int32], size: int) -> NDArray[np.bool_]:
    flags = np.zeros(size, bool)
    flags[numbers] = True
    return flags


def _bits(flags: NDArray[np.bool_]) -> bytes:
    return np.packbits(flags).tobytes()


def _unbits(data: memoryview, size: int) -> NDArray[np.bool_]:
    return np.unpackbits(np.frombuffer(data, np.uint8), count=size).astype(bool)
