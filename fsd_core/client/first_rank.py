"""How the client notices that rank 0 is slow or hangs at the end of a run, when no other rank waits for it any more."""

from __future__ import annotations

import time

import attrs

from fsd_core.channel import News
from fsd_core.client.recovery import Restarts
from fsd_core.driver import Code
from fsd_core.errors import RunFailed
from fsd_core.protocol.runconfig import RunConfig
from fsd_core.storage.keys import RunKeys
from fsd_core.storage.store import Store

__all__ = ["FirstRank"]

SLOW_LAYERS = 3.0  # rank 0 is slow once it has worked for so many layers longer than all others


@attrs.define(eq=False)
class FirstRank:
    """Rank 0 of a run, from the end of all other ranks on. ``restarts``: see `Follower`. A run of one rank has no others."""

    _store: Store
    _keys: RunKeys
    _config: RunConfig
    _restarts: Restarts | None
    _others: list[int] = attrs.field(init=False)  # that may not have ended
    _since: float | None = attrs.field(default=None, init=False)  # when rank 0 was alone, on the monotonic clock
    _took: float = attrs.field(default=0.0, init=False)  # seconds of the run until then
    _incarnation: int = attrs.field(default=0, init=False)
    _called: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._others = list(range(1, self._config.workers))

    @property
    def _more_s(self) -> float:
        """How much longer rank 0 may need than the others, because a replica of one rank may have one more micro-batch than others."""
        mine, others = (len(self._config.batches_of(rank)) for rank in (0, self._config.workers - 1))
        return self._took * (mine / others - 1) if self._config.parts == 1 else 0.0

    def look(self) -> None:
        """Look whether another rank still works. Makes one request, and a further one for each rank that has ended."""
        if not self._others:
            return
        while self._others and self._has_ended(self._others[-1]):  # the last stage ends last: before that, one request for each look
            self._others.pop()
        if not self._others:
            self._since, self._took = time.monotonic(), time.time() - self._config.started

    def check(self) -> None:
        """Call rank 0 slow if it works for long after all others have ended, and the run replaces slow ranks.

        Raises `RunFailed` (`Code.DEADLINE`) if it works longer than ranks may take to start, and than the run had taken until then.
        Makes no request before that.
        """
        if self._since is None:
            return
        newest = 0 if self._restarts is None else self._restarts.newest(0)
        if newest > self._incarnation:
            self._since = time.monotonic()
        self._incarnation = newest  # a launch that is given up, and repeated later, starts the same incarnation again
        waited = time.monotonic() - self._since
        slow_s = max(self._config.slow_s, SLOW_LAYERS * self._took / self._config.layers) + self._more_s
        if self._config.slow_s and not self._called and waited > slow_s and self._restarts is not None:
            self._called = True
            self._restarts.call_slow(News(kind="slow", rank=0, incarnation=newest))
        if waited > max(self._config.start_s, self._took) + self._more_s:
            if self._has_ended(0):  # the client still reads its output
                self._since = None
                return
            reason = f"rank 0 still works {waited:.0f} s after all other ranks have ended, longer than the stall limit"
            raise RunFailed(Code.DEADLINE, reason, rank=0)

    def _has_ended(self, rank: int) -> bool:
        return self._store.find(self._keys.record(rank), 0, 1) is not None
