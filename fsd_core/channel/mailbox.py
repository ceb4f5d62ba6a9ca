"""What has arrived: pieces put together, copies dropped, payloads handed out in the order of their arrival."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Mapping

from fsd_core.channel.frames import Frame

__all__ = ["Mailbox"]


class Mailbox:
    """Thread-safe. ``expected`` names, for every step of the run, the sources that send one payload in it."""

    def __init__(self, expected: Mapping[int, Collection[int]]) -> None:
        self._missing = {step: set(sources) for step, sources in expected.items()}
        self._left = sum(len(sources) for sources in self._missing.values())
        self._pieces: dict[tuple[int, int], dict[int, bytes]] = {}
        self._arrived: dict[int, deque[tuple[int, bytes]]] = {step: deque() for step in expected}
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self.heard: dict[int, int] = {}  # the last step in which each source was heard of

    def add(self, frame: Frame) -> bytes | None:
        """Keep a piece; the whole body once its last piece is here, else `None`. Copies raise `KeyError`.

        A source or step that nobody expects counts as a copy: nothing of it is kept.
        """
        with self._changed:
            if frame.source not in self._missing.get(frame.step, ()):
                raise KeyError(frame.step)
            pieces = self._pieces.setdefault((frame.step, frame.source), {})
            if frame.sequence in pieces:
                raise KeyError(frame.sequence)
            pieces[frame.sequence] = frame.body
            self.heard[frame.source] = max(frame.step, self.heard.get(frame.source, 0))
            if len(pieces) < frame.of:
                self._changed.notify_all()
                return None
            self._left -= 1
            return b"".join(pieces[number] for number in range(frame.of))

    def deliver(self, step: int, source: int, payload: bytes) -> bool:
        """A payload is whole: hand it out. `False` if this source's payload of this step was there before."""
        with self._changed:
            if source not in self._missing[step]:
                return False
            self._missing[step].discard(source)
            self._pieces.pop((step, source), None)
            self._arrived[step].append((source, payload))
            self.heard[source] = max(step, self.heard.get(source, 0))
            self._changed.notify_all()
            return True

    def fail(self, error: BaseException) -> None:
        """Every waiter, now and later, gets this error (the first one given)."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    @property
    def complete(self) -> bool:
        """Whether every frame of the run is here, or none will be awaited any more."""
        with self._changed:
            return self._left == 0 or self._error is not None

    def missing(self, step: int) -> list[int]:
        """The sources whose payload of this step is not here, ascending."""
        with self._changed:
            return sorted(self._missing[step])

    def next(self, step: int, timeout: float) -> tuple[int, bytes] | None:
        """The next (source, payload) of a step, or `None` after ``timeout`` seconds or an arrival elsewhere."""
        with self._changed:
            if self._error is not None:
                raise self._error
            if not self._arrived[step]:
                self._changed.wait(timeout)
            if self._error is not None:
                raise self._error
            return self._arrived[step].popleft() if self._arrived[step] else None
