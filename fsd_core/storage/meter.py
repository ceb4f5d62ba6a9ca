"""Counters of what a run asked of its services: the numbers that a bill is made from."""

from __future__ import annotations

import threading

__all__ = ["FIELDS", "Meter"]

FIELDS = (
    "payload_bytes_sent",  # what the codec produced for layer exchanges, each copy to each rank
    "message_bytes_sent",  # what went to the queue service: headers, text encoding and overhead included
    "messages_sent",  # entries of publishes
    "messages_received",  # deliveries, duplicates included
    "publish_requests",
    "publish_units",  # sum over publishes of ceil(bytes / billing unit), at least 1 each
    "message_units_sent",  # sum over messages of ceil(bytes / billing unit)
    "message_units_received",
    "receive_requests",  # empty ones too
    "receive_units",
    "ack_requests",
    "object_puts",
    "object_gets",
    "object_lists",
    "object_bytes_written",
    "object_bytes_read",
    "invocations",
    "retries",
    "duplicates_dropped",
    "strays_dropped",  # messages of other runs, older epochs, or no frames at all
)


class Meter:
    """Thread-safe counters, one for each of `FIELDS`, that only grow."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(FIELDS, 0)
        self._lock = threading.Lock()

    def add(self, name: str, n: int = 1) -> None:
        """Add ``n`` to the counter ``name``; `KeyError` where it is none of `FIELDS`."""
        self.add_all({name: n})

    def add_all(self, counts: dict[str, int]) -> None:
        """Add several counters at once: a snapshot sees all of them or none. `KeyError`, and no change, on an unknown name."""
        with self._lock:
            self._counts |= {name: self._counts[name] + n for name, n in counts.items()}

    def snapshot(self) -> dict[str, int]:
        """A copy of all counters, in the order of `FIELDS`."""
        with self._lock:
            return dict(self._counts)
