"""The packages that add providers to fsd, by their entry points: no module of fsd_core knows a provider by its name.

A package has an entry point in the group ``fsd.providers`` for each provider: its name, and its `fsd_core.driver.Provider` object. In the
group ``fsd.emulators``, under the same name, it may have the harnesses that test the provider, see `fsd_conformance.harness`. The package
of the provider object may hold files of figures: prices in the folder ``tariffs``, times in the folder ``latency``.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["EMULATORS", "OWN", "PROVIDERS", "entries", "files", "holders", "needs", "owner"]

PROVIDERS, EMULATORS = "fsd.providers", "fsd.emulators"
OWN = "fsd-inference"  # the package of fsd itself


def entries(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group by name, ascending. If two packages use the same name, the first package on ``sys.path`` counts."""
    folders = map(os.path.abspath, sys.path)  # "" is the working folder
    return dict(_entries(group, tuple((folder, _changed(folder)) for folder in folders)))


@functools.lru_cache(maxsize=8)  # to read those of 200 packages takes 15 ms, and a command asks several times
def _entries(group: str, path: tuple[tuple[str, int], ...]) -> dict[str, EntryPoint]:
    """The entry points, read once for each state of the folders of ``path``: installing or removing a package changes its folder."""
    from importlib.metadata import entry_points  # takes 10 ms, which a worker saves

    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=group):
        found.setdefault(entry.name, entry)
    return dict(sorted(found.items()))


def _changed(folder: str) -> int:
    """When a folder changed last, in ns; -1 where there is none."""
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return -1


def owner(entry: EntryPoint) -> str:
    """The package that an entry point comes from, with its version, for errors."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.module


def needs(provider: str) -> dict[str, str]:
    """The packages that a provider needs, and for each the name to give to pip, from the metadata of the provider's package.

    If the package has an extra with the provider's name, these are the requirements of the extra. Otherwise they are all requirements of
    the package, without fsd itself.
    """
    entry = entries(PROVIDERS).get(provider)
    if entry is None or entry.dist is None:
        return {}
    package = entry.dist.name  # read once: each access parses the package's metadata
    lines = [text.partition(";") for text in entry.dist.requires or ()]
    extra = [text for text, _, marker in lines if re.search(rf"extra == ['\"]{re.escape(provider)}['\"]", marker)]
    wanted = extra or [text for text, _, marker in lines if package != OWN and "extra" not in marker]
    names = [re.split(r"[^\w.-]", text.strip())[0] for text in wanted]
    return dict.fromkeys((name for name in names if name != OWN), f"'{package}[{provider}]'" if extra else package)


def files(folder: str, provider: str | None = None) -> dict[str, Path]:
    """The TOML files in ``folder`` of the packages of all providers, or of one ``provider``, by their names without suffix, ascending.

    A package that cannot be found has no files. This function imports only the parents of a package. If several packages have a file of
    the same name, it returns the first one that `holders` returns.
    """
    return {name: next(iter(paths)) for name, paths in holders(folder, provider).items()}


def holders(folder: str, provider: str | None = None) -> dict[str, dict[Path, EntryPoint]]:
    """As `files`, but for each name all files, each with an entry point of its package: several if several packages use the name."""
    found: dict[str, dict[Path, EntryPoint]] = {}
    for name, entry in entries(PROVIDERS).items():
        if provider in (None, name):
            for stem, file in _own(entry, folder).items():
                found.setdefault(stem, {}).setdefault(file, entry)
    return dict(sorted(found.items()))


def _own(entry: EntryPoint, folder: str) -> dict[str, Path]:
    """The TOML files in ``folder`` of the package of one provider, by their names without suffix."""
    found: dict[str, Path] = {}
    for root in _roots(entry.module):
        for file in (root / folder).glob("*.toml"):
            found.setdefault(file.stem, file)
    return found


def _roots(module: str) -> list[Path]:
    """The folders of a package; of a module, its folder."""
    try:
        spec = find_spec(module)
    except Exception:  # a parent of the package cannot be imported, for any reason: `fsd doctor` names it
        return []
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        return [Path(each) for each in spec.submodule_search_locations]
    return [Path(spec.origin).parent] if spec.origin else []
