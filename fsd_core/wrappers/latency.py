"""Drivers that take as long as the services of a cloud: each request takes at least the time that a table of latencies draws for it.

A draw is a minimum. The real time of a request counts towards it, so a request that takes longer by itself is not delayed. Every wait ends
with the run's deadline, or when the run stops. Two things reach beyond one request: a message carries the time of its delivery in front of
its body, and the launch of a function carries the time before which the function does not begin.

All requests of one function share its bandwidth. A request that finds all open connections of its driver in use opens another one, which
takes longer.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import heapq
import itertools
import json
import math
import struct
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence

import attrs

from fsd_core.driver import Code, Delivery, InvokeDriver, Launch, Message, MessageDriver, ObjectDriver, Page, Refused, Rejected
from fsd_core.latency import Draws, Latency
from fsd_core.storage.retry import Retry
from fsd_core.wrappers.around import AroundInvoker, AroundMessages, AroundObjects

__all__ = ["MARK_BYTES", "DelayedInvoker", "DelayedMessages", "DelayedObjects", "Delays", "mark", "unmark"]

_MARK = struct.Struct("<6sdf")  # magic, time of the publish in seconds since 1970, seconds from then until the delivery
_MAGIC = b"FSD-l\n"
MARK_BYTES = 24  # 18 bytes in base64: ASCII, so that a text service carries it too
NOT_BEFORE_BYTES = 48  # what ``not_before`` adds to the payload of a launch
_ROUND_S = 0.005  # between two receives of a service that returns before the end of a short wait
_GATHER_SHARE = 0.25  # of the median time of a delivery: so long a receive collects messages before it looks for more
_LOOK_S = 0.2  # so often a receive that waits for another one looks whether the run has stopped


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


class _Connections:
    """The connections of one driver. A request takes an idle one, or opens another. Publishes have their own: they may go elsewhere."""

    def __init__(self, delays: Delays) -> None:
        self.delays = delays
        self._idle: Counter[bool] = Counter()  # by whether they are for publishes
        self._lock = threading.Lock()

    def open(self, verb: str) -> float:
        """Take a connection. Returns the seconds that this takes."""
        with self._lock:
            if self._idle[verb.startswith("publish")]:
                self._idle[verb.startswith("publish")] -= 1
                return 0.0
        return self.delays.draws.next("connect")

    def leave(self, verb: str) -> None:
        """Give a connection back."""
        with self._lock:
            self._idle[verb.startswith("publish")] += 1

    def ahead(self, verb: str, since: float) -> None:
        """Wait as long as it takes to open a connection from ``since`` on (on the monotonic clock), and leave it for a request."""
        self.delays.wait_until(since + self.delays.draws.next("connect"))
        self.leave(verb)

    def request(self, verb: str, sent: int = 0, *, effect: float = 0.0) -> _Request:
        """A request of ``verb`` that sends so many bytes and takes effect at the share ``effect`` of the drawn time.

        So a put is visible at its end and not at its begin.
        """
        return _Request(self, verb, sent, effect)


class _Request:
    """A request. Within the ``with`` block, the wrapped driver makes it. Times are on the monotonic clock.

    The wait before the request is shorter by the shortest real time of such a request so far. An error of the request takes the same time
    as an answer.
    """

    def __init__(self, connections: _Connections, verb: str, sent: int, effect: float) -> None:
        self._connections, self._verb = connections, verb
        delays = connections.delays
        self.began = time.monotonic()
        # Seconds of ``until`` for opening its connection and for the bytes that it sends.
        self.transfer = connections.open(verb) + delays.transfer("write", verb, sent, self.began)
        took = delays.draws.next(verb) + self.transfer
        self.until = self.began + took  # it does not end before
        self._effect = self.began + effect * took if effect else 0.0

    def __enter__(self) -> _Request:
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


class _Inbox:
    """The messages of one rank that the receiver holds. Thread-safe.

    The receive that sets ``asking`` asks the service and returns what is due. The others wait for their turn, the oldest first: it has been
    open for long enough to return a message at once.
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
        """Add messages that the service has delivered. If one is here already, its lease has ended: the new token replaces the old one."""
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


