"""The name of an app, from which every provider builds the names of its resources."""

from __future__ import annotations

from fsd_core.common.fields import matching

__all__ = ["APP_NAME", "check_app"]

APP_NAME = matching(
    r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?",
    "a lower-case letter, then up to 39 lower-case letters, digits or hyphens, not ending in a hyphen",
    metavar="NAME",
)


def check_app(app: str) -> None:
    """Raise `InputError` if ``app`` cannot be the name of an app."""
    APP_NAME.check(app, "app ")
