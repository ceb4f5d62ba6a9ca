"""The base classes of all wrappers. They pass each call to another driver; a wrapper overrides the methods that it changes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Generic, Protocol, TypeVar, runtime_checkable

from fsd_core.driver import Code, Delivery, Failures, InvokeDriver, Launch, Message, MessageDriver, ObjectDriver, Page, Rejected

__all__ = ["Around", "AroundInvoker", "AroundMessages", "AroundObjects", "Begins", "Connects", "Driver"]

Driver = TypeVar("Driver", bound=MessageDriver | ObjectDriver | InvokeDriver)


class Around(Generic[Driver]):
    """The methods that all drivers have."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.service = driver.service

    def classify(self, error: BaseException) -> Code:
        """The code that the wrapped driver gives to an error."""
        return self._driver.classify(error)

    def native(self) -> object:
        """The wrapped driver's SDK client."""
        return self._driver.native()

    def close(self) -> None:
        """Close the wrapped driver."""
        self._driver.close()


@runtime_checkable
class Connects(Protocol):
    """What a `MessageDriver` may have besides its own methods: it opens connections before they are needed.

    - ``connect`` must send no message, and must make no request that the service bills.
    """

    def connect(self, rank: int) -> bool:
        """Open the connection that the next publish to the queue of ``rank`` would open first. Returns `False` if that is not possible."""


@runtime_checkable
class Begins(Protocol):
    """What a `MessageDriver` may have besides its own methods: it publishes without a thread that waits for the end of the request.

    - A driver should have this method only if it publishes in less time than a thread takes to start, or if it wraps such a driver.
    """

    def begin(self, messages: Sequence[Message]) -> float | None:
        """Publish messages as `MessageDriver.publish` does, and return when the request ends, on the monotonic clock.

        `None` if this is not possible: then nothing was sent. The driver refuses no single message. Raises what the publish raises.
        """


class AroundMessages(Around[MessageDriver]):
    """A `MessageDriver` that passes each call to ``driver``."""

    def __init__(self, driver: MessageDriver) -> None:
        super().__init__(driver)
        self.limits = driver.limits

    def route(self, rank: int) -> Hashable:
        """See `MessageDriver.route`."""
        return self._driver.route(rank)

    def publish(self, messages: Sequence[Message]) -> Sequence[Rejected]:
        """See `MessageDriver.publish`."""
        return self._driver.publish(messages)

    def receive(self, rank: int, limit: int, wait_s: float) -> Sequence[Delivery]:
        """See `MessageDriver.receive`."""
        return self._driver.receive(rank, limit, wait_s)

    def ack(self, rank: int, tokens: Sequence[object]) -> Sequence[Rejected]:
        """See `MessageDriver.ack`."""
        return self._driver.ack(rank, tokens)

    def connect(self, rank: int) -> bool:
        """See `Connects.connect`. Returns `False` if the wrapped driver does not have this method."""
        return isinstance(self._driver, Connects) and self._driver.connect(rank)


class AroundObjects(Around[ObjectDriver]):
    """An `ObjectDriver` that passes each call to ``driver``."""

    def __init__(self, driver: ObjectDriver) -> None:
        super().__init__(driver)
        self.limits = driver.limits

    def put(self, key: str, body: bytes | bytearray | memoryview, *, if_absent: bool = False) -> None:
        """See `ObjectDriver.put`."""
        self._driver.put(key, body, if_absent=if_absent)

    def get(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        """See `ObjectDriver.get`."""
        return self._driver.get(key, start, end)

    def list(self, prefix: str, page: str | None = None) -> Page:
        """See `ObjectDriver.list`."""
        return self._driver.list(prefix, page)

    def delete(self, keys: Sequence[str]) -> Sequence[Rejected]:
        """See `ObjectDriver.delete`."""
        return self._driver.delete(keys)


class AroundInvoker(Around[InvokeDriver]):
    """An `InvokeDriver` that passes each call to ``driver``."""

    def __init__(self, driver: InvokeDriver) -> None:
        super().__init__(driver)
        self.limits = driver.limits

    def invoke(self, function: str, payload: bytes) -> Launch:
        """See `InvokeDriver.invoke`."""
        return self._driver.invoke(function, payload)

    def failures(self, take: Callable[[bytes], bool]) -> Failures:
        """See `InvokeDriver.failures`."""
        return self._driver.failures(take)
