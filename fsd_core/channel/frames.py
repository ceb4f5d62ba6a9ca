"""Frames: the unit that core transfers. A payload becomes one frame, or several where a message is too small for it.

Layout, little-endian: magic, version, kind, run, epoch, step, source, sequence, of, body length, CRC-32 of the body,
CRC-32 of the header so far; then the body. A frame says of itself where it belongs, so that a receiver needs nothing
of the service but the bytes: any order, any number of copies.
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
_MOST_PIECES = 1 << 20

T = TypeVar("T")


class Stray(ValueError):
    """The bytes are no frame that can be told to belong anywhere: sent by something else, of another version, or with a damaged header."""


class FrameError(ValueError):
    """The bytes are a frame whose body was damaged on its way: which run and epoch it belongs to is known; the text says how."""

    def __init__(self, message: str, run: str, epoch: int) -> None:
        super().__init__(message)
        self.run = run
        self.epoch = epoch


class Kind(enum.IntEnum):
    """What the body of a frame is."""

    PAYLOAD = 1  # the bytes themselves
    NOTICE = 2  # where in the object store they are
    ABORT = 3  # why the run ends


@attrs.frozen
class Frame:
    """Piece ``sequence`` (from 0) of ``of`` of what ``source`` (-1: the client) sends in ``step`` of ``run`` at ``epoch``."""

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
    """The frame of these bytes. Raises `Stray` where they are none, `FrameError` where they are one with a damaged body."""
    if data[:4] != _MAGIC or len(data) < HEADER_BYTES:
        raise Stray(f"{len(data)} bytes that are no frame")
    header = data[: _HEADER.size]
    if _CRC.unpack_from(data, _HEADER.size)[0] != zlib.crc32(header):
        raise Stray("a frame with a damaged header (its checksum differs)")
    _, version, kind, _, run, epoch, step, source, sequence, of, length, crc = _HEADER.unpack(header)
    if version != _VERSION:
        raise Stray(f"a frame of version {version}, this version reads {_VERSION}")
    where = f"step {step}, piece {sequence + 1} of {of} from rank {source}"
    body = data[HEADER_BYTES:]
    if len(body) != length:
        raise FrameError(f"a frame cut short ({where}): {len(body)} of {length} bytes", f"{run:016x}", epoch)
    if zlib.crc32(body) != crc:
        raise FrameError(f"a frame with a damaged body ({where}): its checksum differs", f"{run:016x}", epoch)
    if kind not in Kind._value2member_map_ or not sequence < of <= _MOST_PIECES:
        raise Stray(f"a frame that makes no sense ({where}, kind {kind})")
    return Frame(Kind(kind), f"{run:016x}", epoch, step, source, sequence, of, body)


def split(payload: bytes, size: int) -> list[bytes]:
    """The payload in pieces of at most ``size`` bytes, at least one."""
    return [payload[at : at + size] for at in range(0, len(payload), size)] or [b""]


def fill(sizes: Sequence[int], count: int, total: int) -> list[list[int]]:
    """Batches of the indices of ``sizes``, each of at most ``count`` entries and ``total`` bytes: first fit, largest first.

    First-fit decreasing needs at most 11/9 of the fewest batches, plus one (Johnson 1973).
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
