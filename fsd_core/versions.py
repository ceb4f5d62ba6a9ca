"""The software and machine that computed a run, for people who want to repeat it."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from fsd_core.common.plugins import OWN, PROVIDERS, entries, needs

__all__ = ["installed", "versions"]


def versions(*providers: str) -> dict[str, str]:
    """Versions by name: fsd, Python, the libraries that compute, the SDKs of ``providers``; and ``machine``, its description.

    ``providers``: names of providers. A missing package has the version "not installed".
    """
    owners = {entry.dist.name for name, entry in entries(PROVIDERS).items() if name in providers and entry.dist} - {OWN}
    sdks = (sdk for provider in providers for sdk in needs(provider))
    found = {"python": platform.python_version()}
    for name in dict.fromkeys((OWN, "numpy", "scipy", "zstandard", "mtkahypar", *sorted(owners), *sdks)):
        found["fsd" if name == OWN else name] = installed(name)
    return found | {"machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"}


@cache  # a process keeps the packages that it has imported, and to read their metadata takes 3 ms each
def installed(name: str) -> str:
    """The version of an installed package, or "not installed"."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
