"""The part of HTTP/1.1 that SDKs and runtime clients use, on asyncio streams: a server on the loopback address, and a client for a single
request.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import cast
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

__all__ = ["HttpServer", "Request", "Response", "phrase"]

_HEAD_BYTES = 1 << 16
_HEAD_S = 30.0  # from the first byte of a request to the end of its headers
_TLS = b"\x16"  # the first byte of a TLS client
_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "expect", "host", "content-length"})


@dataclass(slots=True)
class Request:
    """One request. ``path``: with percent-encoding; header names in lower case; ``query``: all values of each name."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes

    def parts(self) -> list[str]:
        """The decoded parts of the path."""
        return [unquote(part) for part in self.path.strip("/").split("/")]


@dataclass(slots=True)
class Response:
    """The answer to a request."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
        """An answer with ``value`` as JSON."""
        return Response(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})


def phrase(status: int) -> str:
    """The reason phrase of a status; clients expect one, also for an unknown status."""
    return HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Unknown"


class HttpServer:
    """Calls ``route`` for each request. A body over ``limit`` bytes is not read, and answered with 413."""

    def __init__(self, route: Callable[[Request], Awaitable[Response]], limit: int) -> None:
        self.port = 0
        self._route = route
        self._limit = limit
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, port: int = 0) -> None:
        """Listen at ``port`` (0: a free one). Raises `OSError` where it is taken."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", port, limit=_HEAD_BYTES, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """Stop listening and drop every connection."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, TimeoutError, ValueError, asyncio.CancelledError):
            pass  # the client left or sent no HTTP, or the server closes: the connection ends
        finally:
            self._tasks.discard(task)
            with suppress(RuntimeError):  # the event loop has ended
                writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Handle one request; returns whether the connection stays open."""
        first = await reader.readexactly(1)
        if first == _TLS:
            print(f"port {self.port}: expected HTTP, but a client used TLS", file=sys.stderr, flush=True)
            return False
        head = first + await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _HEAD_S)
        lines = head.decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ", 2)
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
        if headers.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await self._body(reader, headers)
        keep = headers.get("connection", "").lower() != "close" and body is not None
        if body is None:
            response = Response(413)
        else:
            url = urlsplit(target)
            response = await self._route(Request(method, url.path, parse_qs(url.query, keep_blank_values=True), headers, body))
        answer = [f"HTTP/1.1 {response.status} {phrase(response.status)}"]
        answer += [f"{name}: {value}" for name, value in response.headers.items()]
        if response.status != HTTPStatus.NO_CONTENT:
            answer.append(f"Content-Length: {len(response.body)}")
        answer.append("Connection: keep-alive" if keep else "Connection: close")
        bare = method == "HEAD" or response.status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)  # clients read no body after these
        writer.write("\r\n".join([*answer, "", ""]).encode("latin-1") + (b"" if bare else response.body))
        await writer.drain()
        return keep

    async def _body(self, reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes | None:
        if "chunked" not in headers.get("transfer-encoding", "").lower():
            length = int(headers.get("content-length", "0"))
            return await reader.readexactly(length) if length <= self._limit else None
        body = b""
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            if len(body) + size > self._limit:
                return None
            body += (await reader.readexactly(size + 2))[:-2]
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass
        return body


async def exchange(port: int, request: Request, max_bytes: int) -> Response:
    """Send ``request`` to a server on this machine, on a new connection, and return the answer.

    Headers of a single connection are neither sent nor returned. Raises `OSError` or `http.client.HTTPException` where the server closes
    the connection within the answer, `ValueError` where the answer is over ``max_bytes``.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        target = request.path + ("?" + urlencode(request.query, doseq=True) if request.query else "")
        head = [f"{request.method} {target} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Connection: close"]
        head += [f"{name}: {value}" for name, value in request.headers.items() if name not in _HOP]
        head += [f"Content-Length: {len(request.body)}", "", ""]
        writer.write("\r\n".join(head).encode("latin-1") + request.body)
        await writer.drain()
        data = bytearray()
        while part := await reader.read(1 << 16):
            data += part
            if len(data) > max_bytes + _HEAD_BYTES:
                raise ValueError(f"the answer is too large: expected at most {max_bytes} bytes")
    finally:
        writer.close()
    answer = http.client.HTTPResponse(cast(socket.socket, _Received(bytes(data))), method=request.method)
    answer.begin()
    body = answer.read()
    return Response(answer.status, body, {name: value for name, value in answer.getheaders() if name.lower() not in _HOP})


class _Received:
    """A socket for `http.client` whose data has been received."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _: str) -> io.BytesIO:
        return io.BytesIO(self._data)
