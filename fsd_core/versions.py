"""The software and machine that computed a run, for people who want to repeat it."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, requires, version

__all__ = ["versions"]

PACKAGE = "fsd-inference"


def versions(*providers: str) -> dict[str, str]:
    """Versions by name: fsd, Python, the libraries that compute, the SDKs of ``providers``; and ``machine``, its description.

    ``providers``: names of providers of this project; other names add nothing. A missing package has the version "not installed".
    """
    try:
        needed = requires(PACKAGE) or ()
    except PackageNotFoundError:  # fsd is on the path but not installed
        needed = ()
    found = {"python": platform.python_version()}
    sdks = (re.match(r"([\w.-]+).*extra == ['\"](\w+)", text) for text in needed)
    for name in (PACKAGE, "numpy", "scipy", "zstandard", "mtkahypar", *(sdk[1] for sdk in sdks if sdk and sdk[2] in providers)):
        try:
            found["fsd" if name == PACKAGE else name] = version(name)
        except PackageNotFoundError:
            found["fsd" if name == PACKAGE else name] = "not installed"
    return found | {"machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"}
