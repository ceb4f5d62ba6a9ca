"""How even a layer's shares must be, and how to make them so."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from fsd_core.model import Csr

__all__ = ["contiguous", "deal", "limit", "repair", "spread"]


def spread(count: int, workers: int) -> NDArray[np.int32]:
    """Owners int32 (count,) of contiguous items: every rank has the same number, plus or minus one."""
    return (np.arange(count, dtype=np.int64) * workers // max(count, 1)).astype(np.int32)


def contiguous(weights: NDArray[np.int64], workers: int) -> NDArray[np.int32]:
    """Owners int32 (items,) of contiguous items: rank r has those whose middle falls into the r-th equal part of all weight."""
    total = int(weights.sum())
    if not total:
        return spread(len(weights), workers)
    middle = 2 * np.cumsum(weights) - weights  # twice the middle, so that all stays whole
    owner: NDArray[np.int64] = np.minimum(middle * workers // (2 * total), workers - 1)
    return owner.astype(np.int32)


def deal(weights: NDArray[np.int64], workers: int) -> NDArray[np.int32]:
    """Owners int32 (items,): heaviest item first, each to the least loaded rank.

    The largest load is at most 4/3 of the best possible (Graham, "Bounds on multiprocessing timing anomalies", 1969).
    """
    owner = np.zeros(len(weights), np.int32)
    loads = [(0, rank) for rank in range(workers)]
    for item in np.argsort(-weights, kind="stable"):
        load, rank = loads[0]
        owner[item] = rank
        heapq.heapreplace(loads, (load + weights[item], rank))
    return owner


def limit(weights: NDArray[np.int64], workers: int) -> int:
    """The most work that one rank may get of rows of these ``weights``.

    Mean work plus 3 %, or plus three rows where these are more, but never plus more than 12.5 %: few rows a rank need more slack
    (128 rows a rank: 3 %; 24: 12 %). Where single rows are heavier than that slack, what `deal` reaches is allowed too.
    """
    total, rows = int(weights.sum()), int(np.count_nonzero(weights))
    mean = total / workers
    allowed = mean * (1 + min(max(0.03, 3 * workers / max(rows, 1)), 0.125))
    if allowed - mean < weights.max(initial=0):
        allowed = max(allowed, np.bincount(deal(weights, workers), weights, workers).max())
    return int(allowed)


def repair(owner: NDArray[np.int32], weights: Csr, sources: NDArray[np.int32] | None, most: int, workers: int) -> NDArray[np.int32]:
    """Owners with no rank above ``most`` work: rows leave the heaviest rank, those first that add the fewest travelling rows.

    ``weights`` is the layer's matrix, ``sources`` the owner of each input row (`None`: they cost nothing). Where moving single rows
    does not get there, the result is that of `deal`, which does where ``most`` comes from `limit`.
    """
    loads = np.diff(weights.indptr)
    load = np.bincount(owner, loads, workers).astype(np.int64)
    if load.max() <= most:
        return owner
    owner = owner.copy()
    # of each input row and rank, what keeps the row there: its consumers, and being the owner
    held = np.bincount(weights.indices * np.int64(workers) + np.repeat(owner, loads), minlength=weights.shape[1] * workers)
    held = held.reshape(-1, workers)
    if sources is not None:
        held[np.arange(len(sources)), sources] += 1
    while load.max() > most:
        rank = int(load.argmax())
        rows = np.flatnonzero((owner == rank) & (loads > 0))
        cost = np.empty((len(rows), workers))
        for i, row in enumerate(rows):
            there = held[weights.indices[weights.indptr[row] : weights.indptr[row + 1]]]
            cost[i] = (there == 0).sum(axis=0) - np.count_nonzero(there[:, rank] == 1)
        cost[:, rank] = np.inf
        moved = False
        for i in np.argsort(cost.min(axis=1), kind="stable"):
            row, room = rows[i], load + loads[rows[i]] <= most
            if load[rank] > most and room.any():
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
