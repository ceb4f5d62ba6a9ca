"""AWS Lambda on this machine: ``python -m fsd_conformance.emulators.lambda_ --port 0``.

The real runtime client (`awslambdaric`) runs each function in processes of its own, and real boto3 creates and invokes functions
through ``endpoint_url`` or AWS_ENDPOINT_URL_LAMBDA. When it is ready it prints one line of JSON, {"port", "endpoint", "pid",
"logs"}. It ends at SIGTERM or SIGINT with every process that it started; they end with it however it dies.

Functions get the credentials and the AWS_ENDPOINT_URL* of the emulator's own environment; destinations, and code in a bucket,
are reached the same way. Code that was changed on disk is seen after a restart, where the warm parent has imported it.
A duplicated or retried event keeps its request id, as on the platform. `lambda_claims` lists what of each operation is claimed and
what is refused by name; nothing that would change an answer is ignored. Not here at all: signatures (nothing is authorised), the CPU
share that comes with memory, a file system and a network of one's own, the burst rate.
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
    """Run until the end; returns the exit code."""
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
    parser.add_argument("--account", default="123456789012", help="the account's number, as the other emulator has it")
    parser.add_argument("--concurrency", type=int, default=1000, help="the account's limit in a region")
    parser.add_argument("--shipped", default=Options.shipped, help="the package in which a handler is looked for that is not found")
    parser.add_argument("--no-freeze", dest="freeze", action="store_false", help="let idle processes run on")
    parser.add_argument("--retry-scale", type=float, default=1.0, help="of every wait and age in the asynchronous queue")
    return daemon.run(parser, arguments, serve)


if __name__ == "__main__":
    sys.exit(main())
