"""Exchange over a queue service: frames packed into as few requests as the service's limits allow."""

from __future__ import annotations

import base64
import binascii
import math
import threading
import time
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial

from fsd_core.channel.channel import Channel, ChannelConfig, Patience, describe, explain
from fsd_core.channel.frames import HEADER_BYTES, Frame, FrameError, Kind, Stray, fill, pack, split, unpack
from fsd_core.channel.mailbox import Copy, Misfit, Unexpected
from fsd_core.common.crew import each
from fsd_core.driver import Code, Delivery, Message, MessageDriver
from fsd_core.errors import FsdError, RunFailed
from fsd_core.storage.retry import Retry

__all__ = ["QueueChannel"]

ABORT_THREADS = 32  # some services take half a second to reach a queue for the first time
LINGER_SHARE = 0.35
LINGER_MOST_S = 0.05
LEASES = 3.5  # a message may lose its reply three times in a row and be no stall


class QueueChannel(Channel):
    """One queue a rank. A background thread receives as long as anything is still due.

    With ``eager``, each payload leaves as soon as it is there, and a receive is always open. Otherwise a step's messages
    fill batches first, receives are made only while a step waits, and after one that did not bring everything the next
    is put off for a share of what the last step waited: fewer requests, each with what gathered meanwhile.
    Acknowledgements go out when a batch of them is full, or half a lease after the oldest; a copy that comes back all
    the same is dropped by the mailbox. Where the service sends before it is asked, a receive is always open too, since what it sent
    ages, and acknowledgements also go out at half of what may be outstanding.
    """

    def __init__(self, driver: MessageDriver, exchange: ChannelConfig) -> None:
        super().__init__(exchange, Patience(least_s=LEASES * driver.limits.lease_s, start_s=exchange.start_s))
        self.driver = driver
        self._text = driver.limits.body == "text"
        room = driver.limits.message_bytes * 3 // 4 // 3 * 3 if self._text else driver.limits.message_bytes
        self.piece_bytes = room - HEADER_BYTES
        limits = driver.limits
        self._open = self.eager or limits.outstanding_messages is not None  # a receive is, always
        self._most_tokens = min(limits.batch_messages, (limits.outstanding_messages or 2 * limits.batch_messages) // 2)
        self._most_bytes = (limits.outstanding_bytes or math.inf) / 2
        self._tokens: list[tuple[float, object, int]] = []  # to be acknowledged, oldest first: when it was received, and its bytes
        self._acking: list[Future[None]] = []
        self._closed = threading.Event()
        self._step: int | None = None
        self._asked = time.monotonic()
        self._waited_s = 0.0  # how long the last step waited for its messages
        self._wanted = threading.Event()
        self._receiver = threading.Thread(target=self._receive_all, name="receive", daemon=True)
        self._receiver.start()

    # Sending

    def send(self, step: int, payloads: Iterable[tuple[int, bytes]]) -> None:
        """Send (target, payload) pairs; returns before they have left."""
        waiting: list[Message] = []
        for target, payload in payloads:
            waiting += self.messages(step, target, payload)
            if self.eager:
                self._publish_soon(waiting)
                waiting = []
        self._publish_soon(waiting)

    def messages(self, step: int, target: int, payload: bytes) -> list[Message]:
        """The messages that carry one payload."""
        pieces = split(payload, self.piece_bytes)
        return [self.message(target, Kind.PAYLOAD, step, number, len(pieces), piece) for number, piece in enumerate(pieces)]

    def message(self, target: int, kind: Kind, step: int, sequence: int, of: int, body: bytes) -> Message:
        """One frame as a message."""
        data = pack(Frame(kind, self.me.run, self.me.epoch, step, self.me.rank, sequence, of, body))
        return Message(target, base64.b64encode(data) if self._text else data)

    def _publish_soon(self, messages: Sequence[Message]) -> None:
        for batch in self.batches(messages):
            self.submit(partial(self.publish, batch))

    def batches(self, messages: Sequence[Message]) -> Iterator[list[Message]]:
        """The messages by route, in batches that fit the service's limits."""
        routes: dict[Hashable, list[Message]] = defaultdict(list)
        for message in messages:
            routes[self.driver.route(message.rank)].append(message)
        limits = self.driver.limits
        for group in routes.values():
            sizes = [len(message.body) + limits.overhead_bytes for message in group]
            for batch in fill(sizes, limits.batch_messages, limits.batch_bytes):
                yield [group[index] for index in batch]

    def publish(self, batch: list[Message], retry: Retry | None = None) -> None:
        """One batch, until every entry is taken."""
        ranks = ", ".join(str(message.rank) for message in batch)
        (retry or self.retry).entries(self.driver, f"publish to rank {ranks}", batch, self.driver.publish)

    def abort(self, error: RunFailed, retry: Retry) -> None:
        """Tell every peer, as far as possible, that the run is over. Raises `DriverError` if some could not be told."""
        body = describe(error)
        peers = [rank for rank in range(self.me.workers) if rank != self.me.rank]
        batches = list(self.batches([self.message(rank, Kind.ABORT, 0, 0, 1, body) for rank in peers]))

        failed: list[FsdError] = []

        def tell(batch: list[Message]) -> None:
            try:
                self.publish(batch, retry)
            except FsdError as error:  # one peer that cannot be told must not keep it from the others
                failed.append(error)

        each(tell, batches, ABORT_THREADS)  # the channel's own pool may be busy
        if failed:
            raise failed[0]

    # Receiving

    def _receive_all(self) -> None:
        """Receive until everything that is due arrived, or the channel closed or failed."""
        limits = self.driver.limits
        try:
            while not (self.mailbox.complete or self._closed.is_set()):
                if not self._open and (self._step is None or not self.mailbox.missing(self._step)):
                    self._waited_s = time.monotonic() - self._asked
                    self._wanted.wait(self._ack_in_s() if self._tokens else None)
                    self._wanted.clear()
                    self._ack(late=False)
                    continue
                wait = min(limits.wait_s, max(0.0, self.me.deadline - time.time()))
                if self._tokens:
                    wait = min(wait, self._ack_in_s())
                receive = partial(self.driver.receive, self.me.rank, limits.receive_messages, wait)
                for delivery in self.retry.call(self.driver, "receive", receive):
                    self._take(delivery)
                self._ack(late=False)
                if not self._open and self._step is not None and self.mailbox.missing(self._step):
                    self._closed.wait(min(LINGER_MOST_S, LINGER_SHARE * self._waited_s))
                if time.time() >= self.me.deadline:
                    return
            self._ack(late=True)
        except FsdError as error:
            self.mailbox.fail(error)
            with suppress(RuntimeError):  # the pool is shut down: the worker has ended
                self._ack(late=True)
        except Exception as error:  # a defect here must not leave the main thread waiting
            self.mailbox.fail(RunFailed(Code.UNKNOWN, f"receiving failed: {type(error).__name__}: {error}", rank=self.me.rank))

    def prepare(self, step: int) -> None:
        """Receive for ``step``."""
        self._step = step
        self._asked = time.monotonic()
        self._wanted.set()

    def _take(self, delivery: Delivery) -> None:
        """Put one delivery into the mailbox, and remember to acknowledge it."""
        try:
            frame = unpack(base64.b64decode(delivery.body, validate=True) if self._text else delivery.body)
        except (Stray, binascii.Error):
            self.meter.add("strays_dropped")
            self._remember(delivery)
            return
        except FrameError as error:
            self._remember(delivery)  # or it would meet every later run on this slot
            if (error.run, error.epoch) == (self.me.run, self.me.epoch):
                raise RunFailed(Code.INVALID, str(error), rank=self.me.rank) from error
            self.meter.add("strays_dropped")
            return
        if frame.epoch > self.me.epoch:
            raise RunFailed(
                Code.PRECONDITION, f"lease lost: the slot is at epoch {frame.epoch}, this run had {self.me.epoch}", rank=self.me.rank
            )
        self._remember(delivery)
        if frame.epoch < self.me.epoch or frame.run != self.me.run:
            self.meter.add("strays_dropped")
        elif frame.kind is Kind.ABORT:
            self.mailbox.fail(explain(frame.body))
        else:
            try:
                body = self.mailbox.add(frame)
            except Copy:
                self.meter.add("duplicates_dropped")
                return
            except Unexpected:
                self.meter.add("strays_dropped")
                return
            except Misfit as error:
                raise RunFailed(Code.INVALID, str(error), rank=self.me.rank) from error
            if body is not None:
                self.arrived(frame, body)

    def arrived(self, frame: Frame, body: bytes) -> None:
        """All pieces of a payload are here."""
        self.mailbox.deliver(frame.step, frame.source, body)

    def _remember(self, delivery: Delivery) -> None:
        self._tokens.append((time.monotonic(), delivery.token, len(delivery.body)))

    def _ack_in_s(self) -> float:
        """Seconds until half the lease of the oldest delivery is over that is not acknowledged."""
        return max(0.0, self._tokens[0][0] + self.driver.limits.lease_s / 2 - time.monotonic())

    def _ack(self, *, late: bool) -> None:
        """Acknowledge what fills batches; everything when ``late``, once half the lease of the oldest is over, or at half of the bytes
        that may be outstanding."""
        late = late or sum(size for _, _, size in self._tokens) >= self._most_bytes
        most = self.driver.limits.batch_messages
        while self._tokens and (late or len(self._tokens) >= self._most_tokens or self._ack_in_s() == 0):
            batch, self._tokens = [token for _, token, _ in self._tokens[:most]], self._tokens[most:]
            self._acking.append(self.pool.submit(self.retry.entries, self.driver, "ack", batch, partial(self.driver.ack, self.me.rank)))

    def finish(self) -> None:
        """Wait until everything sent has left and everything received is settled."""
        self.finish_sends()
        self._receiver.join()
        self._ack(late=True)
        for task in self._acking:
            task.result()

    def close(self) -> None:
        """Stop receiving."""
        self._closed.set()
        self._wanted.set()
