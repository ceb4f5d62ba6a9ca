"""AWS under test, on emulators that the harnesses start."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from fsd_conformance import emulators
from fsd_conformance.emulators import Emulator
from fsd_conformance.emulators.emulator import pointed
from fsd_conformance.emulators.localstack import LocalStack
from fsd_conformance.emulators.moto import Moto
from fsd_conformance.harness import Harness
from fsd_core.driver import MessageDriver, ObjectDriver, Provider, Resources

__all__ = ["HARNESSES", "LocalStackHarness", "MotoHarness"]


class AwsHarness(Harness):
    """The AWS provider, its SDK pointed at an emulator while the harness runs."""

    emulator: ClassVar[type[Emulator]]
    lease_s: ClassVar[float]
    few: Mapping[str, object] | None = {"concurrency": 2}

    def __init__(self) -> None:
        self._running = contextlib.ExitStack()

    def provider(self) -> Provider:
        """The provider."""
        from fsd_aws import PROVIDER

        return PROVIDER

    def settings(self, folder: Path) -> Mapping[str, object]:
        """A short lease, and what the emulator needs."""
        return {**self.emulator.settings, "lease_s": self.lease_s}

    def start(self) -> None:
        """Start the emulator."""
        self._running.enter_context(emulators.own(self.emulator))

    def stop(self) -> None:
        """End it."""
        self._running.close()

    def messages_at(self, url: str) -> MessageDriver:
        """Queues of no app: only where they are matters."""
        with self._at(url) as resources:
            return self.provider().messages(resources, 0)

    def objects_at(self, url: str) -> ObjectDriver:
        """A bucket of no app."""
        with self._at(url) as resources:
            return self.provider().objects(resources)

    @contextlib.contextmanager
    def _at(self, url: str) -> Iterator[Resources]:
        names = {"region": "us-east-1", "account": "0" * 12, "generation": "0" * 8, "bucket": "none", "queue_url_prefix": f"{url}/0/"}
        key = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        with pointed({"AWS_ENDPOINT_URL": url, **key}, self.emulator.clears):
            yield Resources("none", 1, 1, {**names, "body": "text", "lease_s": "1"})


def _quick(emulator: type[Emulator]) -> type[Emulator]:
    """Lambda gives up an event for which there is no room after a minute; here after six seconds."""
    return type(emulator.__name__, (emulator,), {"functions": ("--retry-scale", "0.1")})


class MotoHarness(AwsHarness):
    """moto: quick, and lenient."""

    name = "moto"
    emulator = _quick(Moto)
    lease_s = 1.0


class LocalStackHarness(AwsHarness):
    """LocalStack's community core: stricter."""

    name = "localstack"
    emulator = _quick(LocalStack)
    lease_s = 2.0


HARNESSES: Mapping[str, type[Harness]] = {each.name: each for each in (MotoHarness, LocalStackHarness)}
