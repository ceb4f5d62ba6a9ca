"""Cloud Run functions: a launch is a POST to the function's service, open until the function ended, see `fsd_core.providers.http_invoke`.

The service takes who shows an ID token made for it. A function, or a process with a service account's key, mints one for itself.
Google mints none for a person: who signed in with gcloud asks for one of the app's own account, which takes the role
roles/iam.serviceAccountOpenIdTokenCreator on that account (``fsd deploy`` gives it to whoever deploys).
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from google.auth import exceptions, jwt
from google.auth.transport.requests import Request
from google.oauth2 import id_token
from google.oauth2.credentials import Credentials

from fsd_core.driver import Code, Resources
from fsd_core.providers import http_invoke as posts
from fsd_core.providers.environment import function_limits
from fsd_gcp.clients import SCOPE, Session, default
from fsd_gcp.errors import classify
from fsd_gcp.variables import RESOURCES

__all__ = ["GcpInvoker", "IdTokens"]

PAYLOAD_BYTES = 32_000_000
TOKENS = "https://iamcredentials.googleapis.com"
_FRESH_S = 300.0  # a token this near to its end is not used any more: it must last until the request is there


class IdTokens:
    """ID tokens for one ``audience``, kept until shortly before they end. ``account``: whose a person asks for. Thread-safe."""

    def __init__(self, audience: str, account: str) -> None:
        self._audience, self._account = audience, account
        self._lock = threading.Lock()
        self._token, self._until = "", 0.0

    def headers(self) -> dict[str, str]:
        """Headers that say who asks. Raises google-auth's errors, or `fsd_gcp.errors.Answered`."""
        with self._lock:
            if time.time() > self._until - _FRESH_S:
                self._token = self._fetch()
                self._until = float(jwt.decode(self._token, verify=False)["exp"])
            return {"Authorization": f"Bearer {self._token}"}

    def _fetch(self) -> str:
        if RESOURCES in os.environ or not isinstance(default([SCOPE])[0], Credentials):
            try:
                request = Request()
                found: Any = id_token.fetch_id_token_credentials(self._audience, request)
                found.refresh(request)
                return str(found.token)
            except exceptions.DefaultCredentialsError:
                if RESOURCES in os.environ:
                    raise  # else: neither a person's nor an account's, but another provider's
        with Session(TOKENS) as session:
            path = f"/v1/projects/-/serviceAccounts/{self._account}:generateIdToken"
            return str(session.request("POST", path, json={"audience": self._audience, "includeEmail": True}).json()["token"])


class GcpInvoker(posts.HttpInvoker):
    """Implements `fsd_core.driver.InvokeDriver`."""

    service = "Cloud Run functions"

    def __init__(self, resources: Resources) -> None:
        names = resources.names
        limits = function_limits(
            names,
            payload_bytes=PAYLOAD_BYTES,
            source="https://cloud.google.com/run/quotas (HTTP/1 requests of 32 MiB), functions/docs/configuring/max-instances",
            as_of="2025-11-01",
            failures="launcher",
            process_bytes=96 << 20,  # grpc, google-auth and the server are most of it
            start_s=6.0,  # the slow hundredth of cold starts was 5.2 s (Flask, 1 vCPU, europe-west1, February 2026)
        )
        self._tokens = IdTokens(names["url"], names["service_account"])
        super().__init__(names["url"], self._tokens.headers, limits, classify, code_of=_code_of)

    def native(self) -> IdTokens:
        """What mints the tokens: the rest is HTTP."""
        return self._tokens


def _code_of(status: int, text: str) -> Code | None:
    """See `posts.code_of`; that there is no room is also told with 500."""
    return Code.THROTTLED if "no available instance" in text else posts.code_of(status, text)
