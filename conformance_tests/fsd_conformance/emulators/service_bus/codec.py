"""AMQP 1.0's types on the wire: encodes values, and decodes bytes. The decoder checks every bound before it allocates memory.

Encoders return bytes, which the caller joins. A decoded number does not keep its AMQP type: a ulong and a long both become a Python int.
Source: OASIS, AMQP 1.0, part 1, section 1.6.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

__all__ = [
    "ACCEPTED",
    "FALSE",
    "NULL",
    "TRUE",
    "AmqpError",
    "Described",
    "Symbol",
    "array",
    "binary",
    "boolean",
    "decode",
    "described",
    "encode",
    "listed",
    "long",
    "mapping",
    "skip",
    "string",
    "symbol",
    "timestamp",
    "ubyte",
    "uint",
    "ulong",
    "ushort",
]

_MAX_DEPTH = 32  # the deepest nesting of lists; clients use up to 6
_U32 = struct.Struct(">I")

NULL, TRUE, FALSE = b"\x40", b"\x41", b"\x42"
ACCEPTED = b"\x00\x53\x24\x45"  # the outcome: a described empty list


class AmqpError(Exception):
    """An error for the peer: a ``condition`` of AMQP or Service Bus, and a description."""

    def __init__(self, condition: str, description: str) -> None:
        super().__init__(f"{condition}: {description}")
        self.condition = condition
        self.description = description


class Symbol(str):
    """A symbol of AMQP: ASCII text."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Described:
    """A value with its descriptor, which identifies the type."""

    descriptor: object
    value: object


# Constructors of fixed width, with their reader and their number of bytes.
_FIXED = {
    code: (struct.Struct(form).unpack_from, struct.calcsize(form))
    for code, form in {
        0x50: ">B", 0x60: ">H", 0x70: ">I", 0x52: ">B", 0x80: ">Q", 0x53: ">B", 0x51: ">b", 0x61: ">h", 0x71: ">i", 0x54: ">b",
        0x81: ">q", 0x55: ">b", 0x72: ">f", 0x82: ">d", 0x83: ">q", 0x74: ">4s", 0x84: ">8s", 0x94: ">16s",
    }.items()
}  # fmt: skip
_NOTHING = {0x40: None, 0x41: True, 0x42: False, 0x43: 0, 0x44: 0}  # constructors without bytes after them


def decode(data: bytes, at: int, end: int) -> tuple[object, int]:
    """The value at ``data[at]``, and the position of the next one. Does not read the bytes from ``end`` on.

    Raises `AmqpError` amqp:decode-error where the bytes are not a value, or too few.
    """
    try:
        value, after = _value(data, at, end, 0)
    except (IndexError, struct.error, TypeError, UnicodeDecodeError):  # TypeError: a map's key is not hashable
        raise _wrong("a value is cut off or invalid") from None
    if after > end:
        raise _wrong("a value is longer than its container")
    return value, after


def skip(data: bytes, at: int, end: int) -> int:
    """The position after the value at ``data[at]``, of which only the size is read. Raises like `decode`."""
    try:
        code = data[at]
        at += 1
        while code == 0:
            if data[at] == 0:
                raise _wrong("a descriptor with a descriptor")
            at = skip(data, at, end)
            code = data[at]
            at += 1
        width = code >> 4
        if width in (0xA, 0xC, 0xE):
            at += 1 + data[at]
        elif width in (0xB, 0xD, 0xF):
            at += 4 + _U32.unpack_from(data, at)[0]
        elif 5 <= width <= 9:
            at += 1 << (width - 5)
        elif width != 4:
            raise _wrong(f"constructor 0x{code:02x}")
    except (IndexError, struct.error):
        raise _wrong("a value is cut off") from None
    if at > end:
        raise _wrong("a value is longer than its container")
    return at


def _wrong(what: str) -> AmqpError:
    return AmqpError("amqp:decode-error", what)


def _value(data: bytes, at: int, end: int, depth: int) -> tuple[object, int]:
    code = data[at]
    if code:
        return _constructed(data, at + 1, end, code, depth)
    if depth > _MAX_DEPTH:
        raise _wrong("values nested too deeply")
    descriptor, at = _value(data, at + 1, end, depth + 1)
    value, at = _value(data, at, end, depth + 1)
    return Described(descriptor, value), at


def _constructed(data: bytes, at: int, end: int, code: int, depth: int) -> tuple[object, int]:
    fixed = _FIXED.get(code)
    if fixed is not None:
        return fixed[0](data, at)[0], at + fixed[1]
    if code in _NOTHING:
        return _NOTHING[code], at
    width = code >> 4
    if width in (0xA, 0xB):
        return _text(data, at, end, code)
    if width in (0xC, 0xD):
        return _compound(data, at, end, code, depth)
    if code in (0xE0, 0xF0):
        return _array(data, at, end, code, depth)
    if code == 0x45:
        return [], at
    if code == 0x56:
        return data[at] == 1, at + 1
    if code == 0x73:
        return data[at : at + 4].decode("utf-32-be"), at + 4
    if code == 0x98:
        return UUID(bytes=_whole(data, at, at + 16, end)), at + 16
    raise _wrong(f"constructor 0x{code:02x}")


def _whole(data: bytes, at: int, after: int, end: int) -> bytes:
    if after > end:
        raise _wrong("a value is longer than its container")
    return data[at:after]


def _text(data: bytes, at: int, end: int, code: int) -> tuple[object, int]:
    if code < 0xB0:
        size, at = data[at], at + 1
    else:
        size, at = _U32.unpack_from(data, at)[0], at + 4
    raw = _whole(data, at, at + size, end)
    kind = code & 0xF
    if kind == 0:
        return raw, at + size
    if kind == 1:
        return raw.decode(), at + size
    if kind == 3:
        return Symbol(raw.decode("ascii")), at + size
    raise _wrong(f"constructor 0x{code:02x}")


