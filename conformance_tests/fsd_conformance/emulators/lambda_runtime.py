"""Execution environments of the local Lambda: a process of the real runtime client each, the Runtime API that it talks to, its limits.

An environment serves one invocation at a time and is frozen between two, as the platform does: a thread that a handler leaves
behind does not run on. Memory is the resident set of the process, looked at every 20 ms (an overshoot of that long is possible;
pages that a fork shares with its parent count in full, as the runtime does in the cloud). RLIMIT_AS would raise MemoryError
where the platform kills.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from fsd_conformance.emulators import lambda_process
from fsd_conformance.emulators.lambda_http import HttpServer, Request, Response
from fsd_conformance.emulators.lambda_sandbox import ONE_THREAD, Options, unpack, variables
from fsd_conformance.emulators.lambda_store import Function

__all__ = ["RESPONSE_BYTES", "Environment", "Invocation", "Outcome", "Runtime"]

RESPONSE_BYTES = 6 << 20
_INIT_S = 60.0  # of initialisation are free, then they count as the function's time (10 on the platform, which shares no cores)
_PROC = os.path.isdir("/proc/self")
_LOOK_S = 0.02 if _PROC else 0.5  # elsewhere one look costs a `ps`
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PREFIX = "/2018-06-01/runtime/"


@dataclass(eq=False)
class Invocation:
    """One event on its way to a function. A retried or duplicated event keeps its ``request_id``, as on the platform."""

    function: Function
    payload: bytes
    trace: str
    client_context: str | None = None
    request_id: str = field(default_factory=lambda: str(uuid4()))
    accepted: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Outcome:
    """How an invocation ended. ``failed``: ``body`` is a function error. ``log``: the end of what was logged."""

    body: bytes
    failed: bool
    log: bytes = b""

    @staticmethod
    def error(kind: str, message: str) -> Outcome:
        """A function error of the platform's own making."""
        return Outcome(json.dumps({"errorType": kind, "errorMessage": message}).encode(), True)


