"""`decide`: how a run splits its model and over which channel it exchanges, where the user leaves that to the planner."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs

from fsd_core.errors import InputError
from fsd_core.latency import Latency
from fsd_core.partition import Parallel
from fsd_core.plan.choose import Wishes, choose, reason
from fsd_core.plan.making import nothing
from fsd_core.plan.places import outline_of, place
from fsd_core.plan.pricing import priced
from fsd_core.plan.ways import Given
from fsd_core.plan.workload import Workload

__all__ = ["Decision", "decide"]

UNKNOWN = "hybrid"  # the channel where a provider does not say its limits


@attrs.frozen
class Decision:
    """How to run, and why, in one or two sentences; ``reason`` is empty if the user left no choice to the planner."""

    parallel: Parallel
    channel: str
    reason: str = ""


def decide(
    workload: Workload,
    provider: str,
    settings: Mapping[str, object],
    given: Given,
    *,
    latency: Latency | None,
    home: Path,
) -> Decision:
    """Choose the split and the channel that are not ``given``, by the prices and latencies of ``provider`` with its ``settings``.

    ``latency``: what the run asks for; `None`: the provider's own, of this machine those of its processes and files. The memory of a
    function is that of the settings. Raises `InputError` if nothing is possible.
    """
    shape = given.split if isinstance(given.split, Parallel) else None
    channel = given.channel
    if shape is not None and (channel is not None or shape.workers == 1):
        return Decision(shape, channel or UNKNOWN)
    if outline_of(provider, settings) is None:
        why = f"provider {provider} does not say its limits, so nothing can be predicted"
        workers = given.split if isinstance(given.split, int) else None
        return Decision(shape or workload.unplanned(workers), channel or UNKNOWN, why)
    where = place(provider, settings, latency.scaled() if latency else None)
    memory = where.outline.functions.memory_bytes
    given = attrs.evolve(given, memory_mb=None if memory is None else memory >> 20)
    found = priced(workload, [where], Wishes(), given=given, colds=(True,), home=home).candidates
    usable = [each for each in found if each.feasible and each.prediction is not None]
    if not usable:
        if shape is not None:  # only the channel was to choose: what makes the run tells more exactly what is wrong with the split
            return Decision(shape, UNKNOWN)
        raise InputError(nothing(workload.name, found, Wishes()))
    best = choose(given.objective, usable)
    why = reason(best, found, given.objective)
    if where.table is not None and where.table.measured is not None:
        why += f" The latencies were measured {where.table.where}."
    return Decision(best.parallel, channel or best.channel, why)
