"""Reads addresses of services from environment variables, and finds addresses that lead to an emulator."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from fsd_core.errors import InputError
from fsd_core.providers.proxies import shown

__all__ = ["address", "elsewhere"]


def address(variable: str, *, bare: bool = False) -> str:
    """The URL in an environment variable, or "" if it is not set. ``bare``: HOST:PORT is allowed too and means http://HOST:PORT.

    Raises `InputError` if the URL is malformed. The error shows the URL without its password.
    """
    text = os.environ.get(variable, "").strip()
    url = f"http://{text}" if bare and text and "://" not in text else text
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and not re.search(r"\s", url)
    except ValueError:
        fits = False
    if text and not fits:
        raise InputError(f"{variable}={shown(text)}: expected http://HOST:PORT{' or HOST:PORT' if bare else ''}, or an unset variable")
    return url


def elsewhere(addresses: Iterable[str], *domains: str) -> str | None:
    """Host and port of the first address (URL or host:port) outside the cloud's own ``domains``; `None` if all addresses are inside.

    The function does not return other parts of an address, because they may hold a password. Raises `InputError` if an address is
    malformed.
    """
    for each in filter(None, addresses):
        try:
            parts = urlsplit(each if "://" in each else f"//{each}")
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise InputError("the address of an emulator is malformed: expected http://HOST:PORT") from None
        if not any(host == domain or host.endswith(f".{domain}") for domain in domains):
            return f"{host}:{port}" if port else host
    return None
