"""The begin of a run, simulated: the lease, staging, and launches by the client and by the launch tree."""

from __future__ import annotations

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.plan.sample import Sampler
from fsd_core.protocol.spawn import THREADS

__all__ = ["BEGIN_S", "Begun", "launched", "prepared"]

Array = NDArray[np.float64]
ROOTS = 128  # ranks that the client starts itself: `fsd_core.client.job.ROOTS`
UPLOADS = 8  # at once: `fsd_core.client.stage.UPLOADS`
BEGIN_S = 0.02  # core seconds from the start of a function to its claim, beside its requests
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
    looks = [sampler.draw("connect", client) + sampler.draw(verb, client) for verb in ("list", "get", "get")]
    took = np.maximum.reduce(looks) + sampler.draw("put", client)
    if not staged:
        waves = -(-puts // UPLOADS)
        took = took + sampler.draw("put", client[:, None], (sampler.runs, min(waves, 64))).sum(axis=1) * max(1.0, waves / 64)
        took = took + sampler.transfer("put", "write", put_bytes)
    return np.asarray(took)


def launched(sampler: Sampler, workers: int, branching: int, cold: NDArray[np.bool_], begin_s: Array, host_s: float = 0.0) -> Begun:
    """The launch of all ranks of the run. ``cold``: (runs,), whether no function waits for it. ``begin_s``: seconds of computing until a
    function has claimed its rank, one number or (runs, 1). ``host_s``: the launches take at least so long.
    """
    runs, first = sampler.runs, min(workers, ROOTS)
    ranks = np.arange(workers)
    client, shared = sampler.client(), sampler.functions(ranks)
    starts = np.maximum(FORK_S, sampler.starts(cold, ranks, shared))
    # A worker claims its rank while it looks for an abort, then reads the configuration.
    claims = np.maximum(*(sampler.draw("connect", shared) + sampler.draw(verb, shared) for verb in ("put", "get")))
    claims = claims + sampler.draw("get", shared) + begin_s
    began = np.zeros((runs, workers))
    put = sampler.draw("put", client)
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
