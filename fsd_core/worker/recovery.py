"""What one worker does about lost and slow ranks.

It reads the news of the run, and adds the ranks that it calls slow. A new incarnation requests the payloads that were sent before it
started.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from concurrent.futures import Executor
from contextlib import suppress

from fsd_core.channel import SLOWEST_FACTOR, Aborted, Channel, News, NewsList, Patience, SlowSources, Superseded
from fsd_core.driver import Code
from fsd_core.errors import FsdError, RunFailed
from fsd_core.protocol.runconfig import RunConfig
from fsd_core.storage.keys import RunKeys
from fsd_core.storage.store import Store
from fsd_core.worker.left import Left

__all__ = ["Recovery"]

log = logging.getLogger(__name__)
STARTS = 3.0  # another rank may take this many times as long to start as this rank, before this rank calls it slow
ASKS = 2  # requests to a source that has ended, in one step, before the rank fails because the source left no payload in its record


class Recovery:
    """The recovery of one incarnation of a rank. ``pool`` reads records. If ``on`` is false, the run does not replace lost ranks.

    ``beside``: a newer incarnation may work at the same time as this one, because they share no queue. Then this incarnation stops for a
    newer one only if one of them was reported dead, not if it was called slow.
    """

    def __init__(self, store: Store, keys: RunKeys, rank: int, incarnation: int, pool: Executor) -> None:
        self.on = False
        self.beside = False
        self._store = store
        self._keys = keys
        self._rank = rank
        self._incarnation = incarnation
        self._pool = pool
        self._news = NewsList(store, keys)
        self._channel: Channel | None = None
        self._looks = 0
        self._lost: News | None = None  # see `_followed`
        self._said = False  # this incarnation has said hello
        self._slow: set[tuple[int, int]] = set()  # the ranks that a rank has called slow, with their incarnations
        self._layer: int | None = None  # the layer in which this worker is
        self._left: Left | None = None  # what the sources left that have ended
        self._asked = (0, 0)  # a step, and how often this rank asked in it
        self.behind_s = 0.0  # seconds from the entry ``_lost`` until this incarnation reached the layer that the entry names

    def look(self) -> None:
        """Read the news, and act on them. Makes one request if there are none. Thread-safe.

        Raises `Superseded` if this rank has a newer incarnation, and the errors of `Channel.heed`.
        """
        for news in self._news.read() if self.on else ():
            mine = news.rank == self._rank
            if mine and news.newest > self._incarnation:
                if self.beside and news.kind != "lost":
                    continue
                if self.beside or news.replaces(self._incarnation):
                    why = f"incarnation {news.newest} of this rank has replaced this worker"
                    raise Superseded(Code.PRECONDITION, why, rank=self._rank)
            if news.kind == "slow":
                self._slow.add((news.rank, news.incarnation))
            if mine and news.kind in ("lost", "slow") and news.incarnation < self._incarnation:
                self._lost = self._followed(news)
            if self._channel is not None:
                self._channel.heed(news)

    def _followed(self, news: News) -> News:
        """Of ``news`` and the entry before it, the one that calls the incarnation lost or slow whose work this one repeats.

        This is not always the incarnation before: a slow one may work until its death, after its later functions have died.
        """
        last = self._lost
        return news if last is None or (not self._said and (news.kind == "lost" or news.incarnation > last.incarnation)) else last

    def over(self) -> bool:
        """Check in the object store whether the run is over: its error exists, or its configuration is gone.

        With recovery, each call reads the news and checks one of these two keys, in turns. Without recovery, it checks both.
        """
        self._looks += 1
        self.look()
        failed, ended = (not self.on or self._looks % 2 == turn for turn in (1, 0))
        return (failed and self._store.find(self._keys.error) is not None) or (ended and self._store.find(self._keys.config) is None)

    def begin(self, channel: Channel | None, workers: int, sources: Collection[int]) -> None:
        """Connect to ``channel``. A new incarnation reads the earlier news, sends a "hello" to all other ranks, and reads records."""
        self._channel = channel
        if channel is not None:
            self._left = Left(self._store, self._keys, channel, self._pool)
        if not self._incarnation or not self.on:
            return
        self.look()
        if self._left is not None:
            self._say_hello(0, [rank for rank in range(workers) if rank != self._rank])
            self._left.look(sources)

    def ask(self, step: int, sources: Sequence[int]) -> None:
        """Request the payloads from ``step`` on again from ``sources``, which have not sent anything for a while.

        Raises `RunFailed` if this is a new incarnation, and a source has ended and left no payloads in its record.
        """
        self._asked = (step, self._asked[1] + 1 if self._asked[0] == step else 1)
        self._say_hello(step, sources)
        assert self._channel is not None
        assert self._left is not None
        self._left.look(sources)
        read = set(self._left.read)  # before the question what is missing: a record may have been read meanwhile
        mailbox = self._channel.mailbox  # a payload whose notice has arrived is missing, but not gone
        gone = sorted(source for source in read.intersection(mailbox.missing(step)) if mailbox.first_missing(source) == step)
        if gone and self._asked[1] >= ASKS and self._incarnation:  # else a message may only be late
            why = self._lost.reason if self._lost else "for an unknown reason"
            reason = f"this rank was lost ({why}), and rank {gone[0]} has ended without keeping its payloads: the budget is exceeded"
            raise RunFailed(Code.UNAVAILABLE, reason, rank=self._rank)

    def slow_sources(self, config: RunConfig, started_s: float, slack_s: float) -> SlowSources | None:
        """The object by which this rank finds slow sources; `None` in a run that does not replace them.

        ``started_s``: the seconds from the start of the run until this rank opens its channel. ``slack_s``: see `ChannelConfig`.
        """
        if not config.slow_s:
            return None
        stages_s = SLOWEST_FACTOR * config.stage_s * (1 + config.stage(self._rank))  # the stages before this one compute first
        slow_s = config.slow_s + slack_s
        return SlowSources(Patience(slow_s, max(slow_s, STARTS * started_s) + stages_s), self.call_slow)

    def call_slow(self, step: int, sources: Sequence[int], again: bool) -> None:
        """Call ``sources``, which this rank waits for in ``step``, slow in the news. Leaves out a source that another rank has called slow.

        With ``again``, the source is not left out: the client then knows that this rank only waits too. Calls no source slow if the news
        say that a rank was replaced meanwhile, because its next incarnation needs time.
        """
        channel = self._channel
        assert channel is not None
        before = sum(channel.incarnations.values())
        self.look()
        if sum(channel.incarnations.values()) > before:
            return
        for source in sources:
            incarnation = channel.incarnations.get(source, 0)
            if again or (source, incarnation) not in self._slow:
                log.warning("waits too long for rank %d in step %d: calls it slow", source, step)
                news = News(kind="slow", rank=source, incarnation=incarnation, step=step, layer=self._layer, by=self._rank)
                self._news.add(news)
                channel.say(news, [source])

    def _say_hello(self, step: int, ranks: Sequence[int]) -> None:
        assert self._channel is not None
        self._said = True
        hello = News(kind="hello", rank=self._rank, incarnation=self._incarnation, step=step)
        self._news.add(hello)
        self._channel.say(hello, ranks)

    def reached(self, layer: int | None) -> None:
        """Record that this worker begins ``layer`` (1-based), or has computed all its layers (`None`)."""
        self._layer = layer
        if self._lost is not None and not self.behind_s and (layer is None or layer >= (self._lost.layer or 1)):
            self.behind_s = max(0.001, time.time() - self._lost.at)
            log.info("is in the layer in which its predecessor was lost, %.2f s after the report", self.behind_s)

    def has_successor(self, error: RunFailed, store: Store) -> bool:
        """Whether a newer incarnation has replaced this worker, which fails with ``error``: then it must not end the run.

        ``store`` reads the news.
        """
        if isinstance(error, Superseded | Aborted) or not self.on:
            return isinstance(error, Superseded)
        with suppress(FsdError):
            mine = [news for news in NewsList(store, self._keys).read() if news.rank == self._rank]
            return any(news.newest > self._incarnation if self.beside else news.replaces(self._incarnation) for news in mine)
        return False
