"""An encoded block: a header, the live samples, and the activations; and the state of both ends of the pairs of ranks of a micro-batch.

Layout: the number of the codec (one byte); the CRC-32 of all other bytes, little-endian; then numbers of variable length: the step of the
pair (0 for the first one of a micro-batch, and for blocks that belong to no pair), rows, samples, live samples, the size of the live part;
the live part (`fsd_core.codec.live`); the values part (`fsd_core.codec.values`).
"""

from __future__ import annotations

import struct
import zlib

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.codec.live import pack_live, unpack_live
from fsd_core.codec.parts import CodecError, Reader, number
from fsd_core.codec.values import pack_values, unpack_values
from fsd_core.kernel import Block

__all__ = ["CODEC", "Decoder", "Encoder", "Packed", "decode", "encode", "pack"]

CODEC = 3  # the number of this form: content that an older version of fsd staged has another key
_CRC = struct.Struct("<I")
_START = 1 + _CRC.size
_MOST = (1 << 31) - 1  # rows, samples, steps


@attrs.frozen(eq=False)
class Packed:
    """A block whose activations are encoded. A rank encodes them once for all targets of the same rows."""

    rows: int
    samples: int
    live: NDArray[np.int32]
    values: bytes


@attrs.define
class _Pair:
    """What both ranks of a pair know after a step: the number of steps, and the live samples of the last one."""

    steps: int = 0
    live: NDArray[np.int32] | None = None


def pack(block: Block) -> Packed:
    """Encode the activations of ``block``, which should be trimmed. Thread-safe."""
    rows, samples, live, values = block.rows, block.samples, block.live, [block.values]
    del block  # if no other code refers to it, its memory is free once the values are copied
    return Packed(rows, samples, live, pack_values(values.pop()))


class Encoder:
    """Encodes the blocks that one rank sends in one micro-batch. The blocks of a target are encoded in the order of their steps."""

    def __init__(self) -> None:
        self._pairs: dict[int, _Pair] = {}

    def encode(self, target: int, block: Packed) -> bytes:
        """Encode the block that goes to rank ``target``."""
        return _encoded(block, self._pairs.setdefault(target, _Pair()))


class Decoder:
    """Decodes the blocks that one rank receives in one micro-batch. The blocks of a source are decoded in the order of their steps."""

    def __init__(self) -> None:
        self._pairs: dict[int, _Pair] = {}

    def decode(self, source: int, data: bytes | memoryview, rows: int, samples: int) -> Block:
        """Decode the block that came from rank ``source``, as `decode` does.

        Also raises `CodecError` if the block is not that of the source's next step. After an error, no block of this source can be decoded.
        """
        return _decoded(data, rows, samples, self._pairs.setdefault(source, _Pair()))


def encode(block: Block) -> bytes:
    """Encode ``block`` as bytes on its own. The result leaves out samples that are equal to the block's base in every row."""
    return _encoded(pack(block.trimmed()), _Pair())


def decode(data: bytes | memoryview, rows: int, samples: int) -> Block:
    """Decode what `encode` made. The caller knows ``rows`` and ``samples``, so that damaged data cannot cause a larger allocation.

    Raises `CodecError` if ``data`` is damaged, or if the block does not have ``rows`` rows and ``samples`` samples.
    """
    return _decoded(data, rows, samples, _Pair())


def _encoded(block: Packed, pair: _Pair) -> bytes:
    live = pack_live(block.live, block.samples, pair.live)
    head = b"".join(map(number, (pair.steps, block.rows, block.samples, len(block.live), len(live))))
    pair.steps, pair.live = pair.steps + 1, block.live
    crc = zlib.crc32(block.values, zlib.crc32(live, zlib.crc32(head, CODEC)))
    return b"".join((bytes([CODEC]), _CRC.pack(crc), head, live, block.values))


def _decoded(data: bytes | memoryview, rows: int, samples: int, pair: _Pair) -> Block:
    data = memoryview(data)
    if len(data) < _START:
        raise CodecError(f"a block of {len(data)} bytes: expected at least {_START}, the size of a header")
    if data[0] != CODEC:
        raise CodecError(f"a block of codec {data[0]}: expected codec {CODEC}")
    (expected,), found = _CRC.unpack_from(data, 1), zlib.crc32(data[_START:], CODEC)
    if found != expected:
        raise CodecError(f"a block of {len(data)} bytes with checksum {found:08x}: expected {expected:08x}")
    reader = Reader(data[_START:])
    step, has_rows, has_samples = (reader.number(_MOST, what) for what in ("the step", "the number of rows", "the number of samples"))
    if (has_rows, has_samples) != (rows, samples):
        raise CodecError(f"a block of {has_rows} rows and {has_samples} samples: expected {rows} rows and {samples} samples")
    if step != pair.steps:
        raise CodecError(f"the block of step {step} of its source: expected step {pair.steps}")
    count = reader.number(samples, "the number of live samples")
    live = unpack_live(Reader(reader.raw(reader.number(len(data), "the size of the live part"), "the live part")), samples, pair.live)
    if len(live) != count:
        raise CodecError(f"{len(live)} live samples: expected {count}, as in the header")
    values = unpack_values(reader.rest(), rows, count)
    pair.steps, pair.live = step + 1, live
    return Block(values, live, samples)
