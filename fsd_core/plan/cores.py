"""How many processor cores a function has: as its provider states, corrected by what `fsd measure` found."""

from __future__ import annotations

import numpy as np

from fsd_core.latency import Table
from fsd_core.providers.outline import Outline

__all__ = ["cores"]


def cores(provider: str, outline: Outline, table: Table | None, memory_mb: int) -> float:
    """The processor cores of a function with ``memory_mb`` MiB.

    A measurement of this provider's services gives each size its share of the stated cores; between two sizes the share is interpolated,
    beyond them it is that of the nearest size. A function of up to one core and a larger function have separate shares: that of the first
    is processor time which it does not get, that of the second is what its threads lose by sharing memory. So a larger function always
    has at least one core.
    """
    stated, measured = outline.cores, table.measured if table else None
    found = stated(memory_mb)
    if measured is None or measured.provider != provider or measured.emulator:
        return found
    shares = [
        (size, share / stated(round(size)))
        for size, _, share in measured.sizes
        if size <= outline.memory_mb[-1] and (stated(round(size)) > 1) == (found > 1)
    ]
    if not shares:
        return found
    corrected = found * float(np.interp(memory_mb, [size for size, _ in shares], [share for _, share in shares]))
    return max(1.0, corrected) if found > 1 else corrected
