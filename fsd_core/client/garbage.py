"""Removes objects and files of earlier runs: staged content, records, kept partitions, and the objects of runs whose client died."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from fsd_core.client.apps import place, reported
from fsd_core.client.job import Progress
from fsd_core.client.marks import FOLDER
from fsd_core.common import arguments, interrupt
from fsd_core.driver import Provider, Provisioner
from fsd_core.storage import slots
from fsd_core.storage.keys import is_content, is_manifest, is_run
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store

__all__ = ["clean", "collect_garbage"]


@interrupt.heard()
def clean(
    provider: str = "local",
    app: str = "fsd",
    settings: Mapping[str, object] | None = None,
    home: str | os.PathLike[str] | None = None,
    *,
    keep_records: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> int:
    """Remove the staged content of an app, and from ``home`` the kept partitions and, unless ``keep_records``, the records of all runs.

    The audit log of the app stays, and so do the digests of its entries in ``home``.

    ``provider``, ``app``, ``settings`` and ``home`` are those of `fsd_core.run`, ``progress`` is that of `deploy`. Returns how many objects
    were removed from the store. Raises `InputError` if an argument is wrong.
    """
    found, provisioner = place(provider, app, settings)
    folder, keep_records = arguments.home(home), arguments.yes_or_no("keep_records", keep_records)

    def content(store: Store) -> list[str]:
        keys = [key for key in store.keys("") if is_content(key)]
        return sorted(keys, key=is_manifest, reverse=True)  # manifests first: this may be interrupted

    with reported(progress):
        shutil.rmtree(folder / "partitions", ignore_errors=True)
        if not keep_records:
            _remove_records(folder / "runs")
        return _remove(found, provisioner, app, content)


@interrupt.heard()
def collect_garbage(
    provider: str = "local",
    app: str = "fsd",
    settings: Mapping[str, object] | None = None,
    *,
    progress: Callable[[Progress], None] | None = None,
) -> int:
    """Remove the objects of runs that hold no slot, and incomplete resources of clients that died while they deployed an app.

    The arguments are those of `deploy`. Returns how many objects and resources were removed. Raises `InputError` if an argument is wrong.
    """

    def garbage(store: Store) -> list[str]:
        # A run leases its slot before it writes its first object. So an object is garbage if it was listed first and its run holds no slot.
        keys = [key for key in store.keys("") if is_run(key)]
        running = slots.holders(store)
        return [key for key in keys if key.split("/")[0] not in running]

    found, provisioner = place(provider, app, settings)
    with reported(progress):
        return _remove(found, provisioner, app, garbage) + len(provisioner.sweep(app))


def _remove_records(runs: Path) -> None:
    """Remove the records of past runs, but not the marks of audit logs."""
    with suppress(OSError):
        for each in [each for each in runs.iterdir() if each.name != FOLDER]:
            shutil.rmtree(each) if each.is_dir() else each.unlink()
        runs.rmdir()


def _remove(found: Provider, provisioner: Provisioner, app: str, choose: Callable[[Store], list[str]]) -> int:
    """Remove the keys that ``choose`` returns from an app's object store, if the app exists. Returns how many keys."""
    resources = provisioner.find(app)
    if resources is None:
        return 0
    objects = found.objects(resources)
    try:
        store = Store(objects, Retry(time.time() + 600, Meter()))
        keys = choose(store)
        store.delete(keys)
    finally:
        objects.close()
    return len(keys)
