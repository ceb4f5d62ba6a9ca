"""One client's connection: bytes to frames and back, the protocol headers, SASL, open and close.

A connection that violates the protocol is closed with an AMQP error; other connections are not affected. No code here blocks, so a client
that does not read delays no other client.
"""

from __future__ import annotations

import asyncio
import logging
import time
from enum import Enum, auto

from fsd_conformance.emulators.service_bus import frames
from fsd_conformance.emulators.service_bus.broker import Broker
from fsd_conformance.emulators.service_bus.codec import NULL, AmqpError, array, string, symbol, ubyte, uint, ushort
from fsd_conformance.emulators.service_bus.session import Session

__all__ = ["FRAME_BYTES", "Connection"]

_log = logging.getLogger(__name__)

FRAME_BYTES = 65_536  # the service's largest frame in both directions
_CHANNELS = 4999
_IDLE_MS = 120_000  # the idle time-out for clients: half of the one that is enforced
_HIGH_BYTES = 1 << 20  # the largest number of bytes that wait to be sent
_FLUSH_S = 10.0  # seconds for a closed connection to send its last bytes
_READ = memoryview(bytearray(1 << 18))  # all connections use this buffer: asyncio would allocate one for each read
_EMPTY = b"\x00\x00\x00\x08\x02\x00\x00\x00"
_UNUSED = "The connection was inactive for more than the allowed {:.0f} milliseconds and is closed by container 'LinkTracker'."


class _Phase(Enum):
    HEADER = auto()  # the next bytes are the header of SASL or AMQP
    SASL = auto()
    AMQP = auto()  # AMQP's header has arrived
    OPEN = auto()
    CLOSED = auto()