class DelayedMessages(AroundMessages):
    """A queue service that delivers as late as the table says. The receiver holds a message until its time; unmarked messages pass.

    Of several receives of a rank, one asks the service at a time, the oldest first; the others wait for their turn. So each message comes
    at its time if any receive is open then. If the service's lease of a held message ends, the service delivers the message again: its new
    token then replaces the old one. The limits are smaller than those of the service by the mark, and the lease by the longest time for
    which a message is held (at most half).

    With ``direct``, the times are those of the direct way, if the table has them, whatever the way of the wrapped driver.
    """

    def __init__(self, driver: MessageDriver, delays: Delays, *, direct: bool = False) -> None:
        super().__init__(driver)
        limits, rows = driver.limits, delays.latency.table.rows
        self._single = self._several = "publish_direct" if direct and "publish_direct" in rows else "publish"
        if self._single == "publish" and "publish_batch" in rows:
            self._several = "publish_batch"
        self._deliver = "deliver_direct" if direct and "deliver_direct" in rows else "deliver"
        self._gather_s = _GATHER_SHARE * delays.latency.scale * rows[self._deliver].p50_ms / 1000 if self._deliver in rows else 0.0
        self.limits = attrs.evolve(
            limits,
            message_bytes=limits.message_bytes - MARK_BYTES,
            batch_bytes=limits.batch_bytes - MARK_BYTES * limits.batch_messages,
            lease_s=max(limits.lease_s / 2, limits.lease_s - delays.latency.message_s),
            direct=limits.direct or self._single == "publish_direct",
        )
        self._delays = delays
        self._connections = _Connections(delays)
        self._inboxes: dict[int, _Inbox] = defaultdict(_Inbox)  # by rank
        self._lock = threading.Lock()

    def publish(self, messages: Sequence[Message]) -> Sequence[Rejected]:
        """See `MessageDriver.publish`."""
        size = sum(len(message.body) for message in messages)
        if len(messages) > 1 and size + self.limits.overhead_bytes * len(messages) > self.limits.batch_bytes:
            raise Refused(
                Code.TOO_LARGE,
                f"a publish of {size} bytes: expected at most {self.limits.batch_bytes}, which leaves room for what the latency adds",
            )
        with self._connections.request(self._single if len(messages) == 1 else self._several, size) as request:
            now = time.time() - (time.monotonic() - request.began)
            late = [request.transfer + self._delays.draws.next(self._deliver) for _ in messages]
            marked = [Message(each.rank, mark(each.body, now, delay)) for each, delay in zip(messages, late, strict=True)]
            return super().publish(marked)

    def receive(self, rank: int, limit: int, wait_s: float) -> Sequence[Delivery]:
        """See `MessageDriver.receive`."""
        until = time.monotonic() + wait_s
        with self._lock:
            inbox = self._inboxes[rank]
        with self._connections.request("receive") as request:
            ready = self._ready(inbox, rank, limit, until)
            size = sum(len(delivery.body) for delivery in ready)
            now = time.monotonic()
            request.until = max(request.until, now + self._delays.transfer("read", "receive", size, now))
        return ready

    def ack(self, rank: int, tokens: Sequence[object]) -> Sequence[Rejected]:
        """See `MessageDriver.ack`."""
        with self._connections.request("ack"):
            return super().ack(rank, tokens)

    def connect(self, rank: int) -> bool:
        """See `Connects.connect`. Only a connection that the driver really opens saves its time later."""
        began = time.monotonic()
        if opened := super().connect(rank):
            self._connections.ahead("publish", began)
        return opened

    def _ready(self, inbox: _Inbox, rank: int, limit: int, until: float) -> list[Delivery]:
        """Up to ``limit`` messages that are due. Waits for the first until ``until``, on the monotonic clock."""
        ready, turn = list[Delivery](), threading.Condition(inbox.lock)
        with inbox.lock:
            inbox.waiting.append(turn)
            try:
                while inbox.asking or inbox.waiting[0] is not turn:
                    now = time.monotonic()
                    if now >= until or self._delays.over:
                        return inbox.due(limit)
                    turn.wait(min(until - now, _LOOK_S))
                inbox.asking = True
            finally:
                inbox.waiting.remove(turn)
                if inbox.waiting and not inbox.asking:
                    inbox.waiting[0].notify()
        try:
            while True:
                ready += inbox.due(limit - len(ready))
                if len(ready) == limit:
                    return ready
                now = time.monotonic()
                wait = 0.0 if ready else min(max(0.0, min(until, inbox.next_due) - now), self.limits.wait_s)
                came: Sequence[Delivery] = ()
                with contextlib.suppress(*((Exception,) if ready else ())):  # an error must not lose what is ready
                    inbox.hold(came := super().receive(rank, limit, wait))
                ready += inbox.due(limit - len(ready))
                ended = time.monotonic()
                if ready or ended >= until or self._delays.over:
                    return ready
                if came:  # messages of a step come in a group, and none is due so soon: one look takes those of some milliseconds
                    self._delays.wait_until(min(ended + self._gather_s, inbox.next_due, until))
                elif ended < now + wait:
                    self._delays.wait_until(min(ended + _ROUND_S, until))
        finally:
            with inbox.lock:
                inbox.asking = False
                if inbox.waiting:
                    inbox.waiting[0].notify()


