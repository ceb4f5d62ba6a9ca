"""Frames: the messages that ranks send each other. A payload is one frame, or several pieces if it is larger than a message.

Layout, little-endian: magic, version, kind, run, epoch, step, source, sequence, of, length of the body, CRC-32 of the body, CRC-32 of
the header up to here; then the body. The header names the run, step, source and piece of a frame. A receiver can therefore use frames in
any order, and recognise copies, without any help of the queue service.
"""

from __future__ import annotations

import enum
import struct
import zlib
from collections.abc import Sequence
from typing import TypeVar

import attrs

__all__ = ["HEADER_BYTES", "Frame", "FrameError", "Kind", "Stray", "pack", "split", "unpack"]

_HEADER = struct.Struct("<4sBBHQIIiIIII")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CRC.size
_MAGIC = b"FSDf"
_VERSION = 1
_MAX_PIECES = 1 << 20

T = TypeVar("T")


class Stray(ValueError):
    """The bytes are not a frame of this version with a sound header. So nobody can say which run they belong to."""


class FrameError(ValueError):
    """The bytes are a frame with a damaged body. The header is sound: ``run`` and ``epoch`` are those of the frame."""

    def __init__(self, message: str, run: str, epoch: int) -> None:
        super().__init__(message)
        self.run = run
        self.epoch = epoch


class Kind(enum.IntEnum):
    """What the body of a frame holds."""

    PAYLOAD = 1  # the payload or a piece of it
    NOTICE = 2  # where the payload is in the object store
    ABORT = 3  # why the run failed


@attrs.frozen
class Frame:
    """Piece ``sequence`` (from 0) of the ``of`` pieces that rank ``source`` (-1: the client) sends in ``step`` of ``run`` at ``epoch``."""

    kind: Kind
    run: str
    epoch: int
    step: int
    source: int
    sequence: int
    of: int
    body: bytes


def pack(frame: Frame) -> bytes:
    """The bytes of a frame."""
    header = _HEADER.pack(
        _MAGIC,
        _VERSION,
        frame.kind,
        0,
        int(frame.run, 16),
        frame.epoch,
        frame.step,
        frame.source,
        frame.sequence,
        frame.of,
        len(frame.body),
        zlib.crc32(frame.body),
    )
    return b"".join((header, _CRC.pack(zlib.crc32(header)), frame.body))


def unpack(data: bytes) -> Frame:
    """The frame of these bytes. Raises `Stray` if they are not a frame, and `FrameError` if the frame's body is damaged."""
    if data[:4] != _MAGIC or len(data) < HEADER_BYTES:
        raise Stray(f"{len(data)} bytes that are not a frame")
    header = data[: _HEADER.size]
    if _CRC.unpack_from(data, _HEADER.size)[0] != zlib.crc32(header):
        raise Stray("a frame with a damaged header (its checksum differs)")
    _, version, kind, _, run, epoch, step, source, sequence, of, length, crc = _HEADER.unpack(header)
    if version != _VERSION:
        raise Stray(f"a frame of version {version}: expected {_VERSION}")
    where = f"step {step}, piece {sequence + 1} of {of} from rank {source}"
    body = data[HEADER_BYTES:]
    if len(body) != length:
        raise FrameError(f"a damaged frame ({where}): its body has {len(body)} bytes, expected {length}", f"{run:016x}", epoch)
    if zlib.crc32(body) != crc:
        raise FrameError(f"a damaged frame ({where}): the checksum of its body differs", f"{run:016x}", epoch)
    if kind not in Kind._value2member_map_ or not sequence < of <= _MAX_PIECES:
        raise Stray(f"a frame of an unknown kind or with a wrong number of pieces ({where}, kind {kind})")
    return Frame(Kind(kind), f"{run:016x}", epoch, step, source, sequence, of, body)


def split(payload: bytes, size: int) -> list[bytes]:
    """The payload in pieces of at most ``size`` bytes; an empty payload is one empty piece."""
    return [payload[at : at + size] for at in range(0, len(payload), size)] or [b""]


def fill(sizes: Sequence[int], count: int, total: int) -> list[list[int]]:
    """Distribute entries of these ``sizes`` (bytes) over batches of at most ``count`` entries and ``total`` bytes; an entry above
    ``total`` gets a batch of its own. Returns the indices of the entries of each batch.

    The method is first-fit decreasing. It needs at most 11/9 of the smallest possible number of batches, plus one (Johnson 1973).
    """
    batches: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        for at, batch in enumerate(batches):
            if room[at] >= sizes[index] and len(batch) < count:
                batch.append(index)
                room[at] -= sizes[index]
                break
        else:
            batches.append([index])
            room.append(total - sizes[index])
    return batches
