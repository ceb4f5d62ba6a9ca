"""The end of a run, simulated: the last messages to rank 0, the workers' records, and the log lines that they wrote until then.

Arrays have the shape (runs,) or (runs, replicas, ranks of a replica). Times are seconds since the client began to write the
configuration of the run.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fsd_core.plan.polling import Bundles, Inbox
from fsd_core.plan.sample import Sampler
from fsd_core.providers.outline import Outline
from fsd_core.worker.lines import SLOWEST_S, first_s
from fsd_core.worker.progress import INTERVAL_S, REPORTS

__all__ = ["recorded", "written_lines", "written_reports"]

Array = NDArray[np.float64]
LINES_BYTES, LINES_PUTS = 1200, 14  # about the bytes of the log lines of a worker, and how often it writes them at most
REPORT_BYTES = 110  # of a report of progress


def recorded(
    sampler: Sampler,
    outline: Outline,
    shared: Array,
    done: Array,
    outputs: Array,
    tokens: Array,
    *,
    channel: str,
    eager: bool,
    workers: int,
    ranks: NDArray[np.int64],
    before: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
) -> tuple[Array, dict[str, Array]]:
    """When each rank has written its record, (runs, replicas, ranks), and what rank 0 requests to hear of the outputs of others, (runs,).

    ``shared``: see `Sampler.functions`. ``done``: when a rank has computed and sent everything; ``outputs``: when its output is written,
    minus infinity where it writes none. ``tokens``: (runs,) messages that rank 0 has not acknowledged before.
    ``workers``: ranks of the run, of which some replicas are simulated; ``ranks``: (replicas, ranks) the numbers of those. ``before``: puts
    and messages that each rank of a replica made before, (ranks,), if that is known.
    """

    def next_(verb: str, number: int, later: NDArray[np.bool_] | int = 0) -> Array:
        """The seconds of a request that is the next one of its verb. ``number``: in ``before``; ``later``: more requests before it."""
        return sampler.draw(verb, shared) if before is None else sampler.numbered(verb, before[number] + later, ranks, shared)

    ends, counts = np.maximum(done, outputs), dict[str, Array]()
    stored, tells = channel == "object", np.zeros(outputs.shape, bool)
    if workers > 1:
        tells = np.isfinite(outputs)
        tells[:, 0, 0] = False
        # A rank leaves its queue once all messages are acknowledged. If it has an output, it sends that to rank 0 at the same time.
        left = np.zeros_like(ends) if stored else sampler.draw("ack", shared)
        sent = np.where(tells, next_("put", 0) if stored else sampler.draw("publish", shared), 0.0)
        asked = ends[:, 0, :1].copy()
        ends = ends + np.maximum(left, sent)
        if tells.any():
            each = np.flatnonzero(tells[0].reshape(-1))
            heard = (outputs + (sent if stored else next_("deliver", 1))).reshape(len(ends), 1, -1)[:, :, each]
            scale = workers / tells[0].size  # replicas that are not simulated send it too
            if stored:
                bundles = Bundles(sampler, outline, shared[:, 0, :1], eager)
                last = bundles.receive(asked, heard, np.zeros((1, len(each))), np.zeros((1, len(each)), bool))
                counts["object_gets"] = scale * bundles.gets
            else:
                inbox = Inbox(sampler, outline, shared[:, 0, :1], eager)
                inbox.keep(tokens, asked)
                last = inbox.receive(asked, heard, np.ones((1, len(each))), 0.0)
                inbox.finish()
                counts = {"receive_requests": inbox.receives, "receive_units": inbox.units}
                counts = {name: np.maximum(1.0, scale * count) for name, count in counts.items()}
                counts["ack_requests"] = inbox.acks - np.ceil(tokens / outline.messages.batch_messages)  # those of the tokens are counted
                last = last + sampler.draw("ack", shared[:, 0, :1])
            ends[:, 0, :1] = np.maximum(ends[:, 0, :1], last)
    return ends + next_("put", 0, tells if stored else 0), counts


def written_lines(worked: Array, ranks: NDArray[np.int64], scale: float) -> dict[str, Array]:
    """What workers write of their log lines in case they are killed, (runs,), as `fsd_core.worker.lines` does. ``worked``: (runs, replicas,
    ranks of a replica) seconds from a claim to the record; ``ranks``: (replicas, ranks of a replica) their numbers; ``scale``: replicas for
    each one that is simulated.
    """
    waits = np.minimum(SLOWEST_S, np.array([first_s(rank) for rank in ranks.ravel().tolist()])[:, None] * 2 ** np.arange(LINES_PUTS))
    puts = (worked.reshape(len(worked), -1, 1) > np.cumsum(waits, axis=1)).sum(axis=(1, 2)) * scale
    return {"object_puts": puts, "object_bytes_written": LINES_BYTES * puts}


def written_reports(ready: Array, began: Array, done: Array, before: float) -> dict[str, Array]:
    """What the rank that reports the progress of a run writes, (runs,), as `fsd_core.worker.progress` does.

    Times are those of this rank, (runs,): when it had its configuration, began its first layer, and ended its last one. ``before``: the
    share of the layers of all micro-batches that are computed when it begins.
    """
    latest, count = ready.copy(), np.zeros(len(ready))
    for number in range(1, REPORTS + 1):
        share = max(0.0, number / REPORTS - before) / (1 - before)
        due = np.maximum(latest + INTERVAL_S, began + share * (done - began))
        latest = np.where(due <= done, due, np.inf)  # none follows the first that comes too late
        count += np.isfinite(latest)
    return {"object_puts": count, "object_bytes_written": REPORT_BYTES * count}
