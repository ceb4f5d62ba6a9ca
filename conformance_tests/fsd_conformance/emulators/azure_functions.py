"""Azure Functions on this machine: ``python -m fsd_conformance.emulators.azure_functions --port 0``.

Each instance is a process that loads the shipped FunctionApp, indexes its functions and calls them, one call at a time, behind a
dispatcher. As in a Flex Consumption app, a call is a POST to http://HOST/sites/NAME/api/ROUTE with a function key. The control plane (Azure
Resource Manager, `azure_functions_arm`) has the same address; a site's deployment service is below /scm/NAME. When the emulator is ready it
prints one line of JSON, {"port", "endpoint", "pid", "logs", "subscription"}. At SIGTERM or SIGINT it ends, together with every process that
it started; these processes also end if the emulator is killed.

A function's environment holds its app settings and the platform's variables, but no variable of the emulator's own environment. Besides the
platform's paths the emulator serves GET /health, /_fsd/stats, /_fsd/instances and POST /_fsd/faults (`dispatcher.Faults.plan`). After 230 s
the caller gets an error, and the function continues to run. After the functionTimeout of host.json or of
AzureFunctionsJobHost__functionTimeout the emulator kills the function's instance.

Not implemented: triggers and bindings except HTTP, several calls at once in an instance, always-ready instances, the speed of scaling, a
site's identity (functions use the credentials in their settings), roles (an assignment is only a record), keys of single functions, builds
(RemoteBuild), streaming through the ASGI and WSGI bridges, the host's logs and telemetry, a private file system and network.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

from fsd_conformance.emulators import daemon
from fsd_conformance.emulators.azure_functions_arm import Arm
from fsd_conformance.emulators.azure_functions_deploy import Deployer, Options
from fsd_conformance.emulators.azure_functions_sites import REQUEST_BYTES, Sites
from fsd_conformance.emulators.dispatcher import Dispatcher, Failure, Replica
from fsd_conformance.emulators.instances import Instances
from fsd_conformance.emulators.web import HttpServer, Request, Response

__all__ = ["main"]

_STATUS = {
    Failure.BUSY: 429,
    Failure.START: 503,
    Failure.TIMEOUT: 504,
    Failure.MEMORY: 500,
    Failure.EXIT: 500,
    Failure.SIZE: 500,
}


class Front:
    """Answers all requests at the emulator's address."""

    def __init__(self, options: Options, stats: Counter[str], lost: Any) -> None:
        self.instances: Instances[Replica] = Instances(options, stats, lost)
        self.dispatcher = Dispatcher(self.instances, options, stats, _STATUS, REQUEST_BYTES)
        self.sites = Sites(options, Deployer(options, self.instances, self.dispatcher), self.dispatcher)
        self.arm = Arm(options, self.sites)
        self._options = options
        self._stats = stats

    async def route(self, request: Request) -> Response:
        """Answer one request."""
        first, *rest = request.parts()
        if first == "sites" and rest:
            return await self.sites.call(request, rest[0])
        if first == "scm" and rest:
            return await self.sites.publish(request, rest[0], rest[1:])
        if first == "health":
            return Response.of({"status": "running", "sites": len(self.sites.all), "subscription": self._options.subscription})
        if first == "_fsd":
            return self._about(request, rest)
        return await self.arm.route(request)

    def close(self) -> None:
        """End all parts."""
        self.dispatcher.close()
        self.arm.close()
        self.sites.close()
        self.instances.close()

    def _about(self, request: Request, rest: list[str]) -> Response:
        """The state and the planned faults, for tests and tools."""
        if rest == ["stats"]:
            return Response.of(dict(self._stats))
        if rest == ["instances"]:
            shown: dict[str, list[dict[str, Any]]] = {site.name: [] for site in self.sites.all.values()}
            for replica in self.instances.all.values():
                shown.setdefault(replica.revision.service, []).append(replica.shown())
            return Response.of(shown)
        if rest == ["faults"] and request.method == "POST":
            try:
                self.dispatcher.faults.plan(json.loads(request.body))
            except (ValueError, AttributeError) as error:
                return Response(400, f"{error}\n".encode(), {"Content-Type": "text/plain"})
            return Response(204)
        return Response(404, b"unknown path\n", {"Content-Type": "text/plain"})


async def serve(chosen: dict[str, Any], port: int, end: daemon.End) -> int:
    """Serve until the end, and return the exit code."""
    options = Options(**chosen)
    front = Front(options, Counter(), end.lost)
    server = HttpServer(front.route, 2 * REQUEST_BYTES)  # above the limit, so that a larger request gets an answer
    await server.start(port)
    front.sites.address = f"127.0.0.1:{server.port}"
    try:
        await front.instances.open()
        ready = {"port": server.port, "endpoint": f"http://{front.sites.address}", "pid": os.getpid(), "logs": str(options.home / "logs")}
        print(json.dumps({**ready, "subscription": options.subscription}), flush=True)
        return await end.wait()
    finally:
        server.close()
        front.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = daemon.parser("azure-functions", "Azure Functions on this machine", Options)
    parser.add_argument("--subscription", default=os.environ.get("AZURE_SUBSCRIPTION_ID") or Options.subscription)
    parser.add_argument("--region", default=Options.region, help="the value of REGION_NAME in functions")
    parser.add_argument("--source", default=Options.source, help="the package with every site's function_app.py without --code zip")
    parser.add_argument("--queue-s", type=float, default=Options.queue_s, help="seconds that a call waits for an instance before its 429")
    parser.add_argument("--answer-s", type=float, default=Options.answer_s, help="seconds after which the front end cuts a call's answer")
    parser.add_argument("--settle", type=int, default=Options.settle, help="requests while a new resource is missing, then not ready")
    parser.add_argument("--min-instances", type=int, default=Options.min_instances, help="the smallest maximumInstanceCount of a site")
    return daemon.run(parser, arguments, serve)


if __name__ == "__main__":
    raise SystemExit(main())
