"""The slowest rank of each phase, and whether other ranks had to wait for this rank."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

import attrs

from fsd_core.report.figures import RANK_PARTS, rank_parts

__all__ = ["Straggler", "stragglers"]

TIMES = 1.5  # a straggler takes more than this multiple of the median rank's time,
SHARE = 0.05  # and is behind the median rank by more than this share of the run's time


@attrs.frozen
class Straggler:
    """The slowest rank of a phase and the median rank's time, both in seconds. ``late``: other ranks had to wait for it."""

    phase: str
    rank: int
    seconds: float
    median: float
    late: bool


def stragglers(record: Mapping[str, Any]) -> list[Straggler]:
    """The slowest rank of each phase in which a rank can delay others: all phases but ``wait`` and ``other``."""
    found = []
    parts = [rank_parts(rank) for rank in record["ranks"]]
    for at, phase in enumerate(RANK_PARTS if parts else ()):
        if phase not in ("wait", "other"):
            times = [part[at] for part in parts]
            slowest, middle = max(times), median(times)
            late = slowest > TIMES * middle and slowest - middle > SHARE * record["seconds"]["total"]
            found.append(Straggler(phase, record["ranks"][times.index(slowest)]["rank"], slowest, middle, late))
    return found
