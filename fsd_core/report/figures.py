"""What of a run is shown: its time, requests, bytes and money, each as parts that add up to a whole.

Time: a run's own phases are those of its slowest rank, and the slowest of two phases need not be the same rank, so they do not
add up. The mean over the ranks does: staging, then the mean worker's phases, and what is left of the whole is the client's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import groupby
from math import fsum
from typing import Any

import attrs

from fsd_core.common.stopwatch import PHASES
from fsd_core.cost import Bill, Line

__all__ = ["FIGURES", "RANK_PARTS", "Figure", "Measured", "rank_parts", "rank_spans"]

RANK_PARTS = ("launch", "load", "compute", "send", "wait", "other")  # launch, then the `PHASES` of a worker, in their order


@attrs.frozen
class Measured:
    """A run's record, as `Result.to_json` with its ``ranks``, and its bill."""

    record: Mapping[str, Any]
    bill: Bill


@attrs.frozen
class Figure:
    """One thing to compare runs by: names of its parts, and their values in ``unit``, of which `Measured` is the source."""

    name: str
    title: str
    unit: str
    parts: tuple[str, ...]
    of: Callable[[Measured], tuple[float, ...]]
    meaning: str

    def total(self, run: Measured) -> float:
        """The sum of the parts."""
        return fsum(self.of(run))


def rank_parts(rank: Mapping[str, Any]) -> tuple[float, ...]:
    """Seconds of one worker by `RANK_PARTS`, from the run's start to the worker's end."""
    return tuple(float(rank["seconds"][name]) for name in ("launch", *PHASES))


def rank_spans(rank: Mapping[str, Any]) -> tuple[tuple[int, float, float], ...]:
    """What one worker did when: ascending (index in `RANK_PARTS`, start, end), in seconds from the run's start."""
    at = float(rank["seconds"]["launch"])
    spans = [(RANK_PARTS.index("launch"), 0.0, at)]
    for letter, cells in groupby(rank["timeline"]["phases"]):
        start, at = at, at + float(rank["timeline"]["cell_s"]) * len(list(cells))
        spans.append((1 + PHASES.index(next(phase for phase in PHASES if phase[0] == letter)), start, at))
    return tuple(spans)


def _time(run: Measured) -> tuple[float, ...]:
    ranks = [rank_parts(rank) for rank in run.record["ranks"]] or [(0.0,) * len(RANK_PARTS)]  # no rank may have left a record
    *means, _ = (fsum(times) / len(ranks) for times in zip(*ranks, strict=True))
    total, stage = float(run.record["seconds"]["total"]), float(run.record["seconds"]["stage"])
    return (stage, *means, max(0.0, total - stage - fsum(means)))


def _counts(*groups: tuple[str, ...]) -> Callable[[Measured], tuple[float, ...]]:
    return lambda run: tuple(float(sum(run.record["meter"][name] for name in group)) for group in groups)


def _kind(line: Line) -> str:
    """What a line of a bill is for, whatever its service is called."""
    counts = line.price.counts
    if any(name.startswith("function") or name == "invocations" for name in counts):
        return "functions"
    return "objects" if any(name.startswith(("object", "stored")) for name in counts) else "messages"


def _money(run: Measured) -> tuple[float, ...]:
    kinds = ("functions", "messages", "objects")
    return tuple(1000 * fsum(line.usd for line in run.bill.lines if _kind(line) == kind) for kind in kinds)


FIGURES = (
    Figure(
        "time",
        "Time",
        "s",
        ("stage", *RANK_PARTS[:-1], "rest"),
        _time,
        "From the command's start to the answer, on the client's clock. Stage: putting weights and inputs into the store, unless they"
        " are there. Then the mean worker: launch (until its function runs), load (reading weights and inputs), compute, send (encoding"
        " activations, and writing outputs; what the services take to carry them is in wait), wait (for what other workers send). Rest:"
        " what is left, such as finding or making resources, computing a partition, starting other workers, collecting the output, and the"
        " time between the mean worker's end and the last one's.",
    ),
    Figure(
        "requests",
        "Requests",
        "",
        ("publish", "receive and acknowledge", "put", "get and list", "invoke"),
        _counts(
            ("publish_requests",),
            ("receive_requests", "ack_requests"),
            ("object_puts",),
            ("object_gets", "object_lists"),
            ("invocations",),
        ),
        "What workers and client asked of the services, with empty answers and retries. Publish, receive and acknowledge go to queues,"
        " put, get and list to the object store, and invoke starts a function.",
    ),
    Figure(
        "bytes",
        "Bytes",
        "B",
        ("through queues", "objects written", "objects read"),
        _counts(("message_bytes_sent",), ("object_bytes_written",), ("object_bytes_read",)),
        "What travelled. Messages count once, as sent, with their headers and encoding. Objects read hold the weights and inputs that"
        " every worker loads, in addition to activations where the channel uses objects.",
    ),
    Figure(
        "money",
        "Money",
        "USD",
        ("functions", "messages", "objects"),
        _money,
        "USD for a thousand such runs: the counts times the dated list prices of the tariff, without free tiers. A run on this machine"
        " costs nothing.",
    ),
)