class Connection(asyncio.BufferedProtocol):
    """The asyncio protocol of one connection to ``broker``."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.sessions: dict[int, Session] = {}
        self.peer_frame = 512  # the client's largest frame, until its open frame gives the size
        self.used = self._started = self._received = time.monotonic()
        self._transport: asyncio.Transport | None = None
        self._phase = _Phase.HEADER
        self._held = bytearray()  # an incomplete frame
        self._need = 8
        self._out: list[bytes | memoryview] = []
        self._out_bytes = 0
        self._sent = 0.0
        self._paused = False
        self._ended: set[int] = set()  # channels of ended sessions, whose last frames may still come
        self._heartbeat_s = 0.0
        self._closed_at = 0.0
        self._messages = 0
        self.partial_bytes = 0  # bytes of unfinished deliveries

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio at the start of a connection."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(_HIGH_BYTES)
        self.broker.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        """Called by asyncio at the end of a connection. Locks remain until they expire, like those of the service."""
        self.broker.connections.discard(self)
        self._phase = _Phase.CLOSED
        self._drop_sessions()

    def pause_writing(self) -> None:
        """Called by asyncio when the client does not read: the emulator then stops reading the client's requests."""
        self._paused = True
        if self._transport:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Called by asyncio when the client reads again."""
        self._paused = False
        if self._transport:
            self._transport.resume_reading()
        self._pump()
        self.broker.flush()

    def get_buffer(self, sizehint: int) -> memoryview:
        """The buffer for received bytes: all connections share one, since the bytes are copied at once."""
        return _READ

    def buffer_updated(self, nbytes: int) -> None:
        """Called by asyncio after a read."""
        self.data_received(bytes(_READ[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Handle received bytes, after the delay of the fault ``latency_s``."""
        if self.broker.faults.latency_s:
            asyncio.get_running_loop().call_later(self.broker.faults.latency_s, self._feed, data)
        else:
            self._feed(data)

    def writable(self) -> bool:
        """Whether the connection accepts more data now."""
        return not self._paused and self._out_bytes < _HIGH_BYTES and self._phase is not _Phase.CLOSED

    def send(self, *parts: bytes | memoryview) -> None:
        """Add bytes to the next write."""
        if self._phase is _Phase.CLOSED:
            return
        if not self._out:
            self.broker.dirty(self)
        self._out += parts
        for part in parts:
            self._out_bytes += len(part)

    def frame(self, channel: int, performative: int, *fields: bytes) -> None:
        """Send a frame without a payload."""
        self.send(frames.frame(channel, performative, *fields))

    def flush(self) -> None:
        """Write all waiting bytes to the socket."""
        if self._transport and self._out and not self._transport.is_closing():
            full = self._out_bytes >= _HIGH_BYTES
            self._sent = time.monotonic()
            self._transport.write(b"".join(self._out))
            self._out.clear()
            self._out_bytes = 0
            if full and not self._paused:
                asyncio.get_running_loop().call_soon(self.resume_writing)
        else:
            self._out.clear()
            self._out_bytes = 0

    def fail(self, condition: str, description: str) -> None:
        """Close the connection with an error."""
        if self._phase in (_Phase.AMQP, _Phase.OPEN):
            if self._phase is _Phase.AMQP:
                self._open()
            self.frame(0, frames.CLOSE, frames.error(condition, description))
        self._close()

    def count_message(self) -> None:
        """Count a message in or out. With the fault ``drop_after`` it cuts the connection before the answer."""
        self.use()
        self._messages += 1
        if self._messages == self.broker.faults.drop_after and self._transport:
            self._phase = _Phase.CLOSED
            self._transport.abort()

    def use(self) -> None:
        """Note that the client uses the connection."""
        self.used = self._received

    def inspect(self) -> None:
        """Send a heartbeat if one is due; close a connection that is silent, unused, or never opened."""
        now = time.monotonic()
        limits = self.broker.limits
        if self._phase is _Phase.CLOSED:
            if self._transport and now > self._closed_at + _FLUSH_S:
                self._transport.abort()
        elif self._phase is not _Phase.OPEN:
            if now > self._started + limits.open_s:
                self.fail("amqp:connection:forced", f"The connection was not opened within {limits.open_s:g} s.")
        elif now > self._received + limits.idle_s:
            self.fail("amqp:connection:forced", f"No frame came within {limits.idle_s:g} s.")
        else:
            if any(session.wants() for session in self.sessions.values()):
                self.used = now
            if now > self.used + limits.unused_s:
                self.fail("amqp:connection:forced", _UNUSED.format(limits.unused_s * 1000))
            elif self._heartbeat_s and now > self._sent + self._heartbeat_s:
                self.send(_EMPTY)

    def _pump(self) -> None:
        for session in list(self.sessions.values()):
            session.pump()

    def _feed(self, data: bytes) -> None:
        if self._phase is _Phase.CLOSED:
            return
        if self._held:
            self._held += data
            if len(self._held) < self._need:
                return
            data = bytes(self._held)
            self._held.clear()
        try:
            at = self._consume(data)
        except AmqpError as error:
            self.fail(error.condition, error.description)
        except Exception:  # a defect of the emulator ends only this connection
            _log.exception("namespace %s: a connection's bytes", self.broker.name)
            self.fail("amqp:internal-error", "The emulator has a defect: see its log.")
        else:
            if at < len(data) and not self._over():
                self._held += memoryview(data)[at:]
        self.broker.flush()

    def _consume(self, data: bytes) -> int:
        """Handle every complete frame; returns the position of the first incomplete one."""
        at, end = 0, len(data)
        while True:
            if end - at < 8:
                self._need = 8
                return at
            if self._over():
                return end
            if self._phase is _Phase.HEADER or (self._phase is _Phase.SASL and data[at : at + 4] == b"AMQP"):
                self._header(data[at : at + 8])
                at += 8
                continue
            size = int.from_bytes(data[at : at + 4], "big")
            if not 8 <= size <= FRAME_BYTES:
                raise AmqpError("amqp:connection:framing-error", f"a frame of {size} bytes: expected 8 to {FRAME_BYTES}")
            if end - at < size:
                self._need = size
                return at
            self._received = time.monotonic()  # only complete frames count
            self._frame(data, at, at + size)
            at += size

    def _over(self) -> bool:
        return self._phase is _Phase.CLOSED

    def _header(self, header: bytes) -> None:
        if header == frames.SASL and self._phase is _Phase.HEADER:
            self._phase = _Phase.SASL
            mechanisms = array(symbol(name) for name in ("ANONYMOUS", "MSSBCBS"))
            self.send(header, frames.frame(0, frames.SASL_MECHANISMS, mechanisms, kind=1))
        elif header == frames.AMQP:
            self._phase = _Phase.AMQP
            self.send(header)
        else:
            self.send(frames.SASL)  # the protocol's answer to an unknown header
            self._close()

    def _frame(self, data: bytes, at: int, end: int) -> None:
        body = at + 4 * data[at + 4]
        channel = data[at + 6] << 8 | data[at + 7]
        if body < at + 8 or body > end or data[at + 5] != (1 if self._phase is _Phase.SASL else 0):
            raise AmqpError("amqp:connection:framing-error", "a frame's header is wrong, or its type is not allowed now")
        if body == end:
            return  # a heartbeat
        code, fields, payload = frames.read(data, body, end)
        if self._phase is _Phase.SASL:
            self._sasl(code, fields)
        elif code == frames.OPEN:
            self._opened(fields)
        elif code == frames.CLOSE:
            self._open()
            self.frame(0, frames.CLOSE)
            self._close()
        elif self._phase is not _Phase.OPEN:
            raise AmqpError("amqp:not-allowed", "a connection begins with open")
        elif code == frames.BEGIN:
            self._begin(channel, fields)
        elif channel in self.sessions:
            self.sessions[channel].frame(code, fields, data, payload, end)
            if code == frames.END:
                self.sessions.pop(channel, None)
                self._ended.add(channel)
        elif channel not in self._ended:
            raise AmqpError("amqp:not-allowed", f"channel {channel} has no session")

    def _sasl(self, code: int, fields: frames.Fields) -> None:
        if code != frames.SASL_INIT:
            raise AmqpError("amqp:not-allowed", "SASL begins with init")
        known = fields.get(0) in ("ANONYMOUS", "MSSBCBS")
        self.send(frames.frame(0, frames.SASL_OUTCOME, ubyte(0 if known else 1), kind=1))
        if not known:
            self._close()

    def _opened(self, fields: frames.Fields) -> None:
        if self._phase is _Phase.OPEN:
            raise AmqpError("amqp:not-allowed", "a connection is opened once")
        fields.text(0)
        limit = self.broker.limits.connections
        if len(self.broker.connections) > limit:
            raise AmqpError("amqp:resource-limit-exceeded", f"The namespace has its {limit} connections already.")
        self.peer_frame = min(fields.number(2, FRAME_BYTES), FRAME_BYTES)
        if self.peer_frame < 512:
            raise AmqpError("amqp:invalid-field", "max-frame-size: expected at least 512")
        self._heartbeat_s = fields.number(4, 0) / 2000
        self._open()

    def _open(self) -> None:
        if self._phase is not _Phase.OPEN:
            self._phase = _Phase.OPEN
            self.frame(0, frames.OPEN, string(self.broker.name), NULL, uint(FRAME_BYTES), ushort(_CHANNELS), uint(_IDLE_MS))

    def _begin(self, channel: int, fields: frames.Fields) -> None:
        if channel in self.sessions or channel > _CHANNELS:
            raise AmqpError("amqp:not-allowed", f"channel {channel} has a session, or is above {_CHANNELS}")
        self._ended.discard(channel)
        self.sessions[channel] = Session(self, channel, fields)

    def _close(self) -> None:
        """Send the waiting bytes, then close."""
        self._drop_sessions()
        self.flush()
        self._phase = _Phase.CLOSED
        self._closed_at = time.monotonic()
        if self._transport:
            self._transport.close()

    def _drop_sessions(self) -> None:
        for session in self.sessions.values():
            session.drop()
        self.sessions.clear()
