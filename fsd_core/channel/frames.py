"""Frames: the messages that ranks send each other. A payload is one frame, or several pieces if it is larger than a message.

Layout, little-endian: magic (4 bytes), version (1), kind (1), incarnation of the source (1) and of the target (1), run (8), epoch (4),
step (4), source (4), number of the piece (4), number of pieces (4), length of the body (4), CRC-32 of the body (4), CRC-32 of all bytes
before it (4); then the body. The header identifies a piece completely. So a receiver can take frames in any order and recognises copies,
even if the queue service keeps no order.
"""

from __future__ import annotations

import enum
import struct
import zlib
from collections.abc import Sequence
from typing import TypeVar

import attrs

__all__ = ["HEADER_BYTES", "Frame", "FrameError", "Kind", "Stray", "pack", "split", "unpack"]

_HEADER = struct.Struct("<4sBBBBQIIiIIII")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CRC.size
_MAGIC = b"FSDf"
_VERSION = 2
_MAX_PIECES = 1 << 20

T = TypeVar("T")


class Stray(ValueError):
    """The bytes are not a frame of this version, or the frame's header is damaged. The run that sent them is therefore unknown."""


class FrameError(ValueError):
    """The bytes are a frame with an intact header and a damaged body. ``run`` and ``epoch`` come from the header."""

    def __init__(self, message: str, run: str, epoch: int) -> None:
        super().__init__(message)
        self.run = run
        self.epoch = epoch


class Kind(enum.IntEnum):
    """The content of a frame's body."""

    PAYLOAD = 1  # the payload or a piece of it
    NOTICE = 2  # where the payload is in the object store
    ABORT = 3  # why the run failed
    NEWS = 4  # a copy of an entry of the news: see `fsd_core.channel.news`


@attrs.frozen
class Frame:
    """One piece of a payload, with the data that identify it.

    The frame carries piece ``sequence`` (from 0) of ``of`` pieces. Rank ``source`` (-1 is the client) sends it in ``step`` of ``run``,
    which holds its slot at ``epoch``. The incarnations are those of the source and, as the source knows it, of the target.
    """

    kind: Kind
    run: str
    epoch: int
    step: int
    source: int
    sequence: int
    of: int
    body: bytes
    source_incarnation: int = 0
    target_incarnation: int = 0


def pack(frame: Frame) -> bytes:
    """Encode a frame as bytes."""
    header = _HEADER.pack(
        _MAGIC,
        _VERSION,
        frame.kind,
        frame.source_incarnation,
        frame.target_incarnation,
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
    """Decode a frame. Raises `Stray` if ``data`` is not a frame, and `FrameError` if the frame's body is damaged."""
    if data[:4] != _MAGIC or len(data) < HEADER_BYTES:
        raise Stray(f"{len(data)} bytes that are not a frame: expected at least {HEADER_BYTES} that begin with {_MAGIC!r}")
    header = data[: _HEADER.size]
    if _CRC.unpack_from(data, _HEADER.size)[0] != zlib.crc32(header):
        raise Stray("a frame with a damaged header (its checksum differs)")
    _, version, kind, ours, theirs, run, epoch, step, source, sequence, of, length, crc = _HEADER.unpack(header)
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
    return Frame(Kind(kind), f"{run:016x}", epoch, step, source, sequence, of, body, ours, theirs)


def split(payload: bytes, size: int) -> list[bytes]:
    """Cut ``payload`` into pieces of at most ``size`` bytes. An empty payload gives one empty piece."""
    return [payload[at : at + size] for at in range(0, len(payload), size)] or [b""]


def fill(sizes: Sequence[int], count: int, total: int) -> list[list[int]]:
    """Distribute entries over batches of at most ``count`` entries and ``total`` bytes. ``sizes`` are the entries' sizes in bytes.

    Returns a list for each batch: the indices of its entries. An entry larger than ``total`` gets its own batch. The method is
    first-fit decreasing: it makes at most 11/9 x M + 1 batches, where M is the smallest possible number (Johnson 1973).
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
