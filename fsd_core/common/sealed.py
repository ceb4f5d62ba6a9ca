"""Small JSON objects that are stored: sealed with a checksum, so that damage is found and never read as other values.

A sealed object is JSON for every reader. Its first key is ``checksum``, in a prefix of fixed length: the CRC-32 (eight
lower-case hexadecimal digits) of every byte that follows the prefix.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

__all__ = ["Damaged", "seal", "unseal"]

_KEY = "checksum"
_PREFIX_BYTES = len(b'{"checksum": "01234567"')


class Damaged(ValueError):
    """Stored bytes are not what was stored. The text names the object and says how it is damaged."""


def seal(fields: Mapping[str, Any]) -> bytes:
    """The fields as one sealed JSON object.

    Raises `ValueError` where a field is named ``checksum`` or holds a number that JSON has not (nan, infinity), and `TypeError` where a
    value is of a type that JSON has not.
    """
    if _KEY in fields:
        raise ValueError(f"a field named {_KEY!r}: that name is kept for the seal")
    text = json.dumps(dict(fields), allow_nan=False).encode()
    rest = (b", " if fields else b"") + text[1:]
    return _prefix(rest) + rest


def unseal(data: bytes, what: str) -> dict[str, Any]:
    """The fields that `seal` was given. Raises `Damaged`, whose text starts with ``what``, unless every byte is as it was."""
    if len(data) <= _PREFIX_BYTES:
        raise Damaged(f"{what} is damaged: it has {len(data)} bytes, expected more than {_PREFIX_BYTES}")
    found, rest = data[:_PREFIX_BYTES], data[_PREFIX_BYTES:]
    expected = _prefix(rest)
    if found != expected:
        raise Damaged(f"{what} is damaged: it begins with {found!r}, expected {expected!r} (the checksum of the rest)")
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{what} is damaged: it is not JSON: {error}") from error
    if not isinstance(fields, dict):  # it begins as an object does, so that only a reader's defect leads here
        raise Damaged(f"{what} is damaged: it is JSON of type {type(fields).__name__}, expected an object")
    del fields[_KEY]
    return fields


def _prefix(rest: bytes) -> bytes:
    return b'{"%b": "%08x"' % (_KEY.encode(), zlib.crc32(rest))
