"""The local provider as a platform where only the process that launched a function learns that it died: its host reports nothing.

The host runs this module instead of `fsd_core.worker`: the same worker, with this provider.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress

import attrs

from fsd_core.driver import Failure, Failures, InvokeDriver, Launch, ObjectDriver, Provider, Resources
from fsd_core.storage.keys import RunKeys
from fsd_core.worker import program as worker
from fsd_core.wrappers.around import AroundInvoker
from fsd_local import LocalProvider
from fsd_local.invoke import LocalInvoker


class LauncherInvoker(AroundInvoker):
    """Keeps what it launched, and looks whether those processes live."""

    def __init__(self, driver: InvokeDriver, objects: ObjectDriver) -> None:
        super().__init__(driver)
        self.limits = attrs.evolve(driver.limits, failures="launcher")
        self._objects = objects
        self._launched: list[bytes] = []

    def invoke(self, function: str, payload: bytes) -> Launch:
        self._launched.append(payload)
        return super().invoke(function, payload)

    def failures(self, take: Callable[[bytes], bool]) -> Failures:
        dead = []
        for payload in self._launched:
            fields = json.loads(payload)
            keys, rank, incarnation = RunKeys(fields["run"]), fields["rank"], fields["incarnation"]
            with suppress(FileNotFoundError):  # it has claimed no rank yet
                claim = json.loads(self._objects.get(keys.claim(rank, incarnation)))
                if not os.path.exists(f"/proc/{claim['pid']}") and not self._objects.list(keys.record(rank)).keys and take(payload):
                    dead.append((payload, Failure(payload, claim["nonce"], "its connection closed")))
        self._launched = [each for each in self._launched if each not in [payload for payload, _ in dead]]
        return Failures([failure for _, failure in dead])


class LauncherProvider(LocalProvider):
    def invoker(self, resources: Resources) -> InvokeDriver:
        return LauncherInvoker(LocalInvoker(resources, __name__), self.objects(resources))


def handle(payload: bytes, provider: Provider, *, nonce: str, note: Callable[[int], None]) -> int:
    return worker.handle(payload, LauncherProvider(), nonce=nonce, note=note)


def report_exit(payload: bytes, provider: Provider, reason: str, *, nonce: str, layer: int | None, said: object) -> None:
    """Report nothing: the launcher does."""
