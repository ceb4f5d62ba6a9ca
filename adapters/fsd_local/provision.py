"""Makes and removes an app: a folder with ``objects``, ``tmp``, ``queues/SLOT/RANK``, and the file ``app``, which marks it as fsd's.

The settings are those of `fsd_local.settings`. This module also tests the file system: without hard links the app gets a file ``lock``,
without named pipes its queues get no file ``bell``.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fsd_core.common.fields import read
from fsd_core.driver import Resources
from fsd_core.errors import InputError
from fsd_core.providers.app_name import check_size
from fsd_core.providers.promises import Promise, same, shown
from fsd_core.providers.settings import FORGOTTEN, RETENTION, texts
from fsd_core.storage.keys import AUDIT
from fsd_local.errors import naming
from fsd_local.objects import LOCK, LocalObjects
from fsd_local.settings import Settings

__all__ = ["LocalProvisioner"]

PRIVATE = 0o700  # the mode of a new app's folder
_MARK = "app"
_STALE_S = 86400.0  # files in tmp of this age come from crashed writers, and are removed
_LACKS = (
    errno.EPERM,
    errno.ENOTSUP,
    errno.ENOSYS,
    errno.EMLINK,
    errno.EINVAL,
    errno.EACCES,
    errno.ENOLCK,
)  # errors of a file system that does not support the operation
_UNFIT = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)


class LocalProvisioner:
    """Implements `fsd_core.driver.Provisioner`. The settings travel to clients and workers in `Resources.names`."""

    def __init__(self, table: Mapping[str, object]) -> None:
        self._settings = read(Settings, table, "[local] ")

    def ensure(self, app: str, ranks: int, slots: int) -> Resources:
        """Make the folders that are missing. Raises `InputError` for a wrong name or number, and where the folder cannot be used."""
        root = self._settings.folder(app)
        check_size(ranks, slots)
        with _usable(root):
            os.makedirs(root, mode=PRIVATE, exist_ok=True)
            self._check(root)
            if not os.path.exists(f"{root}/{_MARK}"):
                self._mark(root, {"app": app})  # marks the folder as fsd's, but as incomplete
            for folder in ("objects", "tmp"):
                os.makedirs(f"{root}/{folder}", exist_ok=True)
            self._sweep(f"{root}/tmp")
            _try_links(root)
            for queue in (f"{root}/queues/{slot}/{rank}" for slot in range(slots) for rank in range(ranks)):
                for folder in ("tmp", "new", "leased"):
                    os.makedirs(f"{queue}/{folder}", exist_ok=True)
                _make_bell(f"{queue}/bell")
                self._sweep(f"{queue}/tmp")
            queues = [len(os.listdir(slot)) for slot in Path(root, "queues").iterdir()]
            made = {"app": app, "ranks": min(queues), "slots": len(queues)}
            with suppress(ValueError, TypeError):  # an `ensure` was interrupted
                made = self._made(root) | made
            self._mark(root, made)
        return self._resources(app, root, made | {"ranks": ranks, "slots": slots})

    def find(self, app: str) -> Resources | None:
        """The app as `ensure` made it, or None. Its ``ranks``: the ranks that exist in every slot."""
        root = self._settings.folder(app)
        try:
            return self._resources(app, root, self._made(root))
        except (FileNotFoundError, NotADirectoryError, PermissionError):  # for the last two, `ensure` has a message
            return None
        except (ValueError, KeyError, TypeError):  # an `ensure` was interrupted
            return None

    def audit(self, app: str) -> Sequence[Promise] | None:
        """The promise that other users of this machine do not read or change the app. `None` if there is no app."""
        made = self.find(app)
        if made is None:
            return None
        root = made.names["root"]
        what = os.stat(root)
        mode = "other users have no access" if not what.st_mode & 0o077 else f"mode {what.st_mode & 0o777:o}"
        changed = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(os.stat(f"{root}/{_MARK}").st_mtime))
        return [
            same("folder: no public access", {root: mode}, "other users have no access", f"chmod 700 {shlex.quote(root)}"),
            shown("deployment: last change", changed),
        ]

    @staticmethod
    def _mark(root: str, fields: Mapping[str, object]) -> None:
        """Write the mark in one step: a reader sees the old mark or the new one."""
        aside = f"{root}/.{_MARK}.{os.urandom(6).hex()}"
        with naming(aside):
            Path(aside).write_text(json.dumps(fields))
            os.replace(aside, f"{root}/{_MARK}")

    @staticmethod
    def _made(root: str) -> dict[str, Any]:
        made = json.loads(Path(root, _MARK).read_bytes())
        return dict(made)

    def _resources(self, app: str, root: str, made: Mapping[str, Any]) -> Resources:
        settings = texts(self._settings, ("memory_mb", "timeout_s", "concurrency", "lease_s", "cold", RETENTION))
        forgotten = {FORGOTTEN: str(made[FORGOTTEN])} if FORGOTTEN in made else {}
        return Resources(app, int(made["ranks"]), int(made["slots"]), {"root": root} | settings | forgotten)

    def sweep(self, app: str) -> Sequence[str]:
        """Remove folders that an interrupted destroy left, and old entries of the audit log. Returns one line of text for each folder."""
        if (found := self.find(app)) is not None:
            root = found.names["root"]
            since = int(time.time()) - 86400 * self._settings.audit_retention_days
            if self._forget_entries(LocalObjects(root), since):
                self._mark(root, self._made(root) | {FORGOTTEN: max(since, int(found.names.get(FORGOTTEN, 0)))})
        left = list(Path(self._settings.folder(app)).parent.glob(f"{app}.destroyed-{12 * '?'}"))
        for folder in left:
            shutil.rmtree(folder)
        return [f"folder {folder}" for folder in left]

    def _forget_entries(self, objects: LocalObjects, since: float) -> bool:
        """Remove the entries of the audit log that were written before ``since``. Returns whether there were any."""
        page: str | None = None
        found = False
        while True:
            listed = objects.list(AUDIT, page)
            old = []
            for key in listed.keys:
                with suppress(FileNotFoundError):  # another client removes old entries too
                    if objects.written(key) < since:
                        old.append(key)
            found = found or bool(old)
            for first in range(0, len(old), objects.limits.delete_keys):
                objects.delete(old[first : first + objects.limits.delete_keys])
            if (page := listed.next) is None:
                return found

    def destroy(self, app: str) -> Sequence[str]:
        """Remove the app's folder. Returns one line of text for each queue and for the folder; an empty list where no app existed."""
        root = self._settings.folder(app)
        removed = []
        if os.path.isdir(root):
            self._check(root)
            queues = Path(root, "queues")
            removed = [*sorted(f"queue {p.relative_to(queues)}" for p in queues.glob("*/*")), f"folder {root}"]
            os.rename(root, f"{root}.destroyed-{os.urandom(6).hex()}")  # a rename hides it from writers at once; no app's name has a '.'
        self.sweep(app)
        return removed

    @staticmethod
    def _check(root: str) -> None:
        """Raise `InputError` for a folder with entries but no mark: `ensure` writes the mark first."""
        entries = [entry for entry in os.listdir(root) if not entry.startswith(f".{_MARK}.")]  # a mark that is being written does not count
        if entries and _MARK not in entries:
            raise InputError(
                f"folder {root}: holds files that fsd did not make: expected an empty or missing folder: "
                "choose another app, or set [local] root"
            )

    @staticmethod
    def _sweep(folder: str) -> None:
        with os.scandir(folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if entry.stat().st_mtime < time.time() - _STALE_S:
                        os.unlink(entry.path)


@contextmanager
def _usable(root: str) -> Iterator[None]:
    """Within the block an error that means "the folder cannot be used" becomes an `InputError`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _UNFIT:
            raise
        raise InputError(
            f"folder {root}: cannot be used: {error.filename}: {error.strerror}: "
            "expected a folder that can be written: set FSD_HOME or [local] root"
        ) from error


def _try_links(root: str) -> None:
    """Make the file ``lock`` where the file system has no hard links, see `fsd_local.objects`. Raises `InputError` without locks too."""
    lock = Path(root, LOCK)
    first, second = (f"{root}/tmp/{os.urandom(12).hex()}" for _ in range(2))
    try:
        Path(first).touch()
        os.link(first, second)
    except OSError as error:
        if error.errno not in _LACKS:
            raise
        lock.touch()
        try:
            with lock.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as refused:
            if refused.errno not in _LACKS:
                raise
            raise InputError(
                f"folder {root}: its file system has neither hard links nor locks: expected one of them: "
                "set FSD_HOME or [local] root to a folder on another file system"
            ) from refused
    finally:
        for each in (first, second):
            with suppress(FileNotFoundError):
                os.unlink(each)


def _make_bell(path: str) -> None:
    """Make the named pipe of a queue, unless the file system has no named pipes."""
    try:
        os.mkfifo(path, 0o600)
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno not in _LACKS:
            raise
