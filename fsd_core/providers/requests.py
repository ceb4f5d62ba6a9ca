"""Sends a provisioner's requests: repeats them after transient errors, keeps a deadline, runs many at a time, adds advice to errors."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Self, TypeVar

from fsd_core.common.crew import each
from fsd_core.driver import Code
from fsd_core.errors import DriverError, InputError
from fsd_core.providers.advice import line
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import TRANSIENT, Retry

__all__ = ["Requests", "reporting_to"]

_THREADS = 16
_FIRST_S = 15.0  # the deadline of the first request: a service that does not answer within it cannot be reached
_PAUSE_S = 2.0  # the longest pause between two checks
_REPORT_S = 5.0  # between two reports

Report = Callable[[str], None]
_REPORT: ContextVar[Report] = ContextVar("_REPORT", default=lambda text: None)
T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def reporting_to(report: Report) -> Iterator[None]:
    """Within the block, the provisioners that this thread calls pass a line about their current request to ``report``, every 5 s."""
    token = _REPORT.set(report)
    try:
        yield
    finally:
        _REPORT.reset(token)


class Requests:
    """The requests of one call of a provisioner. A context manager: the end of its block ends all waits and closes the clients.

    ``classify`` gives the `Code` of an error. ``advise`` gives advice for an error, or `None`. ``unset``: the SDK's error classes which
    mean that credentials or a region are not set up on this machine; they become `InputError`. ``closing``: an `ExitStack` that is closed
    at the end of the block. ``tell`` passes a line to the callback of `reporting_to`.
    """

    def __init__(
        self,
        classify: Callable[[BaseException], Code],
        advise: Callable[[BaseException], str | None],
        unset: tuple[type[BaseException], ...] = (),
    ) -> None:
        self._stop = threading.Event()
        self.retry = Retry(time.time() + _FIRST_S, Meter(), stop=self._stop)
        self.closing = ExitStack()
        self._classify, self._advise, self._unset = classify, advise, unset
        self._late: str | None = None  # the beginning of the error if the deadline passes
        self.tell, self._began, self._reported = _REPORT.get(), time.monotonic(), time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        self.closing.close()

    def classify(self, error: BaseException) -> Code:
        """The code of an error of a request."""
        return self._classify(error)

    def within(self, seconds: float, late: str | None = None) -> None:
        """Set the deadline of all later requests, in seconds from now. Before the first call of `within`, the deadline is 15 s.

        ``late``: the beginning of the error if the deadline passes.
        """
        self.retry.deadline = time.time() + seconds
        self._late = late

    def left(self) -> float:
        """Seconds until the deadline; at least 0."""
        return max(0.0, self.retry.deadline - time.time())

    def late(self, what: str) -> DriverError:
        """The error for a deadline that passed during ``what``."""
        return DriverError(Code.DEADLINE, f"{self._late}: {what}" if self._late else f"{what}: took longer than its time limit")

    def repeat(self, what: str, request: Callable[[], T]) -> T:
        """The result of ``request``, called again while its error is transient. ``what`` names it in errors and reports.

        Raises `DriverError`, or `InputError` if the SDK is not set up on this machine.
        """
        self._report(what)
        try:
            return self.retry.call(self, what, request)
        except DriverError as error:
            cause = error.__cause__
            tip = self._advise(cause) if cause else None
            if isinstance(cause, self._unset):
                raise InputError(line(cause, tip)) from cause
            text = error.message if tip is None else f"{error.message}: {tip}"
            if self._late and error.code in TRANSIENT and self.left() <= 2 * _PAUSE_S:  # the deadline allows no other try
                raise self.late(text) from cause
            if tip is None:
                raise
            raise DriverError(error.code, text) from cause

    def unless(self, code: Code, what: str, request: Callable[[], T]) -> T | None:
        """Like `repeat`; `None` if the request fails with ``code``."""
        try:
            return self.repeat(what, request)
        except DriverError as error:
            if error.code is code:
                return None
            raise

    def each(self, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """The results of ``work`` for every item, 16 at a time, in the items' order. Raises the first error."""
        return each(work, items, _THREADS)

    def until(self, what: str, check: Callable[[], T | None]) -> T:
        """Call ``check`` until it returns something. Raises `DriverError` with DEADLINE when the deadline passes."""
        wait = 0.05
        while (found := check()) is None:
            self._report(what)
            if self.left() <= wait or self._stop.wait(wait):
                raise self.late(what)
            wait = min(_PAUSE_S, 1.5 * wait)
        return found

    def _report(self, what: str) -> None:
        """Report the current request, at most every `_REPORT_S` seconds."""
        now = time.monotonic()
        if now - self._reported >= _REPORT_S:
            self._reported = now
            self.tell(f"{now - self._began:.0f} s: {what}")
