"""Keeps the payloads that a rank sent through queues, so that it can send them again to the next incarnation of a lost rank."""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Iterator

import attrs

from fsd_core.channel.frames import Kind
from fsd_core.driver import Code
from fsd_core.errors import RunFailed

__all__ = ["KEPT_BYTES", "KEPT_ENTRY_BYTES", "RECORD_BYTES", "Kept", "Sent", "kept_budget"]

KEPT_BYTES = 64 << 20  # the budget of a rank, if its function has the memory
RECORD_BYTES = 16 << 20  # a worker that ends leaves at most so many bytes in its record, and at most 1 / `RECORD_PART` of its budget,
RECORD_PART = 4  # because the memory holds several copies of the record while the worker writes it
_ENTRY = struct.Struct("<IIBQ")  # target, step, kind, length of the body
_CRC = struct.Struct("<I")  # of the entry and the body
KEPT_ENTRY_BYTES = _ENTRY.size + _CRC.size  # in a record, beside each payload


def kept_budget(memory_bytes: int | None, predicted_bytes: int) -> int:
    """How many bytes a rank may keep: `KEPT_BYTES`, or the free memory of its function if that is less.

    ``memory_bytes``: the memory of the function; `None`: no limit. ``predicted_bytes``: the memory that the worker needs for itself.
    """
    return KEPT_BYTES if memory_bytes is None else max(0, min(KEPT_BYTES, memory_bytes - predicted_bytes))


@attrs.frozen
class Sent:
    """One payload, or notice of a payload, that a rank sent."""

    target: int
    step: int
    kind: Kind
    body: bytes


class Kept:
    """The payloads that one rank sent. If they exceed ``budget`` bytes together, it drops all and keeps no later ones. Thread-safe."""

    def __init__(self, budget: int) -> None:
        self.bytes = 0
        self._budget = budget
        self._sent: list[Sent] | None = [] if budget > 0 else None
        self._lock = threading.Lock()

    def add(self, sent: Sent) -> None:
        """Keep a payload. Drops all if the budget is exceeded: a new incarnation needs every payload, so a part is useless."""
        with self._lock:
            if self._sent is None:
                return
            self.bytes += len(sent.body)
            if self.bytes > self._budget:
                self._sent, self.bytes = None, 0
            else:
                self._sent.append(sent)

    @property
    def forgot(self) -> bool:
        """Whether nothing is kept, because the budget is exceeded or 0."""
        with self._lock:
            return self._sent is None

    def of(self, target: int, step: int) -> list[Sent] | None:
        """What was sent to ``target`` from ``step`` on, in the order of sending; `None` if it is no longer kept."""
        with self._lock:
            return None if self._sent is None else [each for each in self._sent if each.target == target and each.step >= step]

    def pack(self) -> bytes | None:
        """All kept payloads as bytes, for the record of a worker that ends; `None` if nothing is kept, or too much for a record."""
        with self._lock:
            if self._sent is None or self.bytes > min(RECORD_BYTES, self._budget // RECORD_PART):
                return None
            parts = []
            for each in self._sent:
                head = _ENTRY.pack(each.target, each.step, each.kind, len(each.body))
                parts += [head, _CRC.pack(zlib.crc32(each.body, zlib.crc32(head))), each.body]
            return b"".join(parts)


def unpack(data: bytes, target: int) -> Iterator[Sent]:
    """Decode what `Kept.pack` made. Yields the payloads for ``target``. Raises `RunFailed` (`Code.INVALID`) if ``data`` is damaged."""
    damaged = RunFailed(Code.INVALID, "the payloads in the record of a rank are damaged: expected whole payloads with their checksums")
    at = 0
    while at < len(data):
        head, start = data[at : at + _ENTRY.size], at + _ENTRY.size + _CRC.size
        if start > len(data):
            raise damaged
        to, step, kind, length = _ENTRY.unpack(head)
        body = data[start : start + length]
        crc = _CRC.unpack_from(data, at + _ENTRY.size)[0]
        if len(body) != length or zlib.crc32(body, zlib.crc32(head)) != crc or kind not in Kind._value2member_map_:
            raise damaged
        at = start + length
        if to == target:
            yield Sent(to, step, Kind(kind), body)
