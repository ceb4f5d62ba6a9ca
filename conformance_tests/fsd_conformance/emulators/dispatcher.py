"""Passes HTTP calls to functions, like the front end of a cloud: one call at a time for each instance, with cold and warm starts, limits,
and faults for tests.

If the caller closes its connection, the instance still finishes the call. After a time-out the caller gets an error, and the instance
continues (`Revision`).
"""

from __future__ import annotations

import asyncio
import http.client
import math
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from fsd_conformance.emulators.instances import Instance, Instances
from fsd_conformance.emulators.sandbox import Options
from fsd_conformance.emulators.web import Request, Response, exchange

__all__ = ["Dispatcher", "Failure", "Faults", "Replica", "Revision"]

_START_S = 240.0  # a process that does not listen within this time has failed to start
_POLL_S = 0.02


class Failure(Enum):
    """Why a call got no answer from the function."""

    BUSY = "no instance was free"
    START = "the instance could not start"
    TIMEOUT = "the time limit is over"
    MEMORY = "the memory limit was exceeded"
    EXIT = "the process ended"
    SIZE = "the answer is too large"


@dataclass(eq=False, kw_only=True)
class Revision:
    """One deployment of a function: how its instances start, and how calls are served.

    A revision has at most ``max_instances`` instances; a call waits up to ``queue_s`` seconds for a free instance. Two limits count from
    the start of the call in its instance: after ``answer_s`` the caller gets an error; after ``limit_s`` (None: no limit) the instance is
    killed. ``begin`` starts the process of an instance.
    """

    service: str
    name: str
    memory_bytes: int
    max_instances: int
    queue_s: float
    answer_s: float
    limit_s: float | None
    begin: Callable[[Replica], Awaitable[None]]
    retired: bool = False
    slots: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self.slots = asyncio.Semaphore(self.max_instances)


class Replica(Instance):
    """An instance of a revision. ``calls``: the number of its calls; ``ends``: functions to call after its end."""

    def __init__(self, revision: Revision, logs: Path) -> None:
        super().__init__(logs / revision.service, revision.memory_bytes)
        self.revision = revision
        self.calls = 0
        self.ends: list[Callable[[], None]] = []

    @property
    def outdated(self) -> bool:
        """Whether a newer revision has replaced the revision of this instance."""
        return self.revision.retired

    def died(self, how: str) -> None:
        """Note that the first process of the instance ended."""
        super().died(how)
        for end in self.ends:
            end()

    def shown(self) -> dict[str, Any]:
        """The fields of this instance, for tests and tools."""
        fields = ("id", "pid", "port", "state", "calls", "peak")
        return {name: getattr(self, name) for name in fields} | {"revision": self.revision.name, "log": str(self.log)}


class Faults:
    """The faults of calls: those that `plan` sets for the next calls, and random ones, whose probabilities are flags of the command."""

    _KINDS: Mapping[str, Mapping[str, float]] = {
        "refuse": {"status": 429},
        "start": {},
        "late": {"seconds": 1.0},
        "twice": {"seconds": 0.0},
    }

    def __init__(self, options: Options) -> None:
        self._options = options
        self._random = random.Random(options.seed)
        self._planned: list[dict[str, Any]] = []

    def plan(self, fields: dict[str, Any]) -> None:
        """Plan a fault: {"kind": "refuse" | "start" | "late" | "twice", "count": 1, "service": any}.

        "refuse": answer ``status`` (429) and start nothing. "start": the next instance fails to start. "late": deliver the call
        ``seconds`` (1) later. "twice": deliver it again, ``seconds`` (0) later. Raises `ValueError` for other fields.
        """
        kind = str(fields.get("kind"))
        if kind not in self._KINDS:
            raise ValueError(f"kind {kind!r}: expected one of {', '.join(self._KINDS)}")
        known = {"kind": kind, "count": 1, "service": None, **self._KINDS[kind]}
        if unknown := fields.keys() - known.keys():
            raise ValueError(f"{kind}: unknown {', '.join(sorted(unknown))}: expected {', '.join(known)}")
        self._planned.append(known | fields)

    def next(self, kind: str, service: str) -> dict[str, Any] | None:
        """The fault of the next call of this service, or None."""
        for fault in self._planned:
            if fault["kind"] == kind and fault["service"] in (None, service):
                fault["count"] -= 1
                if fault["count"] <= 0:
                    self._planned.remove(fault)
                return fault
        probability, seconds = self._options.late
        if kind == "late" and self._random.random() < probability:
            return {"seconds": seconds}
        if kind == "twice" and self._random.random() < self._options.duplicate:
            return {"seconds": 0.0}
        return None


