"""What the host of the local functions and its clients say to each other, and the clients' end of it.

A request is `REQUEST` (its number, lengths of name and payload), name, payload. The answer is `ANSWER` (the request's number, a length)
and JSON ``[code | null, reason]``. Requests of number 0 get no answer: a function's last words. Answers of number 0 were not asked for:
a function ended, and nobody could tell its run.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from contextlib import suppress

__all__ = ["ANSWER", "HOST", "LAST_WORDS", "PAYLOAD_BYTES", "REQUEST", "UNASKED", "Channel", "inherited"]

REQUEST = struct.Struct(">IHI")
ANSWER = struct.Struct(">II")
UNASKED = 0
LAST_WORDS = ""  # the name in a request that tells them
PAYLOAD_BYTES = 256 << 10
HOST = "FSD_LOCAL_HOST"  # in a function's environment: its own PID and, after a colon, its descriptor of the channel to the host
_ANSWER_S = 60.0  # the longest that a host may take to answer, its start included
_WORDS = 2000


class Channel:
    """A client's end. Safe to use from several threads.

    A request that was given up, half sent perhaps, leaves the channel in order: the rest of it goes first the next time, and its answer
    is dropped when it comes.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._connection.settimeout(_ANSWER_S)
        self._lock = threading.Lock()
        self._out, self._in = bytearray(), bytearray()
        self._number = UNASKED
        self._lost: tuple[str, str] | None = None

    def ask(self, name: str, payload: bytes) -> tuple[str | None, str]:
        """The answer to a request: a code and a reason where it was refused. Raises `OSError`: the host is gone, or silent for 60 s."""
        with self._lock:
            self._number += 1
            self._send(self._number, name, payload)
            while True:
                number, code, reason = self._next()
                if number == self._number:
                    return code, reason

    def tell(self, code: str, text: str) -> None:
        """A function's last words: why it ends, and what that means for the run. Raises `OSError`."""
        with self._lock:
            self._send(UNASKED, LAST_WORDS, json.dumps([code, text[:_WORDS]]).encode())

    def lost(self) -> tuple[str, str] | None:
        """Code and reason of the first function whose end nobody could tell its run. Waits for nothing."""
        if self._lock.acquire(blocking=False):  # else a request is under way, and reads what comes
            try:
                with suppress(OSError):  # nothing is there, or the host is gone
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
        """The host takes this as its end. Waits for no request."""
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
                raise ConnectionResetError("it ended")
            self._in += part

    def _take(self) -> tuple[int, str | None, str]:
        """The next whole answer of what has arrived; IndexError where there is none."""
        if len(self._in) < ANSWER.size:
            raise IndexError
        number, size = ANSWER.unpack_from(self._in)
        end = ANSWER.size + size
        if len(self._in) < end:
            raise IndexError
        code, reason = json.loads(self._in[ANSWER.size : end])
        del self._in[:end]
        if number == UNASKED:
            self._lost = self._lost or (code, reason)
        return number, code, reason


_LOCK = threading.Lock()
_OWN: tuple[int, Channel] | None = None  # of this process, by its PID: a fork has none


def inherited() -> Channel | None:
    """A function's channel to its host, one for all its drivers; `None` elsewhere, and in a process that a function started."""
    global _OWN
    pid, _, descriptor = os.environ.get(HOST, "").partition(":")
    if pid != str(os.getpid()):
        return None
    with _LOCK:
        if _OWN is None or _OWN[0] != os.getpid():
            _OWN = os.getpid(), Channel(socket.socket(fileno=os.dup(int(descriptor))))
        return _OWN[1]
