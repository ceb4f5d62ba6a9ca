"""The parent of the local Lambda's function processes: ``python -P lambda_process.py CHANNEL PRELOAD FOLDER``.

One thread: it takes orders from the emulator (a JSON line each), forks, and tells of each end. It has imported what is heavy, so
a fork is ready at once; `awslambdaric` is imported after the fork, because its native client reads the Runtime API's address at
import. ``mode`` "spawn" gives a process an interpreter of its own, as a cloud's cold start does.

It ends with the emulator (its channel closes however that dies), takes every function with it and removes FOLDER, if any.
Should it be killed itself, each function ends by its life pipe, or, while it is frozen, by the hang-up that the kernel sends to
a stopped orphaned group.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import os
import selectors
import shutil
import signal
import socket
import sys
import threading
from contextlib import suppress
from typing import Any, NoReturn

__all__ = ["Parent", "run"]

_SIGNALS = {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP, "thaw": signal.SIGCONT}


def run(order: dict[str, Any], life: int) -> NoReturn:
    """Become the runtime of a function: ``order`` says "handler" and "path" (what comes first and last on ``sys.path``).

    A handler whose module is not found is looked for in the package "shipped".
    """
    os.set_inheritable(life, False)
    threading.Thread(target=_end_with, args=(life,), name="life", daemon=True).start()
    first, last = order["path"]
    sys.path[:] = [*first, *sys.path, *last]
    handler, shipped = order["handler"], order["shipped"]
    module = handler.rpartition(".")[0].replace("/", ".")
    with suppress(ImportError, ValueError):
        if shipped and not importlib.util.find_spec(module.partition(".")[0]) and importlib.util.find_spec(f"{shipped}.{module}"):
            handler = f"{shipped}.{handler}"
    code = 1
    try:
        entry = importlib.import_module("awslambdaric.__main__")
        sys.argv = ["awslambdaric", handler]
        entry.main(sys.argv)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _end_with(life: int) -> None:
    """Nobody writes to the pipe: a read returns when the last holder of its other end is gone."""
    with suppress(OSError):
        os.read(life, 1)
    os.killpg(0, signal.SIGKILL)


class Parent:
    """Runs until ``channel`` closes. Every function leads a process group, which is killed as a whole."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._pids: dict[str, int] = {}
        self._life, self._alive = os.pipe()
        self._ended, wakeup = os.pipe()
        os.set_blocking(self._ended, False)
        os.set_blocking(wakeup, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)

    def serve(self) -> None:
        """The loop."""
        data = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._ended, selectors.EVENT_READ)
            selector.register(self._channel, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fd == self._ended:
                        os.read(self._ended, 65536)
                        self._reap()
                        continue
                    part = self._channel.recv(1 << 16)
                    if not part:
                        return
                    *lines, data = (data + part).split(b"\n")
                    for line in lines:
                        self._obey(json.loads(line))

    def end(self) -> None:
        """Kill and await every function."""
        for pid in self._pids.values():
            _signal(pid, signal.SIGKILL)
        for pid in self._pids.values():
            os.waitpid(pid, 0)

    def _obey(self, order: dict[str, Any]) -> None:
        if order["do"] == "start":
            try:
                pid = os.fork()
            except OSError as error:
                self._tell({"id": order["id"], "exit": f"cannot start a process: {error}"})
                return
            if pid == 0:
                try:
                    self._become(order)
                finally:
                    os._exit(os.EX_SOFTWARE)
            with suppress(OSError):  # whoever comes first; the child may have started its interpreter already
                os.setpgid(pid, pid)
            self._pids[order["id"]] = pid
            self._tell({"id": order["id"], "pid": pid})
        elif order["id"] in self._pids:  # else it has ended, and its number may be another's
            _signal(self._pids[order["id"]], _SIGNALS[order["do"]])

    def _become(self, order: dict[str, Any]) -> None:
        """In the child: its own group, environment, output and folder; then the runtime."""
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        life = os.dup2(self._life, 3) if self._life != 3 else 3
        os.closerange(4, os.sysconf("SC_OPEN_MAX"))
        os.chdir(order["cwd"])
        if order["mode"] == "spawn":
            os.set_inheritable(life, True)
            start = {name: order[name] for name in ("handler", "path", "shipped")}
            os.execve(sys.executable, [sys.executable, *order["flags"], __file__, "--function", json.dumps(start)], order["env"])
        os.environ.clear()
        os.environ.update(order["env"])
        run(order, life)

    def _reap(self) -> None:
        while self._pids:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            name = next(name for name, known in self._pids.items() if known == pid)
            del self._pids[name]
            _signal(pid, signal.SIGKILL)  # what it left running
            code = os.waitstatus_to_exitcode(status)
            self._tell({"id": name, "exit": f"exit status {code}" if code > 0 else _signal_name(-code) if code else ""})

    def _tell(self, message: dict[str, Any]) -> None:
        self._channel.sendall(json.dumps(message).encode() + b"\n")


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # all of it ended
        os.killpg(group, number)


def _signal_name(number: int) -> str:
    """As the platform (Go) words it: "signal: killed"."""
    return f"signal: {(signal.strsignal(number) or str(number)).lower()}"


def _preload(modules: list[str]) -> None:
    """Import what is there, and what a first client of boto3 imports late."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            print(f"local lambda: not loaded ahead: {error}", file=sys.stderr)
    if "boto3" in sys.modules:
        session = importlib.import_module("boto3.session").Session("x", "x", region_name="us-east-1")
        session.client("sqs").close()
    gc.collect()
    gc.freeze()  # the collector would write to, and so copy, pages that the forks share


if __name__ == "__main__":
    if sys.argv[1] == "--function":
        run(json.loads(sys.argv[2]), 3)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the emulator's to answer
    parent = Parent(socket.socket(fileno=int(sys.argv[1])))
    _preload([module for module in sys.argv[2].split(",") if module])
    try:
        parent.serve()
    except ConnectionError:
        pass  # the emulator is gone
    finally:
        parent.end()
        if sys.argv[3]:
            shutil.rmtree(sys.argv[3], ignore_errors=True)