class Dispatcher:
    """Passes calls to instances. ``status``: the HTTP status of each failure."""

    def __init__(
        self, instances: Instances[Replica], options: Options, stats: Counter[str], status: Mapping[Failure, int], answer_bytes: int
    ) -> None:
        self.faults = Faults(options)
        self._instances = instances
        self._logs = options.home / "logs"
        self._stats = stats
        self._status = status
        self._answer_bytes = answer_bytes
        self._tasks: set[asyncio.Task[None]] = set()

    async def call(self, revision: Revision, request: Request) -> Response:
        """Serve one call, and return its answer."""
        self._stats["calls"] += 1
        if fault := self.faults.next("refuse", revision.service):
            self._stats["refused"] += 1
            return _plain(fault["status"], "refused as planned")
        if fault := self.faults.next("late", revision.service):
            self._stats["late"] += 1
            await asyncio.sleep(fault["seconds"])
        if fault := self.faults.next("twice", revision.service):
            self._stats["duplicates"] += 1
            self._spawn(self._again(revision, request, fault["seconds"]))
        return await self._answer(revision, request)

    async def start(self, revision: Revision) -> Replica | None:
        """Start one idle instance, as a deployment does; None if it could not start, with the reason in its log."""
        await revision.slots.acquire()
        try:
            replica = await self._new(revision)
            if not await self._ready(replica):
                return None
            replica.idle()
            return replica
        finally:
            revision.slots.release()

    def close(self) -> None:
        """Drop every call."""
        for task in self._tasks:
            task.cancel()

    async def _again(self, revision: Revision, request: Request, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._answer(revision, request)

    async def _answer(self, revision: Revision, request: Request) -> Response:
        try:
            async with asyncio.timeout(revision.queue_s):
                await revision.slots.acquire()
        except TimeoutError:
            return self._failed(Failure.BUSY, f"all {revision.max_instances} instances of {revision.service} are busy")
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._spawn(self._work(revision, request, answer))
        return await answer

    async def _work(self, revision: Revision, request: Request, answer: asyncio.Future[Response]) -> None:
        """Run one call to the end of its work, which may be after the caller got ``answer``."""
        try:
            response = await self._serve(revision, request, answer)
        except Exception as error:  # an error of this machine, like no process or no space: the caller needs an answer
            response = self._failed(Failure.START, f"{type(error).__name__}: {error}")
        finally:
            revision.slots.release()
        _resolve(answer, response)

    async def _serve(self, revision: Revision, request: Request, answer: asyncio.Future[Response]) -> Response:
        replica = self._instances.last_idle(lambda it: it.revision is revision)
        if replica is not None:
            self._stats["warm"] += 1
            replica.state = "busy"
        else:
            replica = await self._new(revision)
            if not await self._ready(replica):
                return self._failed(Failure.START, f"{replica.how or 'it listened on no port'}: {_last(replica)}")
        replica.calls += 1
        begin = replica.log.stat().st_size if replica.log.exists() else 0  # earlier bytes of the log are of other calls
        work = asyncio.create_task(exchange(replica.port, request, self._answer_bytes))
        try:
            limit = math.inf if revision.limit_s is None else revision.limit_s
            first = min(revision.answer_s, limit)
            await asyncio.wait({work}, timeout=first)
            if not work.done():
                _resolve(answer, self._failed(Failure.TIMEOUT, f"no answer within {first:g} s"))
                await asyncio.wait({work}, timeout=None if limit == math.inf else limit - first)
                if not work.done():
                    self._stats["time_kills"] += 1
                    await self._instances.kill(replica)
            response = await work
        except ValueError as error:
            response = self._failed(Failure.SIZE, str(error))
        except (OSError, http.client.HTTPException):
            await self._instances.kill(replica)  # other processes of the instance may still run
            if replica.over_memory:
                said = f"{replica.memory_bytes >> 20} MiB exceeded with {replica.peak >> 20} MiB used"
                return self._failed(Failure.MEMORY, said)
            return self._failed(Failure.EXIT, _last(replica, begin))
        finally:
            work.cancel()
        if replica.state == "busy":  # in any other state it has died
            replica.idle()
        return response

    async def _new(self, revision: Revision) -> Replica:
        self._stats["cold"] += 1
        replica = Replica(revision, self._logs)
        await revision.begin(replica)
        return replica

    async def _ready(self, replica: Replica) -> bool:
        """Wait until it listens, like a platform's start-up probe; it is then busy. Returns False, and kills it, where it does not."""
        if self.faults.next("start", replica.revision.service):
            replica.write("killed at its start as planned")
            await self._instances.kill(replica)
        await replica.forked.wait()
        until = time.monotonic() + _START_S
        while replica.state == "starting" and time.monotonic() < until:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", replica.port)
            except OSError:
                await asyncio.sleep(_POLL_S)
                continue
            writer.close()
            if replica.state == "starting":
                replica.state = "busy"
                return True
        self._stats["failed_starts"] += 1
        await self._instances.kill(replica)
        return False

    def _failed(self, failure: Failure, why: str) -> Response:
        self._stats[failure.name.lower()] += 1
        return _plain(self._status[failure], f"{failure.value}: {why}")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _resolve(answer: asyncio.Future[Response], response: Response) -> None:
    if not answer.done():  # the caller gets the first answer
        answer.set_result(response)


def _plain(status: int, why: str) -> Response:
    return Response(status, f"{why}\n".encode(), {"Content-Type": "text/plain"})


def _last(replica: Replica, begin: int = 0) -> str:
    """The last line of its log, from byte ``begin`` on."""
    lines = replica.tail(begin).decode(errors="replace").split("\n") if replica.log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")
