"""The end of a run, simulated: outputs, the last messages to rank 0, the workers' records, and what the client requests meanwhile.

Arrays have the shape (runs,), (runs, ranks), or (runs, replicas, ranks of a replica). Times are seconds since the client began to write the
configuration of the run.
"""

from __future__ import annotations

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.plan.launching import Begun
from fsd_core.plan.polling import Bundles, Inbox
from fsd_core.plan.sample import Sampler
from fsd_core.protocol.spawn import FEW
from fsd_core.providers.outline import Outline

__all__ = ["Ended", "collected", "polls", "recorded"]

Array = NDArray[np.float64]
# Of the client: those of `fsd_core.client.follow` and `fsd_core.client.collect`.
FIRST_POLL_S, LAST_POLL_S, POLLS_LATE, ERROR_POLL_S, CHECK_S, AT_ONCE = 0.02, 1.0, 40, 0.25, 1.0, 8
MANY = 16  # draws, of which the mean is what many requests take


@attrs.frozen(eq=False)
class Ended:
    """``answer``: when the client has the output. ``gets``, ``lists``: what it requests in vain until then and until the last record."""

    answer: Array
    gets: Array
    lists: Array


def recorded(
    sampler: Sampler, outline: Outline, shared: Array, done: Array, outputs: Array, *, channel: str, eager: bool, workers: int
) -> tuple[Array, dict[str, Array]]:
    """When each rank has written its record, (runs, replicas, ranks), and what rank 0 requests to hear of the outputs of others, (runs,).

    ``shared``: see `Sampler.functions`. ``done``: when a rank has computed and sent everything; ``outputs``: when its output is written,
    minus infinity where it writes none. ``workers``: ranks of the run, of which some replicas are simulated.
    """
    ends, counts = np.maximum(done, outputs), dict[str, Array]()
    if workers > 1:
        tells = np.isfinite(outputs)
        tells[:, 0, 0] = False
        stored = channel == "object"
        # A rank leaves its queue once all messages are acknowledged. If it has an output, it sends that to rank 0 at the same time.
        left = np.zeros_like(ends) if stored else sampler.draw("ack", shared)
        sent = np.where(tells, sampler.draw("put" if stored else "publish", shared), 0.0)
        asked = ends[:, 0, :1].copy()
        ends = ends + np.maximum(left, sent)
        if tells.any():
            each = np.flatnonzero(tells[0].reshape(-1))
            heard = (outputs + (sent if stored else sampler.draw("deliver", shared))).reshape(len(ends), 1, -1)[:, :, each]
            scale = workers / tells[0].size  # replicas that are not simulated send it too
            if stored:
                bundles = Bundles(sampler, outline, shared[:, 0, :1], eager)
                last = bundles.receive(asked, heard, np.zeros((1, len(each))), np.zeros((1, len(each)), bool))
                counts["object_gets"] = scale * bundles.gets
            else:
                inbox = Inbox(sampler, outline, shared[:, 0, :1], eager)
                last = inbox.receive(asked, heard, np.ones((1, len(each))), 0.0)
                inbox.finish()
                counts = {"receive_requests": inbox.receives, "receive_units": inbox.units, "ack_requests": inbox.acks}
                counts = {name: np.maximum(1.0, scale * count) for name, count in counts.items()}
                last = last + sampler.draw("ack", shared[:, 0, :1])
            ends[:, 0, :1] = np.maximum(ends[:, 0, :1], last)
    return ends + sampler.draw("put", shared), counts


def collected(sampler: Sampler, begun: Begun, outputs: Array, records: Array, pieces: int, ranks: int, output_bytes: float) -> Ended:
    """How the client follows a run. ``outputs``: as for `recorded`; ``pieces``: objects of the output, ``ranks``: of the run."""
    client = sampler.client()
    written = outputs.max(axis=(1, 2))
    last, get = sampler.draw("get", client), sampler.draw("get", client[:, None], (sampler.runs, MANY)).mean(axis=1)
    looked = np.maximum(0.0, written - begun.followed)
    pause = np.clip(looked / POLLS_LATE, FIRST_POLL_S, LAST_POLL_S)
    # A get sees what is there in the middle of its time.
    seen = np.maximum(written, begun.followed) + (get + pause) * sampler.uniform() + last / 2
    waves = -(-(pieces - 1) // AT_ONCE)
    took = np.zeros(sampler.runs)
    if waves:
        some = min(waves, 32)
        took = sampler.draw("get", client[:, None], (sampler.runs, some), worst_of=float(min(AT_ONCE, pieces - 1))).sum(axis=1)
        took = took * (waves / some) + sampler.draw("connect", client)
    answer = seen + took + sampler.transfer("get", "read", output_bytes)
    gets = polls(looked - get / 2, get)
    # Then the client asks for all records that are missing, again and again.
    late = np.maximum(0.0, records - answer[:, None, None]) / (get + pause)[:, None, None]
    gets = gets + late.sum(axis=(1, 2)) * (ranks / (records.shape[1] * records.shape[2]))
    # Another thread looks for failures, and every second for claims that are missing and for progress.
    lasted = np.maximum(answer, records.max(axis=(1, 2))) - begun.followed
    every = CHECK_S + get + (ERROR_POLL_S + get) / 2
    checks = np.floor(lasted / every)
    gets = gets + lasted / (ERROR_POLL_S + get) + np.floor((answer - begun.followed) / every)
    until_claimed = 1 + int(max(0.0, float(((begun.ready.max(axis=1) - begun.followed) / every).max())))
    number = np.arange(1, 1 + min(until_claimed, int(checks.max(initial=0))))[None, :, None]
    moments = begun.followed[:, None, None] + number * every[:, None, None]
    before = begun.ready[:, None, :] >= moments - every[:, None, None]  # no claim was there at the check before
    missing = (before & (number <= checks[:, None, None])).sum(axis=2)
    lists = (missing > FEW).sum(axis=1)
    gets = gets + np.where(missing > FEW, 0, missing).sum(axis=1)
    return Ended(answer, gets, lists.astype(np.float64))


def polls(seconds: Array, get: Array) -> Array:
    """The looks in vain within so many seconds: first one every 20 ms, then after each 40th of the time, at last every second.

    Each also takes as long as a ``get``. With the pause t / 40, looks are made at the rate 1 / (t / 40 + get), whose integral is a
    logarithm.
    """
    early, late = FIRST_POLL_S * POLLS_LATE, LAST_POLL_S * POLLS_LATE
    lasts = np.clip(seconds, early, late)
    found = np.clip(seconds, 0.0, early) / (FIRST_POLL_S + get)
    found = found + POLLS_LATE * np.log((lasts / POLLS_LATE + get) / (FIRST_POLL_S + get))
    found = found + np.where(seconds > 0, 0.5, 0.0) + np.maximum(0.0, seconds - late) / (LAST_POLL_S + get)
    return np.asarray(found)
