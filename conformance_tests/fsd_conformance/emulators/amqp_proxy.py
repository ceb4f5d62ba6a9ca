"""A proxy in front of an AMQP server without TLS on this machine: it sees every connection, and every message from a client."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable

from fsd_conformance.emulators.service_bus import frames
from fsd_conformance.emulators.service_bus.codec import AmqpError, Described

__all__ = ["SETTLED", "AmqpProxy"]

SETTLED = "settled"  # no queue of an app has this name

_SIZE = struct.Struct(">I").unpack_from
_ATTACH = 0x12
_HEAD = 8  # bytes of a protocol header, and of a frame's header


class AmqpProxy:
    """Forwards connections to ``port`` to the port ``upstream`` of this machine, until `close`. With ``upstream`` 0 it closes each
    connection at once.

    It calls ``see`` with "" for each connection, with the link's target for each message from a client, and with `SETTLED` for each of the
    client's dispositions. If ``see`` raises `OSError`, the proxy closes the connection, and the server does not get the message.
    """

    def __init__(self, upstream: int, see: Callable[[str], None]) -> None:
        self._upstream, self._see = upstream, see
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        _thread(self._accept)

    def close(self) -> None:
        """Stop listening, and close all connections."""
        with contextlib.suppress(OSError):  # otherwise a waiting accept does not end
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in list(self._open):
            _end(each)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                _thread(self._connected, near)

    def _connected(self, near: socket.socket) -> None:
        self._see("")
        with near, contextlib.suppress(OSError):
            if not self._upstream:
                return
            with socket.create_connection(("127.0.0.1", self._upstream)) as far:
                both = {near, far}
                self._open |= both
                back = _thread(_carry, far, near, None)
                _carry(near, far, _Reader(self._see).read)
                back.join()
                self._open -= both


class _Reader:
    """Reads the frames of one client, until it gets bytes that are not AMQP."""

    def __init__(self, see: Callable[[str], None]) -> None:
        self._see = see
        self._data = b""
        self._targets: dict[tuple[int, int], str] = {}  # (channel, handle) -> target of a sending link

    def read(self, data: bytes) -> None:
        """Read more bytes."""
        self._data += data
        while len(self._data) >= _HEAD:
            size = _HEAD if self._data.startswith(b"AMQP") else max(_HEAD, _SIZE(self._data)[0])
            if len(self._data) < size:
                return
            frame, self._data = self._data[:size], self._data[size:]
            if size > _HEAD and frame[5] == 0:
                with contextlib.suppress(AmqpError):
                    self._frame(frame)

    def _frame(self, frame: bytes) -> None:
        channel = int.from_bytes(frame[6:8], "big")
        code, fields, _ = frames.read(frame, 4 * frame[4], len(frame))
        if code == _ATTACH and not fields.flag(2):
            target = fields.get(6)
            address = target.value[0] if isinstance(target, Described) and isinstance(target.value, list) and target.value else "?"
            self._targets[channel, fields.number(1)] = str(address).rpartition("/")[2]  # without the host
        elif code == frames.TRANSFER and not fields.flag(5):
            self._see(self._targets.get((channel, fields.number(0)), "?"))
        elif code == frames.DISPOSITION and fields.flag(0):  # from a receiver
            self._see(SETTLED)


def _carry(source: socket.socket, target: socket.socket, read: Callable[[bytes], None] | None) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            if read is not None:
                read(data)
            target.sendall(data)
    _end(source)
    _end(target)


def _end(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)


def _thread(work: Callable[..., None], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=work, args=arguments, name="amqp-proxy", daemon=True)
    thread.start()
    return thread
