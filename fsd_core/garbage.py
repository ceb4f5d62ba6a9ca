"""What runs leave behind, on purpose or not, and its removal: staged content, records and caches, what dead clients left."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from fsd_core import slots
from fsd_core.home import home_folder
from fsd_core.keys import is_content, is_run
from fsd_core.providers import find
from fsd_core.retry import Retry
from fsd_core.store import Store
from fsd_core.wrappers.meter import Meter

__all__ = ["clean", "collect_garbage"]


def clean(provider: str = "local", app: str = "fsd", settings: Mapping[str, object] | None = None, home: str | Path | None = None) -> int:
    """Remove staged content from the app's object store, and local records and caches; how many objects that were."""
    for name in ("runs", "partitions"):
        shutil.rmtree(home_folder(home) / name, ignore_errors=True)
    return _remove(provider, app, settings, lambda store: [key for key in store.keys("") if is_content(key)])


def collect_garbage(provider: str = "local", app: str = "fsd", settings: Mapping[str, object] | None = None) -> int:
    """Remove the objects of runs that hold no slot, and what dead clients left of the platform's; how many that were."""

    def garbage(store: Store) -> list[str]:
        # A run leases its slot before its first object: what is listed first and then found without a lease is garbage.
        keys = [key for key in store.keys("") if is_run(key)]
        running = slots.holders(store)
        return [key for key in keys if key.split("/")[0] not in running]

    return _remove(provider, app, settings, garbage) + len(find(provider).provisioner(settings or {}).sweep(app))


def _remove(provider: str, app: str, settings: Mapping[str, object] | None, choose: Callable[[Store], list[str]]) -> int:
    """Remove the keys that ``choose`` names from an app's object store, if there is the app."""
    found = find(provider)
    resources = found.provisioner(settings or {}).find(app)
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
