"""The client's part of recovery: only the client starts the next incarnation of a rank that was lost or is slow."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import attrs

from fsd_core.channel import INCARNATIONS, News, NewsList
from fsd_core.client.stragglers import SLOW, Stragglers
from fsd_core.driver import Code, Provider, Resources
from fsd_core.errors import FsdError, RunFailed
from fsd_core.protocol.abort import tell_peers
from fsd_core.protocol.runconfig import RunConfig
from fsd_core.protocol.spawn import LaunchPayload, Spawner
from fsd_core.storage.keys import RunKeys
from fsd_core.storage.store import Store

__all__ = ["Restarts"]

log = logging.getLogger(__name__)


@attrs.define
class _Restart:
    lost: News
    incarnation: int  # the next one
    at: float  # when the client launched the next incarnation, in seconds since 1970


class Restarts:
    """Starts the later incarnations of the ranks of one run: incarnations 1 and 2.

    ``first``: a launch payload of the run, for any rank. ``tell`` sends an entry of the list of news to the queues of all ranks.
    """

    def __init__(
        self, news: NewsList, spawner: Spawner, first: LaunchPayload, tell: Callable[[News], None], stragglers: Stragglers
    ) -> None:
        self._news = news
        self._spawner = spawner
        self._first = first
        self._tell = tell
        self._stragglers = stragglers
        self._works: dict[int, set[int]] = {}  # by rank: the incarnations that may be at work; incarnation 0 without an entry
        self._died: dict[int, News] = {}  # by rank: the last death of one of these
        self._dead: set[tuple[int, int]] = set()  # all of them: ranks and incarnations
        self._newest: dict[int, int] = {}
        self._restarts: list[_Restart] = []

    def look(self, answered: bool) -> None:
        """Read the list of news, and start the next incarnation of each rank that was lost. Before the answer, also of each slow rank.

        ``answered``: the client has all outputs. Raises `RunFailed` with the reason of a death if no function of the rank works any more,
        and the rank has no incarnation left, or the run has answered, because then no rank has work left for a new function.
        """
        for payload in self._spawner.given_up():
            self._goes_on(payload, answered)
        for news in self._news.read():
            if news.kind == "lost":
                self._lost(news, answered)
            elif news.kind == "hello":
                self._took_place(news, answered)
            elif news.kind == "slow":
                self._stragglers.hear(news)
        for slow in () if answered else self._stragglers.found(self._newest):
            self._offer(News(kind="lost", rank=slow.rank, incarnation=slow.incarnation, layer=slow.layer, reason=SLOW))

    def _at_work(self, rank: int) -> set[int]:
        return self._works.setdefault(rank, {0})

    def newest(self, rank: int) -> int:
        """The newest incarnation of a rank."""
        return self._newest.get(rank, 0)

    def call_slow(self, news: News) -> None:
        """The client itself calls a rank slow."""
        self._stragglers.hear(news)

    def _took_place(self, hello: News, answered: bool) -> None:
        """An incarnation has started. If it was reported dead before, it stops, and the ones before it stop too. Raises as `look`."""
        rank, number, at_work = hello.rank, hello.incarnation, self._at_work(hello.rank)
        before = set() if self._stragglers.beside else {each for each in at_work if each < number}
        at_work -= before  # the slow one stops
        if (rank, number) in self._dead:
            if before and not at_work:
                self._replace(self._died[rank], answered)
        elif number >= max(self.newest(rank), 1):
            self._newest[rank] = number
            at_work.add(number)

    def _lost(self, lost: News, answered: bool) -> None:
        """Act on a death, unless it is known or nobody needs the function any more. Raises `RunFailed`: see `look`."""
        rank, newest, at_work = lost.rank, self.newest(lost.rank), self._at_work(lost.rank)
        if lost.incarnation not in at_work and lost.incarnation <= newest:  # a later one is of a launch that was given up
            return
        at_work.discard(lost.incarnation)
        self._died[rank] = lost
        self._dead.add((rank, lost.incarnation))
        second = lost.incarnation >= newest
        if second:
            self._newest[rank] = lost.incarnation
            if self._stragglers.beside:
                at_work.clear()  # the first function stops because of this entry, if it has not stopped yet
        if not at_work:
            self._replace(lost, answered)
        elif second and (answered or self._is_last(rank) or self._stragglers.has_ended(rank) or not self._offer(lost)):
            log.warning("rank %d: its second function died (%s): the first one goes on alone", rank, lost.reason)
            self._forget(rank, max(at_work))

    def _offer(self, slow: News) -> bool:
        """Start the next incarnation of a slow rank. If they share a queue, it takes the place of the slow one when it says hello.

        Returns `False` if the platform does not start another function, for instance because other runs use the quota. Then the slow
        function goes on alone.
        """
        payload = self._next(slow.rank)
        if offered := self._spawner.offer(payload):
            self._at_work(slow.rank).add(payload.incarnation)
            self._started(slow, payload)
        return offered

    def _goes_on(self, payload: LaunchPayload, answered: bool) -> None:
        """The second function of a slow rank did not start: the slow one goes on. Replaces it if it died meanwhile."""
        rank, at_work = payload.rank, self._at_work(payload.rank)
        self._newest[rank] = payload.incarnation - 1
        at_work.discard(payload.incarnation)
        self._forget(rank, max(at_work, default=payload.incarnation - 1))
        if not at_work and rank in self._died:
            self._replace(self._died[rank], answered)

    def _forget(self, rank: int, works: int) -> None:
        """Leave later incarnations than ``works`` out of `recovered`: they have replaced no function."""
        self._restarts = [each for each in self._restarts if each.lost.rank != rank or each.incarnation <= works]

    def _replace(self, lost: News, answered: bool) -> None:
        """Start the next incarnation of a rank of which no function works any more. Raises `RunFailed`: see `look`."""
        payload, last = self._next(lost.rank), self._is_last(lost.rank)
        if last and self._stragglers.has_ended(lost.rank):
            log.warning("rank %d: its last function died (%s), but an earlier one has done its work", lost.rank, lost.reason)
            return
        if answered or last:
            times = f" ({INCARNATIONS} functions of this rank were lost)" if last else ""
            raise RunFailed(Code.UNAVAILABLE, lost.reason + times, rank=lost.rank, layer=lost.layer)
        self._spawner.start([payload])
        self._at_work(lost.rank).add(payload.incarnation)
        self._started(lost, payload)
        try:
            self._tell(lost)
        except FsdError as error:  # the ranks hear of it when the new incarnation says hello
            log.warning("the ranks could not be informed: %s", error)

    def _is_last(self, rank: int) -> bool:
        """Whether no further incarnation of a rank may start."""
        return self.newest(rank) + 1 >= INCARNATIONS

    def _next(self, rank: int) -> LaunchPayload:
        return attrs.evolve(self._first, rank=rank, incarnation=self.newest(rank) + 1)

    def _started(self, news: News, payload: LaunchPayload) -> None:
        number = payload.incarnation
        log.warning("rank %d is lost or slow in layer %s (%s): starts its incarnation %d", news.rank, news.layer, news.reason, number)
        self._newest[news.rank] = number
        self._restarts.append(_Restart(news, number, time.time()))

    @staticmethod
    def of(first: LaunchPayload, config: RunConfig, provider: Provider, resources: Resources, store: Store, spawner: Spawner) -> Restarts:
        """Make the `Restarts` of a run. ``store``: reads the objects of the run."""

        def tell(news: News) -> None:
            if config.queued:
                me = config.member(first.epoch, -1, first.deadline)
                tell_peers(provider, resources, first.slot, me, [news], store.retry)

        keys = RunKeys(first.run)
        return Restarts(NewsList(store, keys), spawner, first, tell, Stragglers(store, keys, config))

    def left_over(self, missing: Collection[int], records: Sequence[Mapping[str, Any]] = ()) -> RunFailed | None:
        """The reason with which the client aborts functions that may still work after the answer is complete; `None` if there are none.

        ``missing``: the ranks without a record. ``records``: the others. If another incarnation wrote the record of a rank than the one
        that is at work, it ended before it knew of the hello of the latter, which works on.
        """
        works = self._works.copy()  # the thread that looks may add ranks
        late = self.ranks.intersection(missing) | {rank for rank, at_work in works.items() if len(at_work) > 1}
        late |= {each["rank"] for each in records if self._at_work(each["rank"]) - {each.get("incarnation", 0)}}
        reason = "it was started again, and is not needed any more"
        return RunFailed(Code.UNAVAILABLE, reason, rank=min(late)) if late else None

    @property
    def ranks(self) -> set[int]:
        """The ranks for which the client has launched another function."""
        return set(self._newest)

    def recovered(self, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The lost and slow ranks, in the order of the reports, as `Result.recovered`. ``records``: the records of the workers."""
        behind = {(record["rank"], record.get("incarnation", 0)): record.get("behind_s", 0.0) for record in records}
        found = []
        for number, each in enumerate(self._restarts):
            lost = each.lost
            again = next((later.at for later in self._restarts[number + 1 :] if later.lost.rank == lost.rank), time.time())
            seconds = behind.get((lost.rank, each.incarnation), 0.0) or again - each.at  # the latter if the next incarnation left no record
            found.append({"rank": lost.rank, "layer": lost.layer, "seconds": round(seconds, 3), "reason": lost.reason})
        return found
