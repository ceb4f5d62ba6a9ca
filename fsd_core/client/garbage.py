"""What runs leave behind, on purpose or not, and its removal: staged content, records and caches, what dead clients left."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping

from fsd_core.common import arguments
from fsd_core.driver import Provider, Provisioner
from fsd_core.providers.app_name import check_app
from fsd_core.providers.registry import find
from fsd_core.storage import slots
from fsd_core.storage.keys import is_content, is_manifest, is_run
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store

__all__ = ["clean", "collect_garbage"]


def clean(
    provider: str = "local",
    app: str = "fsd",
    settings: Mapping[str, object] | None = None,
    home: str | os.PathLike[str] | None = None,
    *,
    keep_records: bool = False,
) -> int:
    """Remove staged content from the app's object store, local caches and, unless ``keep_records``, records; how many objects that were."""
    found, provisioner = _place(provider, app, settings)
    for name in ("partitions",) if keep_records else ("partitions", "runs"):
        shutil.rmtree(arguments.home(home) / name, ignore_errors=True)

    def content(store: Store) -> list[str]:
        keys = [key for key in store.keys("") if is_content(key)]
        return sorted(keys, key=is_manifest, reverse=True)  # first what says that the rest is there: this may be cut short

    return _remove(found, provisioner, app, content)


def collect_garbage(provider: str = "local", app: str = "fsd", settings: Mapping[str, object] | None = None) -> int:
    """Remove the objects of runs that hold no slot, and what dead clients left of the platform's; how many that were."""

    def garbage(store: Store) -> list[str]:
        # A run leases its slot before its first object: what is listed first and then found without a lease is garbage.
        keys = [key for key in store.keys("") if is_run(key)]
        running = slots.holders(store)
        return [key for key in keys if key.split("/")[0] not in running]

    found, provisioner = _place(provider, app, settings)
    return _remove(found, provisioner, app, garbage) + len(provisioner.sweep(app))


def _place(provider: str, app: str, settings: Mapping[str, object] | None) -> tuple[Provider, Provisioner]:
    """The provider and its provisioner, all arguments checked."""
    check_app(arguments.text("app", app))
    found = find(arguments.text("provider", provider))
    return found, found.provisioner(arguments.table("settings", settings))


def _remove(found: Provider, provisioner: Provisioner, app: str, choose: Callable[[Store], list[str]]) -> int:
    """Remove the keys that ``choose`` names from an app's object store, if there is the app."""
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
