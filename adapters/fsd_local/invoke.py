"""Functions as processes of this machine, started by a warm parent: see `fsd_local.host`.

A client starts its own host with its first invocation and ends it, with every function in it, on `LocalInvoker.close` or by dying.
A function got from the host one end of a socket pair, and asks the same host: its children are its siblings. Nothing listens at
an address, so there is no path that could be too long, left over, or open to others.

One request is `REQUEST` (lengths of name and payload), name, payload; the answer `ANSWER` (length) and JSON ``[code | null, reason]``.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fsd_core.checks import check_payload
from fsd_core.driver import Code, Failure, Refused, Resources
from fsd_core.providers import function_limits, told
from fsd_local import RESOURCES
from fsd_local.errors import classify

__all__ = ["ANSWER", "HOST", "PAYLOAD_BYTES", "REQUEST", "LocalInvoker", "LocalLaunch"]

REQUEST = struct.Struct(">HI")
ANSWER = struct.Struct(">I")
PAYLOAD_BYTES = 256 << 10
HOST = "FSD_LOCAL_HOST"  # in a function's environment: its own PID and, after a colon, its descriptor of the channel to the host
_ANSWER_S = 60.0  # the longest that a host may take to answer, its start included
# A function is one worker, and P of them share this machine.
_ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1")
_LOCK = threading.Lock()  # one request at a time: drivers of one function share its channel


@dataclass(frozen=True)
class LocalLaunch:
    """A launch that the host accepted."""

    host: subprocess.Popen[bytes] | None

    def poll(self) -> Code | None:
        """`Code.UNAVAILABLE` once the host is gone, and so all its functions."""
        return Code.UNAVAILABLE if self.host is not None and self.host.poll() is not None else None


class LocalInvoker:
    """Implements `fsd_core.driver.InvokeDriver`. ``functions`` is the module whose `handle` and `report_exit` the host calls."""

    service = "the host of the local functions"

    def __init__(self, resources: Resources, functions: str = "fsd_core.worker") -> None:
        names = resources.names
        self.limits = function_limits(
            names,
            payload_bytes=PAYLOAD_BYTES,
            source="fsd_local: the [local] settings",
            as_of="2025-11-01",
            end_with_client=True,
        )
        self._resources = resources
        self._functions = functions
        self._host: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None

    def invoke(self, function: str, payload: bytes) -> LocalLaunch:
        """Start a process; returns once it exists. `Refused` is TOO_LARGE, NOT_FOUND or THROTTLED; ConnectionError: the host failed."""
        check_payload(PAYLOAD_BYTES, payload)
        name = function.encode()[:65535]
        with _LOCK:
            channel = self._channel or self._open()
            try:
                channel.sendall(REQUEST.pack(len(name), len(payload)) + name + payload)
                code, reason = json.loads(_read(channel, ANSWER.unpack(_read(channel, ANSWER.size))[0]))
            except BaseException as error:  # Ctrl-C too: an answer that nobody read would be taken for the next one's
                self._end()
                if isinstance(error, OSError):
                    raise ConnectionError(f"the host of the local functions does not answer: {error}") from error
                raise
            if code is not None:
                raise Refused(Code(code), reason)
            return LocalLaunch(self._host)

    def failures(self, take: Callable[[bytes], bool]) -> Sequence[Failure]:
        """None: the host reports what it sees die at once, by itself."""
        return ()

    def _open(self) -> socket.socket:
        """The channel: inherited in a function, to a new host elsewhere."""
        pid, _, descriptor = os.environ.get(HOST, "").partition(":")
        if pid == str(os.getpid()):  # else inherited by a process that a function started: the descriptor is not its own
            self._channel = socket.socket(fileno=os.dup(int(descriptor)))
        else:
            self._channel, theirs = socket.socketpair()
            with theirs:
                self._host = subprocess.Popen(
                    [sys.executable, "-P", "-m", "fsd_local.host", str(theirs.fileno()), self._functions],
                    env={**os.environ, **_ONE_THREAD, RESOURCES: told(self._resources)},
                    stdin=subprocess.DEVNULL,
                    stdout=2,  # what functions print is no output of the client
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,  # Ctrl-C in a terminal is for the client alone
                )
        self._channel.settimeout(_ANSWER_S)
        return self._channel

    def _end(self) -> None:
        channel, host = self._channel, self._host
        self._channel = self._host = None
        if channel is not None:
            channel.close()  # the host takes this as its end
        if host is not None:
            try:
                host.wait(10)
            except subprocess.TimeoutExpired:
                host.kill()  # functions end with it
                host.wait()

    def classify(self, error: BaseException) -> Code:
        """See `fsd_local.errors.classify`."""
        return classify(error)

    def native(self) -> subprocess.Popen[bytes] | None:
        """The host's process, where this driver started one."""
        return self._host

    def close(self) -> None:
        """In a client: end the host and every function that it runs, and wait for that."""
        with _LOCK:
            self._end()


def _read(channel: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = channel.recv(size - len(data))
        if not part:
            raise ConnectionResetError("it ended")
        data += part
    return bytes(data)
