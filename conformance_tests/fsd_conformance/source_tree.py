"""Makes a package importable from its source folder, with its entry points, as if it were installed: no build, no network, no traces."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["importable", "write_metadata"]


@contextlib.contextmanager
def importable(project: Path, folder: Path) -> Iterator[None]:
    """Within the block, this process and its children find the package of ``project``, the folder of a ``pyproject.toml``.

    ``folder``: a folder for the metadata, which is removed by its owner. The modules are expected in ``project``, without a folder ``src``.
    """
    write_metadata(tomllib.loads((project / "pyproject.toml").read_text()), folder)
    paths, before = [str(project), str(folder)], os.environ.get("PYTHONPATH")
    sys.path[:0] = paths
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*paths, before]))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = [each for each in sys.path if each not in paths]
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
        importlib.invalidate_caches()


def write_metadata(pyproject: Mapping[str, Any], folder: Path) -> None:
    """Write into ``folder`` what pip would: the name, the version, the dependencies and the entry points of a ``pyproject.toml``."""
    project = pyproject["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    needed = [f"Requires-Dist: {each}" for each in project.get("dependencies", ())]
    (info / "METADATA").write_text(
        "\n".join(["Metadata-Version: 2.1", f"Name: {project['name']}", f"Version: {project['version']}", *needed, ""])
    )
    groups = dict(project.get("entry-points", {})) | ({"console_scripts": project["scripts"]} if "scripts" in project else {})
    lines = [
        line for group, entries in groups.items() for line in (f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()), "")
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
