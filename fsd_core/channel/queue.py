"""The exchange over a queue service, with as few requests as the service's limits allow."""

from __future__ import annotations

import base64
import binascii
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial

from fsd_core.channel.channel import POLL_S, Begun, Channel, ChannelConfig, Sending, Superseded, describe, explain
from fsd_core.channel.frames import Frame, Kind, Stray, Unverified, pack, split, unpack
from fsd_core.channel.kept import Sent
from fsd_core.channel.limits import StallLimit
from fsd_core.channel.mailbox import Duplicate, Inconsistent, Unexpected
from fsd_core.channel.news import News
from fsd_core.channel.packing import RECEIVE_MESSAGES, ack_messages, batched, copies, linger_s, open_receiver, open_receives, piece_bytes
from fsd_core.common.crew import each
from fsd_core.driver import Code, Delivery, Message, MessageDriver, Rejected
from fsd_core.errors import FsdError, RunFailed
from fsd_core.storage.retry import Retry
from fsd_core.wrappers.around import Begins

__all__ = ["QueueChannel"]

log = logging.getLogger(__name__)

ABORT_THREADS = 32  # some services take half a second to reach a queue for the first time
COPIES = 32  # threads that send second copies: so many that no copy waits for a thread
NEXT_WAIT_S = 2.0  # the longest wait of every receive but the first: a receive may stay open for so long after a failed run
LAST_STEP = 2**31 - 1
LEFT_MESSAGES = 16  # the number of messages with a wrong tag that a rank does not acknowledge at their first delivery
LEASES = 3.5  # three replies in a row may be lost: each time, the service delivers the messages again only after a lease


