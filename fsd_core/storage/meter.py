"""Counts the requests, messages and bytes of a run: the quantities of its bill."""

from __future__ import annotations

import threading

__all__ = ["FIELDS", "Meter"]

FIELDS = (
    "payload_bytes_sent",  # of encoded activations for other ranks; a copy to each rank counts
    "message_bytes_sent",  # to the queue service, with headers, text encoding and overhead
    "messages_sent",  # one publish sends several
    "messages_received",  # with duplicates
    "publish_requests",
    "publish_units",  # sum over publishes of max(1, ceil(bytes / `MessageLimits.billing_bytes`))
    "direct_units",  # of publish_units: those of requests straight to a queue (`MessageLimits.direct`)
    "direct_bytes_sent",  # of message_bytes_sent: those of such requests
    "message_units_sent",  # the sum of `publish_units` over messages
    "message_units_received",
    "receive_requests",  # also those that returned no message
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
    "strays_dropped",  # messages of other runs or older epochs, and messages that are not frames
    "frames_dropped",  # what claims to be of this run and has a wrong tag: damaged or forged frames, and reads of damaged exchange objects
)


class Meter:
    """One counter for each name in `FIELDS`. Thread-safe."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(FIELDS, 0)
        self._lock = threading.Lock()

    def add(self, name: str, n: int = 1) -> None:
        """Add ``n`` to the counter ``name``. Raises `KeyError` if `FIELDS` does not have the name."""
        self.add_all({name: n})

    def add_all(self, counts: dict[str, int]) -> None:
        """Add to several counters in one step, so that a snapshot shows all additions or none.

        Raises `KeyError`, and adds nothing, if a name is unknown.
        """
        with self._lock:
            self._counts |= {name: self._counts[name] + n for name, n in counts.items()}

    def snapshot(self) -> dict[str, int]:
        """The current values of all counters, in the order of `FIELDS`."""
        with self._lock:
            return dict(self._counts)
