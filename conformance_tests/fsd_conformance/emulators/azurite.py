"""Azurite, which Microsoft gives away: Blob Storage in one process of Node.js."""

from __future__ import annotations

import base64
import http.client
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fsd_conformance.emulators.install import npm
from fsd_conformance.emulators.process import Guard, Server

__all__ = ["ACCOUNT", "VERSION", "Azurite", "install"]

VERSION = "3.37.0"
ACCOUNT = "fsdemulator"


def install(tell: Callable[[str], None]) -> Path:
    """Its folder, made if need be: a minute, and 370 MB below FSD_HOME. `InputError`: there is no Node.js here."""
    return npm("azurite", VERSION, tell)


class Azurite(Server):
    """In the memory of one process, with an account of its own whose key nobody else knows."""

    name = "azurite"
    health = "/"
    grace_s = 0.0

    def __init__(self, folder: Path, guard: Guard | None = None) -> None:
        super().__init__(folder, guard)
        self._key = base64.b64encode(secrets.token_bytes(32)).decode()

    @property
    def blob_url(self) -> str:
        """The account's address."""
        return f"{self.url}/{ACCOUNT}"

    @property
    def connection_string(self) -> str:
        """What azure-storage-blob connects with."""
        return f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={self._key};BlobEndpoint={self.blob_url};"

    def healthy(self) -> bool:
        """Whether it answers, if only that a key is missing: no path of it needs none."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=5)
        try:
            connection.request("GET", self.health)
            return connection.getresponse().status < 500
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def command(self) -> Sequence[str]:
        """By node itself: npm would stand between. The newest SDKs name a version of the API that it does not know yet."""
        program = install(lambda text: None) / "dist" / "src" / "blob" / "main.js"
        port = ("--blobHost", self.host, "--blobPort", str(self.port))
        return ["node", str(program), *port, "--silent", "--disableTelemetry", "--inMemoryPersistence", "--skipApiVersionCheck"]

    def environment(self) -> Mapping[str, str]:
        """The account."""
        return {**super().environment(), "AZURITE_ACCOUNTS": f"{ACCOUNT}:{self._key}"}
