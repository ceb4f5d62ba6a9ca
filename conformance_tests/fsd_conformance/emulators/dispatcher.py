"""Calls to functions over HTTP, as the front end of a local cloud serves them: one call an instance, cold and warm, limits, faults.

A call goes on when its caller is gone: the instance finishes its work. A caller that waited too long gets its answer, and the
instance works on (`Revision`).
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

_START_S = 240.0  # a process that listens on no port by then has failed to start
_POLL_S = 0.02


class Failure(Enum):
    """Why a call has no answer of the function's own."""

    BUSY = "no instance was free"
    START = "the instance could not start"
    TIMEOUT = "the time limit is over"
    MEMORY = "the memory limit was exceeded"
    EXIT = "the process ended"
    SIZE = "the answer is too large"


@dataclass(eq=False, kw_only=True)
class Revision:
    """A function as it was deployed at one time: what its instances are made of, and how calls are served.

    At most ``most`` instances; a call waits ``queue_s`` for one. Both limits count from when the instance has the call: a caller without
    an answer after ``answer_s`` is told so; an instance that works after ``limit_s`` (None: for ever) is killed, its caller told by then.
    ``begin`` orders an instance's process.
    """

    service: str
    name: str
    memory_bytes: int
    most: int
    queue_s: float
    answer_s: float
    limit_s: float | None
    begin: Callable[[Replica], Awaitable[None]]
    retired: bool = False
    slots: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self.slots = asyncio.Semaphore(self.most)


class Replica(Instance):
    """An instance of a revision. ``calls``: how many it was given; ``ends``: what to do when it is gone."""

    def __init__(self, revision: Revision, logs: Path) -> None:
        super().__init__(logs / revision.service, revision.memory_bytes)
        self.revision = revision
        self.calls = 0
        self.ends: list[Callable[[], None]] = []

    @property
    def outdated(self) -> bool:
        """Whether its revision is no longer the one that is deployed."""
        return self.revision.retired

    def died(self, how: str) -> None:
        """Its first process is gone."""
        super().died(how)
        for end in self.ends:
            end()

    def shown(self) -> dict[str, Any]:
        """For tests and tools."""
        fields = ("id", "pid", "port", "state", "calls", "peak")
        return {name: getattr(self, name) for name in fields} | {"revision": self.revision.name, "log": str(self.log)}


class Faults:
    """What goes wrong: by plan (`plan`), the next so many calls; or by chance, as the flags say."""

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
        ``seconds`` (1) later. "twice": deliver it again, ``seconds`` (0) later. Raises `ValueError` on anything else.
        """
        kind = str(fields.get("kind"))
        if kind not in self._KINDS:
            raise ValueError(f"kind {kind!r} is none of {', '.join(self._KINDS)}")
        known = {"kind": kind, "count": 1, "service": None, **self._KINDS[kind]}
        if unknown := fields.keys() - known.keys():
            raise ValueError(f"{kind}: unknown {', '.join(sorted(unknown))}")
        self._planned.append(known | fields)

    def next(self, kind: str, service: str) -> dict[str, Any] | None:
        """What is to happen to a call of this service, if anything."""
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
    """Gives calls to instances. ``status``: how a failure is answered."""

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
        """The answer of one call."""
        self._stats["calls"] += 1
        if fault := self.faults.next("refuse", revision.service):
            self._stats["refused"] += 1
            return _said(fault["status"], "refused as planned")
        if fault := self.faults.next("late", revision.service):
            self._stats["late"] += 1
            await asyncio.sleep(fault["seconds"])
        if fault := self.faults.next("twice", revision.service):
            self._stats["duplicates"] += 1
            self._spawn(self._again(revision, request, fault["seconds"]))
        return await self._answer(revision, request)

    async def start(self, revision: Revision) -> Replica | None:
        """One instance that is ready and idle, as a deployment starts it; None if it could not start. Its log says why."""
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
            return self._failed(Failure.BUSY, f"all {revision.most} instances of {revision.service} are at work")
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._spawn(self._work(revision, request, answer))
        return await answer

    async def _work(self, revision: Revision, request: Request, answer: asyncio.Future[Response]) -> None:
        """One call from its start to the end of its work, which may come after the caller had ``answer``."""
        try:
            response = await self._serve(revision, request, answer)
        except Exception as error:  # of this machine: no process, no space; whoever waits must hear of it
            response = self._failed(Failure.START, f"{type(error).__name__}: {error}")
        finally:
            revision.slots.release()
        _tell(answer, response)

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
        work = asyncio.create_task(exchange(replica.port, request, self._answer_bytes))
        try:
            limit = math.inf if revision.limit_s is None else revision.limit_s
            first = min(revision.answer_s, limit)
            await asyncio.wait({work}, timeout=first)
            if not work.done():
                _tell(answer, self._failed(Failure.TIMEOUT, f"no answer within {first:g} s"))
                await asyncio.wait({work}, timeout=None if limit == math.inf else limit - first)
                if not work.done():
                    self._stats["time_kills"] += 1
                    await self._instances.kill(replica)
            response = await work
        except ValueError as error:
            response = self._failed(Failure.SIZE, str(error))
        except (OSError, http.client.HTTPException):
            await self._instances.kill(replica)  # what is left of it
            if replica.over_memory:
                said = f"{replica.memory_bytes >> 20} MiB exceeded with {replica.peak >> 20} MiB used"
                return self._failed(Failure.MEMORY, said)
            return self._failed(Failure.EXIT, f"{_last(replica)}")
        finally:
            work.cancel()
        if replica.state == "busy":  # else it has died since
            replica.idle()
        return response

    async def _new(self, revision: Revision) -> Replica:
        self._stats["cold"] += 1
        replica = Replica(revision, self._logs)
        await revision.begin(replica)
        return replica

    async def _ready(self, replica: Replica) -> bool:
        """Whether it comes to listen, as a platform's start-up probe sees it; it is then busy. Else it is killed."""
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
        return _said(self._status[failure], f"{failure.value}: {why}")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _tell(answer: asyncio.Future[Response], response: Response) -> None:
    if not answer.done():  # the first is what the caller gets
        answer.set_result(response)


def _said(status: int, why: str) -> Response:
    return Response(status, f"{why}\n".encode(), {"Content-Type": "text/plain"})


def _last(replica: Replica) -> str:
    """The last line that it wrote."""
    lines = replica.tail().decode(errors="replace").split("\n") if replica.log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")
