"""Launches as HTTP requests: the function has an address, and the answer to a POST arrives when the function has ended.

``invoke`` returns at once. A thread for each launch sends the request and keeps the connection open until the answer arrives, because
platforms give a function its processor only while a request is open. The status of the answer shows whether the platform refused the
launch or the function died (`InvokeLimits.failures` is ``launcher``). The platform's adapter adds the address, the headers and the
meaning of a status.

This module uses the HTTP client of the standard library. Importing it adds 25 to 40 ms to a cold start; urllib3 adds 80 to 120 ms, requests
110 to 120 ms (two cores, after numpy). Also, another thread can close its connection.
"""

from __future__ import annotations

import http.client
import itertools
import random
import re
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from urllib.parse import SplitResult, urlsplit

import attrs

from fsd_core.common.interrupt import remaining
from fsd_core.driver import WORKER, Code, Failure, Failures, InvokeLimits, Refused
from fsd_core.providers.checks import check_payload
from fsd_core.providers.codes import http_code
from fsd_core.providers.proxies import Proxy, proxy_for

__all__ = ["NONCE", "HttpInvoker", "HttpLaunch", "code_of"]

NONCE = "X-Fsd-Nonce"  # the header that names a launch: the handler passes it to `fsd_core.worker.handle`
MAX_OPEN = 256  # launches of one process that wait for their answers; each has a thread and a connection
CONNECT_S = 10.0
CLOSE_S = 1.0
_LATE_S = 30.0  # how long after the function's time limit an answer can still arrive
_ALIVE_S = 30  # a connection that is silent for this long is probed, since routers drop idle connections
_ALIVE = {
    "TCP_KEEPIDLE": _ALIVE_S,
    "TCP_KEEPALIVE": _ALIVE_S,
    "TCP_KEEPINTVL": 10,
    "TCP_KEEPCNT": 6,
}  # macOS: KEEPALIVE
_READ_BYTES = 16 << 10  # of an answer's body
_SHOWN_CHARS = 300  # of an answer's text, in errors
_DIED = (Code.UNAVAILABLE, Code.DEADLINE)


def code_of(status: int, text: str) -> Code | None:
    """The error code of a launch by the status of its answer. `None`: the function ran to its end and reported its own errors."""
    if 200 <= status < 300:
        return None
    code = Code.DEADLINE if status == 504 else http_code(status)
    return Code.INVALID if code is Code.UNKNOWN else code  # for instance a redirection, which a launch does not follow


@attrs.define(eq=False)
class HttpLaunch:
    """One launch. ``text``: the status and the first words of the answer, or the reason why no answer arrived."""

    payload: bytes
    nonce: str = attrs.field(factory=lambda: secrets.token_hex(16))
    code: Code | None = None
    text: str = ""
    ended: threading.Event = attrs.field(factory=threading.Event)
    socket: socket.socket | None = None
    hung_up: bool = False

    def poll(self) -> Code | None:
        """The code of the error if the answer showed that the platform refused or lost the launch, else `None`."""
        return self.code


