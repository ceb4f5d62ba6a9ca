"""Messages that a receiver holds until their time: the mark in front of a body, and the inbox of one rank."""

from __future__ import annotations

import base64
import binascii
import contextlib
import heapq
import itertools
import math
import struct
import threading
import time
from collections.abc import Sequence

from fsd_core.driver import Delivery

__all__ = ["MARK_BYTES", "Inbox", "mark", "unmark"]

_MARK = struct.Struct("<6sdf")  # magic, time of the publish in seconds since 1970, seconds from then until the delivery
_MAGIC = b"FSD-l\n"
MARK_BYTES = 24  # 18 bytes in base64: ASCII, so that a text service carries it too


def mark(body: bytes, published: float, delay_s: float) -> bytes:
    """Put a mark before a body: ``published`` in seconds since 1970, and the delay in seconds until its delivery."""
    return base64.b64encode(_MARK.pack(_MAGIC, published, delay_s)) + body


def unmark(body: bytes) -> tuple[bytes, float, float] | None:
    """The body without its mark, ``published`` and ``delay_s``; `None` if it has no mark."""
    with contextlib.suppress(binascii.Error, ValueError, struct.error):
        magic, published, delay_s = _MARK.unpack(base64.b64decode(body[:MARK_BYTES], validate=True))
        if magic == _MAGIC and math.isfinite(published) and 0 <= delay_s < math.inf:
            return body[MARK_BYTES:], published, delay_s
    return None


class Inbox:
    """The messages of one rank that the receiver holds. Thread-safe.

    The receive that sets ``asking`` requests messages from the service and returns those that are due. The others wait for their turn. The
    oldest of them is next, because it has been open for long enough to return a message at once.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.asking = False
        self.waiting: list[threading.Condition] = []
        # A heap of (when it is due, on the monotonic clock; number; its body with the mark, if it had one; the message without).
        self._held: list[tuple[float, int, bytes | None, Delivery]] = []
        self._order = itertools.count()

    @property
    def next_due(self) -> float:
        """The time on the monotonic clock at which the next message is due."""
        with self.lock:
            return self._held[0][0] if self._held else math.inf

    def due(self, limit: int) -> list[Delivery]:
        """Remove and return up to ``limit`` messages that are due."""
        ready = list[Delivery]()
        with self.lock:
            now = time.monotonic()
            while self._held and self._held[0][0] <= now and len(ready) < limit:
                ready.append(heapq.heappop(self._held)[3])
        return ready

    def hold(self, deliveries: Sequence[Delivery]) -> None:
        """Add messages that the service has delivered. If a message is held already, its lease has ended: its token is replaced."""
        now, today = time.monotonic(), time.time()
        for delivery in deliveries:
            found = unmark(delivery.body)
            # The clocks of two machines may differ: a message is never held for longer than its own delay.
            due = now if found is None else now + min(max(0.0, found[1] + found[2] - today), found[2])
            marked, plain = (None, delivery) if found is None else (delivery.body, Delivery(delivery.token, found[0]))
            with self.lock:
                again = next((at for at, each in enumerate(self._held) if marked is not None and each[2] == marked), None)
                if again is None:
                    heapq.heappush(self._held, (due, next(self._order), marked, plain))
                else:
                    self._held[again] = (*self._held[again][:3], plain)
