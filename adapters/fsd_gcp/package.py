"""The function's package for Google Cloud: `main.py`, `requirements.txt` and this project's source. Google installs the requirements."""

from __future__ import annotations

import sys
from pathlib import Path

from fsd_core.common.home import home_folder
from fsd_core.providers import package as core
from fsd_core.providers.package import Package, Recipe
from fsd_gcp.settings import RUNTIMES

__all__ = ["Package", "build", "digest", "stub"]

MOST_BYTES = 500 << 20  # the limit of the zip, and of its content: https://cloud.google.com/functions/quotas, 2025-11
_NOT_SENT = ("api.py", "function.py", "package.py", "policy.py", "provision.py", "queues.py", "settings.py", "handler/")


def digest(runtime: str) -> str:
    """The digest of the package that `build` would make. It installs nothing, so it is quick."""
    return _recipe(runtime).digest


def build(runtime: str, folder: Path | None = None, within_s: float | None = None) -> Package:
    """The package for a runtime of Google Cloud, from the cache in ``folder`` (default ``$FSD_HOME/packages``): see `Recipe.build`."""
    return _recipe(runtime).build(folder or home_folder() / "packages", within_s)


def stub() -> Package:
    """A package without code, for emulators that run what is installed on this machine."""
    text = b"# This function runs what is installed beside the emulator: [gcp] package = false.\n"
    return Package("installed", core.zipped({"main.py": text}), len(text))


def _recipe(runtime: str) -> Recipe:
    handler = core.files("fsd_gcp.handler")
    root = {name: handler[name].read_bytes() for name in ("main.py", "requirements.txt")}
    return Recipe(
        name=f"gcp-{runtime}",
        files=core.sources(("fsd_gcp",), [f"fsd_gcp/{name}" for name in _NOT_SENT]) | root,
        platform="Cloud Run functions",
        max_zipped=MOST_BYTES,
        max_unzipped=MOST_BYTES,
    )


if __name__ == "__main__":
    sys.exit(core.command("fsd_gcp.package", sys.argv[1:], RUNTIMES, build))
