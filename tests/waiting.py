"""Waits of tests for what happens elsewhere, in another process for the most part: until it did, however slow the machine is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

from fsd_core.storage.keys import is_run
from fsd_core.storage.store import Store

__all__ = ["PATIENCE_S", "claims", "left_by_runs", "until"]

T = TypeVar("T")
PATIENCE_S = 300.0


def until(look: Callable[[], T], within_s: float = PATIENCE_S) -> T:
    """The first true answer; a failure after ``within_s`` seconds without one."""
    end = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < end, f"it did not happen within {within_s:g} s"
        time.sleep(0.05)  # some looks are requests to an emulator
    return found


def claims(store: Store, least: int = 3) -> dict[int, dict[str, Any]]:
    """The claims of the run under way by rank, once there are so many."""

    def there() -> list[str]:
        keys = [key for key in store.keys("") if "/claim/" in key and "." not in key]  # first incarnations
        return keys if len(keys) >= least else []

    return {int(key.rsplit("/", 1)[1]): json.loads(store.get(key)) for key in until(there)}


def left_by_runs(store: Store) -> list[str]:
    """The keys of runs but for what may stay until the slot's next run: the reason of one that failed, and the last lines of its workers.

    A worker that is slow to stop writes its lines after the clean-up.
    """
    return [key for key in store.keys("") if is_run(key) and not key.endswith("/error") and "/log/" not in key]
