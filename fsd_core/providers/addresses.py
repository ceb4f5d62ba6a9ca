"""Addresses of services in environment variables: whether they are well-formed, and whether they lead to an emulator."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from fsd_core.errors import InputError
from fsd_core.providers.proxies import shown

__all__ = ["address", "elsewhere"]


def address(variable: str, *, bare: bool = False) -> str:
    """The URL that an environment variable holds, "" where it is not set. ``bare``: HOST:PORT is allowed and means http://HOST:PORT.

    Raises `InputError` where the URL is malformed; the line shows it without a password.
    """
    text = os.environ.get(variable, "").strip()
    url = f"http://{text}" if bare and text and "://" not in text else text
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and not re.search(r"\s", url)
    except ValueError:
        fits = False
    if text and not fits:
        raise InputError(f"{variable}={shown(text)}: expected http://HOST:PORT{' or HOST:PORT' if bare else ''}, or no such variable")
    return url


def elsewhere(addresses: Iterable[str], *domains: str) -> str | None:
    """Host and port of the first address (URL or host:port) that is in none of the cloud's own ``domains``; `None` if all are in one.

    The other parts of an address may hold a password and are not returned. Raises `InputError` where an address is malformed.
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
