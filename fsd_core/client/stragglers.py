"""Finds the slow ranks that get a second function: the ranks that others wait for and that do not wait for another rank themselves."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from fsd_core.channel import INCARNATIONS, News
from fsd_core.common.sealed import Damaged
from fsd_core.protocol import records
from fsd_core.protocol.runconfig import RunConfig
from fsd_core.storage.keys import RunKeys
from fsd_core.storage.store import Store

__all__ = ["SLOW", "Stragglers", "obstacle"]

log = logging.getLogger(__name__)

SLOW = "slow"  # the reason in `Result.recovered`
# A rank that is called slow but waits itself reads the call within these seconds, and calls the rank slow that it waits for. It reads the
# call in a message of its queue, or in the list of news, which it reads every 2 to 3 s.
GATHER_S, GATHER_LIST_S = 1.5, 4.0


def obstacle(workers: int, concurrency: int | None) -> str | None:
    """Why a run cannot replace a slow rank, and what to do; `None` if it can. ``concurrency``: how many functions may run at once."""
    if workers == 1:
        return "the run has one worker, so no other one notices that it is slow; expected at least 2"
    if concurrency is not None and concurrency <= workers:
        more = f"expected at least {workers + 1}; use fewer workers or raise this quota"
        return f"the platform may run {concurrency} functions at once, and the run has {workers} workers, so none is left: {more}"
    return None


class Stragglers:
    """Gathers which ranks are called slow, and by which ranks, until no further rank is called slow for `GATHER_S` or `GATHER_LIST_S`."""

    def __init__(self, store: Store, keys: RunKeys, config: RunConfig) -> None:
        self.beside = not config.queued  # a second function works beside the first one, because they share no queue
        self._store = store
        self._keys = keys
        self._config = config
        self._since = 0.0
        self._slow: dict[int, News] = {}
        self._waiting: set[int | None] = set()  # the ranks that call others slow
        self._replaced: set[int] = set()

    def hear(self, news: News) -> None:
        """Take in a report in which the rank ``news.by`` calls the rank ``news.rank`` slow."""
        if news.rank not in self._slow:
            self._since = time.monotonic()
        self._slow[news.rank] = news
        self._waiting.add(news.by)

    def found(self, newest: Mapping[int, int]) -> list[News]:
        """The slow ranks, once every rank had the time to report for which rank it waits. Before that, an empty list.

        ``newest``: the newest incarnation by rank, without ranks that have only incarnation 0. Returns each rank at most once in a run: if
        its second function is slow too, the rank has more work than others. Leaves out ranks that have not started, because the spawner
        starts them again, and ranks that have written their records, because they have sent everything. With queues, also leaves out a rank
        if one of its sources has ended and has not kept its payloads for a second function.
        """
        if not self._slow or time.monotonic() - self._since < (GATHER_LIST_S if self.beside else GATHER_S):
            return []
        slow, waiting, self._slow, self._waiting = self._slow, self._waiting, {}, set()
        found = [news for rank, news in sorted(slow.items()) if rank not in waiting and self._at_work(news, newest.get(rank, 0))]
        self._replaced.update(news.rank for news in found)
        return found

    def has_ended(self, rank: int) -> bool:
        """Whether a function of the rank has written its record: then the rank has sent everything."""
        return self._store.find(self._keys.record(rank), 0, 1) is not None

    def _at_work(self, news: News, newest: int) -> bool:
        rank, incarnation = news.rank, news.incarnation
        if rank in self._replaced or incarnation != newest or incarnation + 1 >= INCARNATIONS:
            return False
        if self._store.find(self._keys.claim(rank, incarnation)) is None:
            return False
        if self.has_ended(rank):
            return False
        return self.beside or all(self._serves(source) for source in self._config.sources(rank))

    def _serves(self, source: int) -> bool:
        """Whether a rank still works, or has left the payloads that it sent in its record."""
        try:
            record = records.find(self._store, self._keys.record(source))
        except Damaged:
            return False
        return record is None or bool(record["left"])
