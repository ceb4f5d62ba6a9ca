"""AMQP 1.0's frames: encodes performatives, and reads the fields of received ones.

Source: OASIS, AMQP 1.0, parts 2 and 5. An encoded error always has all three fields, since azure-servicebus reads the third.
"""

from __future__ import annotations

import struct
from typing import Final

from fsd_conformance.emulators.service_bus.codec import (
    ACCEPTED,
    NULL,
    AmqpError,
    Described,
    boolean,
    decode,
    described,
    listed,
    mapping,
    string,
    symbol,
    uint,
)

__all__ = [
    "ACCEPTED_OUTCOME",
    "AMQP",
    "ATTACH",
    "BEGIN",
    "CLOSE",
    "DETACH",
    "DISPOSITION",
    "END",
    "FLOW",
    "MODIFIED",
    "OPEN",
    "REJECTED",
    "RELEASED",
    "SASL",
    "SASL_INIT",
    "SASL_MECHANISMS",
    "SASL_OUTCOME",
    "TRANSFER",
    "Fields",
    "continued",
    "disposition",
    "error",
    "frame",
    "read",
    "rejected",
    "transfer",
]

AMQP, SASL = b"AMQP\x00\x01\x00\x00", b"AMQP\x03\x01\x00\x00"  # protocol headers
OPEN: Final = 0x10
BEGIN: Final = 0x11
ATTACH: Final = 0x12
FLOW: Final = 0x13
TRANSFER: Final = 0x14
DISPOSITION: Final = 0x15
DETACH: Final = 0x16
END: Final = 0x17
CLOSE: Final = 0x18
SASL_MECHANISMS, SASL_INIT, SASL_OUTCOME = 0x40, 0x41, 0x44
ACCEPTED_OUTCOME, REJECTED, RELEASED, MODIFIED = 0x24, 0x25, 0x26, 0x27

_HEAD = struct.Struct(">IBBH").pack
_U32 = struct.Struct(">I").pack
_DELIVERY = struct.Struct(">BIBB").pack


class Fields:
    """The fields of a performative. A missing field counts as null."""

    __slots__ = ("_values", "_what")

    def __init__(self, what: int, values: list[object]) -> None:
        self._what = what
        self._values = values

    def get(self, index: int) -> object:
        """The field's value, of any type; None where it is null or missing."""
        return self._values[index] if index < len(self._values) else None

    def number(self, index: int, default: int | None = None) -> int:
        """A number from 0 to 2**32 - 1. Raises `AmqpError` for another value, and where it is missing without a ``default``."""
        value = self.get(index)
        if value is None and default is not None:
            return default
        if isinstance(value, int) and 0 <= value < 1 << 32:
            return value
        raise AmqpError("amqp:invalid-field", f"field {index} of performative 0x{self._what:02x} = {value!r:.60}: expected a number")

    def flag(self, index: int) -> bool:
        """A boolean, false by default."""
        return self.get(index) is True

    def text(self, index: int) -> str:
        """A text. Raises `AmqpError` for another value."""
        value = self.get(index)
        if isinstance(value, str):
            return value
        raise AmqpError("amqp:invalid-field", f"field {index} of performative 0x{self._what:02x} = {value!r:.60}: expected text")


def read(data: bytes, at: int, end: int) -> tuple[int, Fields, int]:
    """The code and fields of the performative at ``data[at]``, and the position of its payload. Raises `AmqpError` for other bytes."""
    value, after = decode(data, at, end)
    if not isinstance(value, Described) or not isinstance(value.descriptor, int) or not isinstance(value.value, list):
        raise AmqpError("amqp:decode-error", "a frame holds no performative")
    return value.descriptor, Fields(value.descriptor, value.value), after


def frame(channel: int, performative: int, *fields: bytes, kind: int = 0) -> bytes:
    """A frame without a payload. ``kind``: 0 for AMQP, 1 for SASL."""
    body = described(performative, listed(*fields))
    return _HEAD(8 + len(body), 2, kind, channel) + body


def transfer(channel: int, handle: bytes, delivery: int, tag: bytes, settled: bool, more: bool, payload: int) -> bytes:
    """The start of a delivery's first frame, up to its ``payload`` bytes. ``tag``: the token of a lock, or b""; ``handle``: encoded."""
    size = len(handle) + len(tag) + 11
    head = _HEAD(13 + size + payload, 2, 0, channel) + b"\x00\x53\x14\xc0" + bytes((size, 6)) + handle
    return head + _DELIVERY(0x70, delivery, 0xA0, len(tag)) + tag + b"\x43" + boolean(settled) + boolean(more)


def continued(channel: int, handle: bytes, more: bool, payload: int) -> bytes:
    """The start of a delivery's later frame, up to its ``payload`` bytes."""
    size = len(handle) + 6
    head = _HEAD(13 + size + payload, 2, 0, channel) + b"\x00\x53\x14\xc0" + bytes((size, 6)) + handle
    return head + NULL + NULL + NULL + NULL + boolean(more)


def disposition(channel: int, receiver: bool, delivery: int, state: bytes = ACCEPTED) -> bytes:
    """The frame that settles one delivery with the outcome ``state``."""
    fields = boolean(receiver) + b"\x70" + _U32(delivery) + NULL + b"\x41" + state
    if len(fields) > 200:
        return frame(channel, DISPOSITION, boolean(receiver), uint(delivery), NULL, b"\x41", state)
    return _HEAD(14 + len(fields), 2, 0, channel) + b"\x00\x53\x15\xc0" + bytes((len(fields) + 1, 5)) + fields


def error(condition: str, description: str) -> bytes:
    """An AMQP error."""
    return described(0x1D, listed(symbol(condition), string(description), mapping(())))


def rejected(condition: str, description: str) -> bytes:
    """The outcome "rejected" with its error."""
    return described(REJECTED, listed(error(condition, description)))
