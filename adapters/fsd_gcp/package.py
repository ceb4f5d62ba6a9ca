"""The function's package for Google Cloud: `main.py`, `requirements.txt` and this project's source. Google installs the requirements."""

from __future__ import annotations

import sys

from fsd_core.providers import native
from fsd_core.providers import package as core
from fsd_core.providers.package import Recipe
from fsd_gcp.settings import RUNTIMES

__all__ = ["recipe"]

_GLIBC = 31  # glibc 2.x, which all of Google's images with Python 3.11 or newer have
MOST_BYTES = 500 << 20  # the limit of the zip, and of its content: https://cloud.google.com/functions/quotas, 2025-11
_NOT_SENT = ("api.py", "function.py", "package.py", "policy.py", "provision.py", "queues.py", "settings.py", "handler/")


def recipe(runtime: str, engine: str = "rows") -> Recipe:
    """The contents of the package for a runtime of Google Cloud."""
    handler = core.files("fsd_gcp.handler")
    root = {"main.py": handler["main.py"].read_bytes(), "requirements.txt": core.requirements("fsd_gcp.handler", engine)}
    return Recipe(
        name=f"gcp-{runtime}",
        files=core.sources(("fsd_gcp",), [f"fsd_gcp/{name}" for name in _NOT_SENT]) | native.extension("x86_64", _GLIBC) | root,
        platform="Cloud Run functions",
        max_zipped=MOST_BYTES,
        max_unzipped=MOST_BYTES,
    )


if __name__ == "__main__":
    sys.exit(core.command("fsd_gcp.package", sys.argv[1:], RUNTIMES, recipe))
