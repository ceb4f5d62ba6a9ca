"""Which ranks made the others wait."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from fsd_core.report.figures import RANK_PARTS, rank_parts

__all__ = ["Straggler", "stragglers"]

TIMES, SHARE = 1.5, 0.05  # of the median; of the run's time, so that what takes no time is none


@dataclass(frozen=True, slots=True)
class Straggler:
    """The slowest rank of a phase, in seconds, beside the median rank. ``late``: far enough behind for others to wait."""

    phase: str
    rank: int
    seconds: float
    median: float
    late: bool


def stragglers(record: Mapping[str, Any]) -> list[Straggler]:
    """The slowest rank of each phase but waiting, which is what the others do for them, and other, for which nobody waits.

    One is late where it took more than `TIMES` the median and was behind by more than `SHARE` of the run.
    """
    found = []
    parts = [rank_parts(rank) for rank in record["ranks"]]
    for at, phase in enumerate(RANK_PARTS if parts else ()):
        if phase not in ("wait", "other"):
            times = [part[at] for part in parts]
            slowest, middle = max(times), median(times)
            late = slowest > TIMES * middle and slowest - middle > SHARE * record["seconds"]["total"]
            found.append(Straggler(phase, record["ranks"][times.index(slowest)]["rank"], slowest, middle, late))
    return found
