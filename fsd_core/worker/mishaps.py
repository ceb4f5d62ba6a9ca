"""The faults of workers: ``kill`` ends a worker before a layer, ``hang`` makes it wait there, ``slow`` makes it compute slowly."""

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
LOOK_S = 0.05  # a worker that hangs checks once in this time whether its run is over


class Mishaps:
    """The faults of one worker. Only the first incarnation of a rank has them, a kill and a hang only once.

    ``over`` returns true once the run is over: a worker that hangs then continues, and stops like any other.
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
        """Call this after the last layer. If the worker has not reached the layer of its kill or hang, this call kills or hangs it."""
        self.begin(max(self._kill or 0, self._hang or 0))

    def _slow(self) -> None:
        """Wait until computing has taken ``factor`` times as long as it really took."""
        computed = self._watch.seconds["compute"]
        took, self._computed = computed - self._computed, computed
        if self._factor > 1 and took > 0:
            time.sleep((self._factor - 1) * took)
