"""How the client follows a run, simulated request by request: it looks for outputs and records, while a second thread looks for failures.

Arrays have the shape (runs,), (runs, ranks), or (runs, replicas, ranks of a replica). Times are seconds since the client began to write the
configuration of the run.
"""

from __future__ import annotations

from itertools import pairwise

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.plan.launching import Begun
from fsd_core.plan.sample import Sampler
from fsd_core.protocol.spawn import FEW

__all__ = ["Ended", "collected", "written_pieces"]

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
# Of the client: those of `fsd_core.client.follow` and `fsd_core.client.collect`.
FIRST_POLL_S, LAST_POLL_S, POLLS_LATE, ERROR_POLL_S, CHECK_S, AT_ONCE, STORE_CHECKS = 0.02, 1.0, 40, 0.25, 1.0, 8, 5
POOL = 8  # requests of the client at once: `fsd_core.client.job.POOL_THREADS`
PIECES = 64  # objects of the output that are simulated
LOOKS = 80  # looks for failures that are simulated one by one
AHEAD = 16  # looks for which is drawn at once
MANY = 16  # draws, of which the mean is what many requests take


@attrs.frozen(eq=False)
class Ended:
    """``answer``: when the client has the output. ``gets``, ``lists``: what it requests in vain until then and until the last record."""

    answer: Array
    gets: Array
    lists: Array


