"""The function's package for Azure: `function_app.py` and `host.json`, this project's source, and all packages that it imports."""

from __future__ import annotations

import sys
from pathlib import Path

from fsd_azure.settings import RUNTIMES
from fsd_core.common.home import home_folder
from fsd_core.providers import package as core
from fsd_core.providers.package import Package, Recipe, Wheels

__all__ = ["Package", "build", "digest", "stub"]

MAX_BYTES = 1 << 30  # the content of a Flex Consumption app: learn.microsoft.com/azure/azure-functions/functions-scale, 2025-11
_GLIBC = {"3.11": 31, "3.12": 31, "3.13": 36}  # glibc 2.x of Azure's images: Debian 11 and 12
_ROOT = ("function_app.py", "host.json", "requirements.txt")
_NOT_SENT = ("api.py", "function.py", "package.py", "policy.py", "provision.py", "queues.py", "settings.py", "handler/")


def digest(runtime: str) -> str:
    """The digest of the package that `build` would make. It installs nothing, so it is quick."""
    return _recipe(runtime).digest


def build(runtime: str, folder: Path | None = None, within_s: float | None = None) -> Package:
    """The package for a Python of Azure, from the cache in ``folder`` (default ``$FSD_HOME/packages``): see `Recipe.build`."""
    return _recipe(runtime).build(folder or home_folder() / "packages", within_s)


def stub() -> Package:
    """A package without code, for emulators that run what is installed on this machine."""
    return core.stub("azure")


def _recipe(runtime: str) -> Recipe:
    handler = core.files("fsd_azure.handler")
    root = {name: handler[name].read_bytes() for name in _ROOT}
    return Recipe(
        name=f"azure-{runtime}",
        files=core.sources(("fsd_azure",), [f"fsd_azure/{name}" for name in _NOT_SENT]) | root,
        wheels=Wheels(root["requirements.txt"], runtime, core.manylinux(_GLIBC[runtime])),
        below=".python_packages/lib/site-packages/",
        platform="Azure Functions",
        max_zipped=MAX_BYTES,
        max_unzipped=MAX_BYTES,
    )


if __name__ == "__main__":
    sys.exit(core.command("fsd_azure.package", sys.argv[1:], RUNTIMES, build))
