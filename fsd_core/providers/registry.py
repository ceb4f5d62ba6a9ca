"""The installed providers: each package registers its provider in the entry point group ``fsd.providers``."""

from __future__ import annotations

import os

from fsd_core.common.plugins import PROVIDERS, entries, owner
from fsd_core.driver import CONTRACT, Provider
from fsd_core.errors import InputError
from fsd_core.providers.proxies import keep_local

__all__ = ["find", "installed"]


def installed() -> list[str]:
    """The names of the installed providers, ascending."""
    return list(entries(PROVIDERS))


def find(name: str) -> Provider:
    """The provider of this name. From this call on, requests to this machine go through no proxy, see `keep_local`.

    Raises `InputError` if the provider is not installed, if its package cannot be imported, or if it keeps another version of the contract.
    """
    keep_local(os.environ)
    known = entries(PROVIDERS)
    if name not in known:
        raise InputError(f"provider {name!r} is not installed: expected one of {', '.join(known) or 'none'}")
    entry = known[name]
    try:
        provider: Provider = entry.load()
    except Exception as error:  # the code of the package may raise anything
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"provider {name!r}: package {owner(entry)} is installed, but {entry.value} cannot be imported: {why}") from error
    if (kept := getattr(provider, "contract", None)) != CONTRACT:
        what = f"needs version {kept} of the contract" if kept is not None else "does not say which version of the contract it needs"
        raise InputError(
            f"provider {name!r}: package {owner(entry)} {what}: expected contract = {CONTRACT}, the version of this fsd: "
            f"install a release of {entry.dist.name if entry.dist else entry.module} for it, or another release of fsd-inference"
        )
    return provider
