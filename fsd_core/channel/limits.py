"""How long a rank waits for other ranks: until the run fails, and until it calls a rank slow. Both times follow the slowest step so far."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["MIN_LIMIT_S", "SLOWEST_FACTOR", "START_S", "Limit", "Patience", "StallLimit"]

START_S = 65.0  # seconds: `fsd_core.protocol.spawn.start_limit_s` for the default `InvokeLimits.start_s`, and 15 s more
MIN_LIMIT_S = 5.0
SLOWEST_FACTOR = 20.0
SLOW_FACTOR = 3.0
ROW_PART = 5  # a wait of at least 1 / `ROW_PART` of the shortest patience is added to the waits of the steps before


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
        """Raise the limit because a rank is replaced: its next incarnation has to start, and then to repeat the work of the run so far."""
        self._began = self._clock()
        self._start = self._first_start + self._began - self._first

    def step_ended(self, seconds: float) -> None:
        """Record the duration of a step. The limit grows if the step was the slowest so far."""
        self._slowest = max(seconds, self._slowest)


class StallLimit(Limit):
    """The stall limit: the longest time in seconds that a step may wait without the arrival of a payload before the run fails.

    It is `SLOWEST_FACTOR` times the duration of the slowest step so far, and at least `MIN_LIMIT_S`. A step lasts from the end of the step
    before it to its own end, with all waits.
    """

    def __init__(self, min_s: float = 0.0, clock: Callable[[], float] = time.monotonic, start_s: float = START_S) -> None:
        super().__init__(SLOWEST_FACTOR, max(MIN_LIMIT_S, min_s), start_s, clock)


class Patience(Limit):
    """How long a rank waits for a source before it calls the source slow: `SLOW_FACTOR` times the slowest step of this rank.

    Here, the duration of a step is the time in which this rank worked, without its waits. A source may be a little late in each of many
    short steps. So waits for the same source in consecutive steps are added up. A wait counts only if it is longer than `SLOW_FACTOR`
    times the slowest step, and longer than ``min_s`` / `ROW_PART`.
    """

    def __init__(self, min_s: float, start_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(SLOW_FACTOR, min_s, start_s, clock)
        self._row_min_s = min_s / ROW_PART
        self._row: tuple[int | None, float] = (None, 0.0)  # a source, and the sum of the waits for it in consecutive steps before this one
        self._late: tuple[int | None, float] = (None, 0.0)  # the last late source of this step, and the wait for it
        self._waited = 0.0  # since the last micro-batch ended

    def is_over(self, source: int, waited: float) -> bool:
        """Whether ``source`` is slow, after a wait of ``waited`` seconds in this step."""
        before = self._row[1] if source == self._row[0] else 0.0
        return waited > self._counts and waited + before > self.seconds

    @property
    def _counts(self) -> float:
        return max(self._row_min_s, self._factor * self._slowest)

    def arrived(self, source: int, waited: float) -> None:
        """Record that a payload of ``source`` came after a wait of ``waited`` seconds."""
        self._waited += waited
        if waited > self._counts:
            self._late = source, waited

    def step_began(self, own_s: float) -> None:
        """Record that this rank begins to wait in a step, after ``own_s`` seconds of work."""
        source, waited = self._late
        self._row = source, waited + (self._row[1] if source == self._row[0] else 0.0)
        self._late = None, 0.0
        self.step_ended(own_s)

    def batch_ended(self, seconds: float) -> None:
        """Record that this rank computed a micro-batch in ``seconds`` seconds, waits included. Without its waits it counts as a step."""
        self.step_ended(seconds - self._waited)
        self._waited = 0.0

    def work_ended(self, stages: int) -> None:
        """Record that this rank has computed everything, and now waits until the last of ``stages`` stages has finished.

        This raises the limit: later stages finish later, and a stage with more work than this one still has micro-batches to compute.
        """
        if stages > 1:
            self._min_s = max(stages * self._learned, (self._factor - 1) * (self._clock() - self._first))
