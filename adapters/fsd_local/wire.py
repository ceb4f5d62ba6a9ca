"""The protocol between the host of the local functions and its clients, and the clients' end of the channel.

A request is `REQUEST` (its number, the lengths of name and payload), name, payload. The answer is `ANSWER` (the request's number, a length)
and JSON ``[code | null, reason]``. A request with the number 0 gets no answer: a function sends the reason for its end. An answer with the
number 0 belongs to no request: a function ended, and its run could not be notified.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from contextlib import suppress

__all__ = ["ANSWER", "HOST", "PAYLOAD_BYTES", "REASON", "REQUEST", "UNNUMBERED", "Channel", "inherited"]

REQUEST = struct.Struct(">IHI")
ANSWER = struct.Struct(">II")
UNNUMBERED = 0  # the number of a request without an answer, and of an answer without a request
REASON = ""  # the name in a request with the reason for a function's end
PAYLOAD_BYTES = 256 << 10
HOST = "FSD_LOCAL_HOST"  # in a function's environment: its PID, a colon, its descriptor of the channel to the host
_ANSWER_S = 60.0  # seconds within which a host must answer, also the first time, when it starts
_REASON_CHARS = 2000


class Channel:
    """A client's end of the channel. Thread-safe.

    A request that was interrupted, perhaps half sent, does not break the channel: the next request first sends the rest of it, and its
    answer is dropped.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._connection.settimeout(_ANSWER_S)
        self._lock = threading.Lock()
        self._out, self._in = bytearray(), bytearray()
        self._number = UNNUMBERED
        self._lost: tuple[str, str] | None = None

    def ask(self, name: str, payload: bytes) -> tuple[str | None, str]:
        """Send a request and return the answer: the code and the reason if the host refused it, otherwise None and "".

        Raises `OSError` where the host is gone, or does not answer for 60 s.
        """
        with self._lock:
            self._number += 1
            self._send(self._number, name, payload)
            while True:
                number, code, reason = self._next()
                if number == self._number:
                    return code, reason

    def send_reason(self, code: str, text: str) -> None:
        """Send why this function ends, and the code for its run. Raises `OSError`."""
        with self._lock:
            self._send(UNNUMBERED, REASON, json.dumps([code, text[:_REASON_CHARS]]).encode())

    def lost(self) -> tuple[str, str] | None:
        """The code and the reason of the first function whose end the host could not report to its run; None if there is none.

        Does not wait.
        """
        if self._lock.acquire(blocking=False):  # if the lock is held, a running request reads all answers
            try:
                with suppress(OSError):  # no byte has arrived, or the host is gone
                    self._connection.settimeout(0)
                    while not self._lost and (part := self._connection.recv(1 << 16)):
                        self._in += part
                        with suppress(IndexError):
                            while True:
                                self._take()
                with suppress(OSError):
                    self._connection.settimeout(_ANSWER_S)
            finally:
                self._lock.release()
        return self._lost

    def close(self) -> None:
        """Close the channel; the host then ends. Does not wait for running requests."""
        self._connection.close()

    def _send(self, number: int, name: str, payload: bytes) -> None:
        encoded = name.encode()[:65535]
        self._out += REQUEST.pack(number, len(encoded), len(payload)) + encoded + payload
        while self._out:
            sent = self._connection.send(self._out)
            del self._out[:sent]

    def _next(self) -> tuple[int, str | None, str]:
        while True:
            try:
                return self._take()
            except IndexError:
                part = self._connection.recv(1 << 16)
            if not part:
                raise ConnectionResetError("the host ended")
            self._in += part

    def _take(self) -> tuple[int, str | None, str]:
        """Take the next complete answer from the bytes that arrived. Raises `IndexError` where no answer is complete."""
        if len(self._in) < ANSWER.size:
            raise IndexError
        number, size = ANSWER.unpack_from(self._in)
        end = ANSWER.size + size
        if len(self._in) < end:
            raise IndexError
        code, reason = json.loads(self._in[ANSWER.size : end])
        del self._in[:end]
        if number == UNNUMBERED:
            self._lost = self._lost or (code, reason)
        return number, code, reason


_LOCK = threading.Lock()
_OWN: tuple[int, Channel] | None = None  # this process's PID and channel: a fork must not use it


def inherited() -> Channel | None:
    """The channel of this function to its host, which all its drivers share. None in a client, and in a child process of a function."""
    global _OWN
    pid, _, descriptor = os.environ.get(HOST, "").partition(":")
    if pid != str(os.getpid()):
        return None
    with _LOCK:
        if _OWN is None or _OWN[0] != os.getpid():
            _OWN = os.getpid(), Channel(socket.socket(fileno=os.dup(int(descriptor))))
        return _OWN[1]