class QueueChannel(Channel):
    """A channel with one queue for each rank. Background threads receive until all frames of the run have arrived.

    With ``eager``, the channel makes more requests to deliver payloads sooner:

    - It publishes each payload as soon as it exists, and receives all the time.
    - It publishes a batch of at most `COPY_BYTES` twice at once, over two connections. The batch is sent when the service has accepted one
      copy; the mailbox drops the copy that arrives later. So a step waits for the faster of two deliveries.
    - It keeps up to `RECEIVES` receives open, because a receive often returns as soon as there is one message, and the next receive takes a
      round trip. It opens another receive only while the rank awaits more payloads than the open receives can return. So each receive
      returns, and none is open when the last payload has arrived: an open receive would take a message of the next run on these queues.

    Otherwise the channel saves requests: it collects the messages of a step to fill batches, receives only while a step waits, and pauses
    between two receives of a step (`linger_s`), so that each receive returns more messages. Some services push messages to a client that
    has not requested them (`MessageLimits.outstanding_messages`). There one thread receives all the time, because the lease of a message
    begins when the service pushes it.

    The channel acknowledges messages when their tokens fill a batch, when half of the oldest message's lease is over, or when half of the
    messages or bytes that the service allows without acknowledgement are reached. The mailbox drops messages that arrive twice.
    """

    def __init__(self, driver: MessageDriver, config: ChannelConfig) -> None:
        super().__init__(config, StallLimit(min_s=LEASES * driver.limits.lease_s + config.slack_s, start_s=config.start_s))
        self.driver = driver
        self._sources = {source for sources in config.expected.values() for source in sources}
        self._text = driver.limits.body == "text"
        limits = driver.limits
        self.piece_bytes = piece_bytes(limits)
        self._open = open_receiver(limits, self.eager)  # True: the threads receive all the time
        self._begins = driver if self.eager and isinstance(driver, Begins) else None
        self._copies = ThreadPoolExecutor(COPIES, thread_name_prefix="copy") if self.eager else None
        receives = open_receives(limits, self.eager)
        self._receive_messages = limits.receive_messages if receives == 1 else min(limits.receive_messages, RECEIVE_MESSAGES)
        self._receiving = 0  # receives that are open
        self._turn = threading.Condition()
        self._ack_messages = ack_messages(limits)
        self._ack_bytes = (limits.outstanding_bytes or math.inf) / 2
        # Not yet acknowledged, oldest first: monotonic time of delivery, token, bytes of the body.
        self._tokens: list[tuple[float, object, int]] = []
        self._acking: list[Future[None]] = []
        self._left: set[int] = set()  # hashes of messages that were not acknowledged, because their tag is wrong
        self._newest_epoch = config.newest_epoch
        self._tokens_lock = threading.RLock()
        self._closed = threading.Event()
        self._step: int | None = None
        self._asked = time.monotonic()
        self._waited_s = 0.0  # how long the last step waited for its messages, in seconds
        self._wanted = threading.Event()
        waits = [limits.wait_s, *[min(limits.wait_s, NEXT_WAIT_S)] * (receives - 1)]
        self._receivers = [threading.Thread(target=self._receive_all, args=(wait,), name="receive", daemon=True) for wait in waits]
        for receiver in self._receivers:
            receiver.start()

    # Sending

    def send(self, step: int, payloads: Iterable[tuple[int, bytes]]) -> None:
        """Start to send ``payloads``, pairs of (target rank, payload). Returns before they are sent."""
        waiting: list[Message] = []
        begun: list[tuple[list[Message], Begun]] = []
        for target, payload in payloads:
            waiting += self.outgoing(Sent(target, step, Kind.PAYLOAD, payload))
            if self.eager:
                begun += self._publish_first(waiting)
                waiting = []
        self._publish_second(begun + self._publish_first(waiting))

    def outgoing(self, sent: Sent) -> list[Message]:
        """Keep a payload. Returns its messages: none if the target already has the payload, from an earlier incarnation of this rank."""
        self.kept.add(sent)  # before its messages exist: if the target is lost from now on, its next incarnation gets the kept payload
        return [] if sent.step < self._lacked.get(sent.target, 0) else self.messages(sent)

    def messages(self, sent: Sent) -> list[Message]:
        """The messages that carry one payload: one for each piece of at most ``piece_bytes`` bytes."""
        pieces = split(sent.body, self.piece_bytes)
        return [self.message(sent.target, sent.kind, sent.step, number, len(pieces), piece) for number, piece in enumerate(pieces)]

    def message(self, target: int, kind: Kind, step: int, sequence: int, of: int, body: bytes) -> Message:
        """The message for rank ``target`` that carries a `Frame` with these fields."""
        me, theirs = self.me, self.incarnations.get(target, 0)
        data = pack(Frame(kind, me.run, me.epoch, step, me.rank, sequence, of, body, me.incarnation, theirs), target, me.key)
        return Message(target, base64.b64encode(data) if self._text else data)

    def send_again(self, target: int, step: int, *, needed: bool) -> None:
        """See `Channel.send_again`."""
        kept = self.kept.of(target, step)
        if kept is None:
            reason = f"rank {target} was lost, and this rank no longer keeps what it sent to rank {target}: the budget is exceeded"
            if needed:
                raise RunFailed(Code.UNAVAILABLE, reason, rank=self.me.rank)
            log.warning("%s", reason)
        for number, part in enumerate(kept or ()):
            log.info("sends rank %d %d payloads again", target, len(part))
            if number:
                self.await_sends()  # the messages of two parts are not in memory together
            self.publish_soon([message for sent in part for message in self.messages(sent)])

    def say(self, news: News, ranks: Iterable[int]) -> None:
        """See `Channel.say`."""
        body = news.pack()
        self.publish_soon([self.message(rank, Kind.NEWS, 0, 0, 1, body) for rank in ranks])

    def take(self, source: int, incarnation: int, sent: Sent) -> None:
        """See `Channel.take`."""
        pieces, me = split(sent.body, self.piece_bytes), self.me
        for number, piece in enumerate(pieces):
            self._take_frame(Frame(sent.kind, me.run, me.epoch, sent.step, source, number, len(pieces), piece, incarnation, me.incarnation))

    def publish_soon(self, messages: Sequence[Message]) -> None:
        """Start to publish ``messages``. If this fails, `receive` or `finish` raises its error. Thread-safe."""
        self._publish_second(self._publish_first(messages))

    def _publish_first(self, messages: Sequence[Message]) -> list[tuple[list[Message], Begun]]:
        """Start to publish ``messages``. Returns the batches of which this thread has sent a first copy and should send a second one."""
        found: list[tuple[list[Message], Begun]] = []
        for batch in self.batches(messages):
            twice = self._copies is not None and copies(sum(len(message.body) for message in batch), self.driver.limits) > 1
            if (until := self._begin(batch)) is not None:
                begun = Begun(until, self.retry.stop)
                self.track(begun)
                found += [(batch, begun)] * twice
                continue
            if self._copies is None or not twice:
                self.submit(partial(self.publish, batch))
                continue
            sent = threading.Event()
            tasks = [pool.submit(self._publish_copy, batch, sent) for pool in (self.pool, self._copies)]
            self.track(Sending(tasks, sent))
        return found

    def _publish_second(self, begun: Iterable[tuple[list[Message], Begun]]) -> None:
        """Publish batches a second time. A failure is ignored, because the first copy is sent."""
        for batch, first in begun:
            if (until := self._begin(batch)) is not None:
                first.until = min(first.until, until)

    def _begin(self, batch: list[Message]) -> float | None:
        """Publish a batch in this thread, if the driver can do so without a wait, and return when the request ends; else `None`."""
        if self._begins is None:
            return None
        with suppress(Exception):  # of any class: a publish in another thread then has the error, and repeats what can be repeated
            return self._begins.begin(batch)
        return None

    def _publish_copy(self, batch: list[Message], sent: threading.Event) -> None:
        """Publish a batch that another thread publishes too. Makes no request once ``sent`` is set, or the channel is closed."""

        def request(messages: Sequence[Message]) -> Sequence[Rejected]:
            return () if sent.is_set() or self._closed.is_set() else self.driver.publish(messages)

        self.retry.entries(self.driver, f"publish to rank {_ranks(batch)}", batch, request)
        sent.set()

    def batches(self, messages: Sequence[Message]) -> Iterator[list[Message]]:
        """Group ``messages`` into batches. All messages of a batch have the same route, and each batch is within the service's limits."""
        entries = [(message.rank, len(message.body)) for message in messages]
        for batch in batched(entries, self.driver.route, self.driver.limits):
            yield [messages[number] for number in batch]

    def publish(self, batch: list[Message], retry: Retry | None = None) -> None:
        """Publish a batch, and repeat the request with the refused messages until the service has accepted all.

        ``retry`` replaces the channel's own. Raises `DriverError` if a retry cannot help or a limit is reached.
        """
        ranks = _ranks(batch)
        log.debug("publishes %d messages to rank %s", len(batch), ranks)
        (retry or self.retry).entries(self.driver, f"publish to rank {ranks}", batch, self.driver.publish)

    def abort(self, error: RunFailed, retry: Retry) -> None:
        """Send an abort to all other ranks. Tries to reach every rank, then raises the first error if a request failed."""
        body = describe(error)
        peers = [rank for rank in range(self.me.workers) if rank != self.me.rank]
        batches = list(self.batches([self.message(rank, Kind.ABORT, 0, 0, 1, body) for rank in peers]))

        failed: list[FsdError] = []

        def send(batch: list[Message]) -> None:
            try:
                self.publish(batch, retry)
            except FsdError as error:  # the other batches are still sent
                failed.append(error)

        each(send, batches, ABORT_THREADS)  # not in the channel's pool, which may be busy
        if failed:
            raise failed[0]

    # Receiving

    def _receive_all(self, wait_s: float) -> None:
        """Receive until all frames of the run have arrived, or the channel is closed, or the run has failed or is over its deadline.

        A receive waits for at most ``wait_s`` seconds.
        """
        try:
            while self.mailbox.awaited and not self._closed.is_set():
                if not self._open and (self._step is None or not self.mailbox.missing(self._step)):
                    self._waited_s = time.monotonic() - self._asked
                    self._wanted.wait(self._ack_in_s())
                    self._wanted.clear()
                    self._ack(everything=False)
                    continue
                self._receive(wait_s)
                self._ack(everything=False)
                if not self._open and self._step is not None and self.mailbox.missing(self._step):
                    self._closed.wait(float(linger_s(self._waited_s)))
                if time.time() >= self.me.deadline:
                    return
            self._ack(everything=True)
        except Exception as error:  # of any class: otherwise the main thread would wait for this thread
            self.receiving_failed(error)
            with suppress(RuntimeError):  # the pool is shut down: the worker has ended
                self._ack(everything=True)

    def _receive(self, wait_s: float) -> None:
        """Receive once, or wait for a turn: until a receive has returned, and at most `POLL_S`."""
        with self._turn:
            if self.mailbox.awaited <= self._receiving * self._receive_messages:
                self._turn.wait(POLL_S)
                return
            self._receiving += 1
        try:
            due = self._ack_in_s()
            wait_s = min(wait_s, NEXT_WAIT_S) if self.me.incarnation else wait_s  # meanwhile, the payload may come from a record
            wait = min(wait_s, max(0.0, self.me.deadline - time.time()), math.inf if due is None else due)
            receive = partial(self.driver.receive, self.me.rank, self._receive_messages, wait)
            deliveries = self.retry.call(self.driver, "receive", receive)
            log.debug("received %d messages while step %s waits", len(deliveries), self._step)
            newest_epoch = cache(self._newest_epoch)  # one request for all of them: each was sent before it
            for delivery in deliveries:
                self._take(delivery, newest_epoch)
        finally:
            with self._turn:
                self._receiving -= 1
                self._turn.notify_all()

    def prepare(self, step: int) -> None:
        """Start to receive the payloads of ``step``."""
        self._step = step
        self._asked = time.monotonic()
        self._wanted.set()

    def _take(self, delivery: Delivery, newest_epoch: Callable[[], int]) -> None:
        """Put a delivery into the mailbox and its token into the list of tokens to acknowledge. ``newest_epoch``: see `ChannelConfig`."""
        try:
            data = base64.b64decode(delivery.body, validate=True) if self._text else delivery.body
            frame = unpack(data, self.me.rank, self.me.key)
        except (Stray, binascii.Error):
            self.unread = True
            self.meter.add("strays_dropped")
            self._remember(delivery)
            return
        except Unverified as error:
            self._drop(delivery, error, newest_epoch)
            return
        if (newer := frame.target_incarnation) > self.me.incarnation:  # no acknowledgement: the newer incarnation receives the message
            raise Superseded(Code.PRECONDITION, f"incarnation {newer} of this rank has replaced this worker", rank=self.me.rank)
        self._remember(delivery)
        if frame.kind is Kind.ABORT:
            log.debug("received the abort of rank %d", frame.source)
            self.mailbox.fail(explain(frame.body))
        elif frame.kind is Kind.NEWS:
            self._hear(News.unpack(frame.body))
        else:
            self._take_frame(frame)

    def _drop(self, delivery: Delivery, error: Unverified, newest_epoch: Callable[[], int]) -> None:
        """Drop a frame of an earlier run, or one that is damaged or forged. Raises `RunFailed` if it shows that another run has the slot.

        A frame of this run that this rank read wrongly may be whole when it comes again. So the first `LEFT_MESSAGES` are not acknowledged,
        until the same bytes come a second time.
        """
        me = self.me
        if error.epoch > me.epoch and (newest := newest_epoch()) > me.epoch:  # no acknowledgement: the message belongs to the newer run
            why = f"lease lost: another run holds the slot at epoch {newest}, expected epoch {me.epoch}, that of this run"
            raise RunFailed(Code.PRECONDITION, why, rank=me.rank)
        if error.epoch < me.epoch and error.run != me.run:  # no run has two epochs, and no epoch two runs: any other is damaged or forged
            self.meter.add("strays_dropped")
            self._remember(delivery)
            return
        body = hash(delivery.body)
        again = body in self._left
        if not again:
            self.dropped(str(error))
        if again or len(self._left) >= LEFT_MESSAGES:
            self._remember(delivery)
        else:
            self._left.add(body)

    def _hear(self, news: News) -> None:
        """Act on news. Answer the "hello" of a source with the steps that this rank has, so that the source does not send them again."""
        self.heed(news)
        if news.kind == "hello" and news.rank in self._sources:
            step = self.mailbox.first_missing(news.rank)
            step = LAST_STEP if step is None else step
            self.say(News(kind="lacks", rank=self.me.rank, incarnation=self.me.incarnation, step=step), [news.rank])

    def _take_frame(self, frame: Frame) -> None:
        """Put a payload, or a piece of one, into the mailbox."""
        try:
            body = self.mailbox.add(frame)
        except Duplicate:
            self.meter.add("duplicates_dropped")
            return
        except Unexpected:
            self.meter.add("strays_dropped")
            return
        except Inconsistent as error:
            raise RunFailed(Code.INVALID, str(error), rank=self.me.rank) from error
        if body is not None:
            self.arrived(frame, body)

    def arrived(self, frame: Frame, body: bytes) -> None:
        """Process ``body``, a complete payload. ``frame`` is the piece that arrived last."""
        self.mailbox.deliver(frame.step, frame.source, body)

    def _remember(self, delivery: Delivery) -> None:
        with self._tokens_lock:
            self._tokens.append((time.monotonic(), delivery.token, len(delivery.body)))

    def _ack_in_s(self) -> float | None:
        """Seconds until half the lease of the oldest unacknowledged delivery is over; `None` if all are acknowledged."""
        with self._tokens_lock:
            return max(0.0, self._tokens[0][0] + self.driver.limits.lease_s / 2 - time.monotonic()) if self._tokens else None

    def _ack(self, *, everything: bool) -> None:
        """Acknowledge full batches of tokens.

        Acknowledge all tokens if ``everything`` is true, if half of the oldest message's lease is over, or at half of the bytes that the
        service allows without acknowledgement.
        """
        size = self.driver.limits.batch_messages
        with self._tokens_lock:
            everything = everything or sum(size for _, _, size in self._tokens) >= self._ack_bytes
            while self._tokens and (everything or len(self._tokens) >= self._ack_messages or self._ack_in_s() == 0):
                batch, self._tokens = [token for _, token, _ in self._tokens[:size]], self._tokens[size:]
                log.debug("acknowledges %d messages", len(batch))
                ack = partial(self.driver.ack, self.me.rank)
                self._acking = [task for task in self._acking if not task.done() or task.cancelled() or task.exception()]
                self._acking.append(self.pool.submit(self.retry.entries, self.driver, "ack", batch, ack))

    def finish(self) -> None:
        """Wait until all payloads are sent and all received messages are acknowledged."""
        self.finish_sends()
        for receiver in self._receivers:
            receiver.join()
        self._ack(everything=True)
        for task in self._acking:
            task.result()

    def close(self) -> None:
        """Stop receiving, and send no more copies."""
        self._closed.set()
        self._wanted.set()
        with self._turn:
            self._turn.notify_all()
        if self._copies is not None:
            self._copies.shutdown(wait=False, cancel_futures=True)


def _ranks(batch: Sequence[Message]) -> str:
    return ", ".join(str(message.rank) for message in batch)
