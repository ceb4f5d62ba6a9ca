"""Credentials and sessions of HTTP, as all of this adapter uses them: one attempt a request, pools for core's threads."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import google.auth
import requests
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
from google.auth.transport.requests import Request
from requests.adapters import HTTPAdapter

from fsd_core.providers.proxies import proxy_for
from fsd_gcp.errors import Answered

__all__ = ["SCOPE", "Session", "default", "signer"]

POOL = 32  # connections to one host: core's 16 threads, and room; they are opened when needed
SCOPE = "https://www.googleapis.com/auth/cloud-platform"  # what may be done is for roles to say
TIMEOUT_S = (5.0, 60.0)  # until a connection is there, and of silence of the service
_signing = threading.Lock()  # or each of 16 threads gets a token of its own


def default(scopes: Sequence[str] | None = None) -> tuple[Any, str | None]:
    """Application Default Credentials and their project. Raises google-auth's errors, of a file that it cannot take any in too."""
    try:
        found: tuple[Any, str | None] = google.auth.default(scopes=scopes)
        return found
    except GoogleAuthError as error:
        if not isinstance(error, ValueError):
            raise
        raise DefaultCredentialsError(f"{_file()}: {error}") from error  # of a key, whose file it does not name
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:  # it looks at little before it uses what it read
        raise DefaultCredentialsError(f"{_file()}: {getattr(error, 'strerror', None) or f'is of another kind: {error}'}") from error


def _file() -> str:
    name = "GOOGLE_APPLICATION_CREDENTIALS"
    return f"{name}={os.environ[name]}" if os.environ.get(name) else "the file that 'gcloud auth application-default login' wrote"


@functools.lru_cache(maxsize=4)
def _credentials(environment: frozenset[tuple[str, str]]) -> tuple[Any, Any]:
    return default([SCOPE])[0], Request()  # each request by the proxy of its own address: a machine's metadata server has none before it


def signer() -> Callable[[str], dict[str, str]]:
    """Gives the headers of a request to a URL, which say who asks. Raises google-auth's errors.

    Credentials come from the SDK's own chain at the first request, once for the process, and again where the variables that name
    them have changed when a signer is made.
    """
    named = frozenset((name, value) for name, value in os.environ.items() if name.startswith(("GOOGLE_", "GCE_", "CLOUDSDK_")))

    def sign(url: str) -> dict[str, str]:
        headers: dict[str, str] = {}
        with _signing:
            credentials, request = _credentials(named)
            credentials.before_request(request, "POST", url, headers)
        return headers

    return sign


class Session(requests.Session):
    """Requests to one service at ``base``, where ``signed`` by this process's credentials; google-cloud-storage makes its own by one.

    Safe to use from several threads. Of the environment it knows proxies and certificates: a .netrc would sign in our place.
    """

    def __init__(self, base: str, *, signed: bool = True) -> None:
        super().__init__()
        self.base = base.rstrip("/")
        self.trust_env = False
        self.headers["Accept-Encoding"] = "identity"  # objects are read as they come
        self.verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or True
        if proxy := proxy_for(self.base):
            self.proxies = dict.fromkeys(("http", "https"), proxy.secret_url)
        self.mount(self.base, HTTPAdapter(pool_maxsize=POOL))  # whose max_retries are 0
        self._sign = signer() if signed else lambda _: {}

    def request(self, method: str, url: str, **settings: Any) -> requests.Response:  # type: ignore[override]
        """The answer to one request; ``url``: may be a path. Raises `Answered` where it is no 2xx, requests' own where there is none."""
        url = self.base + url if url.startswith("/") else url
        headers = {**self._sign(url), **(settings.get("headers") or {})}
        answer = super().request(method, url, **settings | {"headers": headers, "timeout": TIMEOUT_S, "allow_redirects": False})
        if not 200 <= answer.status_code < 300:
            raise Answered.http(answer.status_code, answer.content)
        return answer
