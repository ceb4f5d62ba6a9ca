"""How fast this machine runs Python: a part of what workers do takes as many times longer as a loop of Python does."""

from __future__ import annotations

import time
from functools import cache

__all__ = ["python_pace"]

TURNS, TIMES = 5000, 7
TURN_S = 50e-9  # of the loop, on the machine on which the seconds of `fsd_core.plan` for Python were measured


@cache
def python_pace() -> float:
    """The seconds that this machine takes for what the other machine did in one second. Measured once, in some milliseconds."""
    return min(_loop() for _ in range(TIMES)) / (TURNS * TURN_S)


def _loop() -> float:
    began, total = time.thread_time(), 0
    for number in range(TURNS):
        total += number * number
    return time.thread_time() - began
