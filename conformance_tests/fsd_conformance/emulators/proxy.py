"""An HTTP proxy in front of a server on this machine: it sees every request, and may answer some itself."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

__all__ = ["Answer", "Proxy", "Request", "See"]

# Headers of one connection (RFC 9110, 7.6.1), headers that the proxy writes itself, and Expect, which it has answered.
_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "expect"})
_TIMEOUT_S = 60.0  # longer than any long poll


@dataclass(frozen=True, slots=True)
class Request:
    """A client's request. ``path``: with the query; names of ``headers`` in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the proxy in place of the server's."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


See = Callable[[Request], Answer | None]  # called in many threads; None passes the request on


class Proxy:
    """Forwards requests for ``url`` to the server at ``upstream``, until `close`."""

    def __init__(self, upstream: str, see: See) -> None:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.upstream = urlsplit(upstream).netloc
        self._server.see = see
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="proxy", daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    upstream: str
    see: See

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that closed their connection."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def _pass(self) -> None:
        request = Request(self.command, self.path, {name.lower(): value for name, value in self.headers.items()}, self._body())
        answer = self.server.see(request)
        if answer is None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                answer = self._upstream(request)
        if answer is None:  # the server closed its connection, so the proxy does, too
            self.close_connection = True
            return
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if "Content-Length" not in answer.headers:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = do_OPTIONS = _pass

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers
        return b"".join(chunks)

    def _upstream(self, request: Request) -> Answer:
        connection = http.client.HTTPConnection(self.server.upstream, timeout=_TIMEOUT_S)
        try:
            connection.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                if name not in _HOP:
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(request.body)))
            connection.endheaders(request.body or None)
            response = connection.getresponse()
            body = response.read()
            headers = {name: value for name, value in response.getheaders() if name.lower() not in _HOP}
            if request.method == "HEAD" and (length := response.headers["Content-Length"]):
                headers["Content-Length"] = length
            return Answer(response.status, body, headers)
        finally:
            connection.close()

    def log_message(self, *_: object) -> None:
        pass
