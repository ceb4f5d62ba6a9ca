"""What has arrived: pieces put together, copies dropped, payloads handed out in the order of their arrival."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping

from fsd_core.channel.frames import Frame

__all__ = ["Copy", "Mailbox", "Misfit", "Unexpected"]


class Copy(Exception):
    """The piece, or its whole payload, was here before."""


class Unexpected(Exception):
    """Nobody waits for anything of this source in this step."""


class Misfit(Exception):
    """The piece and those before it cannot be of one payload: they differ on how many there are."""


class Mailbox:
    """Thread-safe. ``expected`` names, for every step of the run, the sources that send one payload in it.

    ``failed`` is called when the first error is given to `fail`.
    """

    def __init__(self, expected: Mapping[int, Collection[int]], failed: Callable[[], None] = lambda: None) -> None:
        self._expected = expected
        self._failed = failed
        self._missing = {step: set(sources) for step, sources in expected.items()}
        self._left = sum(len(sources) for sources in self._missing.values())
        self._pieces: dict[tuple[int, int], tuple[int, dict[int, bytes]]] = {}  # by step and source: how many there are, those here
        self._arrived: dict[int, deque[tuple[int, bytes]]] = {step: deque() for step in expected}
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self.heard: dict[int, int] = {}  # the last step in which each source was heard of

    def add(self, frame: Frame) -> bytes | None:
        """Keep a piece; the whole body once its last piece is here, else `None`.

        Raises `Copy`, `Unexpected` or `Misfit`; then nothing is kept.
        """
        with self._changed:
            if frame.source not in self._expected.get(frame.step, ()):
                raise Unexpected
            if frame.source not in self._missing[frame.step]:
                raise Copy
            of, pieces = self._pieces.setdefault((frame.step, frame.source), (frame.of, {}))
            if frame.of != of:
                raise Misfit(f"a piece of {frame.of}, after pieces of {of} (step {frame.step}, from rank {frame.source})")
            if frame.sequence in pieces:
                raise Copy
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
            first, self._error = self._error is None, self._error or error
            self._changed.notify_all()
        if first:
            self._failed()

    @property
    def error(self) -> BaseException | None:
        """What `fail` was given first."""
        with self._changed:
            return self._error

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
