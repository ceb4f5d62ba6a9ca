"""`RunWrappers`: what a run puts around the drivers of its provider."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fsd_core.driver import InvokeDriver, MessageDriver, ObjectDriver
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.wrappers.metered import MeteredInvoker, MeteredMessages, MeteredObjects

if TYPE_CHECKING:
    from fsd_core.latency import Latency
    from fsd_core.wrappers.faults import Faults

__all__ = ["RunWrappers"]


class RunWrappers:
    """Wraps the drivers of one function, or of the client (``rank`` -1): the latency is the inner wrapper, then faults, then the meter.

    So the meter counts the requests of the run, with latency and without it.
    """

    def __init__(
        self, meter: Meter, retry: Retry, rank: int, attempt: int, *, faults: Faults | None = None, latency: Latency | None = None
    ) -> None:
        self._meter = meter
        self._rank = rank
        self._faults = faults
        self._delays = None
        if latency:
            from fsd_core.wrappers.latency import Delays  # here and below: a worker of a cloud does not import it

            self._delays = Delays(latency, rank, attempt, retry)
        self.slack_s = latency.step_s if latency else 0.0  # what the latency can add to the way of one payload

    def objects(self, driver: ObjectDriver, *, since: float | None = None) -> ObjectDriver:
        """The wrapped object store. ``since``: when the function began its first requests, on the monotonic clock.

        The function made these requests without the latency: a get and a put at once, then a get. This call waits for their delays.
        """
        if self._delays is not None:
            from fsd_core.wrappers.latency import DelayedObjects

            driver = delayed = DelayedObjects(driver, self._delays)
            if since is not None:
                delayed.catch_up(since, (("get", "put"), ("get",)))
        if self._faults is not None:
            from fsd_core.wrappers.faults import FaultyObjects

            driver = FaultyObjects(driver, self._faults, self._rank)
        return MeteredObjects(driver, self._meter)

    def messages(self, driver: MessageDriver, *, direct: bool = False) -> MessageDriver:
        """The wrapped queue service. ``direct``: whether the driver was made with ``direct``."""
        if self._delays is not None:
            from fsd_core.wrappers.latency import DelayedMessages

            driver = DelayedMessages(driver, self._delays, direct=direct)
        if self._faults is not None:
            from fsd_core.wrappers.faults import FaultyMessages

            driver = FaultyMessages(driver, self._faults, self._rank)
        return MeteredMessages(driver, self._meter)

    def invoker(self, driver: InvokeDriver) -> InvokeDriver:
        """The wrapped function platform."""
        if self._delays is not None:
            from fsd_core.wrappers.latency import DelayedInvoker

            driver = DelayedInvoker(driver, self._delays)
        if self._faults is not None:
            from fsd_core.wrappers.faults import FaultyInvoker

            driver = FaultyInvoker(driver, self._faults, self._rank)
        return MeteredInvoker(driver, self._meter)
