"""Links to queues of Service Bus: a sender or receiver of azure-servicebus, and the one thread that uses it.

Senders and receivers are not thread-safe, since they hold AMQP's state. A call may also block forever: azure-servicebus waits without a
time limit for a peer that accepts a connection and then sends nothing. So callers give orders to the link's thread, and wait for the result
with a limit of their own. Links to different queues work at the same time.
"""

from __future__ import annotations

import abc
import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from fsd_azure.clients import OPEN_S
from fsd_azure.errors import asking, classify
from fsd_core.driver import Code, Refused

if TYPE_CHECKING:
    from azure.servicebus import ServiceBusClient, ServiceBusMessageBatch, ServiceBusReceiver, ServiceBusSender

__all__ = ["Link", "ReceiverLink", "SenderLink"]

T = TypeVar("T")
SEND_S = 60.0  # time limit for the service to accept a message, and to settle one
CLOSE_S = 3.0  # time limit for all links of a driver to close
_SLACK_S = 10.0  # extra time, since a thread may have to wait for a processor
# Without this azure-servicebus pings each connection from one more thread, and a close waits a second for that thread. A connection
# that the service closes after idle minutes is opened again when it is needed.
_NO_PINGS: Mapping[str, Any] = {"keep_alive": 0}
_SLICE_S = 0.02  # a receiver reads its socket for this time, then looks for orders
_NOW_S = 1e-9  # read only messages that have arrived: azure-servicebus accepts no 0


class Link(abc.ABC):
    """One sender or receiver, and the daemon thread that uses it. Making a link starts the thread."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.stuck = False
        self._open = False
        self._ended = False
        self._ordering = threading.Lock()
        self._orders: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"link {name}", daemon=True)
        self._thread.start()

    def order(self, action: Callable[[], T], within_s: float) -> T:
        """Run ``action`` in the link's thread, and return its result or raise its error.

        Raises `TimeoutError` where the action has no result after ``within_s`` seconds; the link is then ``stuck``, and must not be used
        again. Raises `ConnectionError` where the link was closed.
        """
        future: Future[T] = Future()
        with self._ordering:
            if self._ended:
                raise ConnectionError(f"queue {self.name}: the link was closed")
            self._orders.put((future, action))
        try:
            return future.result(within_s)
        except TimeoutError:
            if future.done():  # the error of the action itself
                raise
            future.cancel()
            self.stuck = True
            self.close()  # otherwise this receiver could continue later, and take messages from the receiver that replaces it
            raise TimeoutError(f"queue {self.name}: Service Bus did not answer within {within_s:g} s") from None

    def open(self) -> None:
        """Open the link if it is closed. Opening takes about 0.5 s. Raises like `order`."""
        if not self._open:
            self.order(self._opened, OPEN_S + _SLACK_S)

    def close(self) -> None:
        """Order the thread to end; `join` waits for that."""
        self._orders.put(None)

    def join(self, within_s: float) -> None:
        """Wait up to ``within_s`` seconds for the thread to end."""
        self._thread.join(within_s)

    def _run(self) -> None:
        self._work()
        with suppress(Exception):
            self._end()
        with self._ordering:  # no caller may wait for a thread that ended
            self._ended = True
        with suppress(queue.Empty):
            while True:
                if (order := self._orders.get_nowait()) is not None and order[0].set_running_or_notify_cancel():
                    order[0].set_exception(ConnectionError(f"queue {self.name}: the link was closed"))

    def _work(self) -> None:
        while (order := self._orders.get()) is not None:
            self._do(order)

    def _opened(self) -> None:
        if not self._open:
            self._begin()
            self._open = True

    @staticmethod
    def _do(order: tuple[Future[Any], Callable[[], Any]]) -> None:
        future, action = order
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(action())
        except BaseException as error:
            future.set_exception(asking(error))

    @abc.abstractmethod
    def _begin(self) -> None:
        """Open the sender or receiver."""

    @abc.abstractmethod
    def _end(self) -> None:
        """Close the sender or receiver."""


class SenderLink(Link):
    """A sender to one queue. ``min_bytes``: the size of a batch, in bytes, that the queue must accept."""

    def __init__(self, client: ServiceBusClient, name: str, min_bytes: int) -> None:
        self._sender: ServiceBusSender = client.get_queue_sender(name, **_NO_PINGS)
        self._min_bytes = min_bytes
        super().__init__(name)

    def send(self, bodies: Sequence[bytes]) -> None:
        """Send the bodies by one transfer: a batch, or a single message. Returns when the service has accepted it."""
        self.open()
        self.order(lambda: self._send(bodies), SEND_S + _SLACK_S)

    def _begin(self) -> None:
        """Open the sender. Raises `Refused` where the service's limit for this link is below the limit of the settings."""
        self._sender.__enter__()
        if (max_bytes := self._sender.create_message_batch().max_size_in_bytes) < self._min_bytes:
            limit = f"queue {self.name}: accepts batches of {max_bytes} bytes: expected {self._min_bytes}, the limit of [azure] tier"
            raise Refused(Code.TOO_LARGE, f"{limit}: destroy the app, set [azure] tier to the tier of the namespace, and deploy again")

    def _send(self, bodies: Sequence[bytes]) -> None:
        from azure.servicebus import ServiceBusMessage

        try:
            message: ServiceBusMessage | ServiceBusMessageBatch = ServiceBusMessage(bodies[0])
            if len(bodies) > 1:  # in the premium tier a single message may be larger than any batch
                message = self._sender.create_message_batch()  # the batch has the link's size limit
                for body in bodies:
                    message.add_message(ServiceBusMessage(body))
            self._sender.send_messages(message, timeout=SEND_S)
        except Exception:  # after any error the link may be gone: the next send opens it again
            self._open = False
            raise

    def _end(self) -> None:
        self._sender.close()


