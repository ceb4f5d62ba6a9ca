"""The function's package for Lambda: `fsd_core.providers.package` with Lambda's interpreters, C libraries and limits."""

from __future__ import annotations

import sys

from fsd_aws.settings import RUNTIMES
from fsd_core.errors import InputError
from fsd_core.providers import native
from fsd_core.providers import package as core
from fsd_core.providers.package import Recipe, Wheels

__all__ = ["DIRECT_BYTES", "HANDLER", "recipe"]

HANDLER = "fsd_aws.handler.handler.handler"
MAX_BYTES = 250 << 20  # unzipped: https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html, 2025-11
DIRECT_BYTES = 50 << 20  # of a zip in the request; a larger zip goes through the app's bucket
ONNX_GLIBC = 28  # of the wheels of ONNX Runtime
_GLIBC = {"python3.11": 26, "python3.12": 34, "python3.13": 34}  # glibc 2.x of Amazon Linux 2 and 2023
_CLIENT_ONLY = tuple(f"fsd_aws/{name}.py" for name in ("api", "function", "package", "policy", "provision", "queues", "settings"))


def recipe(runtime: str, engine: str = "rows") -> Recipe:
    """The contents of the package for a runtime of Lambda. Raises `InputError` if ONNX Runtime does not run there."""
    if engine == "onnx" and _GLIBC[runtime] < ONNX_GLIBC:
        needed = f"ONNX Runtime needs glibc 2.{ONNX_GLIBC}, this runtime has 2.{_GLIBC[runtime]}"
        raise InputError(f"[aws] runtime = {runtime!r}, engine = 'onnx': {needed}: expected another runtime")
    return Recipe(
        name=f"aws-{runtime}",
        files=core.sources(("fsd_aws", "fsd_aws.handler"), _CLIENT_ONLY) | native.extension("x86_64", _GLIBC[runtime]),
        wheels=Wheels(core.requirements("fsd_aws.handler", engine), runtime.removeprefix("python"), core.manylinux(_GLIBC[runtime])),
        platform="Lambda",
        max_zipped=MAX_BYTES,
        max_unzipped=MAX_BYTES,
    )


if __name__ == "__main__":
    sys.exit(core.command("fsd_aws.package", sys.argv[1:], RUNTIMES, recipe))
