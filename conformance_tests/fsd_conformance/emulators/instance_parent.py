"""The parent of the processes in which a local cloud runs functions: ``python -P instance_parent.py CHANNEL PRELOAD FOLDER``.

One thread: it takes orders from the emulator (a JSON line each), forks, and tells of each start and end. A process becomes the
script "main" with its "arguments". The parent has imported what is heavy, so a fork is ready at once; what must not be imported
before a fork (a native client that starts threads, or reads its address at import) is the script's to import. ``mode`` "spawn"
gives a process an interpreter of its own, as a cloud's cold start does.

With "listen" a process finds a socket at descriptor 3 that is bound to a port of its own (in PORT too), but does not listen yet,
handed over as systemd does (LISTEN_PID, LISTEN_FDS): whoever connects is refused until the process serves.

The parent ends with the emulator (its channel closes however that dies), takes every function with it and removes FOLDER, if any.
Should it be killed itself, each function ends by its life pipe, or, while it is frozen, by the hang-up that the kernel sends to
a stopped orphaned group.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import io
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import sys
import threading
from contextlib import suppress
from typing import Any, NoReturn, cast

__all__ = ["Parent", "run"]

_SIGNALS = {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP, "thaw": signal.SIGCONT}
_LISTENER, _LIFE = 3, 4


def run(order: dict[str, Any]) -> NoReturn:
    """Become ``order``'s "main" with its "arguments"; "path" is what comes first and last on ``sys.path``."""
    os.set_inheritable(_LIFE, False)
    threading.Thread(target=_end_with, args=(_LIFE,), name="life", daemon=True).start()
    first, last = order["path"]
    sys.path[:] = [*first, *sys.path, *last]
    code = 1
    try:
        for stream in (sys.stdout, sys.stderr):
            cast(io.TextIOWrapper, stream).reconfigure(line_buffering=True)  # what is said before a kill is in the log
        if order["listen"]:
            os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
        sys.argv = [order["main"], *order["arguments"]]
        runpy.run_path(order["main"], run_name="__main__")
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
                pid, port = self._start(order)
            except OSError as error:
                self._tell({"id": order["id"], "exit": f"cannot start a process: {error}"})
                return
            self._pids[order["id"]] = pid
            self._tell({"id": order["id"], "pid": pid, "port": port})
        elif order["id"] in self._pids:  # else it has ended, and its number may be another's
            _signal(self._pids[order["id"]], _SIGNALS[order["do"]])

    def _start(self, order: dict[str, Any]) -> tuple[int, int]:
        """The number of the new process, and its port or 0."""
        with socket.socket() as listener:
            if order["listen"]:
                listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
            pid = os.fork()
            if pid == 0:
                try:
                    self._become(order, listener.fileno(), port)
                finally:
                    os._exit(os.EX_SOFTWARE)
        with suppress(OSError):  # whoever comes first; the child may have started its interpreter already
            os.setpgid(pid, pid)
        return pid, port

    def _become(self, order: dict[str, Any], listener: int, port: int) -> None:
        """In the child: its own group, environment, output and folder; then the script."""
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        kept = [fcntl.fcntl(number, fcntl.F_DUPFD, 10) for number in (listener, self._life)]
        os.dup2(kept[0], _LISTENER)
        os.dup2(kept[1], _LIFE)
        os.closerange(5, os.sysconf("SC_OPEN_MAX"))
        if order["listen"]:
            order["env"]["PORT"] = str(port)
        else:
            os.close(_LISTENER)
        os.chdir(order["cwd"])
        if order["mode"] == "spawn":
            start = {name: order[name] for name in ("main", "arguments", "path", "listen")}
            os.execve(sys.executable, [sys.executable, *order["flags"], __file__, "--become", json.dumps(start)], order["env"])
        os.environ.clear()
        os.environ.update(order["env"])
        run(order)

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
    """As Go words it, and so the platforms do: "signal: killed"."""
    return f"signal: {(signal.strsignal(number) or str(number)).lower()}"


def _preload(names: list[str]) -> None:
    """Import what is there; "module:function" is also called."""
    for name in names:
        module, _, function = name.partition(":")
        try:
            imported = importlib.import_module(module)
        except ImportError as error:
            print(f"not loaded ahead: {error}", file=sys.stderr)
            continue
        if function:
            getattr(imported, function)()
    gc.collect()
    gc.freeze()  # the collector would write to, and so copy, pages that the forks share


if __name__ == "__main__":
    if sys.argv[1] == "--become":
        run(json.loads(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the emulator's to answer
    parent = Parent(socket.socket(fileno=int(sys.argv[1])))
    _preload([name for name in sys.argv[2].split(",") if name])
    try:
        parent.serve()
    except ConnectionError:
        pass  # the emulator is gone
    finally:
        parent.end()
        if sys.argv[3]:
            shutil.rmtree(sys.argv[3], ignore_errors=True)
