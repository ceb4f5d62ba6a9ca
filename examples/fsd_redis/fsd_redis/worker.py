"""``fsd-redis-worker``: runs functions on this machine for every client that knows its token.

A POST to ``/launch`` starts a function, and its answer comes when the function has ended: 200 if the function reported its own end, 429 if
too many functions run, 504 and 500 if it was stopped or died, which the launcher then reports to the run. A forked process runs each
function; its parent is a process without threads that has imported all modules already, so a function starts in some milliseconds.
"""

from __future__ import annotations

import argparse
import hmac
import json
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import os
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

from fsd_core.driver import Resources
from fsd_core.errors import FsdError, InputError
from fsd_core.providers.environment import from_record
from fsd_core.providers.http_invoke import NONCE
from fsd_redis import PROVIDER
from fsd_redis.invoke import APP, PAYLOAD_BYTES, SECRET
from fsd_redis.settings import RESOURCES, TOKEN

__all__ = ["main"]


_TICK_S = 0.05
_DIED = 70  # the exit code of a function that could not report its failure
_FORKS = multiprocessing.get_context("forkserver")
_PRELOAD = ["fsd_core.worker", "fsd_redis.messages", "fsd_redis.objects", "fsd_redis.invoke", "fsd_redis.worker"]
_ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")  # functions share the machine
_starting = threading.Lock()  # multiprocessing looks at all children when it starts one


def _function(payload: bytes, nonce: str | None, app: str) -> None:
    """In the process of a function. The exit code 0 or 1: the function reported its end."""
    from fsd_core.worker import handle

    os.environ[RESOURCES] = app
    code = _DIED
    try:
        code = handle(payload, PROVIDER, nonce=nonce)
    except BaseException as error:
        print(f"fsd worker: {error}", file=sys.stderr) if isinstance(error, FsdError) else traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _run(payload: bytes, nonce: str | None, app: str, resources: Resources) -> tuple[int, str]:
    """Run a function to its end. Returns the status of the answer, and why the function ended if it did not report that itself."""
    timeout_s, memory_mb = float(resources.names["timeout_s"]), int(resources.names["memory_mb"])
    process = _FORKS.Process(target=_function, args=(payload, nonce, app), daemon=True)
    with _starting:
        process.start()
    until, killed = time.monotonic() + timeout_s, (0, "")
    while not multiprocessing.connection.wait([process.sentinel], _TICK_S):
        if time.monotonic() > until:
            killed = 504, f"exceeded its time limit of {timeout_s:g} s"
        elif _resident(process.pid) > memory_mb << 20:
            killed = 500, f"exceeded its memory limit of {memory_mb} MB"
        if killed[0]:
            process.kill()
    with _starting:
        code = process.exitcode or 0
        process.close()
    return (200, "") if code in (0, 1) else killed if killed[0] else (500, f"killed by signal {-code}" if code < 0 else f"exit code {code}")


def _resident(pid: int | None) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):  # it ended, or the system has no /proc
        return 0


class _Handler(BaseHTTPRequestHandler):
    token: str
    running: ClassVar[Counter[str]] = Counter()  # functions of each app

    def do_GET(self) -> None:
        """Whether the host runs and, for a client that sends a token, whether it is the right one."""
        if self.headers.get(SECRET) is None or self._knows():
            self._answer(200, "fsd-redis-worker")

    def do_POST(self) -> None:
        """A launch."""
        size, app = int(self.headers.get("Content-Length") or 0), self.headers.get(APP, "")
        if not 0 <= size <= PAYLOAD_BYTES:
            return self._answer(413, f"a launch of {size} bytes: expected at most {PAYLOAD_BYTES}")
        payload = self.rfile.read(size)
        if not self._knows():
            return None
        try:
            resources = from_record(app, str(json.loads(app)["app"]), "a launch")
        except (InputError, ValueError, KeyError, TypeError):
            return self._answer(400, f"expected the app's resources in the header {APP}")
        most = int(resources.names["concurrency"])
        with _starting:
            full = self.running[resources.app] >= most
            self.running[resources.app] += not full
        if full:
            return self._answer(429, f"{most} functions of app {resources.app} run already: expected fewer than [redis] concurrency")
        try:
            return self._answer(*_run(payload, self.headers.get(NONCE), app, resources))
        finally:
            with _starting:
                self.running[resources.app] -= 1

    def _knows(self) -> bool:
        known = hmac.compare_digest(self.headers.get(SECRET, "").encode(), self.token.encode())
        if not known:
            self._answer(401, f"wrong token: expected the {TOKEN} of this host in the environment of the client")
        return known

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: functions write the log."""


def main() -> None:
    """Serve until a signal. Exit code 2, with one line, if the token is missing or the address cannot be used."""
    parser = argparse.ArgumentParser(prog="fsd-redis-worker", description="Runs functions of fsd on this machine.")
    parser.add_argument("--listen", default="127.0.0.1:7070", metavar="HOST:PORT", help="default: %(default)s; 0.0.0.0:7070 for others")
    host, _, port = parser.parse_args().listen.rpartition(":")
    _Handler.token = os.environ.get(TOKEN, "")
    if len(_Handler.token) < 16:
        parser.error(f"{TOKEN}: expected a secret of at least 16 characters, the same in the environment of the clients")
    os.environ.update(_ONE_THREAD)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    _FORKS.set_forkserver_preload(_PRELOAD)
    multiprocessing.forkserver.ensure_running()
    ThreadingHTTPServer.request_queue_size = 512
    try:
        server = ThreadingHTTPServer((host, int(port)), _Handler)
    except (OSError, ValueError, OverflowError) as error:
        parser.error(f"--listen {host}:{port}: {error}: expected HOST:PORT of this machine")
    with server:
        print(f"fsd-redis-worker: listens on {host}:{server.server_port}", file=sys.stderr, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
