"""A proxy in front of a gRPC server on this machine, which also answers plain HTTP at the same port: it sees every call."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

__all__ = ["GrpcProxy", "SeeCall"]

SeeCall = Callable[[str], grpc.StatusCode | None]

_STREAMS = ("StreamingPull",)
_CALLS = 64  # calls at the same time, including pulls that wait
_OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.enable_http_proxy", 0))


class GrpcProxy:
    """Forwards calls for ``address`` to the server at ``upstream``, both HOST:PORT, until `close`.

    It calls ``see`` with each call's method, ``/package.Service/Method``, in many threads; ``see`` may return a status, which is then the
    answer. Connections with another protocol than HTTP/2 are passed on without a call of ``see``.
    """

    def __init__(self, upstream: str, see: SeeCall) -> None:
        self._see = see
        self._channel = grpc.insecure_channel(upstream, _OPTIONS)
        self._calls = grpc.server(ThreadPoolExecutor(_CALLS), handlers=(_Handler(self._forward, self._stream),), options=_OPTIONS)
        calls = ("127.0.0.1", self._calls.add_insecure_port("127.0.0.1:0"))
        self._calls.start()
        host, _, port = upstream.rpartition(":")
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        _thread(self._accept, calls, (host, int(port)))

    def close(self) -> None:
        """Stop listening, and end the running calls."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # otherwise a waiting accept does not end
        self._listener.close()
        self._calls.stop(None).wait(30)
        self._channel.close()

    def _forward(self, method: str, request: bytes, context: Any) -> bytes:
        """Forward one call, with its deadline."""
        if (status := self._see(method)) is not None:
            context.abort(status, "this answer comes from the proxy")
        try:
            answer: bytes = self._channel.unary_unary(method)(request, timeout=context.time_remaining())
        except grpc.RpcError as error:
            context.abort(error.code(), error.details())
        return answer

    def _stream(self, method: str, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """One call that is a stream both ways, until either ends it."""
        self._see(method)
        call = self._channel.stream_stream(method)(requests)
        context.add_callback(call.cancel)
        try:
            yield from call
        except grpc.RpcError as error:
            context.abort(error.code(), error.details())

    def _accept(self, calls: tuple[str, int], upstream: tuple[str, int]) -> None:
        with contextlib.suppress(OSError):  # ends when the listener is closed
            while True:
                _thread(_join, self._listener.accept()[0], calls, upstream)


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Handles every method, with bytes as request and answer."""

    def __init__(self, forward: Callable[[str, bytes, Any], bytes], stream: Callable[[str, Iterator[bytes], Any], Iterator[bytes]]) -> None:
        self._forward, self._stream = forward, stream

    def service(self, call: Any) -> Any:
        if call.method.rpartition("/")[2] in _STREAMS:
            return grpc.stream_stream_rpc_method_handler(lambda requests, context: self._stream(call.method, requests, context))
        return grpc.unary_unary_rpc_method_handler(lambda request, context: self._forward(call.method, request, context))


def _join(client: socket.socket, calls: tuple[str, int], upstream: tuple[str, int]) -> None:
    """Copy in both directions between a client and its server, which the first bytes decide: HTTP/2 begins with PRI."""
    with contextlib.suppress(OSError), client, contextlib.ExitStack() as stack:
        calling = client.recv(3, socket.MSG_PEEK | socket.MSG_WAITALL) == b"PRI"
        server = stack.enter_context(socket.create_connection(calls if calling else upstream))
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        back = _thread(_copy, server, client)
        _copy(client, server)
        back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Copy until the source ends, then end the target."""
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _thread(work: Callable[..., None], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=work, args=arguments, name="grpc-proxy", daemon=True)
    thread.start()
    return thread