class DelayedObjects(AroundObjects):
    """An object store that takes as long as the table says."""

    def __init__(self, driver: ObjectDriver, delays: Delays) -> None:
        super().__init__(driver)
        self._delays = delays
        self._connections = _Connections(delays)

    def catch_up(self, since: float, rounds: Sequence[Sequence[str]]) -> None:
        """Wait as if these requests, which were made before there was a wrapper, had been made with it.

        The requests of a round are made at once, the rounds one after another. ``since``: the start of the first, on the monotonic clock.
        """
        for verbs in rounds:
            since += max([self._connections.open(verb) + self._delays.draws.next(verb) for verb in verbs])
            for verb in verbs:
                self._connections.leave(verb)
        self._delays.wait_until(since)

    def put(self, key: str, body: bytes | bytearray | memoryview, *, if_absent: bool = False) -> None:
        """See `ObjectDriver.put`."""
        with self._connections.request("put", memoryview(body).nbytes, effect=1.0):
            super().put(key, body, if_absent=if_absent)

    def get(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        """See `ObjectDriver.get`."""
        with self._connections.request("get", effect=0.5) as request:
            body = super().get(key, start, end)
            request.until += self._delays.transfer("read", "get", len(body), request.began)
            return body

    def list(self, prefix: str, page: str | None = None) -> Page:
        """See `ObjectDriver.list`."""
        with self._connections.request("list", effect=0.5):
            return super().list(prefix, page)

    def delete(self, keys: Sequence[str]) -> Sequence[Rejected]:
        """See `ObjectDriver.delete`. Takes as long as a put."""
        with self._connections.request("put", effect=1.0):
            return super().delete(keys)


class DelayedInvoker(AroundInvoker):
    """A function platform that starts functions as late as the table says: the payload of a launch carries the time in ``not_before``."""

    def __init__(self, driver: InvokeDriver, delays: Delays) -> None:
        super().__init__(driver)
        limits = driver.limits
        self.limits = attrs.evolve(
            limits, payload_bytes=limits.payload_bytes - NOT_BEFORE_BYTES, start_s=limits.start_s + delays.latency.start_s
        )
        self._delays = delays
        self._connections = _Connections(delays)

    def invoke(self, function: str, payload: bytes) -> Launch:
        """See `InvokeDriver.invoke`."""
        payload = self._postponed(payload, time.time())
        with self._connections.request("invoke", len(payload)):
            return super().invoke(function, payload)

    def _postponed(self, payload: bytes, began: float) -> bytes:
        """The payload of a launch with ``not_before``. Any other payload, for instance of a probe, is unchanged.

        The draw is that of the launched rank, so it does not depend on the order in which ranks are launched.
        """
        try:
            fields = json.loads(payload)
        except ValueError:
            return payload
        if not isinstance(fields, dict) or "rank" not in fields:
            return payload
        start = Draws(self._delays.latency, fields["rank"], fields.get("attempt", 0)).start()
        return json.dumps(fields | {"not_before": began + start}).encode()
