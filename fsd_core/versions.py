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
    found = {"fsd": version(OURS), "python": platform.python_version()}
    sdks = (re.match(r"([\w.-]+).*extra == ['\"](\w+)", text) for text in requires(OURS) or ())
    for name in ("numpy", "scipy", "zstandard", "mtkahypar", *(sdk[1] for sdk in sdks if sdk and sdk[2] in providers)):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found | {"machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"}
