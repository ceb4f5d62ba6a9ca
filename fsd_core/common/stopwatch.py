"""What a worker spends its time on: one phase at a time, as sums and as a timeline whose size has a bound."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["CELLS", "PHASES", "Stopwatch"]

PHASES = ("load", "compute", "send", "exchange", "other")  # each with a first letter of its own: the timeline's alphabet
CELLS = 512  # of a timeline at most
FIRST_CELL_S = 0.001


class Stopwatch:
    """Runs from its making on; all time belongs to the phase that was entered last, at first ``other``. For one thread.

    ``seconds`` has the sum of each phase up to the last `enter`. ``clock``: in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._clock = clock
        self._began = self._entered = clock()
        self._phase = "other"
        self._cell_s = FIRST_CELL_S
        self._cells = np.zeros((CELLS, len(PHASES)))  # seconds of each phase in each cell

    def enter(self, phase: str) -> None:
        """From now on it is ``phase``, one of `PHASES`."""
        now = self._clock()
        self.seconds[self._phase] += now - self._entered
        self._mark(PHASES.index(self._phase), self._entered - self._began, now - self._began)
        self._phase, self._entered = phase, now

    def timeline(self) -> dict[str, Any]:
        """``cell_s``, and in ``phases`` a letter a cell up to the last `enter`: the first of the phase that had most of it."""
        used = min(CELLS, max(1, math.ceil(round((self._entered - self._began) / self._cell_s, 6))))
        most = self._cells[:used].argmax(axis=1)
        return {"cell_s": self._cell_s, "phases": "".join(PHASES[each][0] for each in most)}

    def _mark(self, phase: int, start: float, end: float) -> None:
        """Add a span; where the cells do not reach so far, each two become one."""
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