@attrs.define(eq=False)
class _Looks:
    """The gets of the client in its main thread. ``now``: (runs,). ``vain``: (runs,) gets of what did not exist yet."""

    sampler: Sampler
    shared: Array
    began: Array
    now: Array
    vain: Array
    _ahead: Array = attrs.field(factory=lambda: np.zeros((0, 0)), init=False)  # seconds of the next gets of one object
    _used: int = attrs.field(default=0, init=False)

    def get(self, active: Flags, visible: Array, asked: Flags) -> Flags:
        """Get some objects at once, in the ``active`` runs. ``visible``: (runs, objects) when they exist; ``asked``: which are wanted.

        Returns which were there: a get sees what exists in the middle of its time.
        """
        self.settle()
        count = asked.sum(axis=1)
        took = self.sampler.draw("get", self.shared, worst_of=np.maximum(1.0, np.minimum(count, POOL)))
        took = took * np.maximum(1, -(-count // POOL))
        there: Flags = asked & active[:, None] & (visible <= (self.now + took / 2)[:, None])
        self.now = np.where(active, self.now + took, self.now)
        self.vain += np.where(active, count - there.sum(axis=1), 0)
        return there

    def get_one(self, active: Flags, visible: Array) -> Flags:
        """As `get`, of one object in each run. ``visible``: (runs,) when it exists. Returns in which runs it was there."""
        took = self._next()
        there: Flags = visible <= self.now + took / 2
        there &= active
        np.add(self.now, took, out=self.now, where=active)
        self.vain += active ^ there
        return there

    def _next(self) -> Array:
        """The seconds of the next get of one object."""
        if self._used == len(self._ahead):
            self._ahead, self._used = self.sampler.ahead("get", self.shared, AHEAD), 0
        found: Array = self._ahead[self._used]
        self._used += 1
        return found

    def settle(self) -> None:
        """Give back what was drawn for later gets of one object, before anything else is drawn."""
        if self._used < len(self._ahead):
            self.sampler.give_back("get", self.shared, len(self._ahead) - self._used)
        self._ahead, self._used = self._ahead[:0], 0

    def pause(self, active: Flags) -> None:
        """The pause between two looks: it grows with the time since the launch."""
        wait = np.minimum(np.maximum((self.now - self.began) / POLLS_LATE, FIRST_POLL_S), LAST_POLL_S)
        self.now = np.where(active, self.now + wait, self.now)

    def skip(self, active: Flags, until: Array, get: Array) -> None:
        """Make the looks in vain of a long run at once: those with the longest pause, up to some seconds before ``until``."""
        longest = active & (self.now - self.began >= LAST_POLL_S * POLLS_LATE)
        if longest.any():
            count = np.where(longest, np.floor(np.maximum(0.0, until - self.now - 2 * LAST_POLL_S) / (LAST_POLL_S + get)), 0.0)
            self.now, self.vain = self.now + count * (LAST_POLL_S + get), self.vain + count


def written_pieces(outputs: Array, writers: Flags, batches: int, replicas: int) -> Array:
    """(runs, pieces): when the objects of the output are written, in the order in which the client gets them. Of more than `PIECES`
    objects, neighbours are one piece: when the last of them is written.

    ``outputs``: (runs, simulated replicas, ranks of a replica), which stand for so many ``replicas``. ``writers``: of these ranks.
    """
    ranks = np.flatnonzero(writers)

    def written(first: int, last: int) -> Array:
        some = np.arange(first, last)
        replica = some // len(ranks) % replicas * outputs.shape[1] // replicas
        return outputs[:, replica, ranks[some % len(ranks)]]

    objects = batches * len(ranks)
    if objects <= PIECES:
        return written(0, objects)
    ends = (np.arange(PIECES + 1) * objects // PIECES).tolist()
    # After one object of each rank, the same ranks follow again.
    return np.stack([written(first, min(last, first + replicas * len(ranks))).max(axis=1) for first, last in pairwise(ends)], axis=1)


def collected(sampler: Sampler, begun: Begun, pieces: Array, objects: int, records: Array, ranks: int, output_bytes: float) -> Ended:
    """How the client follows a run. ``pieces``: see `written_pieces`, of so many ``objects``; ``records``: (runs, replicas, ranks of a
    replica) when the records of the simulated ranks are written, which stand for so many ``ranks``.
    """
    client = sampler.client()
    get = sampler.draw("get", client[:, None], (sampler.runs, MANY)).mean(axis=1)
    looks = _Looks(sampler, client, begun.followed, begun.followed.copy(), np.zeros(sampler.runs))
    _outputs(looks, pieces, objects, get)
    answer = looks.now = looks.now + sampler.transfer("get", "read", output_bytes)
    before = looks.vain.copy()
    _records(looks, records.reshape(sampler.runs, -1))
    gets = before + (looks.vain - before) * (ranks * sampler.runs / records.size)
    more, lists = _failures(sampler, client, begun, answer, looks.now, get)
    return Ended(answer, gets + more, lists)


def _outputs(looks: _Looks, pieces: Array, objects: int, get: Array) -> None:
    """Until all pieces are there: each look gets the first one that is missing, then several at once until one is missing."""
    missing = np.ones(pieces.shape, bool)
    active, first, runs = _any(missing), np.zeros(len(missing), int), np.arange(len(missing))
    until = pieces[runs, first]  # when the first one that is missing exists
    while active.any():
        looks.skip(active, until, get)
        going = looks.get_one(active, until)
        if going.any():
            missing[runs[going], first[going]] = False
            going &= _any(missing)
            while going.any():
                window = missing & (np.cumsum(missing, axis=1) <= AT_ONCE)
                there = looks.get(going, pieces, window)
                missing &= ~there
                going &= (there == window).all(axis=1) & _any(missing)
            active, first = _any(missing), missing.argmax(axis=1)
            until = pieces[runs, first]
        looks.pause(active)
    looks.settle()
    waves = (objects - pieces.shape[1]) / AT_ONCE
    looks.now = looks.now + waves * looks.sampler.draw("get", looks.shared, worst_of=float(AT_ONCE))


def _records(looks: _Looks, records: Array) -> None:
    """Until all records are there: each look asks for all that are missing."""
    missing = np.ones(records.shape, bool)
    active = _any(missing)
    while active.any():
        missing &= ~looks.get(active, records, missing)
        active = _any(missing)
        looks.pause(active)


def _failures(sampler: Sampler, client: Array, begun: Begun, answer: Array, ended: Array, get: Array) -> tuple[Array, Array]:
    """Gets and lists of the thread that looks for failures, and every second for claims that are missing, and for progress."""
    now, due = begun.followed.copy(), begun.followed + CHECK_S
    gets, lists, checks = np.zeros(sampler.runs), np.zeros(sampler.runs), np.zeros(sampler.runs, int)
    waiting, some = np.ones(begun.ready.shape, bool), True
    for _ in range(LOOKS):
        active = now < ended
        if not active.any():
            return gets, lists
        took = sampler.draw("get", client)
        gets += active
        now += took
        check = active & (now >= due)
        if check.any():
            count = np.where(check, waiting.sum(axis=1), 0) if some else np.zeros(len(now), int)
            listed = count > FEW
            checks += check
            asks = np.where(listed, 0, count) + (check & (now < answer)) + (check & (checks % STORE_CHECKS == 0))
            gets += asks
            now += asks * get
            if listed.any():
                lists += listed
                now += np.where(listed, sampler.draw("list", client), 0.0)
            else:
                sampler.unused("list", client.shape)
            if some:
                waiting &= ~(check[:, None] & (begun.ready <= now[:, None]))
                some = bool(waiting.any())
            due = np.where(check, now + CHECK_S, due)
        else:
            sampler.unused("list", client.shape)
        now += ERROR_POLL_S
    # From then on all ranks have their claims: so many looks, and a check after every few of them.
    left, every = np.maximum(0.0, ended - now), ERROR_POLL_S + get
    several = CHECK_S + get + every / 2
    gets += left / every + np.maximum(0.0, answer - now) / several + left / several / STORE_CHECKS
    return gets, lists


def _any(flags: Flags) -> Flags:
    """(runs,): whether any of the flags (runs, objects) is set."""
    return np.asarray(flags.any(axis=1))
