"""Small JSON objects with a checksum, for the object store: a reader detects damage and never uses damaged values.

A sealed object is valid JSON. It starts with a prefix of fixed length that holds the key ``checksum``. The value of this key is the CRC-32
of all bytes after the prefix, in eight lower-case hexadecimal digits.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from typing import Any

__all__ = ["Damaged", "seal", "unseal"]

_KEY = "checksum"
_PREFIX_BYTES = len(b'{"checksum": "01234567"')


class Damaged(ValueError):
    """The bytes are not a sealed object, or have changed since `seal` made them. The message names the object and the damage."""


def seal(fields: Mapping[str, Any]) -> bytes:
    """Encode the fields as one sealed JSON object.

    Raises `ValueError` if a field is named ``checksum`` or contains nan or infinity, and `TypeError` if JSON cannot represent a value.
    """
    if _KEY in fields:
        raise ValueError(f"a field is named {_KEY!r}: expected another name, since the seal uses this one")
    text = json.dumps(dict(fields), allow_nan=False).encode()
    rest = (b", " if fields else b"") + text[1:]
    return _prefix(rest) + rest


def unseal(data: bytes, what: str) -> dict[str, Any]:
    """Decode an object that `seal` made. Raises `Damaged` if any byte has changed; the message starts with ``what``, the object's name."""
    if len(data) <= _PREFIX_BYTES:
        raise Damaged(f"{what} is damaged: it has {len(data)} bytes, expected more than {_PREFIX_BYTES}")
    found, rest = data[:_PREFIX_BYTES], data[_PREFIX_BYTES:]
    expected = _prefix(rest)
    if found != expected:
        raise Damaged(f"{what} is damaged: it begins with {found!r}, expected {expected!r} (the checksum of the rest)")
    try:
        fields = json.loads(data, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{what} is damaged: it is not JSON: {error}") from error
    if not isinstance(fields, dict):  # cannot happen, since the prefix starts an object
        raise Damaged(f"{what} is damaged: it is JSON of type {type(fields).__name__}, expected an object")
    del fields[_KEY]
    return fields


def _finite(text: str) -> float:
    """The value of a JSON number with a fraction or an exponent. Raises `ValueError` on NaN and infinity, which JSON cannot hold."""
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text}: expected a finite number")
    return value


def _prefix(rest: bytes) -> bytes:
    return b'{"%b": "%08x"' % (_KEY.encode(), zlib.crc32(rest))
