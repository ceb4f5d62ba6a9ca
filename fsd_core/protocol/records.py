"""The object that a worker writes when it ends: its record as sealed JSON in one line, then the payloads that it keeps for lost ranks."""

from __future__ import annotations

from typing import Any

from fsd_core.common.sealed import unseal
from fsd_core.storage.store import Store

__all__ = ["HEAD_BYTES", "find", "join", "kept", "size"]

HEAD_BYTES = 16 << 10  # more than the records of almost all workers; the kept payloads may be much larger
LONG_BYTES = 1 << 20  # more than the record of a worker that keeps debug lines
_END = b"\n"  # JSON has no line break


def join(record: bytes, kept: bytes | None) -> bytes:
    """The content of the object: ``record``, then the payloads that the worker ``kept``, as `Kept.end` made them."""
    return record + _END + kept if kept else record


def size(record: bytes, kept: bytes | None) -> int:
    """The length of what `join` returns."""
    return len(record) + (len(_END) + len(kept) if kept else 0)


def find(store: Store, key: str) -> dict[str, Any] | None:
    """The record at ``key`` without the kept payloads, or `None` if it does not exist. Raises `Damaged` if it is damaged."""
    data = store.find(key, 0, HEAD_BYTES)
    if data is None:
        return None
    for size, end in ((HEAD_BYTES, LONG_BYTES), (LONG_BYTES, None)):
        if len(data) == size and _END not in data:
            data += store.get(key, size, end)
    return unseal(data.partition(_END)[0], key)


def kept(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The record and the bytes of the kept payloads, from the whole object. Raises `Damaged` if the record is damaged."""
    record, _, rest = data.partition(_END)
    return unseal(record, "a record"), rest
