"""AWS Lambda on this machine: ``python -m fsd_conformance.emulators.lambda_ --port 0``.

The real runtime client (`awslambdaric`) runs each function in processes of its own, and real boto3 creates and invokes functions
through ``endpoint_url`` or AWS_ENDPOINT_URL_LAMBDA. When it is ready it prints one line of JSON, {"port", "endpoint", "pid",
"logs"}. It ends at SIGTERM or SIGINT with every process that it started; they end with it however it dies.

Functions get the credentials and the AWS_ENDPOINT_URL* of the emulator's own environment; destinations, and code in a bucket,
are reached the same way. Code that was changed on disk is seen after a restart, where the warm parent has imported it.
A duplicated or retried event keeps its request id, as on the platform. Not here: versions, aliases, layers, images, event sources,
permissions, signatures (nothing is authorised), the CPU share that comes with memory, a file system and a network of one's own,
SnapStart, the burst rate.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fsd_conformance.emulators.lambda_api import REQUEST_BYTES, Api
from fsd_conformance.emulators.lambda_http import HttpServer
from fsd_conformance.emulators.lambda_invoke import Invoker
from fsd_conformance.emulators.lambda_runtime import Runtime
from fsd_conformance.emulators.lambda_sandbox import Options
from fsd_conformance.emulators.lambda_store import Store

__all__ = ["main"]


async def serve(options: Options, port: int, until_stdin_closes: bool) -> int:
    """Run until a signal (0), or until the parent of the processes is lost (1)."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[int] = loop.create_future()

    def end(code: int) -> None:
        if not over.done():
            over.set_result(code)

    def read() -> None:
        if not os.read(0, 4096):
            end(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, 0)
    if until_stdin_closes:
        loop.add_reader(0, read)
    stats: Counter[str] = Counter()
    store = Store(options.account, options.concurrency)
    runtime = Runtime(options, stats, lambda: end(1))
    invoker = Invoker(store, runtime, options, stats)
    server = HttpServer(Api(store, runtime, invoker, options, stats).route, REQUEST_BYTES)
    await server.start(port)
    endpoint = f"http://127.0.0.1:{server.port}"
    try:
        await runtime.start(endpoint)
        ready = {"port": server.port, "endpoint": endpoint, "pid": os.getpid(), "logs": str(options.home / "logs")}
        print(json.dumps(ready), flush=True)
        code = await over
        if code:
            print("local lambda: the parent of the function processes died", file=sys.stderr)
        return code
    finally:
        server.close()
        invoker.close()
        runtime.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser("lambda_", description="AWS Lambda on this machine")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--region", default=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1")
    parser.add_argument("--account", default="123456789012", help="the account's number, as the other emulator has it")
    parser.add_argument("--concurrency", type=int, default=1000, help="the account's limit in a region")
    parser.add_argument("--cold", choices=("fork", "spawn"), default="fork", help="how a process starts: from a warm parent, or anew")
    parser.add_argument("--code", choices=("installed", "zip"), default="installed", help="zip: run what was uploaded; implies spawn")
    parser.add_argument("--shipped", default=Options.shipped, help="the package in which a handler is looked for that is not found")
    parser.add_argument("--preload", default=Options.preload, help="modules that the warm parent imports")
    parser.add_argument("--no-freeze", dest="freeze", action="store_false", help="let idle processes run on")
    parser.add_argument("--idle-s", type=float, default=Options.idle_s, help="after which an idle environment ends")
    parser.add_argument("--pending-s", type=float, default=Options.pending_s, help="for which a function is Pending or InProgress")
    parser.add_argument("--retry-scale", type=float, default=1.0, help="of every wait and age in the asynchronous queue")
    parser.add_argument("--late", type=_late, default=(0.0, 0.0), metavar="P:SECONDS", help="deliver an asynchronous event late")
    parser.add_argument("--duplicate", type=float, default=0.0, metavar="P", help="deliver an asynchronous event twice")
    parser.add_argument("--seed", type=int, default=0, help="of late and duplicate")
    parser.add_argument("--home", type=Path, help="folder for logs and unpacked code; default: a temporary one, removed at the end")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end with whoever holds the other end")
    chosen = vars(parser.parse_args(arguments))
    port, until, home = chosen.pop("port"), chosen.pop("until_stdin_closes"), chosen.pop("home")
    folder = home.absolute() if home else Path(tempfile.mkdtemp(prefix="fsd-lambda-"))
    try:
        return asyncio.run(serve(Options(folder, temporary=home is None, **chosen), port, until))
    except OSError as error:
        print(f"local lambda: {error}", file=sys.stderr)
        return 1
    finally:
        if home is None:
            shutil.rmtree(folder, ignore_errors=True)


def _late(text: str) -> tuple[float, float]:
    probability, _, seconds = text.partition(":")
    return float(probability), float(seconds)


if __name__ == "__main__":
    sys.exit(main())
