"""A store that records what is uploaded."""

from __future__ import annotations

from fsd_core.storage.store import Store

__all__ = ["Recording"]


class Recording(Store):
    """The store, which appends the key of each put to ``uploaded``."""

    def __init__(self, store: Store, uploaded: list[str]) -> None:
        super().__init__(store.driver, store.retry)
        self._uploaded = uploaded

    def put(self, key: str, body: bytes) -> None:
        super().put(key, body)
        self._uploaded.append(key)
