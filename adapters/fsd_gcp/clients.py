"""Credentials and HTTP, as all of this adapter uses them: one attempt a request, pools for core's threads, nothing at import.

google-auth signs and urllib3 carries, the two that Google's own packages stand on. Those cost more, measured by
benchmarks/google_clients.py on two cores: imports and clients of a cold process with queues and objects take 335 ms of CPU and
68 MB by google.pubsub_v1 and google-cloud-storage, 210 ms and 57 MB so; of one with objects alone 256 ms and 57 MB, and 175 ms
and 42 MB. A put and a get of 1 KB take 0.8 ms of CPU each against 0.35 ms (by requests 0.6), of 1 MB 4 ms against 1.1 and 1.8.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import urllib3

from fsd_core.providers.proxies import proxy_for
from fsd_gcp.errors import Answered

__all__ = ["SCOPE", "Http", "default", "pool", "requester", "signer"]

CONNECT_S = 5.0
POOL = 32  # connections to one host: core's 16 threads, and room; they are opened when needed
SCOPE = "https://www.googleapis.com/auth/cloud-platform"  # what may be done is for roles to say
_signing = threading.Lock()  # or each of 16 threads gets a token of its own


def pool(url: str) -> urllib3.PoolManager:
    """Connections to the host of ``url``, by the proxy that the environment names for it."""
    settings: dict[str, Any] = {"maxsize": POOL, "retries": False, "timeout": urllib3.Timeout(connect=CONNECT_S, read=60.0)}
    if proxy := proxy_for(url):
        return urllib3.ProxyManager(proxy.url, proxy_headers=proxy.headers, **settings)
    return urllib3.PoolManager(**settings)


class _EachItsOwn:
    """What google-auth needs of a pool, each request by the proxy of its own address: one token takes several hosts, of which the
    metadata server of a machine has no proxy before it. Tokens are seldom asked for."""

    def request(self, method: str, url: str, **settings: Any) -> urllib3.BaseHTTPResponse:
        with pool(url) as connections:
            return connections.request(method, url, **settings)


def requester() -> Any:
    """What google-auth makes its requests by."""
    from google.auth.transport.urllib3 import Request

    return Request(_EachItsOwn())


def default(scopes: Sequence[str] | None = None) -> tuple[Any, str | None]:
    """Application Default Credentials and their project. Raises google-auth's errors, of a file that it cannot take any in too."""
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError

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
    return default([SCOPE])[0], requester()


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


class Http:
    """Requests to one service at ``base``, where ``signed`` by this process's credentials. Safe to use from several threads."""

    def __init__(self, base: str, *, signed: bool = True) -> None:
        self.base = base.rstrip("/")
        self.pool = pool(self.base)
        self._sign = signer() if signed else lambda _: {}

    def request(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes | bytearray | memoryview] | None = None,
        headers: Mapping[str, str] | None = None,
        read_s: float = 60.0,
    ) -> urllib3.BaseHTTPResponse:
        """The answer, its body read. Raises `Answered` where it is no 2xx, and urllib3's own errors where there is none.

        ``read_s``: silence of the service after which the request fails.
        """
        url = self.base + path
        answer = self.pool.request(
            method,
            url,
            body=body,  # type: ignore[arg-type]  # an iterable of buffers goes out as it is
            headers={**self._sign(url), **(headers or {})},
            timeout=urllib3.Timeout(connect=CONNECT_S, read=read_s),
            redirect=False,
            decode_content=False,
        )
        if not 200 <= answer.status < 300:
            raise Answered.http(answer.status, answer.data)
        return answer

    def close(self) -> None:
        """Close the connections."""
        self.pool.clear()
