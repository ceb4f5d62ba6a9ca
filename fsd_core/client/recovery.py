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
        self._beside: set[int] = set()  # ranks of which two functions may be at work
        self._alone: dict[int, News] = {}  # the deaths of those whose second function has to do the work alone
        self._newest: dict[int, int] = {}
        self._restarts: list[_Restart] = []

    def look(self, answered: bool) -> None:
        """Read the list of news, and start the next incarnation of each rank that was lost. Before the answer, also of each slow rank.

        ``answered``: the client has all outputs. Raises `RunFailed` with the reason of a death if the rank has no incarnation left, or if
        the run has answered, because then no rank has work left for a new function.
        """
        for payload in self._spawner.given_up():
            if died := self._goes_on(payload):
                self._replace(died, answered)
        for news in self._news.read():
            newest = self.newest(news.rank)
            if news.kind == "lost" and news.incarnation >= newest:  # a launch that was given up may run late
                self._replace(news, answered)
            elif news.kind == "lost" and news.newest == newest and news.rank in self._beside:
                self._alone[news.rank] = news
            elif news.kind == "hello" and news.incarnation >= max(newest, 1):
                self._newest[news.rank] = news.incarnation
                if not self._stragglers.beside:
                    self._beside.discard(news.rank)  # the slow one stops
            elif news.kind == "slow":
                self._stragglers.hear(news)
        for slow in () if answered else self._stragglers.found(self._newest):
            self._add(News(kind="lost", rank=slow.rank, incarnation=slow.incarnation, layer=slow.layer, reason=SLOW))

    def newest(self, rank: int) -> int:
        """The newest incarnation of a rank."""
        return self._newest.get(rank, 0)

    def call_slow(self, news: News) -> None:
        """The client itself calls a rank slow."""
        self._stragglers.hear(news)

    def _add(self, slow: News) -> None:
        """Start the next incarnation of a slow rank. If they share a queue, it takes the place of the slow one when it says hello.

        The slow function goes on alone if the platform does not start another function, for instance because other runs use the quota.
        """
        if self._spawner.offer(self._payload(slow)):
            self._beside.add(slow.rank)
            self._started(slow)

    def _goes_on(self, payload: LaunchPayload) -> News | None:
        """The second function of a slow rank did not start. Returns the death of the slow one if it died meanwhile."""
        rank = payload.rank
        self._newest[rank] = payload.incarnation - 1
        self._restarts = [each for each in self._restarts if (each.lost.rank, each.lost.newest) != (rank, payload.incarnation)]
        return self._alone.pop(rank, None)

    def _replace(self, lost: News, answered: bool) -> None:
        """Start the next incarnation of a rank that was lost. Raises `RunFailed`: see `look`."""
        if answered or lost.newest >= INCARNATIONS:
            times = f" ({INCARNATIONS} functions of this rank were lost)" if lost.newest >= INCARNATIONS else ""
            raise RunFailed(Code.UNAVAILABLE, lost.reason + times, rank=lost.rank, layer=lost.layer)
        self._spawner.start([self._payload(lost)])
        self._started(lost)
        try:
            self._tell(lost)
        except FsdError as error:  # the ranks hear of it when the new incarnation says hello
            log.warning("the ranks could not be informed: %s", error)

    def _payload(self, news: News) -> LaunchPayload:
        return attrs.evolve(self._first, rank=news.rank, incarnation=news.newest)

    def _started(self, news: News) -> None:
        log.warning("rank %d is lost or slow in layer %s (%s): starts its incarnation %d", news.rank, news.layer, news.reason, news.newest)
        self._newest[news.rank] = news.newest
        self._restarts.append(_Restart(news, time.time()))

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

        ``missing``: the ranks without a record. ``records``: the others. If an earlier incarnation wrote the record of a rank, it ended
        before it received the hello of the newest one, which works on.
        """
        late = self.ranks.intersection(missing) | self._beside
        late |= {record["rank"] for record in records if record.get("incarnation", 0) < self.newest(record["rank"])}
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
            seconds = behind.get((lost.rank, lost.newest), 0.0) or again - each.at  # the latter if the next incarnation left no record
            found.append({"rank": lost.rank, "layer": lost.layer, "seconds": round(seconds, 3), "reason": lost.reason})
        return found
