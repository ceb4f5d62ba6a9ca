"""Instances of functions, for all emulators: each is a tree of processes with a log, a memory limit and an end.

The memory is the resident set of the tree's largest process (forks of a server share its pages), read every 20 ms, so an instance may
exceed its limit for that time. Pages that a fork shares with its parent count in full, as a cloud counts its runtime. RLIMIT_AS would not
behave like the platforms: the function would get a MemoryError, while a platform kills it.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar
from uuid import uuid4

from fsd_conformance.emulators import instance_parent
from fsd_conformance.emulators.sandbox import ONE_THREAD, Options

__all__ = ["Instance", "Instances"]

_PROC = os.path.isdir("/proc/self")
_LOOK_S = 0.02 if _PROC else 0.5  # without /proc each check runs `ps`
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TAIL_BYTES = 4096


class Instance:
    """One tree of processes that serves one call at a time.

    ``state``: starting, busy, idle, expired or dead; ``pid``: of the tree's first process; ``port``: where it will listen, or 0; ``peak``:
    the largest memory in bytes; ``how``: its end, like "signal: killed".
    """

    def __init__(self, log: Path, memory_bytes: int) -> None:
        self.id = uuid4().hex
        self.log = log / f"{self.id}.log"
        self.memory_bytes = memory_bytes
        self.state = "starting"
        self.pid: int | None = None
        self.port = 0
        self.peak = 0
        self.over_memory = False
        self.idle_since = 0.0
        self.how = ""
        self.forked = asyncio.Event()
        self.ended = asyncio.Event()
        self.log.parent.mkdir(parents=True, exist_ok=True)

    @property
    def outdated(self) -> bool:
        """Whether this instance must not get another call, because its function was changed or deleted."""
        return False

    def started(self, pid: int, port: int) -> None:
        """Note that the first process of the instance started."""
        self.pid, self.port = pid, port
        self.forked.set()

    def died(self, how: str) -> None:
        """Note that the first process of the instance ended. ``how``: "signal: killed", "exit status 1", or "" for 0."""
        self.state, self.how = "dead", how
        self.forked.set()
        self.ended.set()

    def measure(self) -> None:
        """Update ``peak`` with the present memory of the instance."""
        if self.pid is not None and self.state != "dead":
            self.peak = max(self.peak, _resident([self.pid])[self.pid])

    def idle(self) -> None:
        """Note that the instance serves no call now."""
        self.state, self.idle_since = "idle", time.monotonic()

    def write(self, line: str) -> None:
        """Write a line of the platform into the log."""
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def tail(self, start: int = 0) -> bytes:
        """The end of the log, from byte ``start`` on."""
        with open(self.log, "rb") as file:
            file.seek(max(start, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return file.read()


I = TypeVar("I", bound=Instance)  # noqa: E741


class Instances(Generic[I]):
    """All instances of an emulator, and the channel to the parent of their processes. ``lost``: called if that parent dies."""

    def __init__(self, options: Options, stats: Counter[str], lost: Callable[[], None]) -> None:
        self.options = options
        self.stats = stats
        self.all: dict[str, I] = {}
        self._lost = lost
        self._parent: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._channel: socket.socket | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._mode = "spawn" if options.code == "zip" else options.cold

    async def open(self) -> None:
        """Start the parent."""
        (self.options.home / "task").mkdir(parents=True, exist_ok=True)
        ours, theirs = socket.socketpair()
        with theirs:
            preload = self.options.preload if self._mode == "fork" else ""
            folder = str(self.options.home) if self.options.temporary else ""
            self._parent = subprocess.Popen(
                [sys.executable, "-P", instance_parent.__file__, str(theirs.fileno()), preload, folder],
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
        """End all processes."""
        for task in self._tasks:
            task.cancel()
        if self._channel is not None:
            with suppress(OSError):  # the parent is gone
                self._channel.shutdown(socket.SHUT_RDWR)
        if self._parent is not None:
            try:
                self._parent.wait(10)
            except subprocess.TimeoutExpired:  # the parent may still import modules
                self._parent.kill()
                self._parent.wait()

    def last_idle(self, fits: Callable[[I], bool]) -> I | None:
        """The last used idle instance for which ``fits`` is true, or None."""
        return max((it for it in self.all.values() if it.state == "idle" and fits(it)), key=lambda it: it.idle_since, default=None)

    def start(
        self,
        instance: I,
        main: str,
        arguments: Sequence[str],
        env: dict[str, str],
        *,
        task: Path | None = None,
        path: tuple[Sequence[str], Sequence[str]] = ((), ()),
        listen: bool = False,
    ) -> None:
        """Start the first process of ``instance``, which runs the script ``main``.

        ``task``: the folder of unpacked code, its working folder; ``path``: entries for the start and the end of ``sys.path``;
        ``listen``: it gets a port.
        """
        self.all[instance.id] = instance
        self._send(
            {
                "do": "start",
                "id": instance.id,
                "mode": self._mode,
                "main": main,
                "arguments": list(arguments),
                "flags": ["-I", "-S"] if task else ["-P"],  # unpacked code must not see this interpreter's packages and variables
                "path": path,
                "listen": listen,
                "cwd": str(task or self.options.home / "task"),
                "log": str(instance.log),
                "env": env,
            }
        )

    def order(self, what: str, instance: I) -> None:
        """Kill, freeze or thaw all processes of the instance; ``what`` is one of "kill", "freeze" and "thaw"."""
        self._send({"do": what, "id": instance.id})

    async def kill(self, instance: I) -> None:
        """Kill its processes and wait for their end."""
        if instance.state != "dead":
            self.order("kill", instance)
            await instance.ended.wait()

    def _end(self, instance: I) -> None:
        if instance.state == "idle":  # it gets no more calls
            instance.state = "expired"
        self.order("kill", instance)

    def _send(self, order: dict[str, Any]) -> None:
        assert self._writer is not None
        self._writer.write(json.dumps(order).encode() + b"\n")

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        """Read the parent's reports: the PID of each process, and its end."""
        while line := await reader.readline():
            report = json.loads(line)
            if instance := self.all.get(report["id"]):
                if "exit" in report:
                    del self.all[report["id"]]
                    instance.died(report["exit"])
                else:
                    instance.started(report["pid"], report["port"])
        self._lost()

    async def _watch(self) -> None:
        """Kill instances that exceed their memory, were idle for too long, or are outdated."""
        while True:
            await asyncio.sleep(_LOOK_S)
            now = time.monotonic()
            running = [it for it in self.all.values() if it.pid is not None]
            sizes = _resident({it.pid for it in running if it.pid is not None})
            for it in running:
                size = sizes.get(it.pid or 0, 0)
                it.peak = max(it.peak, size)
                if size > it.memory_bytes and not it.over_memory:
                    it.over_memory = True
                    self.stats["memory_kills"] += 1
                    self._end(it)
            for it in running:
                if it.state == "idle" and (it.outdated or now - it.idle_since > self.options.idle_s):
                    self._end(it)


def _resident(leaders: Iterable[int]) -> dict[int, int]:
    """The resident set in bytes of the largest process in each tree; without /proc, in each process group. 0 for a missing one."""
    if _PROC:
        return {leader: max(map(_size, _tree(leader))) for leader in leaders}
    found = dict.fromkeys(leaders, 0)
    shown = subprocess.run(["ps", "-ax", "-o", "pgid=,rss="], capture_output=True, text=True, check=False)
    for group, kib in (line.split() for line in shown.stdout.splitlines()):
        if int(group) in found:
            found[int(group)] = max(found[int(group)], int(kib) << 10)
    return found


def _size(pid: int) -> int:
    with suppress(OSError, IndexError), open(f"/proc/{pid}/statm", "rb", buffering=0) as file:
        return int(file.read().split()[1]) * _PAGE
    return 0


def _tree(pid: int) -> list[int]:
    """A process and the processes that its first thread started, recursively."""
    found = [pid]
    for each in found:
        with suppress(OSError), open(f"/proc/{each}/task/{each}/children", "rb", buffering=0) as file:
            found += map(int, file.read().split())
    return found
