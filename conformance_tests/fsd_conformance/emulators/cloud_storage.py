"""Cloud Storage on this machine: ``python -m fsd_conformance.emulators.cloud_storage --port 0``.

google-cloud-storage uses it unchanged through STORAGE_EMULATOR_HOST or ``client_options``. When the emulator is ready it prints one line of
JSON, {"port", "endpoint", "pid"}. It keeps everything in memory, and ends at SIGTERM or SIGINT.

It has buckets, objects by media, multipart and resumable upload, ranges, preconditions with exactly one winner, generations, checksums,
pages, partial answers (``fields``), batches and policies. `cloud_storage_claims` lists the parts of each that are supported, only stored,
or refused by name; nothing that would change an answer is ignored. Not implemented: credentials and permissions, the XML and gRPC APIs, the
limit of about one write per second for each name.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence

from fsd_conformance.emulators.cloud_storage_api import Api
from fsd_conformance.emulators.daemon import End
from fsd_conformance.emulators.web import HttpServer

__all__ = ["main"]


async def serve(port: int, max_bytes: int) -> int:
    """Serve until a signal, and return the exit code. ``max_bytes``: the largest object."""
    end = End(until_stdin_closes=False)
    server = HttpServer(Api(max_bytes).route, max_bytes + (1 << 20))  # room for an object and its headers
    await server.start(port)
    print(json.dumps({"port": server.port, "endpoint": f"http://127.0.0.1:{server.port}", "pid": os.getpid()}), flush=True)
    try:
        return await end.wait()
    finally:
        server.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser("cloud_storage", description="Cloud Storage on this machine")
    parser.add_argument("--port", type=int, default=0, help="0: a free port")
    parser.add_argument("--object-mb", type=int, default=1024, help="the largest object in MiB; objects are kept in memory")
    chosen = parser.parse_args(arguments)
    try:
        return asyncio.run(serve(chosen.port, chosen.object_mb << 20))
    except OSError as error:
        print(f"local Cloud Storage: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
