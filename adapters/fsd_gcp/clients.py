"""Makes the credentials and HTTP sessions for the whole adapter. A session makes one attempt for each request, and has connections for all
threads of fsd_core.
"""

from __future__ import annotations

import functools
import os
import ssl
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

__all__ = ["SCOPE", "Session", "default", "signer", "token_request"]

POOL = 32  # connections to one host: for fsd_core's 16 threads, and some more; opened when needed
SCOPE = "https://www.googleapis.com/auth/cloud-platform"  # every service: the roles limit what the credentials allow
TIMEOUT_S = (5.0, 60.0)  # seconds until a connection is open, and seconds without data from the service
_signing = threading.Lock()  # without this lock each of 16 threads would request a token


def default(scopes: Sequence[str] | None = None) -> tuple[Any, str | None]:
    """Application Default Credentials, and the project that they name. Raises google-auth's errors, also for a file that it cannot use."""
    try:
        found: tuple[Any, str | None] = google.auth.default(scopes=scopes)
        return found
    except GoogleAuthError as error:
        if not isinstance(error, ValueError):
            raise
        raise DefaultCredentialsError(f"{_file()}: {error}") from error  # google-auth does not name the file of a malformed key
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:  # google-auth checks little of a file's content
        raise DefaultCredentialsError(f"{_file()}: {getattr(error, 'strerror', None) or f'is of another kind: {error}'}") from error


def _file() -> str:
    name = "GOOGLE_APPLICATION_CREDENTIALS"
    return f"{name}={os.environ[name]}" if os.environ.get(name) else "the file that 'gcloud auth application-default login' wrote"


def _certificates() -> str | bool:
    """The file of certificates that a variable names, else that of this machine's OpenSSL, else those of requests (`True`)."""
    named = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE")
    return named or ssl.get_default_verify_paths().cafile or True


def _proxies(url: str) -> dict[str, str]:
    """The proxy for ``url`` as requests takes it; an empty text means no proxy."""
    proxy = proxy_for(url)
    return dict.fromkeys(("http", "https"), proxy.secret_url if proxy else "")


class _Plain(requests.Session):
    """Sends requests with our certificates and time-outs, and through the proxy that `proxy_for` chooses.

    It reads only the variables of proxies and certificates: requests itself would also read a .netrc file, and replace our credentials by
    those in the file.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trust_env = False
        self.verify = _certificates()

    def request(self, method: str, url: str, **settings: Any) -> requests.Response:  # type: ignore[override]  # only what this adapter passes on
        return super().request(method, url, **settings | {"timeout": TIMEOUT_S, "proxies": self.proxies or _proxies(url)})


def token_request() -> Any:
    """The object with which google-auth sends its own requests, for instance to refresh credentials."""
    return Request(_Plain())


@functools.lru_cache(maxsize=4)
def _credentials(environment: frozenset[tuple[str, str]]) -> tuple[Any, Any]:
    return default([SCOPE])[0], token_request()


def signer() -> Callable[[str], dict[str, str]]:
    """A function that returns the headers with this process's credentials for a request to a URL. It raises google-auth's errors.

    The first request looks up credentials in the SDK's chain. All signers of the process share them. A signer that is made after a
    variable of credentials changed looks them up again.
    """
    named = frozenset((name, value) for name, value in os.environ.items() if name.startswith(("GOOGLE_", "GCE_", "CLOUDSDK_")))

    def sign(url: str) -> dict[str, str]:
        headers: dict[str, str] = {}
        with _signing:
            credentials, request = _credentials(named)
            credentials.before_request(request, "POST", url, headers)
        return headers

    return sign


class Session(_Plain):
    """Sends requests to one service at ``base``; ``signed``: with this process's credentials. Safe to use from several threads.

    google-cloud-storage also sends its requests through a session of this class.
    """

    def __init__(self, base: str, *, signed: bool = True) -> None:
        super().__init__()
        self.base = base.rstrip("/")
        self.headers["Accept-Encoding"] = "identity"  # no compression: the bodies of objects are read unchanged
        self.proxies = _proxies(self.base)  # once: `proxy_for` takes 0.2 ms
        self.mount(self.base, HTTPAdapter(pool_maxsize=POOL))  # its max_retries is 0
        self._sign = signer() if signed else lambda _: {}

    def request(self, method: str, url: str, **settings: Any) -> requests.Response:  # type: ignore[override]  # only what this adapter passes on
        """Make one request and return the answer. ``url``: a URL, or a path of the service.

        Raises `Answered` for a status other than 2xx, the errors of requests where no answer arrives, and google-auth's errors.
        """
        url = self.base + url if url.startswith("/") else url
        headers = {**self._sign(url), **(settings.get("headers") or {})}
        answer = super().request(method, url, **settings | {"headers": headers, "allow_redirects": False})
        if not 200 <= answer.status_code < 300:
            raise Answered.http(answer.status_code, answer.content)
        return answer
