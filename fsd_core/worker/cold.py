"""The time that the process of a function took to start. Platforms bill this time as initialisation."""

from __future__ import annotations

import os
import time

__all__ = ["Start"]


class Start:
    """The start of this process; create it once the imports are done. The first launch in a process is a cold start, later ones are warm.

    In a forked process, the start is the fork, because everything is imported by then.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._seconds = _age()

    def take(self) -> float:
        """Seconds from the start of the process until this object was created, for the first call. 0 if the system does not know them.

        Later calls in the same process return 0, because their launches are warm.
        """
        if self._pid != os.getpid():
            self._pid, self._seconds = os.getpid(), _age()
        seconds, self._seconds = self._seconds, 0.0
        return seconds


def _age() -> float:
    try:
        with open("/proc/self/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])  # proc(5): starttime, field 22, after the name in brackets
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0
