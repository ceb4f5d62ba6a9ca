"""The begin of a run, simulated: the lease, staging, and launches by the client and by the launch tree."""

from __future__ import annotations

import os

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.plan.sample import Sampler
from fsd_core.protocol.spawn import THREADS

__all__ = ["BEGIN_S", "Begun", "forked", "launched", "prepared"]

Array = NDArray[np.float64]
ROOTS = 128  # ranks that the client starts itself: `fsd_core.client.job.ROOTS`
UPLOADS = 8  # at once: `fsd_core.client.stage.UPLOADS`
BEGIN_S = 0.02  # core seconds from the start of a function to its claim, beside its requests
HOST_S = 0.35  # until the process has started that forks the functions of a run on this machine: measured, 0.32 to 0.47 s
HOST_FORK_S = 0.007  # core seconds from one fork to the next, in which the functions that it forked before use the cores too
_CLAIM = ("get", "put")  # the first requests of a worker, at once
FORK_S = 0.05  # until a function begins where no table says it: a process of this machine


@attrs.frozen(eq=False)
class Begun:
    """When each rank began, and when it had read the configuration, (runs, ranks); and when the client began to follow the run, (runs,).

    ``starts``: (runs, ranks) seconds from the launch of a rank until it began.
    """

    began: Array
    ready: Array
    starts: Array
    followed: Array


def prepared(sampler: Sampler, *, staged: bool, puts: int, put_bytes: float) -> Array:
    """(runs,) seconds of the client before the launch: it leases a slot, looks for staged content and stages what is missing."""
    client = sampler.client()
    # It looks for a free slot and for both manifests at once, over three connections, then creates the lease.
    looks = [("list", 0), ("get", 0), ("get", 1)]
    connects = [sampler.numbered("connect", number, -1, client) for number in range(len(looks))]
    took = np.maximum.reduce([connects[at] + sampler.numbered(*look, -1, client) for at, look in enumerate(looks)])
    took = took + sampler.numbered("put", 0, -1, client)
    if not staged:
        waves = -(-puts // UPLOADS)
        took = took + sampler.draw("put", client[:, None], (sampler.runs, min(waves, 64))).sum(axis=1) * max(1.0, waves / 64)
        took = took + sampler.transfer("put", "write", put_bytes)
    return np.asarray(took)


def forked(workers: int, python: float) -> Array:
    """(workers,): the seconds from the launch until this machine has forked each function. ``python``: see `fsd_core.plan.pace`."""
    crowd = np.maximum(1.0, np.arange(1, workers + 1) / (os.cpu_count() or 1))
    return HOST_S + HOST_FORK_S * python * np.cumsum(crowd)


def launched(sampler: Sampler, workers: int, branching: int, cold: NDArray[np.bool_], begin_s: Array, host_s: float = 0.0) -> Begun:
    """The launch of all ranks of the run. ``cold``: (runs,), whether no function waits for it. ``begin_s``: seconds of computing until a
    function has claimed its rank, one number or (runs, 1). ``host_s``: the launches take at least so long.
    """
    runs, first = sampler.runs, min(workers, ROOTS)
    ranks = np.arange(workers)
    client, shared = sampler.client(), sampler.functions(ranks)
    starts = np.maximum(FORK_S, sampler.starts(cold, ranks, shared))
    # A worker claims its rank while it looks for an abort, then reads the configuration.
    looks = [sampler.numbered("connect", at, ranks, shared) + sampler.numbered(verb, 0, ranks, shared) for at, verb in enumerate(_CLAIM)]
    claims = np.maximum(*looks) + sampler.numbered("get", 1, ranks, shared) + begin_s
    began = np.zeros((runs, workers))
    put = sampler.numbered("put", 1, -1, client)
    free = np.repeat(put[:, None], THREADS, axis=1)
    for at in range(0, first, THREADS):
        some = slice(at, min(first, at + THREADS))
        width = some.stop - at
        took = sampler.draw("invoke", client[:, None], (runs, width)) + (
            sampler.draw("connect", client[:, None], (runs, width)) if not at else 0
        )
        began[:, some] = free[:, :width] + starts[:, some]
        free[:, :width] += took
    at = first
    ready, followed = began + claims, np.maximum(free[:, : min(THREADS, first)].max(axis=1), put + host_s)
    while at < workers:  # a level of the tree at a time: parents of the ranks from `at` on that have begun
        stop = min(workers, ROOTS + branching * at)
        ranks = np.arange(at, stop)  # of this level
        parents = (ranks - ROOTS) // branching
        began[:, ranks] = ready[:, parents] + starts[:, ranks]
        ready[:, ranks] = began[:, ranks] + claims[:, ranks]
        at = stop
    return Begun(began, ready, starts, followed)
