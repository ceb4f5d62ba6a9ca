"""Google's Pub/Sub emulator, a program in Java: found where it runs, as a component of the Google Cloud CLI, or by its file."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from fsd_conformance.emulators.process import Guard, Server
from fsd_core.errors import InputError

__all__ = ["HOST", "JAR", "PubSub", "check", "find"]

HOST = "PUBSUB_EMULATOR_HOST"  # host:port, as the SDKs know it
JAR = "FSD_PUBSUB_JAR"
_HOW = (
    "`gcloud components install pubsub-emulator` gets it (as a Linux package: google-cloud-cli-pubsub-emulator); "
    f"or set {JAR} to its cloud-pubsub-emulator-*-all.jar, or {HOST} to the host:port of one that runs"
)


def find() -> list[str]:
    """The command that starts it, but for its address. `InputError`: it is not here, or Java is not; says how to get them."""
    named = os.environ.get(JAR)
    found = Path(named) if named else _component()
    if found is None:
        raise InputError(f"the Pub/Sub emulator is not on this machine: {_HOW}")
    if not found.is_file():
        raise InputError(f"{JAR}: {found}: no such file")
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")
    if java is None:
        raise InputError("the Pub/Sub emulator needs Java 11 or newer: install a JRE, so that `java` is found, or set JAVA_HOME")
    return [java, "-jar", str(found)]


def check() -> None:
    """`InputError`: none is here, and none is said to run."""
    if not os.environ.get(HOST):
        find()


def _component() -> Path | None:
    """The newest one that the Google Cloud CLI has."""
    if shutil.which("gcloud") is None:
        return None
    asked = ["gcloud", "info", "--quiet", "--format=value(installation.sdk_root)"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=120, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError) as error:
        raise InputError(f"the Pub/Sub emulator: `gcloud info` failed ({error}): {_HOW}") from None
    jars = Path(done.stdout.strip()).glob("platform/pubsub-emulator/lib/cloud-pubsub-emulator-*-all.jar")
    return max(jars, key=lambda jar: [int(part) for part in jar.name.split("-")[3].split(".") if part.isdigit()], default=None)


class PubSub(Server):
    """The emulator of this machine; or the one that `HOST` names, which is used as it is, neither started nor stopped."""

    name = "pubsub"
    health = "/"
    grace_s = 0.0  # it holds everything in memory

    def __init__(self, folder: Path, guard: Guard | None = None) -> None:
        super().__init__(folder, guard)
        self._elsewhere = os.environ.get(HOST, "")
        if self._elsewhere:
            host, _, port = self._elsewhere.rpartition(":")
            if not host or not port.isdecimal():
                raise InputError(f"{HOST}: {self._elsewhere!r}: must be host:port")
            self.host, self.port = host.strip("[]"), int(port)

    @property
    def address(self) -> str:
        """host:port, for `HOST`."""
        return self._elsewhere or f"{self.host}:{self.port}"

    def command(self) -> Sequence[str]:
        """Google's own start script does no more."""
        return [*find(), f"--host={self.host}", f"--port={self.port}"]

    def start(self) -> None:
        """Start it, or see that it is there."""
        if not self._elsewhere:
            super().start()
        elif not self.healthy():
            raise InputError(f"{HOST}: no Pub/Sub emulator answers at {self._elsewhere}: start it, or unset {HOST}")
