"""Finding providers: whatever is installed under the entry point group ``fsd.providers``."""

from __future__ import annotations

from importlib.metadata import entry_points

from fsd_core.driver import Provider
from fsd_core.errors import InputError

__all__ = ["find", "installed"]

GROUP = "fsd.providers"


def installed() -> list[str]:
    """The names of all providers, ascending."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def find(name: str) -> Provider:
    """The provider of this name. Raises `InputError` listing what there is."""
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            provider: Provider = entry.load()
            return provider
    raise InputError(f"provider {name!r} is not installed: there is {', '.join(installed()) or 'none'}")
