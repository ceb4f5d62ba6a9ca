"""Balance: how much work of a layer one rank may get, and ways to distribute rows within that limit."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from fsd_core.model import Csr

__all__ = ["contiguous", "deal", "limit", "repair", "spread"]


def spread(count: int, workers: int) -> NDArray[np.int32]:
    """The rank of each item, int32 (count,): each rank gets contiguous items, the same number plus or minus one."""
    return (np.arange(count, dtype=np.int64) * workers // max(count, 1)).astype(np.int32)


def contiguous(weights: NDArray[np.int64], workers: int) -> NDArray[np.int32]:
    """The rank of each item, int32 (items,): each rank gets contiguous items of about the same weight. ``weights`` is int64 (items,).

    The total weight is cut into ``workers`` equal parts; rank r gets the items whose middle falls into part r.
    """
    total = int(weights.sum())
    if not total:
        return spread(len(weights), workers)
    middle = 2 * np.cumsum(weights) - weights  # twice the middle, so that all numbers stay whole
    owner: NDArray[np.int64] = np.minimum(middle * workers // (2 * total), workers - 1)
    return owner.astype(np.int32)


def deal(weights: NDArray[np.int64], workers: int) -> NDArray[np.int32]:
    """The rank of each item, int32 (items,): heaviest item first, each to the rank of least load. ``weights`` is int64 (items,).

    The largest load is at most 4/3 of the smallest possible (Graham, "Bounds on multiprocessing timing anomalies", 1969).
    """
    owner = np.zeros(len(weights), np.int32)
    loads = [(0, rank) for rank in range(workers)]
    for item in np.argsort(-weights, kind="stable"):
        load, rank = loads[0]
        owner[item] = rank
        heapq.heapreplace(loads, (load + weights[item], rank))
    return owner


def limit(weights: NDArray[np.int64], workers: int) -> int:
    """The maximum work of one rank for rows of these ``weights``, int64 (rows,).

    It is the mean work plus 3 %, or plus three rows if that is more, but at most plus 12.5 %: with few rows for each rank the balance needs
    more slack (128 rows for each rank: 3 %; 24 rows: 12 %). If a single row is heavier than the slack, the result of `deal` is allowed.
    """
    total, rows = int(weights.sum()), int(np.count_nonzero(weights))
    mean = total / workers
    allowed = mean * (1 + min(max(0.03, 3 * workers / max(rows, 1)), 0.125))
    if allowed - mean < weights.max(initial=0):
        allowed = max(allowed, np.bincount(deal(weights, workers), weights, workers).max())
    return int(allowed)


def repair(owner: NDArray[np.int32], weights: Csr, sources: NDArray[np.int32] | None, max_work: int, workers: int) -> NDArray[np.int32]:
    """The owners int32 (outputs,) after rows moved from overloaded ranks until no rank has more than ``max_work``.

    The rank with the highest load gives rows away, first those that add the fewest travelling rows. ``owner`` int32 (outputs,) stays
    unchanged. ``weights`` is the matrix of the layer, ``sources`` the owner of each input row (`None`: input rows do not travel). If moving
    single rows does not reach ``max_work``, the result is that of `deal`, which always reaches a `limit`.
    """
    loads = np.diff(weights.indptr)
    load = np.bincount(owner, loads, workers).astype(np.int64)
    if load.max() <= max_work:
        return owner
    owner = owner.copy()
    # for each input row and rank: how many output rows of the rank read it, plus 1 if the rank owns it; at 0 the row need not travel there
    held = np.bincount(weights.indices * np.int64(workers) + np.repeat(owner, loads), minlength=weights.shape[1] * workers)
    held = held.reshape(-1, workers)
    if sources is not None:
        held[np.arange(len(sources)), sources] += 1
    while load.max() > max_work:
        rank = int(load.argmax())
        rows = np.flatnonzero((owner == rank) & (loads > 0))
        cost = np.empty((len(rows), workers))
        for i, row in enumerate(rows):
            inputs = held[weights.indices[weights.indptr[row] : weights.indptr[row + 1]]]
            cost[i] = (inputs == 0).sum(axis=0) - np.count_nonzero(inputs[:, rank] == 1)
        cost[:, rank] = np.inf
        moved = False
        for i in np.argsort(cost.min(axis=1), kind="stable"):
            row, room = rows[i], load + loads[rows[i]] <= max_work
            if load[rank] > max_work and room.any():
                target = int(np.where(room, cost[i], np.inf).argmin())
                columns = weights.indices[weights.indptr[row] : weights.indptr[row + 1]]
                held[columns, rank] -= 1
                held[columns, target] += 1
                load[rank] -= loads[row]
                load[target] += loads[row]
                owner[row], moved = target, True
        if not moved:
            return deal(loads, workers)
    return owner
