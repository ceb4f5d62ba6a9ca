"""``fsd provider new``: writes the skeleton of a provider's package. The skeleton passes the object cases of the conformance suite."""

from __future__ import annotations

import os
import shutil
import tempfile
from importlib.resources import files
from pathlib import Path

from fsd_core.common import arguments
from fsd_core.common.fields import matching
from fsd_core.common.home import expanded
from fsd_core.driver import CONTRACT
from fsd_core.errors import InputError
from fsd_core.providers.registry import installed

__all__ = ["new_provider"]

NAME = matching(r"[a-z][a-z0-9]{0,19}", "a lower-case letter, then up to 19 lower-case letters or digits", metavar="NAME")
_TAKEN = ("core", "conformance", "inference")  # fsd_core and fsd_conformance are packages of fsd, which pip knows as fsd-inference
_FILES = {  # of the new package, and the template of each
    "pyproject.toml": "pyproject",
    "README.md": "readme",
    "fsd_NAME/__init__.py": "provider",
    "fsd_NAME/objects.py": "objects",
    "fsd_NAME/provision.py": "provision",
    "fsd_NAME/harness.py": "harness",
    "fsd_NAME/tariffs/NAME.toml": "tariff",
    "tests/test_NAME.py": "tests",
}


def new_provider(name: str, folder: str | os.PathLike[str]) -> list[Path]:
    """Write a package with the provider ``name`` into ``folder``, which must not exist or be empty. Returns the paths of its files.

    The package is called ``fsd_NAME``. Raises `InputError` if a provider of this name is installed, if a package of fsd itself has the name
    ``fsd_NAME`` or ``fsd-NAME``, or if the folder cannot be written.
    """
    name = NAME.check(arguments.text("name", name), "name ")
    target = expanded(arguments.path("folder", folder))
    if name in installed():
        raise InputError(f"name {name!r}: a provider of this name is installed: expected another name than {', '.join(installed())}")
    if name in _TAKEN:
        raise InputError(f"name {name!r}: fsd itself has a package fsd-{name}: expected another name than {', '.join(_TAKEN)}")
    words = {"NAME": name, "CLASS": name.capitalize(), "UPPER": name.upper(), "CONTRACT": str(CONTRACT)}
    try:
        if os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir())):
            raise InputError(f"folder {target}: exists: expected a new path, or an empty folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            os.chmod(aside, 0o777 & ~_umask())
            for path, template in _FILES.items():
                file = aside / _filled(path, words)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(_filled((files(__package__) / "skeleton" / f"{template}.txt").read_text(encoding="utf-8"), words))
            os.rename(aside, target)  # in one step; an empty folder is replaced
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
    except OSError as error:
        raise InputError(f"folder {target}: cannot be written: {error.strerror or error}") from error
    return [target / _filled(path, words) for path in _FILES]


def _filled(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(word, value)
    return text


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
