"""Measures how many seconds a worker spends in each phase, as sums and as a timeline of at most `CELLS` cells.

If a machine has more workers than processors, a worker often waits for a processor that another worker uses. With this time, a phase would
seem to take as long as the phases of all workers together. So the time without a processor is counted separately, by the operating system.
A function in a cloud has its own processor: a phase takes there as long as it takes here without that time.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["CELLS", "PHASES", "Starved", "Stopwatch"]

PHASES = ("load", "compute", "send", "exchange", "other")  # all first letters differ, because the timeline contains only these
CELLS = 512  # the largest number of cells of a timeline
FIRST_CELL_S = 0.001


class Starved:
    """Counts the seconds in which the thread that made this object could run, but had no processor.

    Linux counts them in ``/proc/thread-self/schedstat`` (man 5 proc). On other systems the count is always 0.
    """

    def __init__(self) -> None:
        try:
            self._file = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._file = -1

    def __call__(self) -> float:
        """The seconds so far."""
        try:
            return int(os.pread(self._file, 64, 0).split()[1]) / 1e9
        except (OSError, ValueError, IndexError):  # also after `close`
            return 0.0

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


class Stopwatch:
    """Adds time to the phase that the last call of `enter` started. Starts in phase "other" when it is constructed. Not thread-safe.

    ``seconds`` has the seconds of each phase up to the last call of `enter`, without the time in which the thread had no processor.
    ``starved`` has the seconds without a processor in all phases together. The timeline includes them. ``clock`` returns the time in
    seconds, ``waits`` the seconds without a processor so far.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, waits: Callable[[], float] = lambda: 0.0) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.starved = 0.0
        self._clock = clock
        self._waits = waits
        self._waited = waits()
        self._began = self._entered = clock()
        self._phase = "other"
        self._cell_s = FIRST_CELL_S
        self._cells = np.zeros((CELLS, len(PHASES)))  # seconds of each phase in each cell

    def enter(self, phase: str) -> None:
        """Start ``phase``, one of `PHASES`, and end the current phase."""
        now, waited = self._clock(), self._waits()
        took = now - self._entered
        starved = min(took, max(0.0, waited - self._waited))  # two clocks: neither part may become negative
        self.seconds[self._phase] += took - starved
        self.starved += starved
        self._waited = waited
        self._mark(PHASES.index(self._phase), self._entered - self._began, now - self._began)
        self._phase, self._entered = phase, now

    def timeline(self) -> dict[str, Any]:
        """The phases over time, up to the last call of `enter`. The time is divided into cells of equal length.

        ``cell_s`` is the length of a cell in seconds. ``phases`` has one letter for each cell: the first letter of the phase that took
        the largest part of the cell.
        """
        used = min(CELLS, max(1, math.ceil(round((self._entered - self._began) / self._cell_s, 6))))
        longest = self._cells[:used].argmax(axis=1)
        return {"cell_s": self._cell_s, "phases": "".join(PHASES[each][0] for each in longest)}

    def _mark(self, phase: int, start: float, end: float) -> None:
        """Add the time from ``start`` to ``end`` (seconds) to its cells. While the cells end before ``end``, join each pair to one cell."""
        while end >= CELLS * self._cell_s:
            half = self._cells[::2] + self._cells[1::2]
            self._cells = np.concatenate([half, np.zeros_like(half)])
            self._cell_s *= 2
        first, last = int(start / self._cell_s), int(end / self._cell_s)
        if first == last:
            self._cells[first, phase] += end - start
            return
        self._cells[first, phase] += (first + 1) * self._cell_s - start
        self._cells[first + 1 : last, phase] += self._cell_s
        self._cells[last, phase] += end - last * self._cell_s
