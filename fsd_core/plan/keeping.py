"""What ranks keep of what they sent, in case another one is lost: see `fsd_core.channel.kept`."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fsd_core.channel.hybrid import NOTICE_BYTES
from fsd_core.channel.kept import KEPT_BYTES, KEPT_ENTRY_BYTES, RECORD_BYTES
from fsd_core.plan.counts import Exchange
from fsd_core.plan.split import Split

__all__ = ["kept_objects", "queued_bytes"]


def queued_bytes(split: Split, exchanges: Iterable[Exchange], channel: str) -> NDArray[np.float64]:
    """(ranks of a replica,) bytes that a rank sends through queues, which it keeps."""
    sent = np.zeros(split.parallel.parts)
    for each in exchanges if channel != "object" else ():
        queued = (np.where(each.stored, NOTICE_BYTES, each.payloads) + KEPT_ENTRY_BYTES) * each.step.weight * split.replica_batches
        sent += np.bincount(each.step.sources, queued, len(sent))
    return sent


def kept_objects(kept: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of ranks that kept so many bytes: how many objects they wrote, and the bytes in their records.

    Their functions have the memory for the whole budget.
    """
    objects = np.floor(kept / (KEPT_BYTES // 2))
    left = kept - objects * (KEPT_BYTES // 2)
    more = left > RECORD_BYTES
    return objects + more, np.where(more, 0.0, left)