class Environment:
    """One sandbox. ``state``: starting, busy, idle, dead."""

    def __init__(self, runtime: Runtime, function: Function) -> None:
        self.function = function
        self.revision = function.revision
        self.id = uuid4().hex
        self.state = "starting"
        self.pid: int | None = None
        self.current: Invocation | None = None
        self.peak = 0
        self.over_memory = False
        self.idle_since = 0.0
        self.log = runtime.options.home / "logs" / function.region / function.name / f"{self.id}.log"
        self.api = HttpServer(self._route, RESPONSE_BYTES + (1 << 20))
        self._runtime = runtime
        self._next: asyncio.Queue[Invocation] = asyncio.Queue()
        self._forked = asyncio.Event()
        self._ready = asyncio.Event()
        self._ended = asyncio.Event()
        self._done: asyncio.Future[None] | None = None
        self._outcome: Outcome | None = None
        self._frozen = False

    async def start(self) -> None:
        """Order its process."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        await self.api.start()
        await self._runtime.order_start(self, f"127.0.0.1:{self.api.port}")

    async def run(self, invocation: Invocation) -> Outcome:
        """Give it an event and await how that ends; afterwards it is idle or dead."""
        cold, start = self.state == "starting", self.log.stat().st_size if self.log.exists() else 0
        self.current, self._outcome, self._done = invocation, None, asyncio.get_running_loop().create_future()
        self.peak = 0
        if not cold:
            self.state = "busy"
        if self._frozen:
            self._frozen = False
            self._runtime.order("thaw", self)
        self._write(f"START RequestId: {invocation.request_id} Version: $LATEST")
        self._next.put_nowait(invocation)
        if cold:
            await self._forked.wait()
            born = time.monotonic()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ready.wait(), _INIT_S)
        started, timeout = time.monotonic(), self.function.settings["Timeout"]
        await asyncio.wait([self._done], timeout=timeout)
        if not self._done.done():
            message = f"RequestId: {invocation.request_id} Error: Task timed out after {timeout:.2f} seconds"
            self._write(message)
            self._outcome = Outcome.error("Sandbox.Timedout", message)
            self._runtime.stats["timeouts"] += 1
            await self.kill()
        outcome = self._outcome
        assert outcome is not None
        spent = (time.monotonic() - started) * 1000
        init = f" Init Duration: {(started - born) * 1000:.2f} ms" if cold else ""
        self.peak = max(self.peak, _resident([self.pid]).get(self.pid, 0) if self.pid and self.state == "idle" else 0)
        self._write(f"END RequestId: {invocation.request_id}")
        self._write(
            f"REPORT RequestId: {invocation.request_id} Duration: {spent:.2f} ms Memory Size: {self.function.settings['MemorySize']} MB "
            f"Max Memory Used: {self.peak >> 20} MB{init}"
        )
        self.current = None
        with open(self.log, "rb") as file:
            file.seek(max(start, file.seek(0, os.SEEK_END) - 4096))
            return Outcome(outcome.body, outcome.failed, file.read())

    async def kill(self) -> None:
        """End its process and await that."""
        if self.state != "dead":
            self._runtime.order("kill", self)
            await self._ended.wait()

    def forked(self, pid: int) -> None:
        """Its process is there."""
        self.pid = pid
        self._forked.set()

    def died(self, how: str) -> None:
        """Its process is gone. ``how``: "signal: killed", "exit status 1", or nothing for 0."""
        self.state = "dead"
        for event in (self._forked, self._ready, self._ended):
            event.set()
        self.api.close()
        if self.current is None:
            return
        if self._outcome is None:
            said = f"Runtime exited with error: {how}" if how else "Runtime exited without providing a reason"
            self._outcome = Outcome.error("Runtime.ExitError", f"RequestId: {self.current.request_id} Error: {said}")
            self._runtime.stats["exits"] += 1
            self._write(f"RequestId: {self.current.request_id} Error: {said}")
        self._finish()

    def _finish(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    def _write(self, line: str) -> None:
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(line + "\n")

    async def _route(self, request: Request) -> Response:
        """The Runtime API: next, response, error, initialisation error."""
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
        """The runtime asks for work: what it had is done."""
        if self.current is not None and self._outcome is not None:
            self._finish()
            self.state, self.idle_since = "idle", time.monotonic()
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
            "Lambda-Runtime-Invoked-Function-Arn": self.function.arn,
            "Lambda-Runtime-Trace-Id": invocation.trace,
        }
        if invocation.client_context:
            headers["Lambda-Runtime-Client-Context"] = invocation.client_context
        return Response(200, invocation.payload or b"{}", headers)


class Runtime:
    """All environments, and the link to the parent of their processes. ``lost`` is called should that parent die."""

    def __init__(self, options: Options, stats: dict[str, int], lost: Callable[[], None]) -> None:
        self.options = options
        self.stats = stats
        self.environments: dict[str, Environment] = {}
        self.endpoint = ""
        self._lost = lost
        self._parent: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._channel: socket.socket | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._mode = "spawn" if options.code == "zip" else options.cold

    async def start(self, endpoint: str) -> None:
        """Start the parent. ``endpoint``: where functions reach this emulator."""
        self.endpoint = endpoint
        (self.options.home / "task").mkdir(parents=True, exist_ok=True)
        ours, theirs = socket.socketpair()
        with theirs:
            preload = self.options.preload if self._mode == "fork" else ""
            folder = str(self.options.home) if self.options.temporary else ""
            self._parent = subprocess.Popen(
                [sys.executable, "-P", lambda_process.__file__, str(theirs.fileno()), preload, folder],
                pass_fds=[theirs.fileno()],
                env={**os.environ, **ONE_THREAD},
                stdin=subprocess.DEVNULL,
                stdout=2,
                start_new_session=True,
            )
        self._channel = ours
        reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        self._tasks = [asyncio.create_task(self._listen(reader)), asyncio.create_task(self._watch())]

    def close(self) -> None:
        """End every process."""
        for task in self._tasks:
            task.cancel()
        for environment in self.environments.values():
            environment.api.close()
        if self._channel is not None:
            with suppress(OSError):  # the parent is gone
                self._channel.shutdown(socket.SHUT_RDWR)
        if self._parent is not None:
            try:
                self._parent.wait(10)
            except subprocess.TimeoutExpired:  # still at its imports, perhaps
                self._parent.kill()
                self._parent.wait()

    async def take(self, function: Function) -> Environment:
        """An idle environment of the function as it is now (the last used), or a new one."""
        fits = [it for it in self.environments.values() if it.function is function and it.state == "idle" and it.current is None]
        fits = [it for it in fits if it.revision == function.revision]
        if fits:
            self.stats["warm"] += 1
            chosen = max(fits, key=lambda it: it.idle_since)
            chosen.state = "busy"
            return chosen
        self.stats["cold"] += 1
        new = Environment(self, function)
        self.environments[new.id] = new
        try:
            await new.start()
        except BaseException:
            new.api.close()
            del self.environments[new.id]
            raise
        return new

    def order(self, what: str, environment: Environment) -> None:
        """kill, freeze or thaw its process group."""
        self._send({"do": what, "id": environment.id})

    async def order_start(self, environment: Environment, api: str) -> None:
        """Start its process."""
        function, options = environment.function, self.options
        task, flags = options.home / "task", ["-P"]
        path: tuple[Sequence[str], Sequence[str]] = ((), ())
        if options.code == "zip":
            task, path = await asyncio.to_thread(unpack, options, function)
            flags = ["-I", "-S"]  # neither this interpreter's packages nor its variables
        self._send(
            {
                "do": "start",
                "id": environment.id,
                "mode": self._mode,
                "flags": flags,
                "path": path,
                "shipped": options.shipped if options.code == "installed" else "",
                "handler": function.settings["Handler"],
                "cwd": str(task),
                "log": str(environment.log),
                "env": variables(options, function, self.endpoint, api, str(task), environment.id),
            }
        )

    def _send(self, order: dict[str, Any]) -> None:
        assert self._writer is not None
        self._writer.write(json.dumps(order).encode() + b"\n")

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        """What the parent tells: the pid of each process and its end."""
        while line := await reader.readline():
            told = json.loads(line)
            if environment := self.environments.get(told["id"]):
                if "exit" in told:
                    del self.environments[told["id"]]
                    environment.died(told["exit"])
                else:
                    environment.forked(told["pid"])
        self._lost()

    async def _watch(self) -> None:
        """Kill what is over its memory, and what has been idle for long or is of an older revision."""
        while True:
            await asyncio.sleep(_LOOK_S)
            now = time.monotonic()
            running = [it for it in self.environments.values() if it.state in ("starting", "busy") and it.current is not None]
            sizes = _resident([it.pid for it in running if it.pid is not None])
            for it in running:
                size = sizes.get(it.pid or 0, 0)
                it.peak = max(it.peak, size)
                if size > it.function.settings["MemorySize"] << 20 and not it.over_memory:
                    it.over_memory = True
                    self.stats["memory_kills"] += 1
                    self.order("kill", it)
            for it in self.environments.values():
                old = it.revision != it.function.revision or it.function.deleted
                if it.state == "idle" and it.current is None and (old or now - it.idle_since > self.options.idle_s):
                    it.state = "expired"
                    self.order("kill", it)


def _resident(pids: list[int]) -> dict[int, int]:
    """The resident set of each process in bytes, as far as they are there."""
    found = {}
    if _PROC or not pids:
        for pid in pids:
            with suppress(OSError, IndexError), open(f"/proc/{pid}/statm", "rb", buffering=0) as file:
                found[pid] = int(file.read().split()[1]) * _PAGE
        return found
    shown = subprocess.run(["ps", "-o", "pid=,rss=", "-p", ",".join(map(str, pids))], capture_output=True, text=True, check=False)
    return {int(pid): int(kib) << 10 for pid, kib in (line.split() for line in shown.stdout.splitlines())}
