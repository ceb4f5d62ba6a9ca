"""The warm parent of this machine's functions: ``python -m fsd_local.host CHANNEL FUNCTIONS`` (started by `LocalInvoker`).

One thread with one loop accepts launch requests from the client and from functions, forks a process for each, and watches the processes.
The host has imported the worker's modules: on two busy cores 62 forked functions were ready after 0.4 s, while 16 new interpreters took 3.7
s (with ``cold`` each function gets a new interpreter, like a cold start in a cloud). The host ends with its client, and every function ends
with the host: each of them holds one end of a pipe or socket, and the kernel closes that end when the process ends for any reason.

A function that ends by a signal, by an exit code other than 0 and 1, or by its memory or time limit cannot report this end to its run. For
it the host forks a reporter, which calls ``report_exit`` with the lines that the function logged (`fsd_core.common.logfile`). If the
reporter fails too, for instance on a full disk, the host sends the reason to the client over their channel: see `LocalLaunch.poll`.

The memory of a function is its resident set, read every 20 ms, so a function may exceed its limit for that time. Pages that a fork shares
with the host count in full (23 MB), as a cloud counts its runtime. RLIMIT_AS would not behave like a cloud: the function would get a
MemoryError, while a cloud kills it. Watching 62 functions costs 4 % of a core.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import secrets
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from typing import BinaryIO

import attrs

from fsd_core.driver import WORKER, Code
from fsd_core.storage.retry import TRANSIENT
from fsd_local.errors import classify
from fsd_local.function import UNCLAIMED, Order, layer_of, run
from fsd_local.variables import RESOURCES
from fsd_local.wire import ANSWER, HOST, PAYLOAD_BYTES, REASON, REQUEST, UNNUMBERED

__all__ = ["Host"]

_PROC = os.path.isdir("/proc/self")
_TICK_S = 0.02 if _PROC else 0.5  # without /proc each check runs `ps`
_IDLE_S = 1.0
_REPORT_S = 60.0  # the time limit of a reporter, and of the wait for its process to start
_PAGE = os.sysconf("SC_PAGE_SIZE")


@attrs.define
class _Child:
    """A forked process, with its order."""

    order: Order
    payload: bytes
    end_s: float
    channel: socket.socket
    killed: str | None = None
    reason: tuple[Code, str] | None = None  # why the function ended, as it reported itself: the code for the run, and a text
    victim: tuple[Code, str] | None = None  # for a reporter: why the reported function ended


@attrs.frozen
class _Report:
    """A report for which no process runs yet."""

    order: Order
    payload: bytes
    until_s: float
    reason: tuple[Code, str] | None  # the reason that the function itself reported


@attrs.define
class _Peer:
    """The client or a function at the other end of a channel, and the bytes that arrived of its next request."""

    pid: int | None  # None for the client
    data: bytearray = attrs.field(factory=bytearray)


class Host:
    """Runs until ``channel`` closes. Every child leads a process group, and is killed with the whole group."""

    def __init__(self, channel: socket.socket, functions: str) -> None:
        names = json.loads(os.environ[RESOURCES])["names"]
        self._functions = functions
        self._cold = names["cold"] == "true"
        self._memory_mb = int(names["memory_mb"])
        self._timeout_s = float(names["timeout_s"])
        self._concurrency = int(names["concurrency"])
        self._parent = os.getppid()
        self._children: dict[int, _Child] = {}
        self._reports: list[_Report] = []
        self._launches = 0
        self._life, self._alive = os.pipe()  # only the host has the writing end: when that closes, every function ends
        self._tmp = f"{names['root']}/tmp"  # this folder is writable; the system's temporary folder may not be
        self._notes = self._scratch()
        self._selector = selectors.DefaultSelector()
        self._ended, wakeup = os.pipe()
        os.set_blocking(self._ended, False)
        os.set_blocking(wakeup, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        self._selector.register(self._ended, selectors.EVENT_READ)
        self._client = channel
        self._add(channel, None)

    def _add(self, channel: socket.socket, pid: int | None) -> None:
        channel.setblocking(False)
        self._selector.register(channel, selectors.EVENT_READ, _Peer(pid))

    def _scratch(self) -> BinaryIO:
        """A private file: in memory where the system can, since the disk may be full."""
        if hasattr(os, "memfd_create"):
            return os.fdopen(os.memfd_create("fsd"), "w+b", buffering=0)
        return tempfile.TemporaryFile(buffering=0, dir=self._tmp)

    def run(self) -> None:
        """Serve requests and watch children until the client is gone."""
        if not self._cold:
            for module in (self._functions, "fsd_local.messages", "fsd_local.objects"):  # a provider imports them in its factories
                importlib.import_module(module)
            gc.collect()
            gc.freeze()  # otherwise the garbage collector writes to pages that forks share, and the kernel copies these pages
        while os.getppid() == self._parent:  # the channel may stay open in a process that the client forked
            for key, _ in self._selector.select(_TICK_S if self._children or self._reports else _IDLE_S):
                if key.data is None:
                    os.read(self._ended, 65536)
                elif not self._serve(key.fileobj, key.data) and key.data.pid is None:  # type: ignore[arg-type]  # only sockets are registered
                    return
            self._reap()
            self._watch()

    def end(self) -> None:
        """Kill every child and wait for its end."""
        for pid in self._children:
            _kill(pid)
        for pid in self._children:
            os.waitpid(pid, 0)

    def _serve(self, channel: socket.socket, peer: _Peer) -> bool:
        """Read from a channel and answer each complete request; returns False where the peer is gone."""
        try:
            part = channel.recv(1 << 16)
        except BlockingIOError:  # there was nothing to read
            return True
        except OSError:
            part = b""
        try:
            peer.data += part
            while len(peer.data) >= REQUEST.size:
                number, name, payload = REQUEST.unpack_from(peer.data)
                end = REQUEST.size + name + payload
                if payload > PAYLOAD_BYTES:
                    raise ValueError(f"payload of {payload} bytes: expected at most {PAYLOAD_BYTES}")
                if len(peer.data) < end:
                    break
                body = bytes(peer.data[REQUEST.size : end])
                del peer.data[:end]
                if number == UNNUMBERED:
                    self._note_reason(peer, body[:name].decode(errors="replace"), body[name:])
                else:
                    _answer(channel, number, *self._accept(body[:name].decode(errors="replace"), body[name:]))
        except (OSError, ValueError):  # the peer reads no answers, or sent no valid request
            part = b""
        if not part:
            self._selector.unregister(channel)
            channel.close()
        return bool(part)

    def _note_reason(self, peer: _Peer, name: str, payload: bytes) -> None:
        """Keep the reason that a function sent before its end. Raises `ValueError` for any other request without a number."""
        child = self._children.get(peer.pid or 0)
        if name != REASON or child is None:
            raise ValueError("a request with the number 0: expected the reason of a function that ends")
        code, text = json.loads(payload)
        child.reason = Code(code), str(text)

    def _accept(self, function: str, payload: bytes) -> tuple[str | None, str]:
        if function != WORKER:
            return Code.NOT_FOUND.value, f"function {function!r}: expected {WORKER!r}, the only one of this provider"
        if sum(child.order.report is None for child in self._children.values()) >= self._concurrency:
            return Code.THROTTLED.value, f"{self._concurrency} functions run already: expected fewer than [local] concurrency"
        try:
            self._launches += 1
            with self._scratch() as file:
                said = os.dup(file.fileno())
            try:
                order = Order(self._functions, self._launches, secrets.token_hex(8), self._life, self._notes.fileno(), said)
                self._launch(order, payload)
            except OSError:
                os.close(said)
                raise
        except OSError as error:
            return classify(error).value, f"cannot start a function: {error}"
        return None, ""

    def _launch(self, order: Order, payload: bytes, victim: tuple[Code, str] | None = None) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            pid = os.fork()
            if pid == 0:
                try:
                    self._become(order, payload, theirs.fileno())
                finally:
                    os._exit(os.EX_SOFTWARE)
        with suppress(OSError):  # parent and child both set it; the child may have ended, or started its interpreter
            os.setpgid(pid, pid)
        self._add(ours, pid)
        end_s = time.monotonic() + (self._timeout_s if order.report is None else _REPORT_S)
        self._children[pid] = _Child(order, payload, end_s, ours, victim=victim)

    def _become(self, order: Order, payload: bytes, channel: int) -> None:
        """In the child: keep four descriptors, restore the signal handlers, run the order."""
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        kept = sorted((channel, order.life, order.notes, order.said))
        for low, high in zip([2, *kept], [*kept, os.sysconf("SC_OPEN_MAX")], strict=True):
            os.closerange(low + 1, high)
        os.environ[HOST] = f"{os.getpid()}:{channel}"
        if not self._cold:
            run(order, payload)
        with self._scratch() as file:  # a pipe may not hold a whole payload
            file.write(payload)
            file.seek(0)
            os.dup2(file.fileno(), 0)
        for descriptor in kept:
            os.set_inheritable(descriptor, True)
        os.execv(sys.executable, [sys.executable, "-P", "-m", "fsd_local.function", json.dumps(attrs.asdict(order))])

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            _kill(pid)  # processes that the function started and did not end
            child, code = self._children[pid], os.waitstatus_to_exitcode(status)
            self._read_rest(child)
            del self._children[pid]
            if code == 0 or (code == 1 and child.order.report is None):
                os.close(child.order.said)
                continue
            how = child.killed or (f"killed by signal {-code}" if code < 0 else f"exited with code {code}")
            if child.order.report is None:
                how += f": {child.reason[1]}" if child.reason else ""
                report = attrs.evolve(child.order, report=how, layer=layer_of(child.order))
                self._reports.append(_Report(report, child.payload, time.monotonic() + _REPORT_S, child.reason))
                continue
            os.close(child.order.said)
            if code == UNCLAIMED:
                if child.victim and child.victim[0] not in TRANSIENT:  # another launch would end in the same way
                    self._give_up(child.order, child.payload, *child.victim)
            else:
                self._give_up(child.order, child.payload, *(child.reason or (Code.UNAVAILABLE, how)))
        for each in list(self._reports):
            try:
                self._launch(each.order, each.payload, each.reason)
            except OSError as error:
                if classify(error) in (Code.THROTTLED, Code.UNAVAILABLE) and time.monotonic() < each.until_s:
                    break  # no process can start now: try again at the next tick
                self._give_up(each.order, each.payload, classify(error), str(error))
                os.close(each.order.said)
            self._reports.remove(each)

    def _read_rest(self, child: _Child) -> None:
        """Read what a process sent before it ended."""
        waiting = select.poll()
        if child.channel.fileno() >= 0:  # otherwise everything was read
            waiting.register(child.channel, select.POLLIN)
        while child.channel.fileno() >= 0 and waiting.poll(0):
            self._serve(child.channel, self._selector.get_key(child.channel).data)

    def _give_up(self, order: Order, payload: bytes, code: Code, why: str) -> None:
        """Send the client the end of a function that cannot be reported to its run."""
        try:
            rank = f"rank {json.loads(payload)['rank']}"
        except (ValueError, KeyError, TypeError):
            rank = "a function"
        where = f"{rank}, layer {order.layer}" if order.layer else rank
        with suppress(OSError):  # the client is gone
            _answer(self._client, UNNUMBERED, code.value, f"{where}: {order.report}, which could not be reported to the run: {why}")

    def _watch(self) -> None:
        """Kill processes that exceed their time or memory limit."""
        now, resident = time.monotonic(), _resident([pid for pid, child in self._children.items() if child.order.report is None])
        for pid, child in self._children.items():
            if now > child.end_s:
                child.killed = child.killed or f"exceeded its time limit of {self._timeout_s:g} s"
            elif resident.get(pid, 0) > self._memory_mb << 20:
                child.killed = child.killed or f"exceeded its memory limit of {self._memory_mb} MB"
            if child.killed:
                _kill(pid)


def _answer(channel: socket.socket, number: int, code: str | None, reason: str) -> None:
    body = json.dumps([code, reason]).encode()
    channel.sendall(ANSWER.pack(number, len(body)) + body)


def _kill(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # the whole group has ended
        os.killpg(group, signal.SIGKILL)


def _resident(pids: list[int]) -> dict[int, int]:
    """The resident set in bytes of each process."""
    found = {}
    if _PROC or not pids:
        for pid in pids:
            with suppress(OSError, IndexError), open(f"/proc/{pid}/statm", "rb", buffering=0) as file:
                found[pid] = int(file.read().split()[1]) * _PAGE
        return found
    shown = subprocess.run(["ps", "-o", "pid=,rss=", "-p", ",".join(map(str, pids))], capture_output=True, text=True, check=False)
    return {int(pid): int(kib) << 10 for pid, kib in (line.split() for line in shown.stdout.splitlines())}


if __name__ == "__main__":
    host = Host(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
    try:
        host.run()
    finally:
        host.end()
