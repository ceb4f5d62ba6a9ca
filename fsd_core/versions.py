"""The software and machine that computed a run, for people who want to repeat it."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

from fsd_core.common.plugins import OWN, PROVIDERS, entries, needs

__all__ = ["versions"]


def versions(*providers: str) -> dict[str, str]:
    """Versions by name: fsd, Python, the libraries that compute, the SDKs of ``providers``; and ``machine``, its description.

    ``providers``: names of providers. A missing package has the version "not installed".
    """
    owners = {entry.dist.name for name, entry in entries(PROVIDERS).items() if name in providers and entry.dist} - {OWN}
    sdks = (sdk for provider in providers for sdk in needs(provider))
    found = {"python": platform.python_version()}
    for name in dict.fromkeys((OWN, "numpy", "scipy", "zstandard", "mtkahypar", *sorted(owners), *sdks)):
        try:
            found["fsd" if name == OWN else name] = version(name)
        except PackageNotFoundError:
            found["fsd" if name == OWN else name] = "not installed"
    return found | {"machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"}
