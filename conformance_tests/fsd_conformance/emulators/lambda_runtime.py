"""Execution environments of the local Lambda: each is a process of the real runtime client, with a Runtime API.

An environment serves one invocation at a time. Between two invocations it is frozen, as on the platform, so threads of a handler do not
continue.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from fsd_conformance.emulators import lambda_process
from fsd_conformance.emulators.instances import Instance, Instances
from fsd_conformance.emulators.lambda_sandbox import Options, unpack, variables
from fsd_conformance.emulators.lambda_store import Function
from fsd_conformance.emulators.web import HttpServer, Request, Response

__all__ = ["RESPONSE_BYTES", "Environment", "Invocation", "Outcome", "Runtime"]

RESPONSE_BYTES = 6_291_556
_READ_BYTES = 1 << 30  # of a response: a function gets an answer even where its response is too large
_INIT_S = 60.0  # initialisation time beside the function's limit (10 s on the platform, which has separate cores)
_PREFIX = "/2018-06-01/runtime/"


@dataclass(eq=False)
class Invocation:
    """One event for a function. A retried or duplicated event keeps its ``request_id``, as on the platform."""

    function: Function
    payload: bytes
    trace: str
    client_context: str | None = None
    qualifier: str | None = None  # the qualifier of the call
    request_id: str = field(default_factory=lambda: str(uuid4()))
    accepted: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Outcome:
    """The end of an invocation. ``failed``: ``body`` is a function error; ``log``: the end of its log."""

    body: bytes
    failed: bool
    log: bytes = b""

    @staticmethod
    def error(kind: str, message: str) -> Outcome:
        """A function error that the platform makes."""
        return Outcome(json.dumps({"errorType": kind, "errorMessage": message}).encode(), True)


class Environment(Instance):
    """One execution environment."""

    def __init__(self, runtime: Runtime, function: Function) -> None:
        super().__init__(runtime.options.home / "logs" / function.region / function.name, function.settings["MemorySize"] << 20)
        self.function = function
        self.revision = function.revision
        self.current: Invocation | None = None
        self.api = HttpServer(self._route, _READ_BYTES)
        self._runtime = runtime
        self._next: asyncio.Queue[Invocation] = asyncio.Queue()
        self._ready = asyncio.Event()
        self._done: asyncio.Future[None] | None = None
        self._outcome: Outcome | None = None
        self._frozen = False

    @property
    def outdated(self) -> bool:
        """Whether the function of this environment was changed or deleted."""
        return self.revision != self.function.revision or self.function.deleted

    async def run(self, invocation: Invocation) -> Outcome:
        """Run an event to its end; then the environment is idle or dead."""
        cold, start = self.state == "starting", self.log.stat().st_size if self.log.exists() else 0
        self.current, self._outcome, self._done = invocation, None, asyncio.get_running_loop().create_future()
        self.peak = 0
        if not cold:
            self.state = "busy"
        if self._frozen:
            self._frozen = False
            self._runtime.order("thaw", self)
        self.write(f"START RequestId: {invocation.request_id} Version: $LATEST")
        self._next.put_nowait(invocation)
        if cold:
            await self.forked.wait()
            born = time.monotonic()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ready.wait(), _INIT_S)
        started, timeout = time.monotonic(), self.function.settings["Timeout"]
        await asyncio.wait([self._done], timeout=timeout)
        if not self._done.done():
            message = f"RequestId: {invocation.request_id} Error: Task timed out after {timeout:.2f} seconds"
            self.write(message)
            self._outcome = Outcome.error("Sandbox.Timedout", message)
            self._runtime.stats["timeouts"] += 1
            await self._runtime.kill(self)
        outcome = self._outcome
        assert outcome is not None
        spent = (time.monotonic() - started) * 1000
        init = f" Init Duration: {(started - born) * 1000:.2f} ms" if cold else ""
        self.measure()
        self.write(f"END RequestId: {invocation.request_id}")
        self.write(
            f"REPORT RequestId: {invocation.request_id} Duration: {spent:.2f} ms Memory Size: {self.function.settings['MemorySize']} MB "
            f"Max Memory Used: {self.peak >> 20} MB{init}"
        )
        self.current = None
        return Outcome(outcome.body, outcome.failed, self.tail(start))

    def died(self, how: str) -> None:
        """Note that the process of this environment ended, which also ends a running invocation."""
        super().died(how)
        self._ready.set()
        self.api.close()
        if self.current is None:
            return
        if self._outcome is None:
            reason = f"Runtime exited with error: {how}" if how else "Runtime exited without providing a reason"
            self._outcome = Outcome.error("Runtime.ExitError", f"RequestId: {self.current.request_id} Error: {reason}")
            self._runtime.stats["exits"] += 1
            self.write(f"RequestId: {self.current.request_id} Error: {reason}")
        self._finish()

    def _finish(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    async def _route(self, request: Request) -> Response:
        """Answer a request of the Runtime API: next, response, error, initialisation error."""
        if not request.path.startswith(_PREFIX):
            return Response.of({"errorType": "NotFound", "errorMessage": request.path}, 404)
        parts = request.path.removeprefix(_PREFIX).split("/")
        if (request.method, parts) == ("GET", ["invocation", "next"]):
            return await self._give()
        if (request.method, parts) == ("POST", ["init", "error"]):
            self._outcome = Outcome(request.body, True)
            return Response.of({"status": "OK"}, 202)
        if request.method != "POST" or len(parts) != 3 or parts[0] != "invocation" or parts[2] not in ("response", "error"):
            return Response.of({"errorType": "NotFound", "errorMessage": request.path}, 404)
        if self.current is None or parts[1] != self.current.request_id or self._outcome is not None:
            return Response.of({"errorType": "InvalidRequestID", "errorMessage": "Invalid request ID"}, 400)
        if len(request.body) > RESPONSE_BYTES:
            message = f"Response payload size exceeded maximum allowed payload size ({RESPONSE_BYTES} bytes)."
            self._outcome = Outcome.error("Function.ResponseSizeTooLarge", message)
            return Response.of({"errorType": "RequestEntityTooLarge", "errorMessage": message}, 413)
        self._outcome = Outcome(request.body, parts[2] == "error")
        return Response.of({"status": "OK"}, 202)

    async def _give(self) -> Response:
        """Answer a request for the next invocation, which also means that the last one is done."""
        if self.current is not None and self._outcome is not None:
            self._finish()
            self.idle()
            if self._runtime.options.freeze:
                self._frozen = True
                self._runtime.order("freeze", self)
        invocation = await self._next.get()
        self._ready.set()
        self.state = "busy"
        headers = {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": invocation.request_id,
            "Lambda-Runtime-Deadline-Ms": str(int((time.time() + self.function.settings["Timeout"]) * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": self.function.named(invocation.qualifier),
            "Lambda-Runtime-Trace-Id": invocation.trace,
        }
        if invocation.client_context:
            headers["Lambda-Runtime-Client-Context"] = invocation.client_context
        return Response(200, invocation.payload or b"{}", headers)


class Runtime(Instances[Environment]):
    """All execution environments."""

    options: Options
    endpoint: str  # this emulator's URL for functions

    def close(self) -> None:
        """End all processes."""
        for environment in self.all.values():
            environment.api.close()
        super().close()

    async def take(self, function: Function) -> Environment:
        """The last used idle environment of the function's present revision, or a new one."""
        warm = self.last_idle(lambda it: it.function is function and it.current is None and not it.outdated)
        if warm is not None:
            self.stats["warm"] += 1
            warm.state = "busy"
            return warm
        self.stats["cold"] += 1
        new = Environment(self, function)
        await new.api.start()
        try:
            await self._begin(new)
        except BaseException:
            new.api.close()
            raise
        return new

    async def _begin(self, environment: Environment) -> None:
        function, options = environment.function, self.options
        arguments, api = [function.settings["Handler"], options.shipped], f"127.0.0.1:{environment.api.port}"
        task: Path | None = None
        path: tuple[Sequence[str], Sequence[str]] = ((), ())
        if options.code == "zip":
            arguments[1] = ""
            task, path = await asyncio.to_thread(unpack, options, function)
        folder = str(task or options.home / "task")
        env = variables(options, function, self.endpoint, api, folder, environment.id)
        self.start(environment, lambda_process.__file__, arguments, env, task=task, path=path)
