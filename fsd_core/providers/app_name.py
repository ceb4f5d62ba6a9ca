"""The name of an app, from which every provider builds the names of its resources, and its size."""

from __future__ import annotations

from fsd_core.common.fields import matching
from fsd_core.errors import InputError

__all__ = ["APP_NAME", "check_app", "check_size"]

APP_NAME = matching(
    r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?",
    "a lower-case letter, then up to 39 lower-case letters, digits or hyphens, not ending in a hyphen",
    metavar="NAME",
)


def check_app(app: str) -> None:
    """Raise `InputError` if ``app`` cannot be the name of an app."""
    APP_NAME.check(app, "app ")


def check_size(ranks: int, slots: int) -> None:
    """Raise `InputError` unless ``ranks`` and ``slots`` are at least 1."""
    if ranks < 1 or slots < 1:
        raise InputError(f"ranks {ranks}, slots {slots}: expected at least 1 of each")
