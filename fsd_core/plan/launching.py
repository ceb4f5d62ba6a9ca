"""The begin and the end of a run, simulated: the lease, staging, launches by the client and by the launch tree, and the collection."""

from __future__ import annotations

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.plan.sample import Sampler
from fsd_core.protocol.spawn import THREADS

__all__ = ["Begun", "collected", "launched", "prepared"]

Array = NDArray[np.float64]
ROOTS = 128  # ranks that the client starts itself: `fsd_core.client.job.ROOTS`
UPLOADS = 8  # at once: `fsd_core.client.stage.UPLOADS`
BEGIN_S = 0.02  # core seconds from the start of a function to its claim, beside its requests
FORK_S = 0.05  # until a function begins where no table says it: a process of this machine
FIRST_POLL_S, LAST_POLL_S, POLLS_LATE = 0.02, 1.0, 25  # of the client: `fsd_core.client.follow`


@attrs.frozen(eq=False)
class Begun:
    """When each rank began, and when it had read the configuration, (runs, ranks)."""

    began: Array
    ready: Array


def prepared(sampler: Sampler, *, staged: bool, puts: int, put_bytes: float) -> Array:
    """(runs,) seconds of the client before the launch: it leases a slot, looks for staged content and stages what is missing."""
    client = sampler.functions()
    # It looks for a free slot and for both manifests at once, then creates the lease.
    looks = np.maximum(sampler.draw("list", client), sampler.draw("get", client, worst_of=2.0))
    took = sampler.draw("connect", client) + looks + sampler.draw("put", client)
    if not staged:
        waves = -(-puts // UPLOADS)
        took = took + sampler.draw("put", client[:, None], (sampler.runs, min(waves, 64))).sum(axis=1) * max(1.0, waves / 64)
        took = took + sampler.transfer("put", "write", put_bytes)
    return np.asarray(took)


def launched(sampler: Sampler, workers: int, branching: int, cold: NDArray[np.bool_], begin_s: Array) -> Begun:
    """The launch of all ranks of the run. ``cold``: (runs,), whether no function waits for it. ``begin_s``: seconds of computing until a
    function has claimed its rank, one number or (runs, 1).
    """
    runs, first = sampler.runs, min(workers, ROOTS)
    client, shared = sampler.functions(), sampler.functions(workers)
    starts = np.full((runs, workers), FORK_S)
    for verb, which in (("start_cold", cold), ("start_warm", ~cold)):
        if which.any() and sampler.table is not None and verb in sampler.table.rows:
            starts[which] = sampler.draw(verb, shared[which])
    # A worker claims its rank while it looks for an abort, then reads the configuration.
    claims = sampler.draw("connect", shared) + np.maximum(sampler.draw("put", shared), sampler.draw("get", shared))
    claims = claims + sampler.draw("get", shared) + begin_s
    began = np.zeros((runs, workers))
    free = np.repeat((sampler.draw("connect", client) + sampler.draw("put", client))[:, None], THREADS, axis=1)
    for at in range(0, first, THREADS):
        some = slice(at, min(first, at + THREADS))
        width = some.stop - at
        took = sampler.draw("invoke", client[:, None], (runs, width)) + (
            sampler.draw("connect", client[:, None], (runs, width)) if not at else 0
        )
        began[:, some] = free[:, :width] + starts[:, some]
        free[:, :width] += took
    at = first
    ready = began + claims
    while at < workers:  # a level of the tree at a time: parents of the ranks from `at` on that have begun
        stop = min(workers, ROOTS + branching * at)
        ranks = np.arange(at, stop)
        parents = (ranks - ROOTS) // branching
        began[:, ranks] = ready[:, parents] + starts[:, ranks]
        ready[:, ranks] = began[:, ranks] + claims[:, ranks]
        at = stop
    return Begun(began, ready)


def collected(sampler: Sampler, ended: Array, writers: int, batches: int, workers: int, output_bytes: float) -> tuple[Array, Array]:
    """(runs,) when the client has the answer, and its gets while it waits for it. ``ended``: when rank 0 wrote its record."""
    client = sampler.functions()
    get = sampler.draw("get", client)
    pause = np.clip(ended / POLLS_LATE, FIRST_POLL_S, LAST_POLL_S)
    seen = ended + (get + pause) * sampler.uniform() + get / 2
    # Pauses grow with the time: first of 20 ms, then a 25th of the time, up to a second.
    early, late = FIRST_POLL_S * POLLS_LATE, LAST_POLL_S * POLLS_LATE
    polls = np.minimum(seen, early) / (FIRST_POLL_S + get)
    polls = polls + np.where(
        seen > early, np.log(np.clip(seen, early, late) / early) / np.log1p((1 / POLLS_LATE) + get / np.maximum(seen, 1e-9)), 0
    )
    polls = polls + np.maximum(0.0, seen - late) / (LAST_POLL_S + get)
    others = np.minimum(polls, seen / 0.25) + 2 * seen  # looks for failures; each second for claims and for a report of progress
    waves = -(-writers // UPLOADS) * batches + -(-workers // UPLOADS)
    took = sampler.draw("get", client[:, None], (sampler.runs, min(waves, 32)), worst_of=float(min(UPLOADS, max(writers, workers)))).sum(
        axis=1
    )
    took = took * max(1.0, waves / 32) + sampler.transfer("get", "read", output_bytes) + sampler.draw("connect", client)
    return seen + took, polls + others
