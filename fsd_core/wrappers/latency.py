"""Drivers that take as long as the services of a cloud: each request takes at least the time that a table of latencies draws for it.

The drawn time is a minimum: if the real request takes longer, the wrapper adds no wait. Every wait ends with the run's deadline, or when
the run stops. Two delays continue after their request: a message carries the time of its delivery in front of its body, and the launch of
a function carries the time before which the function does not begin.

All requests of one function share its bandwidth. A request that finds all open connections of its driver in use opens another one, which
takes longer.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import defaultdict
from collections.abc import Sequence

import attrs

from fsd_core.driver import Code, Delivery, InvokeDriver, Launch, Message, MessageDriver, ObjectDriver, Page, Refused, Rejected
from fsd_core.latency import Draws
from fsd_core.wrappers.around import AroundInvoker, AroundMessages, AroundObjects, Begins
from fsd_core.wrappers.delays import Connections, Delays, Request
from fsd_core.wrappers.marks import MARK_BYTES, Inbox, mark

__all__ = ["DelayedInvoker", "DelayedMessages", "DelayedObjects", "Delays"]

NOT_BEFORE_BYTES = 48  # what ``not_before`` adds to the payload of a launch
_ROUND_S = 0.005  # between two receives of a service that returns before the end of a short wait
_GATHER_SHARE = 0.25  # of the median time of a delivery: the time in which a receive collects messages before it requests more
_LOOK_S = 0.2  # a receive that waits for its turn checks once in this time whether the run has stopped


class DelayedMessages(AroundMessages):
    """A queue service that delivers as late as the table says. The receiver holds a message until its time; unmarked messages pass.

    If several receives of a rank are open, only the oldest one asks the service; the others wait for their turn. So each message comes at
    its time if any receive is open then. If the service's lease of a held message ends, the service delivers the message again: its new
    token then replaces the old one. The size limits are those of the service minus the size of the mark. The lease is that of the service
    minus the longest time for which a message is held, but at least half of it.

    With ``direct``, the times are those of direct publishes, if the table has them, even if the wrapped driver publishes in another way.
    """

    def __init__(self, driver: MessageDriver, delays: Delays, *, direct: bool = False) -> None:
        super().__init__(driver)
        self._begins = driver if isinstance(driver, Begins) else None
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
        self._connections = Connections(delays)
        self._inboxes: dict[int, Inbox] = defaultdict(Inbox)  # by rank
        self._lock = threading.Lock()

    def publish(self, messages: Sequence[Message]) -> Sequence[Rejected]:
        """See `MessageDriver.publish`."""
        with self._request(messages) as request:
            return super().publish(self._marked(messages, request))

    def begin(self, messages: Sequence[Message]) -> float | None:
        """See `Begins.begin`. Returns `None` if the wrapped driver does not have this method."""
        if self._begins is None:
            return None
        request, ended = self._request(messages), 0.0
        try:
            ended = self._begins.begin(self._marked(messages, request)) or 0.0
            return max(ended, request.until) if ended else None
        finally:
            self._connections.lend(request.until if ended else 0.0)

    def _request(self, messages: Sequence[Message]) -> Request:
        """The request that publishes messages."""
        size = sum(len(message.body) for message in messages)
        if len(messages) > 1 and size + self.limits.overhead_bytes * len(messages) > self.limits.batch_bytes:
            raise Refused(
                Code.TOO_LARGE,
                f"a publish of {size} bytes: expected at most {self.limits.batch_bytes}, the service's limit without room for marks",
            )
        return self._connections.request(self._single if len(messages) == 1 else self._several, size)

    def _marked(self, messages: Sequence[Message], request: Request) -> list[Message]:
        """The messages with marks: each has its own time of delivery."""
        now = time.time() - (time.monotonic() - request.began)
        late = [request.transfer + self._delays.draws.next(self._deliver) for _ in messages]
        return [Message(each.rank, mark(each.body, now, delay)) for each, delay in zip(messages, late, strict=True)]

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
        """See `Connects.connect`. Later publishes save the time of a connection only if the driver really opens one."""
        began = time.monotonic()
        if opened := super().connect(rank):
            self._connections.ahead("publish", began)
        return opened

    def _ready(self, inbox: Inbox, rank: int, limit: int, until: float) -> list[Delivery]:
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
                if came:  # messages of a step come in a group, and none is due so soon: the next receive returns several of them
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
        self._connections = Connections(delays)

    def catch_up(self, since: float, rounds: Sequence[Sequence[str]]) -> None:
        """Wait as long as requests would have taken with this wrapper that were made before the wrapper existed.

        ``rounds``: their verbs. The requests of a round are made at once, the rounds one after another. ``since``: the start of the first
        round, on the monotonic clock.
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
        self._connections = Connections(delays)

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
