"""Azurite, Microsoft's free emulator: Blob Storage in one process of Node.js."""

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

# Every 10 minutes Azurite collects what was deleted, and answers nothing meanwhile: for 18 s after 3,000 blobs (measured), and for 4 times
# as long after twice as many. It closes a connection that is idle for 5 s, even if a request is on its way. It does not read its option for
# that time (3.37.0), and has none for the collection: both are set here, before its main module is loaded.
_START = """
const [constants, main] = process.argv.splice(1, 2);
Object.assign(require(constants), {DEFAULT_GC_INTERVAL_MS: 24 * 3600 * 1000, DEFAULT_BLOB_KEEP_ALIVE_TIMEOUT: 3600});
process.argv.splice(1, 0, main);
require(main);
"""


def install(tell: Callable[[str], None]) -> Path:
    """The folder of Azurite. Installs Azurite if needed, which takes about 1 minute and 370 MB below FSD_HOME. Raises `InputError` without
    Node.js.
    """
    return npm("azurite", VERSION, tell)


class Azurite(Server):
    """Keeps blobs in memory, with its own account and a random key."""

    name = "azurite"
    health = "/"
    grace_s = 0.0

    def __init__(self, folder: Path, guard: Guard | None = None) -> None:
        super().__init__(folder, guard)
        self._key = base64.b64encode(secrets.token_bytes(32)).decode()

    @property
    def blob_url(self) -> str:
        """The account's URL."""
        return f"{self.url}/{ACCOUNT}"

    @property
    def connection_string(self) -> str:
        """The account's connection string."""
        return f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={self._key};BlobEndpoint={self.blob_url};"

    def healthy(self) -> bool:
        """Whether the server answers. Every path needs a key, so an answer that the key is missing counts."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=5)
        try:
            connection.request("GET", self.health)
            return connection.getresponse().status < 500
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def command(self) -> Sequence[str]:
        """The command line with node, not npm. It skips the check of the API version, since new SDKs use newer versions."""
        blob = install(lambda text: None) / "dist" / "src" / "blob"
        modules = (str(blob / "utils" / "constants.js"), str(blob / "main.js"))
        port = ("--blobHost", self.host, "--blobPort", str(self.port))
        options = ("--silent", "--disableTelemetry", "--inMemoryPersistence", "--skipApiVersionCheck")
        return ["node", "-e", _START, "--", *modules, *port, *options]

    def environment(self) -> Mapping[str, str]:
        """The usual environment, with the account and its key."""
        return {**super().environment(), "AZURITE_ACCOUNTS": f"{ACCOUNT}:{self._key}"}