class ReceiverLink(Link):
    """A peek-lock receiver from one queue. While the link is open, its thread reads messages, and pauses while ``max_held`` messages wait
    for `take`.

    ``receive_messages(n)`` of azure-servicebus waits 0.2 s longer when it has fewer than n messages; with n = 1 it does not.
    """

    def __init__(self, client: ServiceBusClient, name: str, max_held: int) -> None:
        self._receiver: ServiceBusReceiver = client.get_queue_receiver(name, prefetch_count=max_held, socket_timeout=_SLICE_S, **_NO_PINGS)
        self._max_held = max_held
        self._change = threading.Condition()
        self._found: deque[Any] = deque()
        self._error: Exception | None = None
        super().__init__(name)

    def take(self, limit: int, wait_s: float) -> list[Any]:
        """Return up to ``limit`` messages as soon as one has arrived; an empty list if none arrives within ``wait_s`` seconds. Raises the
        error that ended the link.
        """
        self.open()
        with self._change:
            self._change.wait_for(lambda: self._found or not self._open, wait_s)
            if self._error is not None and not self._found:
                raise self._error
            full = len(self._found) >= self._max_held
            taken = [self._found.popleft() for _ in range(min(limit, len(self._found)))]
        if full:
            self._orders.put((Future(), lambda: None))  # wakes the thread, which can hold a message more
        return taken

    def complete(self, messages: Sequence[Any]) -> None:
        """Settle messages, each by one disposition. Skips a message that is already settled, or whose lock was lost.

        A disposition names a delivery number, and numbers start again at 0 on a link that was opened again. This never settles the wrong
        message: azure-servicebus compares the delivery's tag first, and settles a message of an earlier link by its lock token.
        """
        self.open()
        self.order(lambda: self._complete(messages), SEND_S + _SLACK_S)

    def _complete(self, messages: Sequence[Any]) -> None:
        for message in messages:
            try:
                self._opened()  # the link may have ended, but the lock is still valid
                self._receiver.complete_message(message)
            except Exception as error:
                if classify(error) not in (Code.PRECONDITION, Code.NOT_FOUND):
                    self._broken(error)
                    raise
            self._read(_NOW_S)  # messages that came with the answer

    def _begin(self) -> None:
        self._receiver.__enter__()  # otherwise the first receive would open it, and the time would count as its wait
        self._error = None

    def _work(self) -> None:
        while True:
            try:
                order = self._orders.get(block=not self._open or len(self._found) >= self._max_held)
            except queue.Empty:
                self._read(_SLICE_S)
                continue
            if order is None:
                return
            self._do(order)

    def _read(self, wait_s: float) -> None:
        try:
            messages = self._receiver.receive_messages(1, wait_s)
        except Exception as error:
            self._broken(error)
        else:
            with self._change:
                self._found.extend(messages)
                self._change.notify_all()

    def _broken(self, error: Exception) -> None:
        with self._change:
            self._error, self._open = asking(error), False  # the next call opens the link again
            self._change.notify_all()

    def _end(self) -> None:
        self._broken(ConnectionError(f"queue {self.name}: the link was closed"))
        with self._change:
            untaken, self._found = self._found, deque()
        with suppress(Exception):
            for message in untaken:
                self._receiver.abandon_message(message)  # otherwise no receiver gets the message before its lock expires
        self._receiver.close()
