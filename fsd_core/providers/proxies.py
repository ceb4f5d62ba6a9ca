"""The proxies that the environment names, for all requests that fsd makes without an SDK.

The variables are HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY, in upper or lower case. SDKs read the same variables.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Mapping, MutableMapping
from urllib.parse import unquote, urlsplit

import attrs

from fsd_core.errors import InputError

__all__ = ["LOCAL", "Proxy", "keep_local", "local_only", "proxy_for", "shown"]

# No proxy can reach this machine, or the addresses from which a machine of a cloud gets its credentials.
LOCAL = ("127.0.0.1", "localhost", "::1", "[::1]", "169.254.169.254", "169.254.170.2", "metadata.google.internal")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
_EXCEPT = ("no_proxy", "NO_PROXY")


@attrs.frozen
class Proxy:
    """An HTTP proxy. ``known``: user:password, percent-encoded; empty if the proxy needs no login."""

    host: str
    port: int
    known: str = attrs.field(repr=False)

    @property
    def url(self) -> str:
        """The proxy's address, without user and password."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        """The headers that log in to the proxy."""
        return {"Proxy-Authorization": f"Basic {b64encode(unquote(self.known).encode()).decode()}"} if self.known else {}

    @property
    def secret_url(self) -> str:
        """The proxy's address with user and password. For a client; never show it in logs or errors."""
        return self.url.replace("://", f"://{self.known}@") if self.known else self.url


def proxy_for(url: str) -> Proxy | None:
    """The proxy for requests to ``url``, or `None`. Raises `InputError` if it is not an HTTP proxy; the error hides the password."""
    from urllib.request import getproxies, proxy_bypass  # takes 30 ms, which a worker saves that makes all its requests by SDKs

    parts, named = urlsplit(url), getproxies()
    text = named.get(parts.scheme) or named.get("all") or ""
    if not text or (parts.hostname or "") in LOCAL or proxy_bypass(parts.netloc):
        return None
    names = (each for low in (f"{parts.scheme}_proxy", "all_proxy") for each in (low, low.upper()))
    variable = next((name for name in names if os.environ.get(name) == text), f"the system's proxy for {parts.scheme}")
    try:
        via = urlsplit(text if "://" in text else f"http://{text}")
        if via.scheme == "http" and via.hostname:
            return Proxy(via.hostname, via.port or 80, via.netloc.rpartition("@")[0])
    except ValueError:
        pass
    raise InputError(f"{variable}={shown(text)}: expected http://HOST:PORT; list hosts that need no proxy in NO_PROXY")


def shown(address: str) -> str:
    """The address for an error: without user, password and query."""
    head, at, rest = address.partition("?")[0].rpartition("@")
    return (head.partition("://")[0] + "://" if at and "://" in head else "") + rest


def keep_local(environ: MutableMapping[str, str], *, always: bool = False) -> None:
    """Add this machine to NO_PROXY if ``environ`` names a proxy, or if ``always``: most SDKs would send local requests to the proxy."""
    if not always and not any(environ.get(name) or environ.get(name.upper()) for name in _PROXIES):
        return
    words = dict.fromkeys(word.strip() for name in _EXCEPT for word in environ.get(name, "").split(","))
    named = list(filter(None, words))
    if "*" not in named:
        environ.update(dict.fromkeys(_EXCEPT, ",".join([*named, *(each for each in LOCAL if each not in words)])))


def local_only(environ: Mapping[str, str]) -> dict[str, str]:
    """NO_PROXY in upper and lower case, with this machine added."""
    kept = {name: environ[name] for name in _EXCEPT if name in environ}
    keep_local(kept, always=True)
    return kept
