"""AWS Lambda on this machine: ``python -m fsd_conformance.emulators.lambda_ --port 0``.

The real runtime client (`awslambdaric`) runs each function in processes of its own, and real boto3 creates and invokes functions through
``endpoint_url`` or AWS_ENDPOINT_URL_LAMBDA. When the emulator is ready it prints one line of JSON, {"port", "endpoint", "pid", "logs"}. At
SIGTERM or SIGINT it ends, together with every process that it started; these processes also end if the emulator is killed.

Functions get the credentials and the AWS_ENDPOINT_URL* of the emulator's environment; the emulator itself uses them for requests to
destinations, and for code in a bucket. After a change of modules that the parent process has imported, restart the emulator. A duplicated
or retried event keeps its request id, as on the platform. `lambda_claims` lists the supported and the refused parts of each operation;
nothing that would change an answer is ignored. Not implemented: signatures and authorisation, the CPU share by memory, a private file
system and network, the burst rate.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from fsd_conformance.emulators import daemon
from fsd_conformance.emulators.lambda_api import READ_BYTES, Api
from fsd_conformance.emulators.lambda_invoke import Invoker
from fsd_conformance.emulators.lambda_runtime import Runtime
from fsd_conformance.emulators.lambda_sandbox import Options
from fsd_conformance.emulators.lambda_store import Store
from fsd_conformance.emulators.web import HttpServer

__all__ = ["main"]


async def serve(chosen: dict[str, Any], port: int, end: daemon.End) -> int:
    """Serve until the end, and return the exit code."""
    options = Options(**chosen)
    stats: Counter[str] = Counter()
    store = Store(options.account, options.concurrency)
    runtime = Runtime(options, stats, end.lost)
    invoker = Invoker(store, runtime, options, stats)
    server = HttpServer(Api(store, runtime, invoker, options, stats).route, READ_BYTES)
    await server.start(port)
    runtime.endpoint = f"http://127.0.0.1:{server.port}"
    try:
        await runtime.open()
        ready = {"port": server.port, "endpoint": runtime.endpoint, "pid": os.getpid(), "logs": str(options.home / "logs")}
        print(json.dumps(ready), flush=True)
        return await end.wait()
    finally:
        server.close()
        invoker.close()
        runtime.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = daemon.parser("lambda", "AWS Lambda on this machine", Options)
    parser.add_argument("--region", default=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1")
    parser.add_argument("--account", default="123456789012", help="the account's number, the same as in the emulator of the other services")
    parser.add_argument("--concurrency", type=int, default=1000, help="the account's concurrency limit in a region")
    parser.add_argument("--shipped", default=Options.shipped, help="a package to search for handlers that are not found")
    parser.add_argument("--no-freeze", dest="freeze", action="store_false", help="do not stop idle processes")
    parser.add_argument("--retry-scale", type=float, default=1.0, help="factor for all waits and ages in the asynchronous queue")
    return daemon.run(parser, arguments, serve)


if __name__ == "__main__":
    sys.exit(main())
