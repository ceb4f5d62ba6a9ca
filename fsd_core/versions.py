"""What a run was computed by: names and versions, for whoever wants to repeat it."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, requires, version

__all__ = ["versions"]

OURS = "fsd-inference"


def versions(*providers: str) -> dict[str, str]:
    """Of fsd, Python, what computes, the SDKs of ``providers`` where they are ours, and the machine."""
    try:
        needed = requires(OURS) or ()
    except PackageNotFoundError:  # not installed, only on the path
        needed = ()
    found = {"python": platform.python_version()}
    sdks = (re.match(r"([\w.-]+).*extra == ['\"](\w+)", text) for text in needed)
    for name in (OURS, "numpy", "scipy", "zstandard", "mtkahypar", *(sdk[1] for sdk in sdks if sdk and sdk[2] in providers)):
        try:
            found["fsd" if name == OURS else name] = version(name)
        except PackageNotFoundError:
            found["fsd" if name == OURS else name] = "not installed"
    return found | {"machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"}
