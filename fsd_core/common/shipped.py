"""Reads files of figures in TOML: files of the providers' packages by their names, and files of the user by their paths."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from fsd_core.common import plugins
from fsd_core.common.fields import nearest
from fsd_core.common.home import expanded
from fsd_core.common.textfile import read_text
from fsd_core.errors import InputError

__all__ = ["load"]


def load(what: str, name: str | Path, folder: str) -> tuple[str, dict[str, Any]]:
    """The path and the content of a file: the one called ``name`` in the ``folder`` of a provider's package, or the one at a path.

    A text that contains a ``/`` or ends in ``.toml``, and any `Path`, is a path. ``what`` is for error lines, for instance "tariff". Raises
    `InputError` on an unknown name, on a name that files of several packages have, and on a file that cannot be read or is not TOML.
    """
    if isinstance(name, Path) or "/" in name or name.endswith(".toml"):
        file = expanded(name)
    elif (known := plugins.holders(folder)) and name in known:
        file, *others = known[name]
        if others:  # nobody would notice that the figures come from the wrong package
            packages = " and ".join(map(plugins.owner, known[name].values()))
            raise InputError(
                f"{what} {name!r}: the packages {packages} have a file of this name: expected one package: remove the other, or give "
                f"the path of a file: {', '.join(map(str, known[name]))}"
            )
    else:
        close = nearest(name, known, 0.5)
        meant = f"did you mean {close}? " if close else ""
        raise InputError(f"{what} {name!r}: unknown; {meant}expected one of {', '.join(known)}, or the path of a .toml file of your own")
    try:
        return str(file), tomllib.loads(read_text(file, f"{what} {name}"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} {name}: is not TOML: {' '.join(str(error).split())}") from error
