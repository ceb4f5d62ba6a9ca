"""The parent of the processes in which an emulator runs functions: ``python -P instance_parent.py CHANNEL PRELOAD FOLDER``.

One thread takes orders from the emulator (one JSON line each), forks, and reports each start and end. A process runs the script "main" with
its "arguments". The parent has imported the heavy modules, so a fork is ready at once. The script itself imports modules that must not be
imported before a fork, such as a native client that starts threads or reads its address at import. ``mode`` "spawn" gives a process its own
interpreter, like a cold start in a cloud.

With "listen" a process gets a socket at descriptor 3, which is bound to a port but does not listen yet. PORT holds the port; LISTEN_PID and
LISTEN_FDS describe the socket, like those of systemd. So connections are refused until the process serves.

The parent ends with the emulator, whose end closes the channel; it kills every function and removes FOLDER, if any. If the parent itself is
killed, each function notices the end of a pipe from the parent and ends; a frozen function ends by the SIGHUP that the kernel sends to a
stopped process group without a parent.
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
    """Run the script "main" of ``order`` with its "arguments". "path": entries for the start and the end of ``sys.path``."""
    os.set_inheritable(_LIFE, False)
    threading.Thread(target=_end_with, args=(_LIFE,), name="life", daemon=True).start()
    first, last = order["path"]
    sys.path[:] = [*first, *sys.path, *last]
    code = 1
    try:
        for stream in (sys.stdout, sys.stderr):
            cast(io.TextIOWrapper, stream).reconfigure(line_buffering=True)  # so that the log has all output before a kill
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
    """No process writes to the pipe: the read returns when the other end is closed."""
    with suppress(OSError):
        os.read(life, 1)
    os.killpg(0, signal.SIGKILL)


class Parent:
    """Runs until ``channel`` closes. Every function leads a process group, and is killed with the whole group."""

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
        """Execute orders and report ends, until the channel closes."""
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
        """Kill every function and wait for its end."""
        for pid in self._pids.values():
            _signal(pid, signal.SIGKILL)
        for pid in self._pids.values():
            os.waitpid(pid, 0)

    def _obey(self, order: dict[str, Any]) -> None:
        if order["do"] == "start":
            try:
                pid, port = self._start(order)
            except OSError as error:
                self._report({"id": order["id"], "exit": f"cannot start a process: {error}"})
                return
            self._pids[order["id"]] = pid
            self._report({"id": order["id"], "pid": pid, "port": port})
        elif order["id"] in self._pids:  # otherwise it has ended, and its PID may belong to another process
            _signal(self._pids[order["id"]], _SIGNALS[order["do"]])

    def _start(self, order: dict[str, Any]) -> tuple[int, int]:
        """The PID of the new process, and its port or 0."""
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
        with suppress(OSError):  # parent and child both set it; the child may have started its interpreter
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
            _signal(pid, signal.SIGKILL)  # processes that the function started and did not end
            code = os.waitstatus_to_exitcode(status)
            self._report({"id": name, "exit": f"exit status {code}" if code > 0 else _signal_name(-code) if code else ""})

    def _report(self, message: dict[str, Any]) -> None:
        self._channel.sendall(json.dumps(message).encode() + b"\n")


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # the whole group has ended
        os.killpg(group, number)


def _signal_name(number: int) -> str:
    """The text of a signal as the platforms write it, like Go: "signal: killed"."""
    return f"signal: {(signal.strsignal(number) or str(number)).lower()}"


def _preload(names: list[str]) -> None:
    """Import the modules that exist; of "module:function" also call the function."""
    for name in names:
        module, _, function = name.partition(":")
        try:
            imported = importlib.import_module(module)
        except ImportError as error:
            print(f"not preloaded: {error}", file=sys.stderr)
            continue
        if function:
            getattr(imported, function)()
    gc.collect()
    gc.freeze()  # otherwise the garbage collector writes to pages that forks share, and the kernel copies these pages


if __name__ == "__main__":
    if sys.argv[1] == "--become":
        run(json.loads(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the emulator handles Ctrl-C
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
