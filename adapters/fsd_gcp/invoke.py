"""Cloud Run functions: a launch is a POST to the function's service, whose connection stays open until the function ends: see
`fsd_core.providers.http_invoke`.

The service accepts only requests with an ID token that was made for this service. A function, or a process with the key of a service
account, requests an ID token of its own account. Google gives a person no such token: a person who logged in with gcloud requests an ID
token of the app's service account. The person needs the role roles/iam.serviceAccountOpenIdTokenCreator on that account; ``fsd deploy``
gives the role to the person who deploys.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from google.auth import exceptions, jwt
from google.oauth2 import id_token
from google.oauth2.credentials import Credentials

from fsd_core.driver import Code, Resources
from fsd_core.providers import http_invoke
from fsd_core.providers.outline import sized
from fsd_gcp.clients import SCOPE, Session, default, token_request
from fsd_gcp.errors import classify
from fsd_gcp.limits import FUNCTIONS
from fsd_gcp.variables import RESOURCES

__all__ = ["GcpInvoker", "IdTokens"]

TOKENS = "https://iamcredentials.googleapis.com"
_FRESH_S = 300.0  # a token is replaced so many seconds before it expires: it must be valid when the request arrives


class IdTokens:
    """Requests ID tokens for one ``audience``, the service's URL, and keeps each until shortly before it expires. Thread-safe.

    ``account``: the service account whose ID token a person requests.
    """

    def __init__(self, audience: str, account: str) -> None:
        self._audience, self._account = audience, account
        self._lock = threading.Lock()
        self._token, self._until = "", 0.0

    def headers(self) -> dict[str, str]:
        """The headers with an ID token. Raises google-auth's errors, those of requests, or `fsd_gcp.errors.Answered`."""
        with self._lock:
            if time.time() > self._until - _FRESH_S:
                self._token = self._fetch()
                self._until = float(jwt.decode(self._token, verify=False)["exp"])
            return {"Authorization": f"Bearer {self._token}"}

    def _fetch(self) -> str:
        if RESOURCES in os.environ or not isinstance(default([SCOPE])[0], Credentials):
            try:
                request = token_request()
                found: Any = id_token.fetch_id_token_credentials(self._audience, request)
                found.refresh(request)
                return str(found.token)
            except exceptions.DefaultCredentialsError:
                if RESOURCES in os.environ:
                    raise  # otherwise another identity provider issued the credentials: request the app's token below
        with Session(TOKENS) as session:
            path = f"/v1/projects/-/serviceAccounts/{self._account}:generateIdToken"
            return str(session.request("POST", path, json={"audience": self._audience, "includeEmail": True}).json()["token"])


class GcpInvoker(http_invoke.HttpInvoker):
    """Implements `fsd_core.driver.InvokeDriver`."""

    service = "Cloud Run functions"

    def __init__(self, resources: Resources) -> None:
        names = resources.names
        limits = sized(FUNCTIONS, names["concurrency"], names["memory_mb"], names["timeout_s"])
        self._tokens = IdTokens(names["url"], names["service_account"])
        super().__init__([names["url"]], self._tokens.headers, limits, classify, code_of=_code_of)

    def native(self) -> IdTokens:
        """The source of ID tokens: there is no SDK client, only HTTP."""
        return self._tokens


def _code_of(status: int, text: str) -> Code | None:
    """`http_invoke.code_of`, but THROTTLED where no instance is available: the service answers this also with status 500."""
    return Code.THROTTLED if "no available instance" in text else http_invoke.code_of(status, text)
