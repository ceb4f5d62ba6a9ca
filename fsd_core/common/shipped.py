"""Files of figures in TOML: those that come with this package, by their names, and a user's own, by their paths."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from fsd_core.common.fields import nearest
from fsd_core.common.home import expanded
from fsd_core.common.textfile import read_text
from fsd_core.errors import InputError

__all__ = ["load", "names"]


def names(package: str, folder: str) -> list[str]:
    """The names of the files that come with ``package`` in its ``folder``, ascending."""
    return sorted(Path(file.name).stem for file in (resources.files(package) / folder).iterdir() if file.name.endswith(".toml"))


def load(what: str, name: str | Path, package: str, folder: str) -> tuple[str, dict[str, Any]]:
    """The path and the content of the file of this name. A text that contains a ``/`` or ends in ``.toml``, and any `Path`, is a path.

    ``what`` is for error lines, for instance "tariff". Raises `InputError` on an unknown name, with the nearest known one, and on a file
    that cannot be read or is not TOML.
    """
    known = names(package, folder)
    if isinstance(name, Path) or "/" in name or name.endswith(".toml"):
        file: Any = expanded(name)
    elif name in known:
        file = resources.files(package) / folder / f"{name}.toml"
    else:
        close = nearest(name, known, 0.5)
        meant = f"did you mean {close}? " if close else ""
        raise InputError(f"{what} {name!r}: unknown; {meant}expected one of {', '.join(known)}, or the path of a .toml file of your own")
    try:
        text = read_text(file, f"{what} {name}") if isinstance(file, Path) else file.read_text(encoding="utf-8")
        return str(file), tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} {name}: is not TOML: {' '.join(str(error).split())}") from error
