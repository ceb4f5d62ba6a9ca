"""Cloud Run functions on this machine: ``python -m fsd_conformance.emulators.cloud_run --port 0``.

Real functions-framework processes run the functions, one call at a time each, behind a dispatcher. A call is a POST to the function's URL
with an ID token for that URL. The control plane (Cloud Functions v2, IAM, Service Usage) and the metadata server have the same address, so
`google.auth` works unchanged with GCE_METADATA_HOST=127.0.0.1:PORT, as the project's owner. A function has its own metadata server, for its
service account. When the emulator is ready it prints one line of JSON, {"port", "endpoint", "pid", "logs", "project"}. At SIGTERM or SIGINT
it ends, together with every process that it started; these processes also end if the emulator is killed.

Functions get the emulator's variables whose names end in _EMULATOR_HOST, but not GOOGLE_CLOUD_PROJECT: the platform does not set it, and
the metadata server knows the project. Besides the platform's paths the emulator serves GET /health, /_fsd/stats, /_fsd/instances and POST
/_fsd/faults (`dispatcher.Faults.plan`). If a process of an instance ends during a call, the whole instance ends. After a time-out the
function continues, and its instance accepts no other call until the function ends. Not implemented: traffic splits, a minimum of instances,
several calls at once in an instance, VPC, secrets, events, Cloud Build, the CPU share by memory or between calls, a private file system and
network, the delay of new permissions.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from fsd_conformance.emulators import daemon
from fsd_conformance.emulators.cloud_run_api import Api
from fsd_conformance.emulators.cloud_run_deploy import Deployer, Options
from fsd_conformance.emulators.cloud_run_iam import Iam
from fsd_conformance.emulators.cloud_run_metadata import Issuer, metadata
from fsd_conformance.emulators.cloud_run_store import Function
from fsd_conformance.emulators.dispatcher import Dispatcher, Failure, Replica
from fsd_conformance.emulators.instances import Instances
from fsd_conformance.emulators.web import HttpServer, Request, Response

__all__ = ["main"]

_BODY_BYTES = 32 << 20  # the limit of a request and of an answer
_STATUS = {
    Failure.BUSY: 429,
    Failure.START: 503,
    Failure.TIMEOUT: 504,
    Failure.MEMORY: 500,
    Failure.EXIT: 503,
    Failure.SIZE: 500,
}


class Front:
    """Answers all requests at the emulator's address."""

    def __init__(self, options: Options, stats: Counter[str], lost: Any) -> None:
        self.iam = Iam(options.project)
        self.issuer = Issuer(options.home)
        self.instances: Instances[Replica] = Instances(options, stats, lost)
        self.dispatcher = Dispatcher(self.instances, options, stats, _STATUS, _BODY_BYTES)
        deployer = Deployer(options, self.instances, self.dispatcher, self.iam, self.issuer)
        self.api = Api(options, deployer, self.iam, self.issuer)
        self._options = options
        self._stats = stats

    async def route(self, request: Request) -> Response:
        """Answer one request."""
        first, *rest = request.parts()
        if first == "run" and rest:
            return await self._call(rest[0], "/" + "/".join(rest[1:]), request)
        if first in ("", "computeMetadata"):
            return metadata(request, self.issuer, self._options.project, "us-central1", self.iam.owner)
        if first == "health":
            return Response.of({"status": "running", "functions": len(self.api.functions), "project": self._options.project})
        if first == "_fsd":
            return self._about(request, rest)
        return await self.api.route(request)

    def close(self) -> None:
        """End all parts."""
        self.dispatcher.close()
        self.api.close()
        self.instances.close()

    async def _call(self, service: str, path: str, request: Request) -> Response:
        """Check and serve a call of a function."""
        function = self.api.named(service)
        if function is None or function.revision is None or function.fields["serviceConfig"]["ingressSettings"] != "ALLOW_ALL":
            return _refused(404, "The requested URL was not found on this server.")
        if refused := self._refusal(function, request):
            return refused
        if len(request.body) > _BODY_BYTES:
            return _refused(413, f"The request is over {_BODY_BYTES} bytes.")
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        headers = {**request.headers, "x-forwarded-proto": "https"}
        if token:  # the platform removes the signature, so that a function cannot use the token
            headers["authorization"] = f"{kind} {token.rpartition('.')[0]}.SIGNATURE_REMOVED_BY_GOOGLE"
        return await self.dispatcher.call(function.revision, dataclasses.replace(request, path=path, headers=headers))

    def _refusal(self, function: Function, request: Request) -> Response | None:
        """403 without a token or permission; 401 where the token is invalid, expired, or for another audience."""
        header = request.headers.get("authorization")
        email = None
        if header is not None:
            kind, _, token = header.partition(" ")
            claims = self.issuer.read(token) if kind.lower() == "bearer" else None
            if claims is None or claims.get("aud") != function.uri:
                return _refused(401, "The access token could not be verified.")
            email = claims["email"]
        if not self.iam.may_invoke(email, function.service):
            who = email or "The request was not authenticated, and nobody"
            return _refused(403, f"{who} has no permission to call {function.uri}.")
        return None

    def _about(self, request: Request, rest: list[str]) -> Response:
        """The state and the planned faults, for tests and tools."""
        if rest == ["stats"]:
            return Response.of(dict(self._stats))
        if rest == ["instances"]:
            shown: dict[str, list[dict[str, Any]]] = {it.service.rpartition("/")[2]: [] for it in self.api.functions.values()}
            for replica in self.instances.all.values():
                shown.setdefault(replica.revision.service, []).append(replica.shown())
            return Response.of(shown)
        if rest == ["faults"] and request.method == "POST":
            try:
                self.dispatcher.faults.plan(json.loads(request.body))
            except (ValueError, AttributeError) as error:
                return _refused(400, str(error))
            return Response(204)
        return _refused(404, "unknown path")


def _refused(status: int, why: str) -> Response:
    return Response(status, f"{why}\n".encode(), {"Content-Type": "text/plain"})


async def serve(chosen: dict[str, Any], port: int, end: daemon.End) -> int:
    """Serve until the end, and return the exit code."""
    options = Options(**chosen)
    front = Front(options, Counter(), end.lost)
    server = HttpServer(front.route, 2 * _BODY_BYTES)  # above the limit, so that a larger request gets an answer
    await server.start(port)
    front.api.address = f"http://127.0.0.1:{server.port}"
    try:
        await front.instances.open()
        ready = {"port": server.port, "endpoint": front.api.address, "pid": os.getpid(), "logs": str(options.home / "logs")}
        print(json.dumps({**ready, "project": options.project}), flush=True)
        return await end.wait()
    finally:
        server.close()
        front.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = daemon.parser("cloud-run", "Cloud Run functions on this machine", Options)
    parser.add_argument("--project", default=os.environ.get("GOOGLE_CLOUD_PROJECT") or Options.project)
    parser.add_argument("--source", default=Options.source, help="the module that is every function's main.py without --code zip")
    parser.add_argument("--disabled", default="", metavar="API,...", help="APIs that are not enabled, e.g. cloudfunctions,run")
    parser.add_argument("--quota-scale", type=float, default=1.0, help="factor for a region's 1,000 CPU, 2,000 GiB; a new project has 0.02")
    parser.add_argument("--queue-s", type=float, default=Options.queue_s, help="seconds that a call waits for an instance before its 429")
    parser.add_argument("--after-timeout", choices=("run", "kill"), default="run", help="what an instance does after its call's 504")
    return daemon.run(parser, arguments, serve)


if __name__ == "__main__":
    sys.exit(main())
