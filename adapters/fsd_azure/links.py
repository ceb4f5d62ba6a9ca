"""Links to queues of Service Bus: a sender or receiver of azure-servicebus, and the one thread that touches it.

Neither is thread-safe: AMQP's state is in them. And neither is sure to return, since azure-servicebus waits without a limit for a
peer that takes a connection and then says nothing. So whoever needs a link tells its thread what to do and waits for as long as
he wants. Links to different queues work at the same time.
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
SEND_S = 60.0  # until the service has a message, and likewise until it has settled one
CLOSE_S = 3.0
_SLACK_S = 10.0  # for a thread that has to wait for the processor
# azure-servicebus would ping each connection from one more thread, for which a close waits a second. What the service closes
# because it was idle for minutes is opened again when it is needed.
_NO_PINGS: Mapping[str, Any] = {"keep_alive": 0}
_SLICE_S = 0.02  # how long a receiver looks at its socket before it looks for orders
_NOW_S = 1e-9  # what came already, and no look at the socket: azure-servicebus takes no 0


class Link(abc.ABC):
    """One sender or receiver. Its thread starts with it and ends with the process, whatever it is doing then."""

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
        """What ``action`` returns or raises in the link's thread. `TimeoutError`: nothing yet; the link is of no use any more."""
        future: Future[T] = Future()
        with self._ordering:
            if self._ended:
                raise ConnectionError(f"queue {self.name}: the link was closed")
            self._orders.put((future, action))
        try:
            return future.result(within_s)
        except TimeoutError:
            if future.done():  # it is the action's own
                raise
            future.cancel()
            self.stuck = True
            self.close()  # or, once it goes on, a receiver would take what its successor waits for
            raise TimeoutError(f"queue {self.name}: Service Bus said nothing for {within_s:g} s") from None

    def open(self) -> None:
        """Open the link, unless it is, which takes half a second."""
        if not self._open:
            self.order(self._opened, OPEN_S + _SLACK_S)

    def close(self) -> None:
        """Tell the thread to end; `join` waits for it."""
        self._orders.put(None)

    def join(self, within_s: float) -> None:
        """Wait until it has."""
        self._thread.join(within_s)

    def _run(self) -> None:
        self._work()
        with suppress(Exception):
            self._end()
        with self._ordering:  # nobody waits for a thread that is gone
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
        """Open it."""

    @abc.abstractmethod
    def _end(self) -> None:
        """Close it."""


class SenderLink(Link):
    """To one queue, which is to take batches of ``least`` bytes."""

    def __init__(self, client: ServiceBusClient, name: str, least: int) -> None:
        self._sender: ServiceBusSender = client.get_queue_sender(name, **_NO_PINGS)
        self._least = least
        super().__init__(name)

    def send(self, bodies: Sequence[bytes]) -> None:
        """One transfer: a batch, or a message alone. Returns when the service has it."""
        self.open()
        self.order(lambda: self._send(bodies), SEND_S + _SLACK_S)

    def _begin(self) -> None:
        """Raises `Refused` where the service, which tells a link what it takes, takes less than the settings say."""
        self._sender.__enter__()
        if (most := self._sender.create_message_batch().max_size_in_bytes) < self._least:
            words = f"queue {self.name} takes {most} bytes at once, not {self._least}: its namespace is of a smaller tier than [azure] tier"
            raise Refused(Code.TOO_LARGE, f"{words} says: destroy the app, and deploy it with the tier that there is")

    def _send(self, bodies: Sequence[bytes]) -> None:
        from azure.servicebus import ServiceBusMessage

        try:
            message: ServiceBusMessage | ServiceBusMessageBatch = ServiceBusMessage(bodies[0])
            if len(bodies) > 1:  # one alone may, in the premium tier, be larger than any batch
                message = self._sender.create_message_batch()  # as large as the link says
                for body in bodies:
                    message.add_message(ServiceBusMessage(body))
            self._sender.send_messages(message, timeout=SEND_S)
        except Exception:  # of any kind the link may be gone: the next send opens it again
            self._open = False
            raise

    def _end(self) -> None:
        self._sender.close()


class ReceiverLink(Link):
    """From one queue, peek-locked. While it is open its thread reads whatever comes, up to ``most`` messages that nobody took yet.

    ``receive_messages(n)`` of azure-servicebus waits 0.2 s more whenever it has got less than n; asked for one message, it does not.
    """

    def __init__(self, client: ServiceBusClient, name: str, most: int) -> None:
        self._receiver: ServiceBusReceiver = client.get_queue_receiver(name, prefetch_count=most, socket_timeout=_SLICE_S, **_NO_PINGS)
        self._most = most
        self._change = threading.Condition()
        self._found: deque[Any] = deque()
        self._error: Exception | None = None
        super().__init__(name)

    def take(self, limit: int, wait_s: float) -> list[Any]:
        """Up to ``limit`` messages, as soon as one is there; none after ``wait_s``. Raises what ended the link, once for each who waits."""
        self.open()
        with self._change:
            self._change.wait_for(lambda: self._found or not self._open, wait_s)
            if self._error is not None and not self._found:
                raise self._error
            full = len(self._found) >= self._most
            taken = [self._found.popleft() for _ in range(min(limit, len(self._found)))]
        if full:
            self._orders.put((Future(), lambda: None))  # there is room again
        return taken

    def complete(self, messages: Sequence[Any]) -> None:
        """Settle messages, each by a disposition. Those whose lock is lost, or that are settled, are passed over."""
        self.open()
        self.order(lambda: self._complete(messages), SEND_S + _SLACK_S)

    def _complete(self, messages: Sequence[Any]) -> None:
        for message in messages:
            try:
                self._opened()  # it may have ended meanwhile; a lock does not end with its link
                self._receiver.complete_message(message)
            except Exception as error:
                if classify(error) not in (Code.PRECONDITION, Code.NOT_FOUND):
                    self._broken(error)
                    raise
            self._read(_NOW_S)  # what came while it waited for the answer

    def _begin(self) -> None:
        self._receiver.__enter__()  # a receive would open it, too, and call the time that it takes a wait for messages
        self._error = None

    def _work(self) -> None:
        while True:
            try:
                order = self._orders.get(block=not self._open or len(self._found) >= self._most)
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
            self._error, self._open = asking(error), False  # until somebody asks again
            self._change.notify_all()

    def _end(self) -> None:
        self._broken(ConnectionError(f"queue {self.name}: the link was closed"))
        with self._change:
            left, self._found = self._found, deque()
        with suppress(Exception):
            for message in left:
                self._receiver.abandon_message(message)  # or nobody would see it until its lock ends
        self._receiver.close()
