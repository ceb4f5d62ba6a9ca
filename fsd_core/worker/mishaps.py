"""What a run's faults do to its workers: one is killed, hangs, or computes slowly, from a layer on that the faults name."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable

from fsd_core.common.stopwatch import Stopwatch
from fsd_core.wrappers.faults import Faults

__all__ = ["Mishaps"]

log = logging.getLogger(__name__)
LOOK_S = 0.05  # a worker that hangs looks this often whether its run is over


class Mishaps:
    """The mishaps of one worker. ``over`` returns true once its run is over: a worker that hangs then goes on, and stops.

    They hit only the first incarnation of a rank; a kill, and a hang, once.
    """

    def __init__(self, faults: Faults, rank: int, incarnation: int, watch: Stopwatch, over: Callable[[], bool]) -> None:
        first = incarnation == 0
        self._kill = min((layer for victim, layer in faults.kill if victim == rank and first), default=None)
        self._hang = min((layer for victim, layer in faults.hang if victim == rank and first), default=None)
        self._factor = dict(faults.slow).get(rank, 1.0) if first else 1.0
        self._watch = watch
        self._over = over
        self._computed = 0.0  # seconds of computing for which this worker has already waited

    def begin(self, layer: int) -> None:
        """Call this before each layer (1-based) that the worker computes."""
        self._slow()
        if self._kill is not None and layer >= self._kill:
            log.warning("is killed before layer %d, as the faults say", layer)
            os.kill(os.getpid(), signal.SIGKILL)
        if self._hang is not None and layer >= self._hang:
            self._hang = None
            log.warning("hangs before layer %d, as the faults say", layer)
            while not self._over():
                time.sleep(LOOK_S)

    def end(self) -> None:
        """Call this after the last layer. A kill or a hang whose layer the worker does not have happens now."""
        self.begin(max(self._kill or 0, self._hang or 0))

    def _slow(self) -> None:
        """Wait, so that computing took ``factor`` times as long as it did."""
        computed = self._watch.seconds["compute"]
        took, self._computed = computed - self._computed, computed
        if self._factor > 1 and took > 0:
            time.sleep((self._factor - 1) * took)
