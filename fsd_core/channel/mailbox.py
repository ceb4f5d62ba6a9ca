"""Collects the pieces that a rank received: joins them to payloads, drops copies, and returns the payloads in the order of arrival."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping

from fsd_core.channel.frames import Frame

__all__ = ["Duplicate", "Inconsistent", "Mailbox", "Unexpected"]


class Duplicate(Exception):
    """The piece, or the whole payload that it belongs to, has already arrived, or a newer incarnation of its source sends the payload."""


class Unexpected(Exception):
    """This rank expects no payload from this source in this step."""


class Inconsistent(Exception):
    """The piece's header has a different number of pieces than the header of an earlier piece of the same payload."""


class Mailbox:
    """The payloads of one rank. Thread-safe.

    ``expected`` maps each step of the run to the ranks that send a payload in it. The first call of `fail` calls ``failed``.
    """

    def __init__(self, expected: Mapping[int, Collection[int]], failed: Callable[[], None] = lambda: None) -> None:
        self._expected = expected
        self._failed = failed
        self._missing = {step: set(sources) for step, sources in expected.items()}
        self._awaited = sum(len(sources) for sources in self._missing.values())
        # By step and source: the source's incarnation, its number of pieces, those that arrived. Pieces of two incarnations are not joined.
        self._pieces: dict[tuple[int, int], tuple[int, int, dict[int, bytes]]] = {}
        self._complete: set[tuple[int, int]] = set()  # steps and sources whose pieces have all arrived
        self._until: dict[int, tuple[int, list[int]]] = {}  # by source: see `complete_until`, and the steps after that, descending
        self._arrived: dict[int, deque[tuple[int, bytes]]] = {step: deque() for step in expected}
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self.heard: dict[int, int] = {}  # by source: the last step from which a piece or payload arrived

    def add(self, frame: Frame) -> bytes | None:
        """Store a piece. Returns the complete body if no other piece of it is missing, else `None`.

        Does not store the piece if it raises `Duplicate`, `Unexpected` or `Inconsistent`.
        """
        with self._changed:
            if frame.source not in self._expected.get(frame.step, ()):
                raise Unexpected
            place = frame.step, frame.source
            if place in self._complete:
                raise Duplicate
            if place not in self._pieces or self._pieces[place][0] < frame.source_incarnation:
                self._pieces[place] = (frame.source_incarnation, frame.of, {})
            incarnation, of, pieces = self._pieces[place]
            if frame.source_incarnation < incarnation:
                raise Duplicate
            if frame.of != of:
                raise Inconsistent(f"rank {frame.source} sent one of {frame.of} pieces in step {frame.step}: expected one of {of}")
            if frame.sequence in pieces:
                raise Duplicate
            pieces[frame.sequence] = frame.body
            self.heard[frame.source] = max(frame.step, self.heard.get(frame.source, 0))
            if len(pieces) < frame.of:
                self._changed.notify_all()
                return None
            self._awaited -= 1
            self._complete.add(place)
            del self._pieces[place]
            return b"".join(pieces[number] for number in range(frame.of))

    def deliver(self, step: int, source: int, payload: bytes) -> bool:
        """Add a complete payload, which `next` will return. Returns `False` and adds nothing if ``source`` already has one in ``step``."""
        with self._changed:
            if source not in self._missing[step]:
                return False
            self._missing[step].discard(source)
            self._arrived[step].append((source, payload))
            self.heard[source] = max(step, self.heard.get(source, 0))
            self._changed.notify_all()
            return True

    def fail(self, error: BaseException) -> None:
        """Make all current and later calls of `next` raise ``error``. Later calls of `fail` do not replace the first error."""
        with self._changed:
            first, self._error = self._error is None, self._error or error
            self._changed.notify_all()
        if first:
            self._failed()

    @property
    def error(self) -> BaseException | None:
        """The error of the first call of `fail`, or `None`."""
        with self._changed:
            return self._error

    @property
    def awaited(self) -> int:
        """The number of payloads that the rank still needs: 0 if all frames of the run have arrived, or the run has failed."""
        with self._changed:
            return 0 if self._error is not None else self._awaited

    def missing(self, step: int) -> list[int]:
        """The ranks whose payload of ``step`` has not arrived, ascending."""
        with self._changed:
            return sorted(self._missing[step])

    def first_missing(self, source: int) -> int | None:
        """The first step in which ``source`` sends a payload that is not complete; `None` if there is none."""
        with self._changed:
            steps = (step for step, sources in self._expected.items() if source in sources and (step, source) not in self._complete)
            return min(steps, default=None)

    def complete_until(self, source: int) -> int | None:
        """The last step of ``source`` before its first payload that is not complete: -1 if the first is not, `None` if all are."""
        with self._changed:
            if source not in self._until:
                steps = sorted((step for step, sources in self._expected.items() if source in sources), reverse=True)
                self._until[source] = -1, steps
            until, left = self._until[source]
            while left and (left[-1], source) in self._complete:
                until = left.pop()
            self._until[source] = until, left
            return until if left else None

    def next(self, step: int, timeout: float) -> tuple[int, bytes] | None:
        """Remove and return the next (source rank, payload) of ``step`` in the order of arrival. Raises the error of `fail`.

        Returns `None` if no payload of ``step`` arrives within ``timeout`` seconds, or earlier if a frame of another step arrives.
        """
        with self._changed:
            if self._error is not None:
                raise self._error
            if not self._arrived[step]:
                self._changed.wait(timeout)
            if self._error is not None:
                raise self._error
            return self._arrived[step].popleft() if self._arrived[step] else None
