"""Keeps the payloads that a rank sent through queues, so that it can send them again to the next incarnation of a lost rank.

The newest payloads are in memory, the others in the object store.
"""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO

import attrs

from fsd_core.channel.frames import Kind
from fsd_core.driver import Code
from fsd_core.errors import RunFailed
from fsd_core.storage.keys import RunKeys
from fsd_core.storage.store import Store

__all__ = ["KEPT_BYTES", "KEPT_ENTRY_BYTES", "RECORD_BYTES", "SHELF_BYTES", "Kept", "Sent", "Shelf", "held_bytes", "kept_budget"]

KEPT_BYTES = 64 << 20  # the budget of a rank, if its function has the memory
SHELF_BYTES = 8 << 20  # with a smaller budget, a rank puts nothing into the store: that would take many requests
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


def held_bytes(sent_bytes: int, budget: int) -> int:
    """How many bytes a rank is expected to have in memory at its peak, of ``sent_bytes`` that it sends through queues.

    While one half of the budget is on its way to the store, the other half fills. How far it fills depends on the speed of the store: this
    function counts half of it.
    """
    return min(sent_bytes, budget if budget < SHELF_BYTES else budget // 4 * 3)


@attrs.frozen
class Sent:
    """One payload, or notice of a payload, that a rank sent."""

    target: int
    step: int
    kind: Kind
    body: bytes


@attrs.frozen
class Shelf:
    """The objects of the store into which an incarnation of a rank puts what it does not keep in memory."""

    store: Store
    keys: RunKeys
    rank: int
    incarnation: int

    def put(self, number: int, body: bytes) -> None:
        """Write object ``number``, from 0."""
        self.store.put(self._key(number), body)

    def get(self, number: int) -> bytes:
        """Read object ``number``."""
        return self.store.get(self._key(number))

    def _key(self, number: int) -> str:
        return self.keys.kept(self.rank, self.incarnation, number)


class Kept:
    """The payloads that one rank sent, with up to ``budget`` bytes in memory. Thread-safe.

    When half of the budget is full, this half goes to the ``shelf`` while the other half fills. Without a shelf, or with a budget of less
    than `SHELF_BYTES`, a rank keeps nothing at all once the budget is exceeded. With a budget of 0 it keeps nothing.
    """

    def __init__(self, budget: int, shelf: Shelf | None = None) -> None:
        self._budget = budget
        self._sent: _Packed | None = _Packed() if budget > 0 else None
        self._peak = 0
        self._shelf = shelf if budget >= SHELF_BYTES else None
        self._shelved: list[dict[int, int]] = []  # of each object on the shelf: by target, the last step of a payload
        self._putter: ThreadPoolExecutor | None = None
        self._putting: Future[None] | None = None  # the newest of these objects
        self._away = 0  # the bytes of its payloads
        self._lock = threading.Lock()

    def add(self, sent: Sent) -> None:
        """Keep a payload. May wait until an earlier half of the budget is on the shelf; raises its error."""
        with self._lock:
            if self._sent is None:
                return
            if self._shelf is None:
                if self._sent.bytes + len(sent.body) > self._budget:  # a new incarnation needs all that was sent to it
                    self._sent, self._peak = None, 0
                    return
            elif self._sent.bytes and self._sent.bytes + len(sent.body) > self._budget // 2:
                self._put(self._shelf)
            self._sent.add(sent)
            away = self._away if self._putting is not None and not self._putting.done() else 0
            self._peak = max(self._peak, away + self._sent.bytes)

    @property
    def peak_bytes(self) -> int:
        """The most bytes of payloads that were in memory at once; 0 if nothing is kept any more."""
        return self._peak

    def _put(self, shelf: Shelf) -> None:
        """Begin to put what is in memory on the shelf, once what is on its way there has arrived."""
        assert self._sent is not None
        self._arrived()
        if self._putter is None:  # not the pool of the channel: its threads may all be here, and wait
            self._putter = ThreadPoolExecutor(1, thread_name_prefix="shelf")
        self._putting = self._putter.submit(shelf.put, len(self._shelved), self._sent.content)
        self._shelved.append(self._sent.last)
        self._sent, self._away = _Packed(), self._sent.bytes

    def _arrived(self) -> None:
        if self._putting is not None:
            self._putting.result()

    def of(self, target: int, step: int) -> Iterator[list[Sent]] | None:
        """What was sent to ``target`` from ``step`` on, in the order of sending and in parts; `None` if it is not kept any more."""
        with self._lock:
            if self._sent is None:
                return None
            shelved = [number for number, steps in enumerate(self._shelved) if steps.get(target, -1) >= step]
            if shelved:
                self._arrived()
            content = self._sent.content if self._sent.last.get(target, -1) >= step else b""
            last = [each for each in unpack(content, target) if each.step >= step]
            del content  # if `parts` kept it, the next payload would copy the whole buffer

        def parts() -> Iterator[list[Sent]]:
            for number in shelved:
                assert self._shelf is not None
                yield [each for each in unpack(self._shelf.get(number), target) if each.step >= step]
            yield last

        return parts()

    def end(self) -> tuple[int, bytes] | None:
        """For the record of a worker that ends: the number of objects on its shelf, and the rest of what is kept.

        `None` if it is not kept, or too much for a record of a worker without a shelf.
        """
        with self._lock:
            if self._sent is None:
                return None
            if self._sent.bytes > min(RECORD_BYTES, self._budget // RECORD_PART):
                if self._shelf is None:
                    return None
                self._put(self._shelf)
            self._arrived()
            return len(self._shelved), self._sent.content


class _Packed:
    """Payloads in one buffer, in the form that `unpack` decodes: so their object in the store needs no memory beside them."""

    def __init__(self) -> None:
        self.bytes = 0  # of the payloads
        self.last: dict[int, int] = {}  # by target, the last step of a payload
        self._buffer = BytesIO()

    def add(self, sent: Sent) -> None:
        head = _ENTRY.pack(sent.target, sent.step, sent.kind, len(sent.body))
        self._buffer.write(head + _CRC.pack(zlib.crc32(sent.body, zlib.crc32(head))))
        self._buffer.write(sent.body)
        self.bytes += len(sent.body)
        self.last[sent.target] = max(sent.step, self.last.get(sent.target, 0))

    @property
    def content(self) -> bytes:
        """What `unpack` decodes. Not a copy, as long as no payload is added."""
        return self._buffer.getvalue()


def unpack(data: bytes, target: int) -> Iterator[Sent]:
    """Decode the payloads that a rank kept in its record or on its shelf. Yields those for ``target``.

    Raises `RunFailed` (`Code.INVALID`) if ``data`` is damaged.
    """
    damaged = RunFailed(Code.INVALID, "the payloads that a rank kept are damaged: expected whole payloads with their checksums")
    at, view = 0, memoryview(data)
    while at < len(data):
        head, start = view[at : at + _ENTRY.size], at + _ENTRY.size + _CRC.size
        if start > len(data):
            raise damaged
        to, step, kind, length = _ENTRY.unpack(head)
        body = view[start : start + length]
        crc = _CRC.unpack_from(data, at + _ENTRY.size)[0]
        if len(body) != length or zlib.crc32(body, zlib.crc32(head)) != crc or kind not in Kind._value2member_map_:
            raise damaged
        at = start + length
        if to == target:
            yield Sent(to, step, Kind(kind), bytes(body))