class HttpInvoker:
    """Implements `fsd_core.driver.InvokeDriver` except ``native`` and ``service``; safe to call from several threads.

    ``urls``: the function's addresses, at least one. Launches take turns among them, beginning with a random one: each function that
    launches others has its own invoker. ``headers``: called for each launch, before ``invoke`` returns, so that tokens are fresh and
    ``invoke`` raises their errors. ``classify``: gives the code of an error. ``code_of``: gives the code of an
    answer, see the function `code_of`. ``cut_s``: the seconds after which the platform's front end closes connections. An error on a
    connection of this age is ignored, because the function may still be running.
    """

    def __init__(
        self,
        urls: Sequence[str],
        headers: Callable[[], Mapping[str, str]],
        limits: InvokeLimits,
        classify: Callable[[BaseException], Code],
        *,
        code_of: Callable[[int, str], Code | None] = code_of,
        cut_s: float | None = None,
    ) -> None:
        self.limits = limits
        self._places = [(urlsplit(url), proxy_for(url)) for url in urls]
        self._turn = itertools.count(random.randrange(len(urls)))
        self._headers = headers
        self._classify = classify
        self._code_of = code_of
        self._cut_s = cut_s
        self._open: set[HttpLaunch] = set()
        self._failed: list[HttpLaunch] = []
        self._lock = threading.Lock()

    def invoke(self, function: str, payload: bytes) -> HttpLaunch:
        """Send the payload from its own thread. Raises `Refused` with THROTTLED if `MAX_OPEN` launches are open."""
        if function != WORKER:
            raise Refused(Code.NOT_FOUND, f"function {function!r}: expected {WORKER!r}, the only function of an app")
        check_payload(self.limits.payload_bytes, payload)
        launch = HttpLaunch(payload)
        headers = {"Content-Type": "application/json", **self._headers(), NONCE: launch.nonce}
        with self._lock:
            if len(self._open) >= MAX_OPEN:
                raise Refused(
                    Code.THROTTLED, f"{MAX_OPEN} launches of this process are open: expected fewer; launch again after one has ended"
                )
            self._open.add(launch)
        try:
            place = self._places[next(self._turn) % len(self._places)]
            threading.Thread(target=self._hold, args=(launch, headers, *place), name="fsd-launch", daemon=True).start()
        except RuntimeError as error:  # the system has no more threads
            with self._lock:
                self._open.discard(launch)
            raise Refused(Code.THROTTLED, f"launch: {error}") from error
        return launch

    def _hold(self, launch: HttpLaunch, headers: Mapping[str, str], url: SplitResult, proxy: Proxy | None) -> None:
        """The thread of a launch: send it, wait for the answer, keep the code of the answer."""
        started, sent = time.monotonic(), False
        connection = None
        try:
            connection = self._connect(launch, url, proxy)
            connection.request("POST", (url.path or "/") + (f"?{url.query}" if url.query else ""), launch.payload, dict(headers))
            sent = True
            answer = connection.getresponse()
            words = answer.read(_READ_BYTES).decode(errors="replace")
            code = self._code_of(answer.status, words)
            text = f"{answer.status} {answer.reason}: {_plain(words)}"
        except Exception as error:  # of any kind: nothing above this thread would see it
            code = Code.DEADLINE if sent and isinstance(error, TimeoutError) else self._classify(error)
            code = Code.UNAVAILABLE if code is Code.UNKNOWN else code
            text = _plain(f"no answer: {type(error).__name__}: {error}")
        finally:
            if connection is not None:
                connection.close()
        died = sent and code in _DIED
        if died and self._cut_s is not None and time.monotonic() - started >= self._cut_s:
            code, died = None, False
        with self._lock:
            self._open.discard(launch)
            if not launch.hung_up:
                launch.code, launch.text = code, text
                if died:
                    self._failed.append(launch)
        launch.ended.set()

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context()

    def _connect(self, launch: HttpLaunch, url: SplitResult, proxy: Proxy | None) -> http.client.HTTPConnection:
        """An open connection, through the environment's proxy if it names one, with a time-out longer than the function's time limit."""
        host, port, secure = url.hostname or "", url.port, url.scheme == "https"
        at = (proxy.host, proxy.port) if proxy else (host, port)
        if secure:
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(*at, timeout=CONNECT_S, context=self._tls)
        else:
            connection = http.client.HTTPConnection(*at, timeout=CONNECT_S)
        if proxy:
            connection.set_tunnel(host, port, proxy.headers)
        connection.connect()
        wait_s = None if self.limits.timeout_s is None else self.limits.timeout_s + _LATE_S
        connection.sock.settimeout(wait_s)
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _ALIVE.items():
            if hasattr(socket, name):
                connection.sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        with self._lock:
            launch.socket = connection.sock
            if launch.hung_up:
                raise ConnectionAbortedError("the driver was closed before the launch was sent")
        return connection

    def failures(self, take: Callable[[bytes], bool]) -> Failures:
        """Launches whose answer shows that the function died, if ``take`` accepts their payload. Returns each launch once.

        Makes no request.
        """
        with self._lock:
            failed, self._failed = self._failed, []
        taken = [launch for launch in failed if take(launch.payload)]
        with self._lock:
            self._failed += [launch for launch in failed if launch not in taken]
        return Failures([Failure(launch.payload, launch.nonce, f"the function ended: {launch.text}") for launch in taken])

    def classify(self, error: BaseException) -> Code:
        """The code of an error that a method raised."""
        return error.code if isinstance(error, Refused) else self._classify(error)

    def close(self) -> None:
        """Wait up to `CLOSE_S` seconds for answers, then close: a platform may stop a function whose request is closed."""
        until = time.monotonic() + min(CLOSE_S, remaining() / 4)  # an interrupted client needs the other three quarters for its clean-up
        with self._lock:
            waiting = list(self._open)
        for launch in waiting:
            launch.ended.wait(max(0.0, until - time.monotonic()))
        with self._lock:
            for launch in self._open:
                launch.hung_up = True
                if launch.socket is not None:
                    with suppress(OSError):  # it may be closed already
                        launch.socket.shutdown(socket.SHUT_RDWR)  # wakes the launch's thread, which closes the socket


def _plain(text: str) -> str:
    """The text of an answer in one line, without HTML tags: front ends answer in HTML."""
    words = re.sub(r"<(style|script|title)\b.*?</\1>|<[^>]*>", " ", text, flags=re.S | re.I)
    return " ".join(words.split())[:_SHOWN_CHARS]
