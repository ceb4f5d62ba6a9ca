"""Functions as processes of this machine, started by a warm parent: see `fsd_local.host`.

A client starts its own host with its first invocation. The host and all its functions end on `LocalInvoker.close`, or with the client. A
function inherits one end of a socket pair to its host, and asks that host for launches: the new functions are its siblings. No process
listens at an address, so no socket file exists whose path could be too long, that could remain, or that other users could open. The
protocol is in `fsd_local.wire`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable

import attrs

from fsd_core.common import interrupt
from fsd_core.driver import Code, Failures, Refused, Resources
from fsd_core.providers.checks import check_payload
from fsd_core.providers.environment import to_environment
from fsd_local import limits
from fsd_local.errors import classify
from fsd_local.limits import PAYLOAD_BYTES
from fsd_local.variables import RESOURCES
from fsd_local.wire import Channel, inherited

__all__ = ["LocalInvoker", "LocalLaunch"]

_END_S = 10.0  # time for a host to end by itself
# P workers share this machine, so each uses one thread for linear algebra.
ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1")


@attrs.frozen
class LocalLaunch:
    """A launch that the host accepted."""

    host: subprocess.Popen[bytes] | None
    channel: Channel

    def poll(self) -> Code | None:
        """The code of an error, in a client only: once the host has ended, which ends all functions; or once a function ended and the host
        could not report that to its run, for instance on a full disk. `text` then gives the reason. None otherwise.
        """
        if self.host is None:  # None in a function, which ends with its host
            return None
        if lost := self.channel.lost():
            return Code(lost[0])
        return Code.UNAVAILABLE if self.host.poll() is not None else None

    @property
    def text(self) -> str:
        """The reason for the code of `poll`; "" while `poll` returns None."""
        if self.poll() is None:
            return ""
        lost = self.channel.lost()
        return lost[1] if lost else "the host of the local functions ended"


class LocalInvoker:
    """Implements `fsd_core.driver.InvokeDriver`. ``functions`` is the module whose `handle` and `report_exit` the host calls."""

    service = "the host of the local functions"

    def __init__(self, resources: Resources, functions: str = "fsd_core.worker") -> None:
        names = resources.names
        self.limits = limits.functions(int(names["concurrency"]), int(names["memory_mb"]), float(names["timeout_s"]))
        self._resources = resources
        self._functions = functions
        self._host: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._lock = threading.Lock()

    def invoke(self, function: str, payload: bytes) -> LocalLaunch:
        """Start a process, and return once it exists.

        Raises `Refused` with the code TOO_LARGE, NOT_FOUND or THROTTLED, and `ConnectionError` where the host does not answer.
        """
        check_payload(PAYLOAD_BYTES, payload)
        with self._lock:
            channel, host = self._channel or self._open(), self._host
        try:
            code, reason = channel.ask(function, payload)
        except BaseException as error:  # also an interrupt
            if host is not None:
                self.close()
            if isinstance(error, OSError):
                raise ConnectionError(f"the host of the local functions does not answer: {error}") from error
            raise
        if code is not None:
            raise Refused(Code(code), reason)
        return LocalLaunch(host, channel)

    def failures(self, take: Callable[[bytes], bool]) -> Failures:
        """Take nothing: the host itself reports each death at once."""
        return Failures()

    def _open(self) -> Channel:
        """The channel: the inherited one in a function; in a client to a new host."""
        self._channel = inherited()
        if self._channel is None:
            ours, theirs = socket.socketpair()
            self._channel = Channel(ours)
            with theirs, interrupt.whole():
                self._host = self._start(theirs)
        return self._channel

    def _start(self, channel: socket.socket) -> subprocess.Popen[bytes]:
        """A new host, which serves ``channel``."""
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "fsd_local.host", str(channel.fileno()), self._functions],
            env={**os.environ, **ONE_THREAD, RESOURCES: to_environment(self._resources)},
            stdin=subprocess.DEVNULL,
            stdout=2,  # standard error: functions' output must not mix with the client's
            pass_fds=(channel.fileno(),),
            start_new_session=True,  # an interrupt in a terminal reaches only the client
        )

    def classify(self, error: BaseException) -> Code:
        """The `Code` of an error of this driver: see `fsd_local.errors.classify`."""
        return classify(error)

    def native(self) -> subprocess.Popen[bytes] | None:
        """The process of the host; None where this driver has not started a host."""
        return self._host

    def close(self) -> None:
        """In a client: end the host and all its functions, and wait for their end."""
        with self._lock:
            channel, host = self._channel, self._host
            self._channel = self._host = None
            if host is None or channel is None:  # a function's channel is shared by its drivers, and stays open
                return
            channel.close()
            try:
                host.wait(min(_END_S, interrupt.remaining() / 2))
            except subprocess.TimeoutExpired:
                host.kill()  # its functions end with it
                host.wait()
