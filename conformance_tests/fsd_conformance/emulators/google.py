"""Google Cloud on this machine: Google's Pub/Sub emulator, this project's Cloud Storage and Cloud Run."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from fsd_conformance.emulators import pubsub
from fsd_conformance.emulators.emulator import Emulator
from fsd_conformance.emulators.install import packages
from fsd_conformance.emulators.process import POINTERS, Guard, Server
from fsd_core.providers.proxies import local_only

__all__ = ["PROJECT", "CloudRun", "CloudStorage", "Google", "pointers"]

PROJECT = "fsd-emulator"


class CloudStorage(Server):
    """This project's Cloud Storage, in the memory of one process."""

    name = "cloud-storage"
    health = "/_health"
    grace_s = 0.0

    def command(self) -> Sequence[str]:
        """The command line, in this interpreter."""
        return [sys.executable, "-m", "fsd_conformance.emulators.cloud_storage", "--port", str(self.port)]


class CloudRun(Server):
    """This project's Cloud Run: functions, control plane, metadata. ``env``: its functions' variables for the other services."""

    name = "cloud-run"
    health = "/health"

    def __init__(self, folder: Path, guard: Guard | None, arguments: Sequence[str], env: Callable[[], Mapping[str, str]]) -> None:
        super().__init__(folder, guard)
        self._arguments = arguments
        self._env = env

    def command(self) -> Sequence[str]:
        """The command line, in this interpreter."""
        home = self.folder / "functions"  # of the functions' logs
        module = "fsd_conformance.emulators.cloud_run"
        return [sys.executable, "-m", module, "--port", str(self.port), "--home", str(home), *self._arguments]

    def environment(self) -> Mapping[str, str]:
        """The usual environment with ``env``."""
        return {**super().environment(), **self._env()}


def pointers(folder: Path, messages: str, objects: str, functions: Server) -> dict[str, str]:
    """The variables of the emulators' clients: Pub/Sub's HOST:PORT, Cloud Storage's URL, the local Cloud Run."""
    return {
        "GOOGLE_CLOUD_PROJECT": PROJECT,
        "CLOUDSDK_CONFIG": str(folder / "gcloud"),  # not the user's own credentials
        pubsub.HOST: messages,
        "STORAGE_EMULATOR_HOST": objects,
        "FSD_GCP_ENDPOINT": functions.url,
        "GCE_METADATA_HOST": f"{functions.host}:{functions.port}",
        "GCE_METADATA_IP": f"{functions.host}:{functions.port}",  # the SDK probes this address for a metadata server
        **local_only(os.environ),
    }


class Google(Emulator):
    """Clients get credentials from the metadata server of the local Cloud Run, like a function on the platform."""

    name = "google"
    clears = POINTERS["gcp"]
    settings: ClassVar[Mapping[str, object]] = {"package": False}  # functions run the code that is installed here
    storage: ClassVar[type[Server]] = CloudStorage
    functions: ClassVar[Sequence[str]] = ()  # flags of the local Cloud Run

    def __init__(self, folder: Path, guard: Guard | None = None) -> None:
        messages = pubsub.PubSub(folder, guard)
        objects = self.storage(folder, guard)
        functions = CloudRun(folder, guard, self.functions, lambda: self.env)
        self.servers = (messages, objects, functions)
        self.env = pointers(folder, messages.address, objects.url, functions)

    @staticmethod
    def install(tell: Callable[[str], None]) -> None:
        """Install the SDK and functions-framework where they are missing. Raises `InputError` without a Pub/Sub emulator."""
        packages(("gcp", "emulators"), tell)
        pubsub.check()
