"""Reads a received message, and encodes the sections that precede it when it is delivered.

The bare message, from its properties to its footer, is stored as it was received and never encoded again. The broker writes the header and
the annotations. Source: OASIS, AMQP 1.0, part 3, section 3.2, and the sections that azure-servicebus reads.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from uuid import UUID

from fsd_conformance.emulators.service_bus.codec import (
    NULL,
    AmqpError,
    boolean,
    decode,
    described,
    encode,
    long,
    mapping,
    skip,
    symbol,
    timestamp,
    ubyte,
    uint,
)

__all__ = ["BATCH", "PLAIN", "Incoming", "batch", "incoming", "outgoing", "properties", "sections", "with_properties"]

PLAIN, BATCH = 0, 0x80013700  # message formats

_HEADER, _DELIVERY, _ANNOTATIONS, _PROPERTIES, _APPLICATION, _DATA, _FOOTER = 0x70, 0x71, 0x72, 0x73, 0x74, 0x75, 0x78
_NO_HEADER = NULL + NULL + NULL  # without durable, priority and time to live
_SCHEDULED, _VIA = "x-opt-scheduled-enqueue-time", "x-opt-via-partition-key"
_EXPIRY = 8  # the index of absolute-expiry-time in the properties
_LAST_MS = 253_402_300_799_999  # the end of the year 9999: clients support no later time
_BROKERS = {
    "x-opt-sequence-number",
    "x-opt-enqueued-time",
    "x-opt-locked-until",
    "x-opt-message-state",
    "x-opt-lock-token",
    "x-opt-enqueue-sequence-number",
}
_SEQUENCE = symbol("x-opt-sequence-number") + b"\x81"
_ENQUEUED = symbol("x-opt-enqueued-time") + b"\x83"
_LOCKED = symbol("x-opt-locked-until") + b"\x83"
_TOKEN = symbol("x-opt-lock-token") + b"\x98"
_HELD = b"\x00\x53\x71\xc1" + bytes((len(_TOKEN) + 17, 2)) + _TOKEN  # delivery annotations, up to the token
_FREE = b"\x00\x53\x71\xc1\x01\x00"  # an empty section, which the service sends too
_TWO = b"\x00\x53\x72\xc1" + bytes((len(_SEQUENCE) + len(_ENQUEUED) + 17, 4))
_THREE = b"\x00\x53\x72\xc1" + bytes((len(_SEQUENCE) + len(_ENQUEUED) + len(_LOCKED) + 25, 6))
_TIME = struct.Struct(">q").pack
_COUNT = struct.Struct(">I").pack


@dataclass(frozen=True, slots=True)
class Incoming:
    """A received message. ``ttl``: time to live in ms, None for the queue's default; ``scheduled``: ms since 1970, 0 for at once."""

    body: bytes  # the bare message
    header: bytes = _NO_HEADER  # durable, priority and time to live, encoded
    extra: tuple[tuple[bytes, bytes], ...] = ()  # the sender's own annotations, encoded
    delivery: tuple[tuple[bytes, bytes], ...] = ()  # the sender's own delivery annotations, encoded
    ttl: int | None = None
    scheduled: int = 0
    size: int = 0  # bytes of the message as it was sent


def sections(payload: bytes) -> Iterator[tuple[object, int, int, int]]:
    """Each section: its code, and the positions of its start, its value and its end. Raises `AmqpError` for other bytes."""
    at, end = 0, len(payload)
    while at < end:
        if payload[at]:
            raise AmqpError("amqp:decode-error", "a message has a section without a descriptor")
        code, value = decode(payload, at + 1, end)
        after = skip(payload, value, end)
        yield code, at, value, after
        at = after