def _measure(data: bytes, at: int, end: int, wide: bool) -> tuple[int, int, int]:
    """The number of a compound's values, and the positions of their start and end."""
    if wide:
        size, count, first, after = _U32.unpack_from(data, at)[0], _U32.unpack_from(data, at + 4)[0], at + 8, at + 4
    else:
        size, count, first, after = data[at], data[at + 1], at + 2, at + 1
    after += size
    if after > end or count > size:  # each value has at least one byte
        raise _wrong("a list, map or array is longer than its container")
    return count, first, after


def _compound(data: bytes, at: int, end: int, code: int, depth: int) -> tuple[object, int]:
    if depth > _MAX_DEPTH:
        raise _wrong("values nested too deeply")
    count, at, after = _measure(data, at, end, code >= 0xD0)
    values = []
    for _ in range(count):
        value, at = _value(data, at, after, depth + 1)
        values.append(value)
    if at != after:
        raise _wrong("a list or map has another size than its header")
    kind = code & 0xF
    if kind == 0:
        return values, after
    if kind != 1 or count % 2:
        raise _wrong("a map needs a value for each key")
    pairs = iter(values)
    return dict(zip(pairs, pairs, strict=True)), after


def _array(data: bytes, at: int, end: int, code: int, depth: int) -> tuple[object, int]:
    if depth > _MAX_DEPTH:
        raise _wrong("values nested too deeply")
    count, at, after = _measure(data, at, end, code == 0xF0)
    inner = data[at]
    at += 1
    descriptor: object = None
    described = inner == 0
    if described:
        descriptor, at = _value(data, at, after, depth + 1)
        inner = data[at]
        at += 1
    values: list[object] = []
    for _ in range(count):
        value, at = _constructed(data, at, after, inner, depth + 1)
        values.append(Described(descriptor, value) if described else value)
    if at != after:
        raise _wrong("an array has another size than its header")
    return values, after


def boolean(value: bool) -> bytes:
    """A boolean."""
    return TRUE if value else FALSE


def ubyte(value: int) -> bytes:
    """An unsigned integer of 8 bits."""
    return bytes((0x50, value))


def ushort(value: int) -> bytes:
    """An unsigned integer of 16 bits."""
    return b"\x60" + value.to_bytes(2, "big")


def uint(value: int) -> bytes:
    """An unsigned integer of 32 bits, in the fewest bytes."""
    if value < 256:
        return bytes((0x52, value)) if value else b"\x43"
    return b"\x70" + _U32.pack(value)


def ulong(value: int) -> bytes:
    """An unsigned integer of 64 bits, in the fewest bytes."""
    if value < 256:
        return bytes((0x53, value)) if value else b"\x44"
    return b"\x80" + value.to_bytes(8, "big")


def long(value: int) -> bytes:
    """A signed integer of 64 bits."""
    return b"\x81" + value.to_bytes(8, "big", signed=True)


def timestamp(milliseconds: int) -> bytes:
    """A time in milliseconds since 1970."""
    return b"\x83" + milliseconds.to_bytes(8, "big", signed=True)


def binary(value: bytes) -> bytes:
    """Bytes."""
    return _sized(0xA0, value)


def string(value: str) -> bytes:
    """Text."""
    return _sized(0xA1, value.encode())


def symbol(value: str) -> bytes:
    """A symbol."""
    return _sized(0xA3, value.encode("ascii"))


def _sized(code: int, raw: bytes) -> bytes:
    return bytes((code, len(raw))) + raw if len(raw) < 256 else bytes((code | 0x10,)) + _U32.pack(len(raw)) + raw


def listed(*values: bytes) -> bytes:
    """A list of encoded values."""
    return _gathered(0xC0, len(values), b"".join(values)) if values else b"\x45"


def mapping(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A map of encoded keys and values."""
    flat = [part for pair in pairs for part in pair]
    return _gathered(0xC1, len(flat), b"".join(flat))


def _gathered(code: int, count: int, body: bytes) -> bytes:
    if len(body) < 255 and count < 256:
        return bytes((code, len(body) + 1, count)) + body
    return bytes((code | 0x10,)) + _U32.pack(len(body) + 4) + _U32.pack(count) + body


def array(values: Iterable[bytes]) -> bytes:
    """An array of encoded values. Raises `ValueError` unless all have the same constructor."""
    given = list(values)
    constructor = given[0][:1] if given else NULL
    if any(value[:1] != constructor for value in given):
        raise ValueError("an array's values: expected one constructor for all")
    body = constructor + b"".join(value[1:] for value in given)
    return b"\xf0" + _U32.pack(len(body) + 4) + _U32.pack(len(given)) + body


def described(code: int, body: bytes) -> bytes:
    """An encoded value with the numeric descriptor ``code``."""
    return b"\x00" + ulong(code) + body


def encode(value: object) -> bytes:
    """Encode any value that `decode` returns; integers become long, or ulong above its range. Raises `TypeError` for other types."""
    match value:
        case None:
            return NULL
        case bool():
            return boolean(value)
        case int():
            return long(value) if value < 1 << 63 else ulong(value)
        case float():
            return b"\x82" + struct.pack(">d", value)
        case Symbol():
            return symbol(value)
        case str():
            return string(value)
        case bytes():
            return binary(value)
        case UUID():
            return b"\x98" + value.bytes
        case list():
            return listed(*map(encode, value))
        case dict():
            return mapping((encode(key), encode(entry)) for key, entry in value.items())
        case Described():
            return b"\x00" + encode(value.descriptor) + encode(value.value)
    raise TypeError(f"{type(value).__name__}: expected a type of AMQP")
