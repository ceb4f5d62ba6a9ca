"""The provisioner's requests to AWS: `fsd_core.providers.requests.Requests` with one client of the SDK for each service."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

from botocore import exceptions as sdk

from fsd_aws import errors
from fsd_aws.clients import client, source
from fsd_core.driver import Code
from fsd_core.providers.requests import Requests

__all__ = ["Api"]

# A new role or permission reaches the other services within some seconds; until then they answer that a request is invalid.
_SETTLING = ("cannot be assumed by Lambda", "does not have permissions to call")
_UNSET = (
    *(sdk.NoCredentialsError, sdk.PartialCredentialsError, sdk.ProfileNotFound, sdk.NoRegionError),
    *(sdk.InvalidRegionError, sdk.UnknownEndpointError, sdk.EndpointResolutionError, sdk.InvalidConfigError, sdk.ConfigParseError),
    *(sdk.ConfigNotFound, sdk.CredentialRetrievalError, sdk.UnknownCredentialError, sdk.InfiniteLoopConfigError, sdk.SSOTokenLoadError),
)
_OF_A_SOURCE = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError, json.JSONDecodeError)


class Api(Requests):
    """Makes requests to the services of one region."""

    def __init__(self, region: str) -> None:
        super().__init__(_classify, errors.advice, _UNSET)
        self.region = region
        self._clients: dict[str, Any] = {}
        self._lock = threading.Lock()

    def client(self, service: str) -> Any:
        """The SDK's client of a service. The first use makes it."""
        with self._lock:
            if service not in self._clients:
                self._clients[service] = client(service, self.region)
                self.closing.callback(self._clients[service].close)
            return self._clients[service]

    def call(self, service: str, operation: str, **request: Any) -> dict[str, Any]:
        """Make a request, repeated while its error is transient. Raises `DriverError`; `InputError` without credentials or region."""
        return self.repeat(f"{service} {operation}", lambda: self._request(service, operation, request))

    def find(self, service: str, operation: str, **request: Any) -> dict[str, Any] | None:
        """Like `call`, but returns None where the resource does not exist."""
        return self.call_unless(Code.NOT_FOUND, service, operation, **request)

    def call_unless(self, code: Code, service: str, operation: str, **request: Any) -> dict[str, Any] | None:
        """Like `call`, but returns None where the service answers with an error of ``code``."""
        return self.unless(code, f"{service} {operation}", lambda: self._request(service, operation, request))

    def _request(self, service: str, operation: str, request: dict[str, Any]) -> Any:
        try:
            return getattr(self.client(service), operation)(**request)
        except _OF_A_SOURCE as error:  # raised by credential programs and files; botocore wraps all other errors
            raise sdk.CredentialRetrievalError(provider=source(), error_msg=str(error)) from error

    def pages(
        self, service: str, operation: str, items: str, next_page: str = "NextToken", page: str = "", **request: Any
    ) -> Iterator[Any]:
        """Request all pages of an operation's answer, and return the entries of the list ``items`` in each page.

        ``next_page``: the service's name for the token of a page. ``page``: its name in a request, if that is another one.
        """
        token: dict[str, str] = {}
        while True:
            answer = self.call(service, operation, **request, **token)
            yield from answer.get(items, ())
            if not answer.get(next_page):
                return
            token = {page or next_page: answer[next_page]}


def _classify(error: BaseException) -> Code:
    """`fsd_aws.errors.classify`, but an error that a new role or permission causes for some seconds is UNAVAILABLE."""
    if isinstance(error, sdk.ClientError):
        if any(words in str(error) for words in _SETTLING):
            return Code.UNAVAILABLE
        if "already exist" in str(error).lower():  # Lambda gives it the code of a busy function, ResourceConflictException
            return Code.ALREADY_EXISTS
    return errors.classify(error)
