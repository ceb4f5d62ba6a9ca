"""The function's package for Azure: `function_app.py` and `host.json`, this project's source, and all packages that it imports."""

from __future__ import annotations

import sys

from fsd_azure.settings import RUNTIMES
from fsd_core.providers import native
from fsd_core.providers import package as core
from fsd_core.providers.package import Recipe, Wheels

__all__ = ["recipe"]

MAX_BYTES = 1 << 30  # the content of a Flex Consumption app: learn.microsoft.com/azure/azure-functions/functions-scale, 2025-11
_GLIBC = {"3.11": 31, "3.12": 31, "3.13": 36}  # glibc 2.x of Azure's images: Debian 11 and 12
_ROOT = ("function_app.py", "host.json", "requirements.txt")
_NOT_SENT = ("api.py", "function.py", "package.py", "policy.py", "provision.py", "queues.py", "settings.py", "handler/")


def recipe(runtime: str, engine: str = "rows") -> Recipe:
    """The contents of the package for a Python of Azure."""
    handler = core.files("fsd_azure.handler")
    root = {name: handler[name].read_bytes() for name in _ROOT} | {"requirements.txt": core.requirements("fsd_azure.handler", engine)}
    return Recipe(
        name=f"azure-{runtime}",
        files=core.sources(("fsd_azure",), [f"fsd_azure/{name}" for name in _NOT_SENT])
        | native.extension("x86_64", _GLIBC[runtime])
        | root,
        wheels=Wheels(root["requirements.txt"], runtime, core.manylinux(_GLIBC[runtime])),
        below=".python_packages/lib/site-packages/",
        platform="Azure Functions",
        max_zipped=MAX_BYTES,
        max_unzipped=MAX_BYTES,
    )


if __name__ == "__main__":
    sys.exit(core.command("fsd_azure.package", sys.argv[1:], RUNTIMES, recipe))
