"""How long the process of a function took to start: platforms bill this time as initialisation."""

from __future__ import annotations

import os
import time

__all__ = ["Start"]


class Start:
    """Made once a process has imported what it needs. The first launch in a process is a cold start, the others are warm.

    A process that is forked later begins with the fork, when everything is imported: its first launch counts the time since the fork.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._seconds = _age()

    def take(self) -> float:
        """Seconds from the process's start until this object was made; 0 from the second call on, or where the system does not know."""
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
