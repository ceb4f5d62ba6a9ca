"""Frames: the messages that ranks send each other. A payload is one frame, or several pieces if it is larger than a message.

Layout, little-endian: magic (4 bytes), version (1), kind (1), incarnation of the source (1) and of the target (1), run (8), epoch (4),
step (4), source (4), number of the piece (2), number of pieces (2), tag (16); then the body. The header identifies a piece completely. So a
receiver can take frames in any order and recognises copies, even if the queue service keeps no order.

The tag is BLAKE2b over the target's rank, the header and the body, with the run's frame key. Only the client and the workers of the run
have this key, because only they may read the object store. So a frame with the right tag comes from this run, is for this rank, and is
whole. A frame declares no size: `unpack` takes memory by the size of the message alone, and none for a frame with a wrong tag.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import os
import struct
from collections.abc import Sequence
from typing import TypeVar

import attrs

from fsd_core.driver import Code
from fsd_core.errors import RunFailed

__all__ = [
    "HEADER_BYTES",
    "KEY_BYTES",
    "TAG_BYTES",
    "Frame",
    "Kind",
    "Stray",
    "Unverified",
    "fill",
    "new_key",
    "pack",
    "split",
    "tag",
    "unpack",
]

KEY_BYTES = 32
TAG_BYTES = 16
_HEADER = struct.Struct("<4sBBBBQIIiHH")
HEADER_BYTES = _HEADER.size + TAG_BYTES
_TARGET = struct.Struct("<i")
_MAGIC = b"FSDf"
_VERSION = 3
_MOST_PIECES = (1 << 16) - 1
_FRAME = b"fsd frame"  # the kind of content: so the tag of an object is wrong for a frame

T = TypeVar("T")


class Stray(ValueError):
    """The bytes are not a frame of this version."""


class Unverified(ValueError):
    """The bytes look like a frame, but the tag is wrong. ``run`` and ``epoch`` come from the header, so they may be forged."""

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


def new_key() -> bytes:
    """A new random frame key of a run."""
    return os.urandom(KEY_BYTES)


def tag(key: bytes, what: bytes, *parts: bytes | memoryview) -> bytes:
    """The tag of ``parts``, one after another, with a run's frame ``key``: `TAG_BYTES` bytes.

    ``what``: a name for the kind of content, at most 16 bytes. Equal parts with different names have different tags.
    """
    state = hashlib.blake2b(key=key, digest_size=TAG_BYTES, person=what)
    for part in parts:
        state.update(part)
    return state.digest()


def pack(frame: Frame, target: int, key: bytes) -> bytes:
    """Encode a frame for rank ``target`` as bytes. ``key``: the run's frame key."""
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
    )
    return b"".join((header, tag(key, _FRAME, _TARGET.pack(target), header, frame.body), frame.body))


def unpack(data: bytes, target: int, key: bytes) -> Frame:
    """Decode a frame for rank ``target``.

    Raises `Stray` if ``data`` is not a frame, and `Unverified` if its tag is not the one of these bytes for this rank under ``key``.
    """
    if data[:4] != _MAGIC or len(data) < HEADER_BYTES:
        raise Stray(f"{len(data)} bytes that are not a frame: expected at least {HEADER_BYTES} that begin with {_MAGIC!r}")
    _, version, kind, ours, theirs, run, epoch, step, source, sequence, of = _HEADER.unpack_from(data)
    if version != _VERSION:
        raise Stray(f"a frame of version {version}: expected {_VERSION}")
    view = memoryview(data)
    found, expected = view[_HEADER.size : HEADER_BYTES], tag(key, _FRAME, _TARGET.pack(target), view[: _HEADER.size], view[HEADER_BYTES:])
    if not hmac.compare_digest(found, expected):
        where = f"step {step}, piece {sequence + 1} of {of} from rank {source}, {len(data)} bytes"
        raise Unverified(f"a frame with a wrong tag (its header says {where})", f"{run:016x}", epoch)
    return Frame(Kind(kind), f"{run:016x}", epoch, step, source, sequence, of, data[HEADER_BYTES:], ours, theirs)


def split(payload: bytes, size: int) -> list[bytes]:
    """Cut ``payload`` into pieces of at most ``size`` bytes. An empty payload gives one empty piece.

    Raises `RunFailed` (`Code.TOO_LARGE`) if there are more pieces than a frame can count.
    """
    pieces = [payload[at : at + size] for at in range(0, len(payload), size)] or [b""]
    if len(pieces) > _MOST_PIECES:
        reason = f"a payload of {len(payload)} bytes takes {len(pieces)} messages: expected at most {_MOST_PIECES}; use --channel object"
        raise RunFailed(Code.TOO_LARGE, reason)
    return pieces


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
