"""The draws, waits, bandwidth and connections of one function whose services are as slow as those of a cloud."""

from __future__ import annotations

import heapq
import math
import threading
import time
from collections import Counter

from fsd_core.latency import Draws, Latency
from fsd_core.storage.retry import Retry

__all__ = ["Connections", "Delays", "Request"]


class Delays:
    """The draws, waits and bandwidth of one function. ``rank`` -1 is the client. ``retry`` has the deadline and the event that ends waits.

    Thread-safe.
    """

    def __init__(self, latency: Latency, rank: int, attempt: int, retry: Retry) -> None:
        self.latency = latency
        self.draws = Draws(latency, rank, attempt)
        self._retry = retry
        self._free: dict[str, float] = {}  # by direction: monotonic time from which the link is free
        self._fastest: dict[str, float] = {}  # by verb: the shortest real time of a request so far
        self._lock = threading.Lock()

    def wait_until(self, moment: float) -> None:
        """Wait until ``moment`` on the monotonic clock, the run's deadline, or the event that stops the run."""
        while (left := min(moment - time.monotonic(), self._retry.deadline - time.time())) > 0:
            if self._retry.stop.wait(min(left, threading.TIMEOUT_MAX)):
                return

    def transfer(self, direction: str, verb: str, size: int, since: float) -> float:
        """Seconds that the transfer of ``size`` bytes takes from ``since`` on. ``direction``: read or write, the link that it uses."""
        if not size:
            return 0.0
        table, scale = self.latency.table, self.latency.scale
        row, link = table.rows.get(verb), table.links.get(direction)
        own = scale * size / (1e6 * row.mb_per_s) if row is not None and row.mb_per_s else 0.0
        if link is None:
            return own
        with self._lock:
            free = self._free[direction] = max(self._free.get(direction, 0.0), since) + scale * size / (1e6 * link.mb_per_s)
        return max(own, free - since)

    def fastest(self, verb: str) -> float:
        """The shortest real time of a request of ``verb`` so far, in seconds; 0 before the first."""
        with self._lock:
            return self._fastest.get(verb, 0.0)

    def took(self, verb: str, seconds: float) -> None:
        """Record the real time of a request."""
        with self._lock:
            self._fastest[verb] = min(seconds, self._fastest.get(verb, math.inf))

    @property
    def over(self) -> bool:
        """True if the run has stopped: nothing waits any more."""
        return self._retry.stop.is_set()


class Connections:
    """The connections of one driver. A request takes an idle connection, or opens another.

    Publishes have separate connections, because they may go to another host than the other requests.
    """

    def __init__(self, delays: Delays) -> None:
        self.delays = delays
        self._idle: Counter[bool] = Counter()  # the number of idle connections, by whether they are for publishes
        self._lent: list[float] = []  # a heap of monotonic times, at which the connections of publishes without a thread become idle
        self._lock = threading.Lock()

    def open(self, verb: str) -> float:
        """Take a connection. Returns the seconds that this takes."""
        with self._lock:
            while self._lent and self._lent[0] <= time.monotonic():
                heapq.heappop(self._lent)
                self._idle[True] += 1
            if self._idle[verb.startswith("publish")]:
                self._idle[verb.startswith("publish")] -= 1
                return 0.0
        return self.delays.draws.next("connect")

    def leave(self, verb: str) -> None:
        """Give a connection back: it is idle from now on."""
        with self._lock:
            self._idle[verb.startswith("publish")] += 1

    def lend(self, until: float) -> None:
        """Give the connection of a publish back at the monotonic time ``until``."""
        with self._lock:
            heapq.heappush(self._lent, until)

    def ahead(self, verb: str, since: float) -> None:
        """Wait as long as it takes to open a connection from ``since`` on (on the monotonic clock). A later request can use it."""
        self.delays.wait_until(since + self.delays.draws.next("connect"))
        self.leave(verb)

    def request(self, verb: str, sent: int = 0, *, effect: float = 0.0) -> Request:
        """A request of ``verb`` that sends ``sent`` bytes.

        ``effect``: when the wrapped driver makes the request, as a share of the drawn time. With 1, a put becomes visible at the end.
        """
        return Request(self, verb, sent, effect)


class Request:
    """A request. Within the ``with`` block, the wrapped driver makes it. Times are on the monotonic clock.

    The shortest real time of such a request so far is subtracted from the wait before the request. An error takes the same time as an
    answer.
    """

    def __init__(self, connections: Connections, verb: str, sent: int, effect: float) -> None:
        self._connections, self._verb = connections, verb
        delays = connections.delays
        self.began = time.monotonic()
        # Seconds of ``until`` for opening its connection and for the bytes that it sends.
        self.transfer = connections.open(verb) + delays.transfer("write", verb, sent, self.began)
        took = delays.draws.next(verb) + self.transfer
        self.until = self.began + took  # it does not end before
        self._effect = self.began + effect * took if effect else 0.0

    def __enter__(self) -> Request:
        delays = self._connections.delays
        if self._effect:
            delays.wait_until(self._effect - delays.fastest(self._verb))
        self._real = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        delays = self._connections.delays
        try:
            if error is None:
                delays.took(self._verb, time.monotonic() - self._real)
            if error is None or isinstance(error, Exception):  # an answer that is an error takes as long as any other
                delays.wait_until(self.until)
        finally:
            self._connections.leave(self._verb)