def incoming(payload: bytes) -> Incoming:
    """Read an encoded message. Raises `AmqpError` for other bytes, or sections in the wrong order."""
    start, header, ttl, scheduled = 0, _NO_HEADER, None, 0
    extra: list[tuple[bytes, bytes]] = []
    delivery: list[tuple[bytes, bytes]] = []
    parts: list[bytes] = []  # parts of the bare message, if another section was inside it
    last = 0
    expires: object = None
    for code, at, value, after in sections(payload):
        if code == _DELIVERY:  # azure-servicebus puts it last
            if last > _ANNOTATIONS:
                parts.append(payload[start:at])
            start = after
            delivery += _theirs(payload, value, after)
            continue
        if not isinstance(code, int) or not _HEADER <= code <= _FOOTER or code < last:
            raise AmqpError("amqp:decode-error", f"a message has section {code!r:.40} in the wrong place")
        last = code
        if code <= _ANNOTATIONS:
            start = after
        if code == _HEADER:
            header, ttl = _header(payload, value, after)
        elif code == _ANNOTATIONS:
            extra, scheduled = _annotations(payload, value, after)
        elif code == _PROPERTIES:
            expires = _field(payload, value, after, _EXPIRY)
        elif code == _APPLICATION:
            for name, _, _, _ in _entries(payload, value, after):
                if not isinstance(name, str):  # azure-servicebus encodes a numeric key as a map
                    raise AmqpError("amqp:decode-error", f"the name of an application property, {name!r:.60}: expected text")
    if last < _PROPERTIES:
        raise AmqpError("amqp:decode-error", "a message has no body")
    if expires is not None and ttl is None:
        raise AmqpError("amqp:not-implemented", "absolute-expiry-time without a time to live is not implemented here")
    body = b"".join((*parts, payload[start:])) if parts else payload[start:]
    return Incoming(body, header, tuple(extra), tuple(delivery), ttl, scheduled, len(payload))


def batch(payload: bytes) -> list[Incoming]:
    """The messages of a batch, each encoded in a data section. Raises `AmqpError` where a section is not a message."""
    found = []
    for code, _, value, after in sections(payload):
        if code == _DATA:
            inner, _ = decode(payload, value, after)
            if not isinstance(inner, bytes):
                raise AmqpError("amqp:decode-error", "a batch has a data section without bytes")
            found.append(incoming(inner))
    if not found:
        raise AmqpError("amqp:decode-error", "a batch has no data section")
    return found


def _header(payload: bytes, at: int, end: int) -> tuple[bytes, int | None]:
    fields, _ = decode(payload, at, end)
    if not isinstance(fields, list):
        raise AmqpError("amqp:decode-error", "a message's header: expected a list")
    durable, priority, ttl = (*fields, None, None, None)[:3]
    for field, limit in ((priority, 1 << 8), (ttl, 1 << 32)):
        if field is not None and not (isinstance(field, int) and 0 <= field < limit):
            raise AmqpError("amqp:decode-error", "a message's header has a field of the wrong type")
    encoded = b"".join(
        (
            NULL if durable is None else boolean(bool(durable)),
            NULL if priority is None else ubyte(priority),
            NULL if ttl is None else uint(ttl),
        )
    )
    return encoded, ttl


def _annotations(payload: bytes, at: int, end: int) -> tuple[list[tuple[bytes, bytes]], int]:
    """The sender's own annotations, encoded, and the scheduled time."""
    values, _ = decode(payload, at, end)
    if not isinstance(values, dict):
        raise AmqpError("amqp:decode-error", "a message's annotations: expected a map")
    if values.get(_VIA) is not None:
        raise AmqpError("amqp:not-implemented", f"{_VIA}: sending via another queue is not implemented here")
    scheduled = values.get(_SCHEDULED) or 0
    if isinstance(scheduled, bool) or not isinstance(scheduled, int) or not 0 <= scheduled <= _LAST_MS:
        raise AmqpError("amqp:decode-error", f"{_SCHEDULED} = {scheduled!r:.40}: expected a time")
    return _theirs(payload, at, end), scheduled


