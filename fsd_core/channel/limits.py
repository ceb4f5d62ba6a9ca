"""How long a rank waits for other ranks: until the run fails, and until it calls a rank slow. Both times follow the slowest step so far."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["MIN_LIMIT_S", "SLOWEST_FACTOR", "START_S", "Limit", "Patience", "StallLimit"]

START_S = 65.0  # seconds: `fsd_core.protocol.spawn.start_limit_s` for the default `InvokeLimits.start_s`, and 15 s more
MIN_LIMIT_S = 5.0
SLOWEST_FACTOR = 20.0
SLOW_FACTOR = 3.0
ROW_PART = 5  # a wait of at least this part of the shortest patience counts together with those of the steps before


class Limit:
    """A time in seconds: ``factor`` times the duration of the slowest step so far, and at least ``min_s``.

    In the first ``start_s`` seconds after the construction of this object it is also at least ``start_s``, because a rank that starts
    late delays the ranks that wait for it, and these delay others in later steps. ``clock`` returns the time in seconds.
    """

    def __init__(self, factor: float, min_s: float, start_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._factor = factor
        self._min_s = min_s
        self._slowest = 0.0
        self._clock = clock
        self._first = self._began = clock()
        self._start = self._first_start = start_s

    @property
    def seconds(self) -> float:
        """The current limit in seconds."""
        learned = self._learned
        return max(learned, self._start) if self._clock() < self._began + self._start else learned

    @property
    def _learned(self) -> float:
        return max(self._min_s, self._factor * self._slowest)

    def restart(self) -> None:
        """Begin anew, because a rank was lost: its next incarnation may take as long to start, and then as long as the run has taken."""
        self._began = self._clock()
        self._start = self._first_start + self._began - self._first

    def step_ended(self, seconds: float) -> None:
        """Record the duration of a step. The limit grows if the step was the slowest so far."""
        self._slowest = max(seconds, self._slowest)


class StallLimit(Limit):
    """The stall limit: the longest time in seconds that a step may wait without the arrival of a payload before the run fails.

    It is at least `MIN_LIMIT_S`, and `SLOWEST_FACTOR` times the slowest step, from the end of the step before, waits included.
    """

    def __init__(self, min_s: float = 0.0, clock: Callable[[], float] = time.monotonic, start_s: float = START_S) -> None:
        super().__init__(SLOWEST_FACTOR, max(MIN_LIMIT_S, min_s), start_s, clock)


class Patience(Limit):
    """How long a rank waits for another one before it calls that one slow: `SLOW_FACTOR` times the slowest step of this rank.

    Of a step counts what this rank did itself, without its waits. Waits for the same source in a row of steps count together, because a
    rank may be slow in each of many short steps: those that are longer than `SLOW_FACTOR` times the slowest step, and than a part of
    ``min_s``.
    """

    def __init__(self, min_s: float, start_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(SLOW_FACTOR, min_s, start_s, clock)
        self._row_min_s = min_s / ROW_PART
        self._row: tuple[int | None, float] = (None, 0.0)  # a source, and the seconds for which this rank waited for it in a row of steps
        self._late: tuple[int | None, float] = (None, 0.0)  # the same of this step
        self._waited = 0.0  # since the last micro-batch ended

    def is_over(self, source: int, waited: float) -> bool:
        """Whether ``source`` is slow, after a wait of so many seconds in this step."""
        before = self._row[1] if source == self._row[0] else 0.0
        return waited > self._counts and waited + before > self.seconds

    @property
    def _counts(self) -> float:
        return max(self._row_min_s, self._factor * self._slowest)

    def arrived(self, source: int, waited: float) -> None:
        """A payload of ``source`` came after a wait of so many seconds."""
        self._waited += waited
        if waited > self._counts:
            self._late = source, waited

    def step_began(self, own_s: float) -> None:
        """This rank begins to wait in a step, for which it worked ``own_s`` seconds."""
        source, waited = self._late
        self._row = source, waited + (self._row[1] if source == self._row[0] else 0.0)
        self._late = None, 0.0
        self.step_ended(own_s)

    def batch_ended(self, seconds: float) -> None:
        """This rank computed a micro-batch in so many seconds, waits included: another stage may take as long from one send to the next."""
        self.step_ended(seconds - self._waited)
        self._waited = 0.0

    def work_ended(self, stages: int) -> None:
        """This rank has computed all, and now waits until the last of ``stages`` stages has.

        Each stage after the first one ends later, and one with more work has micro-batches left.
        """
        if stages > 1:
            self._min_s = max(stages * self._learned, (self._factor - 1) * (self._clock() - self._first))
