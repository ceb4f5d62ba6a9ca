"""Cloud Storage on this machine: ``python -m fsd_conformance.emulators.cloud_storage --port 0``.

google-cloud-storage uses it unchanged through STORAGE_EMULATOR_HOST or ``client_options``. When it is ready it prints one line of
JSON, {"port", "endpoint", "pid"}. It ends at SIGTERM or SIGINT, and what it holds, in memory, with it.

Here: buckets, objects by media, multipart and resumable upload, ranges, preconditions with exactly one winner, generations,
checksums, pages, partial answers (``fields``), batches, policies. `cloud_storage_claims` lists what of each is claimed, what is
only kept and told, and what is refused by name; nothing that would change an answer is ignored. Not here at all: credentials and
permissions, the XML and gRPC APIs, the rate of about one write a second of one name.
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


async def serve(port: int, most: int) -> int:
    """Run until a signal; returns the exit code."""
    end = End(until_stdin_closes=False)
    server = HttpServer(Api(most).route, most + (1 << 20))  # the object and what is around it
    await server.start(port)
    print(json.dumps({"port": server.port, "endpoint": f"http://127.0.0.1:{server.port}", "pid": os.getpid()}), flush=True)
    try:
        return await end.wait()
    finally:
        server.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser("cloud_storage", description="Cloud Storage on this machine")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--object-mb", type=int, default=1024, help="the largest object, in MiB: they are kept in memory")
    chosen = parser.parse_args(arguments)
    try:
        return asyncio.run(serve(chosen.port, chosen.object_mb << 20))
    except OSError as error:
        print(f"local Cloud Storage: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
