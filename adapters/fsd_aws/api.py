"""The provisioner's way to the services: a client each, core's retry layer, a thread pool, errors that say what to do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from botocore import exceptions as sdk

from fsd_aws.clients import client
from fsd_aws.errors import advice, classify
from fsd_core.driver import Code
from fsd_core.errors import DriverError, InputError
from fsd_core.retry import Retry
from fsd_core.wrappers.meter import Meter

__all__ = ["Api"]

THREADS = 16
FIRST_S = 15.0  # a service that does not answer the first request in this time is not there
# IAM tells the other services within some seconds; until then they answer that a request is invalid.
_SETTLING = ("cannot be assumed by Lambda", "does not have permissions to call")
_SETUP: tuple[type[Exception], ...] = (sdk.NoCredentialsError, sdk.PartialCredentialsError, sdk.ProfileNotFound, sdk.NoRegionError)
_SETUP += (sdk.InvalidRegionError, sdk.UnknownEndpointError, sdk.EndpointResolutionError)

T = TypeVar("T")
R = TypeVar("R")


class Api:
    """Requests of one region, within a deadline. A context manager."""

    def __init__(self, region: str) -> None:
        self.region = region
        self.retry = Retry(time.time() + FIRST_S, Meter())
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="fsd-aws")
        self._clients: dict[str, Any] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        for each in self._clients.values():
            each.close()

    def within(self, seconds: float) -> None:
        """Set the deadline of what follows."""
        self.retry.deadline = time.time() + seconds

    def client(self, service: str) -> Any:
        """The SDK's client."""
        with self._lock:
            if service not in self._clients:
                self._clients[service] = client(service, self.region)
            return self._clients[service]

    def call(self, service: str, operation: str, **request: Any) -> dict[str, Any]:
        """One request, again while its error is transient. Raises `DriverError`, or `InputError` where nothing is set up."""
        return self.repeat(f"{service} {operation}", lambda: getattr(self.client(service), operation)(**request))

    def repeat(self, what: str, request: Callable[[], T]) -> T:
        """The same of any request."""
        try:
            return self.retry.call(self, what, request)
        except DriverError as error:
            tip = advice(error.__cause__) if error.__cause__ else None
            if isinstance(error.__cause__, _SETUP):
                raise InputError(tip or str(error.__cause__)) from error.__cause__
            if tip is None:
                raise
            raise DriverError(error.code, f"{error.message}: {tip}") from error.__cause__

    def find(self, service: str, operation: str, **request: Any) -> dict[str, Any] | None:
        """Like `call`; None where it is not there."""
        return self.unless(Code.NOT_FOUND, service, operation, **request)

    def unless(self, code: Code, service: str, operation: str, **request: Any) -> dict[str, Any] | None:
        """Like `call`; None where the service answers ``code``."""
        try:
            return self.call(service, operation, **request)
        except DriverError as error:
            if error.code is code:
                return None
            raise

    def pages(self, service: str, operation: str, items: str, **request: Any) -> Iterator[Any]:
        """The ``items`` of all pages."""
        token: dict[str, str] = {}
        while True:
            answer = self.call(service, operation, **request, **token)
            yield from answer.get(items, ())
            if not answer.get("NextToken"):
                return
            token = {"NextToken": answer["NextToken"]}

    def each(self, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """``work`` of every item, many at a time; the first error is raised."""
        return list(self._pool.map(work, items))

    def until(self, what: str, check: Callable[[], T | None]) -> T:
        """Ask until ``check`` gives something. Raises `DriverError` of DEADLINE."""
        wait = 0.05
        while (found := check()) is None:
            if time.time() + wait >= self.retry.deadline:
                raise DriverError(Code.DEADLINE, f"{what}: not within the time that a deployment may take")
            time.sleep(wait)
            wait = min(2.0, 1.5 * wait)
        return found

    def classify(self, error: BaseException) -> Code:
        """`fsd_aws.errors.classify`, and what is not settled yet is worth asking again."""
        if isinstance(error, sdk.ClientError) and any(words in str(error) for words in _SETTLING):
            return Code.UNAVAILABLE
        if (
            isinstance(error, sdk.ClientError) and "already exist" in str(error).lower()
        ):  # Lambda says ResourceConflictException, as of a busy one
            return Code.ALREADY_EXISTS
        return classify(error)
