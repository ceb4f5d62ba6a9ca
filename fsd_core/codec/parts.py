"""The pieces of an encoded block: numbers of variable length, arrays, and compressed parts; and a reader that checks every length."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

__all__ = ["CodecError", "Reader", "compressed", "compressed_together", "number", "packed", "smallest"]

_NUMBER_BYTES = 5  # of a number below 2^35
LEVEL = 3  # on the challenge's first layers, level 1 took a third less time and a tenth more bytes


class CodecError(ValueError):
    """The bytes are not an encoded block, or the block has another shape than expected. The message describes the difference."""


def number(value: int) -> bytes:
    """A number of at least 0: seven bits in each byte, the lowest first; the highest bit of a byte says that another one follows."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def smallest(largest: int) -> str:
    """The smallest unsigned integer type for numbers up to ``largest``."""
    return "u1" if largest < 1 << 8 else "<u2" if largest < 1 << 16 else "<u4"


def packed(codes: NDArray[np.uint8], bits: int) -> bytes:
    """Numbers below 2^``bits``, 8 // ``bits`` of them in each byte, the first in the highest bits. ``bits`` is 1, 2, 4 or 8."""
    if bits == 8:
        return codes.tobytes()
    if bits == 1:
        return np.packbits(codes).tobytes()
    each = 8 // bits
    padded = np.zeros(-(-len(codes) // each) * each, np.uint8)
    padded[: len(codes)] = codes
    columns = padded.reshape(-1, each)
    out = columns[:, 0] << np.uint8(8 - bits)
    for k in range(1, each):
        out |= columns[:, k] << np.uint8(8 - bits * (k + 1))
    return out.tobytes()


def compressed(body: bytes | memoryview) -> bytes:
    """One byte that says whether the rest is a zstd frame, and the rest, whichever is shorter."""
    frame = zstandard.ZstdCompressor(level=LEVEL).compress(body)
    return b"".join((b"\1", frame) if len(frame) < len(body) else (b"\0", body))


def compressed_together(size: int, pieces: Callable[[], Iterable[bytes]]) -> bytes:
    """`compressed` of a body of ``size`` bytes that ``pieces`` yields piece by piece, so that the memory never holds the whole body."""
    writer = zstandard.ZstdCompressor(level=LEVEL).compressobj(size=size)
    frame = [b"\1", *(writer.compress(piece) for piece in pieces()), writer.flush()]
    return b"".join(frame if sum(map(len, frame)) <= size else (b"\0", *pieces()))


class Reader:
    """Reads pieces one after the other. Every method raises `CodecError` if the piece is not complete, before it allocates memory."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        self._at = 0

    @classmethod
    def of_compressed(cls, data: memoryview, most: int) -> Reader:
        """A reader of what `compressed` wrote. The content has at most ``most`` bytes."""
        if len(data) < 1 or data[0] > 1:
            raise CodecError(f"a part begins with {bytes(data[:1])!r}: expected byte 0 (a plain part) or 1 (a compressed part)")
        if not data[0]:
            return cls(data[1:])
        try:
            size = zstandard.frame_content_size(data[1:])
            if not 0 <= size <= most:
                raise CodecError(f"a compressed part has {size} bytes uncompressed: expected at most {most}")
            return cls(zstandard.ZstdDecompressor().decompress(data[1:], max_output_size=size, allow_extra_data=False))
        except zstandard.ZstdError as error:
            raise CodecError(f"a compressed part is damaged: {error}") from error

    def number(self, most: int, what: str) -> int:
        """A number from 0 to ``most``. ``what`` names it in an error."""
        value = shift = 0
        for byte in self._data[self._at : self._at + _NUMBER_BYTES]:
            self._at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128 and value <= most:
                return value
            if value > most:
                break
        else:
            if shift < 7 * _NUMBER_BYTES:
                raise CodecError(f"{what}: 0 bytes are left: expected 1")
        raise CodecError(f"{what} is {value} or more: expected at most {most}")

    def raw(self, size: int, what: str) -> memoryview:
        """The next ``size`` bytes."""
        if size > len(self._data) - self._at:
            raise CodecError(f"{what}: {len(self._data) - self._at} bytes are left: expected {size}")
        self._at += size
        return self._data[self._at - size : self._at]

    def array(self, dtype: str, count: int, what: str) -> NDArray[Any]:
        """The next ``count`` items, a read-only view."""
        return np.frombuffer(self.raw(np.dtype(dtype).itemsize * count, what), dtype)

    def codes(self, bits: int, count: int, what: str) -> NDArray[np.uint8]:
        """``count`` numbers that `packed` wrote."""
        data = self.array("u1", -(-count * bits // 8), what)
        if bits == 8:
            return data
        if bits == 1:
            return np.unpackbits(data, count=count)
        shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
        spread: NDArray[np.uint8] = (data[:, None] >> shifts) & np.uint8((1 << bits) - 1)
        return spread.reshape(-1)[:count]

    def rest(self) -> memoryview:
        """All bytes that are left."""
        return self.raw(len(self._data) - self._at, "the rest")

    def end(self, what: str) -> None:
        """Raise `CodecError` if bytes are left."""
        if self._at < len(self._data):
            raise CodecError(f"{what}: {len(self._data) - self._at} bytes are left: expected its end")
