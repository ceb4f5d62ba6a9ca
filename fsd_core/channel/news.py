"""The news of a run: a numbered list in the object store, in which every process finds the ranks that were lost, replaced, or are slow.

A process adds an entry by a conditional create under the next free number, so all processes read the same entries in the same order. A copy
of an entry may also arrive as a message.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Literal

import attrs

from fsd_core.common.fields import choice, integer, key, nullable, number, read, text
from fsd_core.common.sealed import Damaged, seal, unseal
from fsd_core.driver import Code
from fsd_core.errors import InputError, RunFailed
from fsd_core.storage.keys import RunKeys
from fsd_core.storage.store import Store

__all__ = ["INCARNATIONS", "News", "NewsList"]

INCARNATIONS = 3  # of a rank, in one run
_KINDS = ("lost", "hello", "slow", "lacks")


def _nonce() -> str:
    return os.urandom(8).hex()


@attrs.frozen(kw_only=True)
class News:
    """One entry.

    - "lost": ``incarnation`` of ``rank`` died at the time ``at``, in ``layer`` (1-based, `None` if unknown), for ``reason``.
    - "hello": ``incarnation`` of ``rank`` has started, and lacks the payloads of its sources from ``step`` on.
    - "slow": rank ``by`` waits in ``step`` for ``incarnation`` of ``rank``, and calls it slow.
    - "lacks": ``incarnation`` of ``rank`` has all payloads before ``step`` that the receiver of this entry sends. Never in the list, only
      a message to one rank.

    ``nonce`` differs between any two entries. ``at``: seconds since 1970.
    """

    kind: Literal["lost", "hello", "slow", "lacks"] = key(choice(*_KINDS))
    rank: int = key(integer(0))
    incarnation: int = key(integer(0, INCARNATIONS))
    step: int = key(integer(0), default=0)
    layer: int | None = key(nullable(integer(0)), default=None)
    reason: str = key(text(empty=True), default="")
    by: int | None = key(nullable(integer(0)), default=None)
    at: float = key(number(), default=attrs.Factory(time.time))
    nonce: str = key(text(), default=attrs.Factory(_nonce))

    @property
    def newest(self) -> int:
        """The newest incarnation of ``rank`` by this entry. If the entry is "lost", it may not have started yet."""
        return self.incarnation + (self.kind == "lost")

    def replaces(self, incarnation: int) -> bool:
        """Whether this entry means that ``incarnation`` of ``rank`` has lost its place to a later one.

        The loss of a later incarnation does not mean that: a later one takes the place when it says hello, and may be lost before that.
        """
        return self.incarnation == incarnation if self.kind == "lost" else self.incarnation > incarnation

    def pack(self) -> bytes:
        """The entry as sealed JSON."""
        return seal(attrs.asdict(self))

    @staticmethod
    def unpack(data: bytes) -> News:
        """Decode what `pack` made. Raises `RunFailed` (`Code.INVALID`) if it is damaged."""
        try:
            found = unseal(data, "the news of the run")
            return read(News, found, "the news of the run: ", known=found.keys())
        except (Damaged, InputError) as error:
            raise RunFailed(Code.INVALID, str(error)) from error


class NewsList:
    """The list of a run, as one process reads it. Thread-safe."""

    def __init__(self, store: Store, keys: RunKeys) -> None:
        self._store = store
        self._keys = keys
        self._next = 0
        self._lock = threading.Lock()

    def read(self) -> list[News]:
        """The entries since the last call. Makes one request if there are none."""
        found = []
        with self._lock:
            while (data := self._store.find(self._keys.news(self._next))) is not None:
                self._next += 1
                found.append(News.unpack(data))
        return found

    def add(self, news: News) -> None:
        """Add an entry at the end of the list. `read` returns it too."""
        number, body = self._next, news.pack()
        while not self._store.create(self._keys.news(number), body):
            number += 1
