"""The figures that reports show of a run: time, requests, bytes and money. Each figure has parts that add up to its total.

Time: the phases in a run's own record are those of its slowest rank, which may be another rank in each phase, so they do not add up. The
parts here are staging, the mean of each phase over all workers, and the rest of the total time.
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
    """A run's record (`Result.to_json` with its ``ranks``) and its bill."""

    record: Mapping[str, Any]
    bill: Bill


@attrs.frozen
class Figure:
    """A figure by which runs are compared. ``of(run)``: the values of its ``parts``, in ``unit``. ``meaning``: a text for people."""

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
    """The seconds that one worker spent in each of `RANK_PARTS`, from the run's start to the worker's end. Other includes starved."""
    *parts, other = (float(rank["seconds"][name]) for name in ("launch", *PHASES))
    return (*parts, other + float(rank["seconds"]["starved"]))


def rank_spans(rank: Mapping[str, Any]) -> tuple[tuple[int, float, float], ...]:
    """The phases of one worker over time, ascending: (index in `RANK_PARTS`, start, end), in seconds from the run's start."""
    at = float(rank["seconds"]["launch"])
    spans = [(RANK_PARTS.index("launch"), 0.0, at)]
    for letter, cells in groupby(rank["timeline"]["phases"]):
        start, at = at, at + float(rank["timeline"]["cell_s"]) * len(list(cells))
        spans.append((1 + PHASES.index(next(phase for phase in PHASES if phase[0] == letter)), start, at))
    return tuple(spans)


def _time(run: Measured) -> tuple[float, ...]:
    ranks = [rank_parts(rank) for rank in run.record["ranks"]] or [(0.0,) * len(RANK_PARTS)]  # there may be no record of any rank
    *means, _ = (fsum(times) / len(ranks) for times in zip(*ranks, strict=True))
    total, stage = float(run.record["seconds"]["total"]), float(run.record["seconds"]["stage"])
    return (stage, *means, max(0.0, total - stage - fsum(means)))


def _counts(*groups: tuple[str, ...]) -> Callable[[Measured], tuple[float, ...]]:
    return lambda run: tuple(float(sum(run.record["meter"][name] for name in group)) for group in groups)


def _kind(line: Line) -> str:
    """What a line of a bill is for: functions, messages or objects."""
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
        "From the start of the command to the answer, on the client's clock. Stage: putting weights and inputs into the store, unless the"
        " store has them. The next parts are means over all workers: launch (until the function runs), load (reading weights and inputs),"
        " compute, send (encoding activations, writing outputs), wait (for activations of other workers, which includes the time that"
        " services take to deliver them). Rest: all other time, for instance finding or making resources, computing a partition, starting"
        " other workers, collecting the output, and waiting for the last worker.",
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
        "All requests of workers and client, including retries and receives that found nothing. Publish, receive and acknowledge go"
        " to queues, put, get and list to the object store; invoke starts a function.",
    ),
    Figure(
        "bytes",
        "Bytes",
        "B",
        ("through queues", "objects written", "objects read"),
        _counts(("message_bytes_sent",), ("object_bytes_written",), ("object_bytes_read",)),
        "Bytes that were sent or stored. Messages count once, when they are sent, with headers and encoding. Objects read contain the"
        " weights and inputs that every worker loads and, where the channel uses objects, activations.",
    ),
    Figure(
        "money",
        "Money",
        "USD",
        ("functions", "messages", "objects"),
        _money,
        "USD for 1000 such runs: the counts times the list prices of the tariff, without free tiers. Runs of the provider local cost"
        " nothing.",
    ),
)
