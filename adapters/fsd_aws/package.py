"""The function's package for Lambda: `fsd_core.providers.package` with Lambda's interpreters, C libraries and limits."""

from __future__ import annotations

import sys
from pathlib import Path

from fsd_aws.settings import RUNTIMES
from fsd_core.common.home import home_folder
from fsd_core.providers import package as core
from fsd_core.providers.package import Package, Recipe, Wheels

__all__ = ["HANDLER", "Package", "build", "digest", "stub"]

HANDLER = "fsd_aws.handler.handler.handler"
MAX_BYTES = 250 << 20  # unzipped: https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html, 2025-11
MAX_ZIPPED_BYTES = 50 << 20  # of a zip in the request; a larger zip would need a bucket
_GLIBC = {"python3.11": 26, "python3.12": 34, "python3.13": 34}  # glibc 2.x of Amazon Linux 2 and 2023
_CLIENT_ONLY = tuple(f"fsd_aws/{name}.py" for name in ("api", "function", "package", "policy", "provision", "queues", "settings"))


def digest(runtime: str) -> str:
    """The digest of the package that `build` would make. It installs nothing, so it is quick."""
    return _recipe(runtime).digest


def build(runtime: str, folder: Path | None = None, within_s: float | None = None) -> Package:
    """The package for a runtime of Lambda, from the cache in ``folder`` (default ``$FSD_HOME/packages``): see `Recipe.build`."""
    return _recipe(runtime).build(folder or home_folder() / "packages", within_s)


def stub() -> Package:
    """A package without code, for emulators that run what is installed on this machine."""
    return core.stub("aws")


def _recipe(runtime: str) -> Recipe:
    return Recipe(
        name=f"aws-{runtime}",
        files=_sources(),
        wheels=Wheels(_requirements(), runtime.removeprefix("python"), core.manylinux(_GLIBC[runtime])),
        platform="Lambda",
        max_zipped=MAX_ZIPPED_BYTES,
        max_unzipped=MAX_BYTES,
    )


def _requirements() -> bytes:
    return core.files("fsd_aws.handler")["requirements.txt"].read_bytes()


def _sources() -> dict[str, bytes]:
    return core.sources(("fsd_aws", "fsd_aws.handler"), _CLIENT_ONLY)


if __name__ == "__main__":
    sys.exit(core.command("fsd_aws.package", sys.argv[1:], RUNTIMES, build))
