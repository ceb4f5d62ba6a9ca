"""gcp-storage-emulator, which others wrote: Cloud Storage without preconditions, offsets and pages, held against ours."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from fsd_conformance.emulators.process import Server

__all__ = ["GcpStorage"]


class GcpStorage(Server):
    """In the memory of one process."""

    name = "gcp-storage-emulator"
    health = "/"
    grace_s = 0.0

    def command(self) -> Sequence[str]:
        """In this interpreter. Not quiet, it would log every request, bodies included."""
        return [sys.executable, "-m", "gcp_storage_emulator", "start", "--host=127.0.0.1", f"--port={self.port}", "--in-memory", "--quiet"]
