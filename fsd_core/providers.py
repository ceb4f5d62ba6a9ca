"""Finding providers, which is whatever is installed under the entry point group ``fsd.providers``, and what they share."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fsd_core.driver import Code, InvokeLimits, Provider, Resources
from fsd_core.errors import InputError
from fsd_core.proxies import keep_local, shown

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

__all__ = ["address", "advise", "attached", "elsewhere", "find", "function_limits", "http_code", "installed", "line", "recorded", "told"]

GROUP = "fsd.providers"
_SAID_CHARS = 400
_STATUS = {
    400: Code.INVALID,
    401: Code.DENIED,
    403: Code.DENIED,
    404: Code.NOT_FOUND,
    408: Code.UNAVAILABLE,
    409: Code.UNAVAILABLE,  # another change is under way
    412: Code.PRECONDITION,
    413: Code.TOO_LARGE,
    416: Code.INVALID,
    429: Code.THROTTLED,
}


def _entries() -> EntryPoints:
    from importlib.metadata import entry_points  # 10 ms and more, which a worker does without

    return entry_points(group=GROUP)


def installed() -> list[str]:
    """The names of all providers, ascending."""
    return sorted({entry.name for entry in _entries()})


def find(name: str) -> Provider:
    """The provider of this name. Raises `InputError` listing what there is. From here on no proxy is asked for this machine itself."""
    keep_local(os.environ)
    for entry in _entries():
        if entry.name == name:
            provider: Provider = entry.load()
            return provider
    raise InputError(f"provider {name!r} is not installed: there is {', '.join(installed()) or 'none'}")


def told(resources: Resources) -> str:
    """What a function's environment says of its app, in one variable: `attached` reads it."""
    return json.dumps(asdict(resources))


def attached(variable: str, app: str) -> Resources:
    """What this function's environment says of its app. `InputError`: this is no function, or another app's."""
    text = os.environ.get(variable, "{}")
    try:
        fields = json.loads(text)
        if fields.get("app") == app:
            return Resources(**fields)
    except (ValueError, AttributeError, TypeError):
        raise InputError(f"app {app!r}: {variable} is {text[:80]!r}, not what deploying writes: deploy again") from None
    raise InputError(f"app {app!r}: this process is no function of it ({variable} names {fields.get('app')!r})")


def recorded(said: str | None, app: str, what: str) -> Resources:
    """What `told` wrote into ``what``, the function of an app, as its provisioner reads it. `InputError`: fsd did not make that one."""
    try:
        fields = json.loads(said or "{}")
        if fields.get("app") == app:
            return Resources(**fields)
    except (ValueError, AttributeError, TypeError):
        pass
    raise InputError(f"app {app!r}: {what} is there that fsd did not make; choose another app")


def advise(table: Sequence[tuple[str, str]], error: BaseException | str) -> str | None:
    """What to do about an error, from a provider's ``table`` of (words as a pattern, what to do): the first that is found, or None.

    ``error``: an exception, or text that holds its type's name and message, as a worker's error does that reached the client.
    """
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return next((what for words, what in table if re.search(rf"\b({words})\b", text)), None)


def address(variable: str, *, bare: bool = False) -> str:
    """The URL that an environment variable holds, "" where it is not set; ``bare``: HOST:PORT alone will do, and means http.

    Raises `InputError` where it is malformed, with its value but no password.
    """
    text = os.environ.get(variable, "").strip()
    url = f"http://{text}" if bare and text and "://" not in text else text
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and not re.search(r"\s", url)
    except ValueError:
        fits = False
    if text and not fits:
        raise InputError(f"{variable}={shown(text)}: expected http://HOST:PORT{' or HOST:PORT' if bare else ''}, or unset")
    return url


def line(said: BaseException | str, tip: str | None) -> str:
    """What an SDK said, in one line and cut, and after it what helps: a tip is for all errors of a kind, and says less than they do."""
    words = " ".join(str(said).split()).rstrip(".")
    return ": ".join(filter(None, [words if len(words) <= _SAID_CHARS else f"{words[:_SAID_CHARS]} ...", tip]))


def elsewhere(addresses: Iterable[str], *domains: str) -> str | None:
    """Host and port of the first address, a URL or host:port, whose host is in none of a cloud's own ``domains``; `None` if all are.

    Nothing else of it is returned: there may be a password. Raises `InputError` where it is malformed; `address` says which one.
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


def function_limits(names: Mapping[str, str], **said: Any) -> InvokeLimits:
    """The limits of functions whose number, memory and time are in `Resources.names`; ``said``: the rest."""
    memory_bytes = int(names["memory_mb"]) << 20
    return InvokeLimits(concurrency=int(names["concurrency"]), memory_bytes=memory_bytes, timeout_s=float(names["timeout_s"]), **said)


def http_code(status: int) -> Code:
    """What a status of HTTP means where a service's own word for the error is not known."""
    return Code.UNAVAILABLE if status >= 500 else _STATUS.get(status, Code.UNKNOWN)
