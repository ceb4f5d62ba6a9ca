"""The object that a worker leaves when it ends: its record as sealed JSON, in one line; after that what it kept for lost ranks."""

from __future__ import annotations

from typing import Any

from fsd_core.common.sealed import unseal
from fsd_core.storage.store import Store

__all__ = ["HEAD_BYTES", "find", "join", "kept"]

HEAD_BYTES = 16 << 10  # more than the records of almost all workers; what was kept may be much larger
LONG_BYTES = 1 << 20  # more than that of a worker which keeps debug lines
_END = b"\n"  # JSON has no line break


def join(record: bytes, kept: bytes | None) -> bytes:
    """The object of a ``record`` and what the worker ``kept``."""
    return record + _END + kept if kept else record


def find(store: Store, key: str) -> dict[str, Any] | None:
    """The record at ``key`` without what was kept, or `None` if it does not exist. Raises `Damaged` if it is damaged."""
    data = store.find(key, 0, HEAD_BYTES)
    if data is None:
        return None
    for size, end in ((HEAD_BYTES, LONG_BYTES), (LONG_BYTES, None)):
        if len(data) == size and _END not in data:
            data += store.get(key, size, end)
    return unseal(data.partition(_END)[0], key)


def kept(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Record and kept bytes of a whole object. Raises `Damaged` if the record is damaged."""
    record, _, rest = data.partition(_END)
    return unseal(record, "a record"), rest