def _theirs(payload: bytes, at: int, end: int) -> list[tuple[bytes, bytes]]:
    """The entries of a map of annotations, encoded, without the broker's names."""
    return [
        (payload[name_at:value_at], payload[value_at:after])
        for name, name_at, value_at, after in _entries(payload, at, end)
        if (name.decode("latin-1") if isinstance(name, bytes) else name) not in _BROKERS
    ]


def _field(payload: bytes, at: int, end: int, index: int) -> object:
    """One field of a list section; None where it has fewer."""
    fields, _ = decode(payload, at, end)
    return fields[index] if isinstance(fields, list) and index < len(fields) else None


def _entries(data: bytes, at: int, end: int) -> Iterator[tuple[object, int, int, int]]:
    """Each entry of a map: its key, and the positions of its start, its value and its end. Raises `AmqpError` for other values."""
    if data[at] not in (0xC1, 0xD1):
        raise AmqpError("amqp:decode-error", "a section: expected a map")
    at += 3 if data[at] == 0xC1 else 9
    while at < end:
        key, value_at = decode(data, at, end)
        after = skip(data, value_at, end)
        yield key, at, value_at, after
        at = after


def outgoing(
    message: Incoming, sequence: int, enqueued: int, deliveries: int, locked: int | None, state: int = 0, token: bytes = b""
) -> bytes:
    """The sections before ``message.body``. Times in ms since 1970; ``locked``: the end of the lock, None without a lock; ``token``: the
    token of the lock.
    """
    fields = message.header
    header = b"\x00\x53\x70\xc0" + bytes((len(fields) + 7, 5)) + fields + b"\x40\x70" + _COUNT(deliveries)
    if message.delivery:
        held = [(_TOKEN[:-1], _TOKEN[-1:] + UUID(bytes_le=token).bytes)] if token else []
        header += described(_DELIVERY, mapping([*message.delivery, *held]))
    else:
        header += _HELD + UUID(bytes_le=token).bytes if token else _FREE
    if message.extra or state:
        pairs = [*message.extra, (_SEQUENCE[:-1], long(sequence)), (_ENQUEUED[:-1], timestamp(enqueued))]
        if locked is not None:
            pairs.append((_LOCKED[:-1], timestamp(locked)))
        if state:
            pairs.append((symbol("x-opt-message-state"), b"\x71" + _COUNT(state)))
        return header + described(_ANNOTATIONS, mapping(pairs))
    if locked is None:
        return b"".join((header, _TWO, _SEQUENCE, _TIME(sequence), _ENQUEUED, _TIME(enqueued)))
    return b"".join((header, _THREE, _SEQUENCE, _TIME(sequence), _ENQUEUED, _TIME(enqueued), _LOCKED, _TIME(locked)))


def properties(body: bytes) -> tuple[list[object], dict[object, object]]:
    """The fields of a bare message's properties, and its application properties."""
    fields: list[object] = []
    application: dict[object, object] = {}
    for code, _, value, after in sections(body):
        if code in (_PROPERTIES, _APPLICATION):
            found, _ = decode(body, value, after)
            if code == _PROPERTIES and isinstance(found, list):
                fields = found
            elif code == _APPLICATION and isinstance(found, dict):
                application = found
    return fields, application


def with_properties(body: bytes, more: Mapping[str, str]) -> bytes:
    """A bare message with ``more`` application properties; the present ones keep the types of their values."""
    pairs: list[tuple[bytes, bytes]] = []
    start = end = 0  # of the section, or of the position where to insert it
    for code, at, value, after in sections(body):
        if code == _PROPERTIES:
            start = end = after
        elif code == _APPLICATION:
            start, end = at, after
            pairs += [
                (body[name_at:value_at], body[value_at:entry_end])
                for name, name_at, value_at, entry_end in _entries(body, value, after)
                if not isinstance(name, str) or name not in more
            ]
    pairs += [(encode(name), encode(value)) for name, value in more.items()]
    return body[:start] + described(_APPLICATION, mapping(pairs)) + body[end:]
