"""Google's Pub/Sub emulator, a Java program. It is one that already runs, the component of the Google Cloud CLI, or the file that a
variable names.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from fsd_conformance.emulators.process import Guard, Server
from fsd_core.errors import InputError

__all__ = ["HOST", "JAR", "PubSub", "check", "find"]

HOST = "PUBSUB_EMULATOR_HOST"  # HOST:PORT; the SDKs read this variable
JAR = "FSD_PUBSUB_JAR"
# Quick to start, and light beside others: code that runs for a few minutes does not repay the optimising compiler's work.
_LIGHT = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
_HOW = (
    "`gcloud components install pubsub-emulator` installs it (as a Linux package: google-cloud-cli-pubsub-emulator); "
    f"or set {JAR} to its cloud-pubsub-emulator-*-all.jar, or {HOST} to the HOST:PORT of a running one"
)


def find() -> list[str]:
    """The command that starts the emulator, without the address. Raises `InputError` with the installation steps if a part is missing."""
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
    """Raise `InputError` where no emulator is installed, and none is named as running."""
    if not os.environ.get(HOST):
        find()


def _component() -> Path | None:
    """The newest version in the Google Cloud CLI."""
    gcloud = shutil.which("gcloud")
    if gcloud is None:
        return None
    jars = _installation(gcloud).glob("platform/pubsub-emulator/lib/cloud-pubsub-emulator-*-all.jar")
    return max(jars, key=lambda jar: [int(part) for part in jar.name.split("-")[3].split(".") if part.isdigit()], default=None)


@functools.cache  # the Google Cloud CLI takes a second to say it
def _installation(gcloud: str) -> Path:
    """The folder of a Google Cloud CLI."""
    asked = [gcloud, "info", "--quiet", "--format=value(installation.sdk_root)"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=120, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError) as error:
        raise InputError(f"the Pub/Sub emulator: `gcloud info` failed ({error}): {_HOW}") from None
    return Path(done.stdout.strip())


class PubSub(Server):
    """The emulator on this machine, or the running one that `HOST` names, which is neither started nor stopped."""

    name = "pubsub"
    health = "/"
    grace_s = 0.0  # killed at once: it keeps everything in memory

    def __init__(self, folder: Path, guard: Guard | None = None) -> None:
        super().__init__(folder, guard)
        self._elsewhere = os.environ.get(HOST, "")
        if self._elsewhere:
            host, _, port = self._elsewhere.rpartition(":")
            if not host or not port.isdecimal():
                raise InputError(f"{HOST}: {self._elsewhere!r}: expected HOST:PORT")
            self.host, self.port = host.strip("[]"), int(port)

    @property
    def address(self) -> str:
        """HOST:PORT, for the variable `HOST`."""
        return self._elsewhere or f"{self.host}:{self.port}"

    def command(self) -> Sequence[str]:
        """The command line of Google's start script, with flags for Java."""
        java, *program = find()
        return [java, *_LIGHT, *program, f"--host={self.host}", f"--port={self.port}"]

    def start(self) -> None:
        """Start the emulator, or check that the running one answers."""
        if not self._elsewhere:
            super().start()
        elif not self.healthy():
            raise InputError(f"{HOST}: no Pub/Sub emulator answers at {self._elsewhere}: start it, or unset {HOST}")
