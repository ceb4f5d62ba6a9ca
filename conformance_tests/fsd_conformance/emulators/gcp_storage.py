"""gcp-storage-emulator, an emulator of Cloud Storage by another project. It does not support preconditions, ranges or pages."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from fsd_conformance.emulators.process import Server

__all__ = ["GcpStorage"]


class GcpStorage(Server):
    """Keeps objects in the memory of one process."""

    name = "gcp-storage-emulator"
    health = "/"
    grace_s = 0.0

    def command(self) -> Sequence[str]:
        """The command line, in this interpreter. Without --quiet it logs every request with its body."""
        return [sys.executable, "-m", "gcp_storage_emulator", "start", "--host=127.0.0.1", f"--port={self.port}", "--in-memory", "--quiet"]
