"""An app is a folder: ``objects``, ``tmp``, ``queues/SLOT/RANK``, and the file ``app`` that marks it as ours to remove.

The table ``[local]`` of the configuration:

=============  ======================  ======================================================================================
root           $FSD_HOME/local         where the apps' folders are; FSD_HOME is ~/.fsd unless set
memory_mb      2048                    memory limit of one function (resident set)
timeout_s      900                     time limit of one function
concurrency    128                     functions at once
lease_s        2                       a message that was delivered and not acknowledged is delivered again after this
cold           false                   start an interpreter for each function instead of forking a warm one
=============  ======================  ======================================================================================
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fsd_core.driver import Resources
from fsd_core.errors import InputError

__all__ = ["LocalProvisioner", "Settings"]

_MARK = "app"
_STALE_S = 86400.0  # what crashed writers left in tmp is removed after this
_LEAST = {"memory_mb": 64, "timeout_s": 0.1, "concurrency": 1, "lease_s": 0.1}


@dataclass(frozen=True)
class Settings:
    """The table ``[local]``: see the module."""

    root: str = ""
    memory_mb: int = 2048
    timeout_s: float = 900.0
    concurrency: int = 128
    lease_s: float = 2.0
    cold: bool = False

    @staticmethod
    def parse(table: Mapping[str, object]) -> Settings:
        """Check keys, types and ranges; InputError names what is wrong."""
        kinds = {
            "root": (str,),
            "memory_mb": (int,),
            "timeout_s": (int, float),
            "concurrency": (int,),
            "lease_s": (int, float),
            "cold": (bool,),
        }
        for key, value in table.items():
            if key not in kinds:
                raise InputError(f"[local] {key}: unknown; the keys are {', '.join(kinds)}")
            if not isinstance(value, kinds[key]) or (isinstance(value, bool) and key != "cold"):
                wanted = {"root": "a path in quotes", "cold": "true or false", "timeout_s": "seconds", "lease_s": "seconds"}
                raise InputError(f"[local] {key} = {value!r}: must be {wanted.get(key, 'a whole number')}")
            if isinstance(value, int | float) and not _LEAST.get(key, 0) <= value < 1e9:
                raise InputError(f"[local] {key} = {value!r}: must be {_LEAST[key]} to 1e9")
        return Settings(**table)  # type: ignore[arg-type]  # checked above

    def folder(self, app: str) -> str:
        """The absolute folder of an app."""
        if not re.fullmatch(r"[a-z0-9-]{1,40}", app):
            raise InputError(f"app {app!r}: must be 1 to 40 of a-z, 0-9 and '-'")
        root = Path(self.root) if self.root else Path(os.environ.get("FSD_HOME") or "~/.fsd") / "local"
        return str(root.expanduser().absolute() / app)


class LocalProvisioner:
    """Implements `fsd_core.driver.Provisioner`. The settings travel to clients and workers in `Resources.names`."""

    def __init__(self, table: Mapping[str, object]) -> None:
        self._settings = Settings.parse(table)

    def ensure(self, app: str, ranks: int, slots: int) -> Resources:
        """Make the folders that are missing. InputError: a bad name or number, or the folder holds something else."""
        root = self._settings.folder(app)
        if ranks < 1 or slots < 1:
            raise InputError(f"ranks {ranks}, slots {slots}: both must be at least 1")
        os.makedirs(root, exist_ok=True)
        self._check(root)
        Path(root, _MARK).write_text(json.dumps({"app": app}))
        for folder in ("objects", "tmp"):
            os.makedirs(f"{root}/{folder}", exist_ok=True)
        self._sweep(f"{root}/tmp")
        for queue in (f"{root}/queues/{slot}/{rank}" for slot in range(slots) for rank in range(ranks)):
            for folder in ("tmp", "new", "leased"):
                os.makedirs(f"{queue}/{folder}", exist_ok=True)
            with suppress(FileExistsError):
                os.mkfifo(f"{queue}/bell", 0o600)
            self._sweep(f"{queue}/tmp")
        return self._resources(app, root, ranks, slots)

    def find(self, app: str) -> Resources | None:
        """What `ensure` made: the ranks that every slot has."""
        root = self._settings.folder(app)
        if not os.path.exists(f"{root}/{_MARK}"):
            return None
        queues = [len(list(slot.iterdir())) for slot in Path(root, "queues").iterdir()]
        return self._resources(app, root, min(queues), len(queues)) if queues else None

    def _resources(self, app: str, root: str, ranks: int, slots: int) -> Resources:
        settings = self._settings
        names = {
            "root": root,
            "memory_mb": str(settings.memory_mb),
            "timeout_s": str(settings.timeout_s),
            "concurrency": str(settings.concurrency),
            "lease_s": str(settings.lease_s),
            "cold": "true" if settings.cold else "false",
        }
        return Resources(app, ranks, slots, names)

    def sweep(self, app: str) -> Sequence[str]:
        """Remove the folders of a destroy that was interrupted."""
        left = list(Path(self._settings.folder(app)).parent.glob(f"{app}.destroyed-{12 * '?'}"))
        for folder in left:
            shutil.rmtree(folder)
        return [f"folder {folder}" for folder in left]

    def destroy(self, app: str) -> Sequence[str]:
        """Remove the app's folder; returns a line for each queue and one for the folder, nothing if there was none."""
        root = self._settings.folder(app)
        removed = []
        if os.path.isdir(root):
            self._check(root)
            queues = Path(root, "queues")
            removed = [*sorted(f"queue {p.relative_to(queues)}" for p in queues.glob("*/*")), f"folder {root}"]
            os.rename(root, f"{root}.destroyed-{os.urandom(6).hex()}")  # gone at once for whoever still writes; '.' is in no app's name
        self.sweep(app)
        return removed

    @staticmethod
    def _check(root: str) -> None:
        """Refuse a folder that holds something and is not marked: its first entry is the mark."""
        entries = os.listdir(root)
        if entries and _MARK not in entries:
            raise InputError(f"folder {root}: holds something that fsd did not make; choose another app or [local] root")

    @staticmethod
    def _sweep(folder: str) -> None:
        with os.scandir(folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if entry.stat().st_mtime < time.time() - _STALE_S:
                        os.unlink(entry.path)
