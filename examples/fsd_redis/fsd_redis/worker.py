"""``fsd-redis-worker``: runs functions on this machine for every client that knows its token.

A POST to ``/launch`` starts a function, and its answer comes when the function has ended: 200 if the function reported its own end, 429 if
too many functions run, 504 and 500 if it was stopped or died, which the launcher then reports to the run. A forked process runs each
function; its parent is a process without threads that has imported all modules already, so a function starts in some milliseconds.
"""

import argparse
import hmac
import json
import os
import resource
import signal
import sys
import threading
import traceback
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import connection, forkserver, get_context
from typing import ClassVar

from fsd_core.common.fields import integer
from fsd_core.errors import InputError
from fsd_core.providers.http_invoke import NONCE
from fsd_redis import PROVIDER
from fsd_redis.invoke import APP, SECRET
from fsd_redis.settings import FUNCTIONS, RESOURCES, TOKEN

_FORKS = get_context("forkserver")
_lock = threading.Lock()  # multiprocessing looks at all children when it starts one


def _function(payload: bytes, nonce: str | None, app: str, memory_mb: int) -> None:
    """In the process of a function. The exit code 0 or 1: the function reported its end, also that its memory did not suffice."""
    try:
        from fsd_core.worker import handle

        os.environ[RESOURCES] = app
        resource.setrlimit(resource.RLIMIT_DATA, (memory_mb << 20, memory_mb << 20))
        os._exit(handle(payload, PROVIDER, nonce=nonce))
    except BaseException:
        traceback.print_exc()
        os._exit(os.EX_SOFTWARE)


def _run(payload: bytes, nonce: str | None, app: str, memory_mb: int, timeout_s: float) -> tuple[int, str]:
    """Run a function to its end. Returns the status of the answer, and why the function ended if it did not report that itself."""
    process = _FORKS.Process(target=_function, args=(payload, nonce, app, memory_mb), daemon=True)
    with _lock:
        process.start()
    if not connection.wait([process.sentinel], timeout_s):
        process.kill()
        return 504, f"exceeded its time limit of {timeout_s:g} s"
    with _lock:
        code = process.exitcode or 0
    return (200, "") if code in (0, 1) else (500, f"killed by signal {-code}" if code < 0 else f"exit code {code}")


class _Handler(BaseHTTPRequestHandler):
    timeout = 30  # seconds that a connection may be silent: also one without the token holds a thread
    token: ClassVar[bytes]
    running: ClassVar[Counter[str]] = Counter()  # functions of each app

    def do_POST(self) -> None:
        """A launch; a GET asks whether this host runs and accepts the client's token."""
        if not hmac.compare_digest(self.headers.get(SECRET, "").encode(), self.token):
            return self._answer(401, f"expected the {TOKEN} of this host")
        if self.command == "GET":
            return self._answer(200, "ready")
        try:
            app, names = self.headers[APP], json.loads(self.headers[APP])["names"]
            payload = self.rfile.read(integer(0, FUNCTIONS.payload_bytes).read_text(self.headers["Content-Length"] or "", "length "))
            most, memory_mb, timeout_s = int(names["concurrency"]), int(names["memory_mb"]), float(names["timeout_s"])
        except (InputError, ValueError, KeyError, TypeError) as error:
            return self._answer(400, f"expected a payload, and the app's resources in the header {APP}: {error!r}")
        with _lock:
            full = self.running[app] >= most
            self.running[app] += not full
        if full:
            return self._answer(429, f"{most} functions of this app run already: expected fewer than [redis] concurrency")
        try:
            return self._answer(*_run(payload, self.headers[NONCE], app, memory_mb, timeout_s))
        finally:
            with _lock:
                self.running[app] -= 1

    do_GET = do_POST

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing: functions write the log."""


def main() -> None:
    """Serve until a signal. Exit code 2, with one line, if the token is missing or the address cannot be used."""
    parser = argparse.ArgumentParser(prog="fsd-redis-worker", description="Runs functions of fsd on this machine.")
    parser.add_argument("--listen", default="127.0.0.1:7070", metavar="HOST:PORT", help="default: %(default)s; 0.0.0.0:7070 for others")
    host, _, port = parser.parse_args().listen.rpartition(":")
    _Handler.token = os.environ.get(TOKEN, "").encode()
    if len(_Handler.token) < 16:
        parser.error(f"{TOKEN}: expected a secret of at least 16 characters, the same in the environment of the clients")
    os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")  # functions share the machine
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    _FORKS.set_forkserver_preload(["fsd_core.worker", "fsd_redis.messages", "fsd_redis.objects", "fsd_redis.worker"])
    forkserver.ensure_running()
    ThreadingHTTPServer.request_queue_size = 512  # all ranks may be launched at once
    try:
        server = ThreadingHTTPServer((host, int(port)), _Handler)
    except (OSError, ValueError, OverflowError) as error:
        parser.error(f"--listen {host}:{port}: {error}: expected HOST:PORT of this machine")
    print(f"fsd-redis-worker: listens on {host}:{server.server_port}", file=sys.stderr, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
