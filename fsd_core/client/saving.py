"""Saves the audit log of an app on this machine, before the app is removed with it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fsd_core.client.marks import Marks
from fsd_core.common.files import read_regular, replacing
from fsd_core.common.home import made
from fsd_core.driver import Provider, Resources
from fsd_core.errors import InputError, RunFailed
from fsd_core.storage import ledger
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store

__all__ = ["explain", "forget", "opened", "read_saved", "save"]

LIMIT_S = 1800.0  # for reading a whole log
MAX_BYTES = 4 << 30


@contextmanager
def opened(provider: Provider, resources: Resources) -> Iterator[Store]:
    """The object store of an app, closed at the end of the block."""
    objects = provider.objects(resources)
    try:
        yield Store(objects, Retry(time.time() + LIMIT_S, Meter()))
    finally:
        objects.close()


def save(provider: Provider, resources: Resources, home: Path) -> str | None:
    """Write the audit log of an app below ``home``/audit. Returns a line that names the file; `None` if the app has no log.

    Each line of the file has the bytes of one entry, so that `fsd_core.read_audit_log` can check the file. Raises `RunFailed` if the log
    cannot be read, and `InputError` if the file cannot be written.
    """
    app = resources.app
    try:
        with opened(provider, resources) as store:
            found = ledger.read_all(store)
    except RunFailed as error:
        explain(error, app)
        raise
    if not found:
        return None
    folder = made(home / "audit")
    file = folder / f"{provider.name}-{app}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.jsonl"
    try:
        with replacing(file) as out:
            out.writelines(body.replace(b"\n", b" ") + b"\n" for _, body in found)  # an entry has no line break, unless it was changed
    except OSError as error:
        raise InputError(f"{file}: the audit log cannot be saved: {error.strerror or error}; the app stays as it is") from error
    return f"audit log of {len(found)} entr{'y' if len(found) == 1 else 'ies'}, saved as {file}"


def explain(error: RunFailed, app: str) -> None:
    """Add to ``error``, because of which the audit log of an app cannot be read, what follows from it."""
    error.message += (
        f"; so the audit log of app {app} cannot be saved, and the app stays as it is: "
        "expected permission to read it, or --audit-log delete, which removes it unsaved"
    )


def read_saved(file: Path) -> list[ledger.Body]:
    """The entries in a file that `save` wrote. Raises `InputError` if the file cannot be read."""
    try:
        return ledger.numbered(read_regular(file, MAX_BYTES).splitlines())
    except FileNotFoundError:
        raise InputError(f"{file}: no such file: expected an audit log that fsd destroy saved") from None


def forget(provider: Provider, resources: Resources, home: Path) -> None:
    """Remove the marks of the log of an app. Call this when the app is removed."""
    Marks.of(provider, resources, home).forget()
