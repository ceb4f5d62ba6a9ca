"""Balance: the maximum work of a layer that one rank may get, and ways to distribute rows within that limit."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from fsd_core.model import Csr

__all__ = ["contiguous", "deal", "limit", "repair", "spread"]


def spread(count: int, workers: int) -> NDArray[np.int32]:
    """Distribute ``count`` items: each rank gets contiguous items, and the numbers of items differ by at most one.

    Returns the rank of each item, int32 (count,).
    """
    return (np.arange(count, dtype=np.int64) * workers // max(count, 1)).astype(np.int32)


def contiguous(weights: NDArray[np.int64], workers: int) -> NDArray[np.int32]:
    """Distribute items so that each rank gets contiguous items of about the same weight. Returns the rank of each item, int32 (items,).

    ``weights`` is int64 (items,). Imagine the items side by side on a line, each as long as its weight, and the line cut into ``workers``
    equal parts: rank r gets the items whose middle is in part r.
    """
    total = int(weights.sum())
    if not total:
        return spread(len(weights), workers)
    middle = 2 * np.cumsum(weights) - weights  # twice the middle, so that all numbers stay whole
    owner: NDArray[np.int64] = np.minimum(middle * workers // (2 * total), workers - 1)
    return owner.astype(np.int32)


def deal(weights: NDArray[np.int64], workers: int) -> NDArray[np.int32]:
    """Distribute items one by one, the heaviest first, each to the rank with the smallest load so far.

    ``weights`` is int64 (items,). Returns the rank of each item, int32 (items,). The largest load is at most 4/3 of the smallest possible
    one (Graham, "Bounds on multiprocessing timing anomalies", 1969).
    """
    owner = np.zeros(len(weights), np.int32)
    loads = [(0, rank) for rank in range(workers)]
    for item in np.argsort(-weights, kind="stable"):
        load, rank = loads[0]
        owner[item] = rank
        heapq.heapreplace(loads, (load + weights[item], rank))
    return owner


def limit(weights: NDArray[np.int64], workers: int) -> int:
    """The maximum work of one rank. ``weights`` is the work of each row of a layer, int64 (rows,).

    The maximum is the mean work of a rank plus a slack. The slack is 3 % of the mean, or the work of three mean rows if that is more, but
    at most 12.5 %, because ranks with few rows are harder to balance (with 128 rows for each rank it is 3 %; with 24 rows, 12.5 %). If the
    heaviest row exceeds the slack, the maximum is at least the largest load in the result of `deal`.
    """
    total, rows = int(weights.sum()), int(np.count_nonzero(weights))
    mean = total / workers
    allowed = mean * (1 + min(max(0.03, 3 * workers / max(rows, 1)), 0.125))
    if allowed - mean < weights.max(initial=0):
        allowed = max(allowed, np.bincount(deal(weights, workers), weights, workers).max())
    return int(allowed)


def repair(owner: NDArray[np.int32], weights: Csr, sources: NDArray[np.int32] | None, max_work: int, workers: int) -> NDArray[np.int32]:
    """Move rows from overloaded ranks to others until no rank has more than ``max_work``. Returns the new owners, int32 (outputs,).

    ``owner`` is int32 (outputs,) and does not change. ``weights`` is the matrix of the layer. ``sources`` is the owner of each input row
    (`None`: input rows do not travel). The rank with the highest load gives rows away, first the rows whose move causes the fewest
    additional travelling rows. If moves of single rows cannot reach ``max_work``, the result is that of `deal`, whose loads never exceed
    `limit`.
    """
    loads = np.diff(weights.indptr)
    load = np.bincount(owner, loads, workers).astype(np.int64)
    if load.max() <= max_work:
        return owner
    owner = owner.copy()
    # for each input row and rank: how many output rows of the rank read it, plus 1 if the rank owns it; 0: the row does not travel there
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
