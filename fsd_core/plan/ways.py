"""The ways to run a workload at a provider before their simulation, with lower bounds of the seconds and USD of each way."""

from __future__ import annotations

import math
from bisect import bisect
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from statistics import NormalDist

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.common.amount import counted
from fsd_core.cost import Tariff, Usage, bill
from fsd_core.errors import InputError
from fsd_core.latency import Table
from fsd_core.latency.draws import quantile_ms
from fsd_core.partition import Parallel
from fsd_core.plan.batches import Batches
from fsd_core.plan.cores import cores
from fsd_core.plan.counts import exchange
from fsd_core.plan.launching import BEGIN_S, FORK_S, ROOTS
from fsd_core.plan.predict import Platform, Prediction, predict_each
from fsd_core.plan.split import Split
from fsd_core.plan.workload import Shaped, Workload
from fsd_core.protocol.runconfig import CHANNELS
from fsd_core.protocol.spawn import THREADS
from fsd_core.providers.outline import Outline

__all__ = ["Given", "Place", "Refused", "Way", "Ways"]


@attrs.frozen(kw_only=True, eq=False)
class Place:
    """A provider that a plan may choose. ``crowded``: all workers share the cores of this machine."""

    provider: str
    outline: Outline
    table: Table | None
    tariff: Tariff | None
    crowded: bool = False

    def whole(self, memory_mb: int) -> bool:
        """Whether a function with ``memory_mb`` MiB has a core for itself. Measurements scatter, so nine tenths of one are enough there."""
        return self.outline.cores(memory_mb) >= 1.0 and cores(self.provider, self.outline, self.table, memory_mb) >= 0.9


@attrs.frozen(kw_only=True)
class Given:
    """The decisions of the user; `None`: the planner decides.

    ``split``: all of it, or the number of workers. ``objective``: of the channel. ``memory_mb``: of a function.
    """

    split: Parallel | int | None = None
    channel: str | None = None
    batch_size: int | None = None
    memory_mb: int | None = None
    objective: str = "cost"
    branching: int = 4


@attrs.frozen
class Refused:
    """A split that a place cannot run. ``needs_bytes``: of memory, in the worker with most; 0 where that is not the reason."""

    why: str
    memory_mb: int
    needs_bytes: int = 0


@attrs.frozen(eq=False)
class Way:
    """A split over a channel, on functions of each size in ``memory``, all of which hold the same micro-batches."""

    place: Place
    given: Given
    split: Split
    batches: Batches
    channel: str
    memory: tuple[int, ...]
    _thin: dict[int, Split] = attrs.field(factory=dict, init=False)

    def simulated(self, steps: int, runs: int, memory: Sequence[int], colds: Sequence[bool]) -> list[Prediction]:
        """Predictions for these sizes of a function, cold and warm, with at most ``steps`` exchanges inside a stage simulated."""
        return predict_each(
            self._thin.setdefault(steps, self.split.thinned(steps)),
            [self._platform(size, cold) for size in memory for cold in colds],
            self.channel,
            objective=self.given.objective,
            branching=self.given.branching,
            runs=runs,
            keep=self.batches.keep,
            most_batches=steps,
            memory_by_rank=[self.batches.predicted_bytes],
        )

    def least(self, memory_mb: int) -> tuple[float, float]:
        """About the least median seconds and USD of a cold start: every request takes its median, and no message is late.

        The USD are those of function time and of what every function requests.
        """
        split, place = self.split, self.place
        platform, shape = self._platform(memory_mb, True), self.split.parallel
        pace = platform.pace
        client, start = self._median("list", "put"), self._median("start_cold") or FORK_S
        invokes = math.ceil(min(shape.workers, ROOTS) / THREADS) * self._median("invoke")
        begin = self._median("put", "get") + pace * BEGIN_S
        link = place.table.links.get("read") if place.table else None
        busy, loads, hops = [], [], self._hops
        for stage, (first, last) in enumerate(split.stages):
            rank = stage * shape.tensor
            busy.append(pace * split.share * float(split.work_s[first:last, rank].sum()) / platform.gain(split))
            loads.append(sum(split.reads[rank]) / (1e6 * link.mb_per_s) if link else 0.0)
        crowd = platform.crowd(split, float(np.mean(busy)), float(hops.mean()))
        one = crowd * np.array(busy) + hops  # seconds of a micro-batch in each stage
        more = split.replica_batches - 1
        reads = (
            1 if self.batches.keep or split.loads_first else 1 + more
        )  # a worker that cannot keep its weights reads them for each micro-batch
        ends = begin + np.maximum(
            reads * np.array(loads), np.cumsum(one) + more * np.maximum.accumulate(one)
        )  # of each stage, since its function began
        seconds = client + invokes + start + float(ends.max()) + self._median("put")
        if place.tariff is None:
            return seconds, 0.0
        functions = tuple((float(end), 0.0) for end in ends for _ in range(shape.tensor)) * shape.data
        counts = {"invocations": shape.workers, "object_puts": 2 * shape.workers, "object_gets": 4 * shape.workers}  # see `fixed`
        return seconds, bill(Usage(counts, functions, 0.0, float(memory_mb)), place.tariff).total_usd

    @cached_property
    def _hops(self) -> NDArray[np.float64]:
        """(stages,) the least seconds that each stage waits for the messages of a micro-batch."""
        verbs, found = ("put", "get") if self.channel == "object" else ("deliver",), np.zeros(len(self.split.starts))
        steps = [step for step in self.split.steps if step.layer > 1]
        slowest = {count: self._median(*verbs, worst_of=count) for count in {len(step.sources) for step in steps}}
        for step in steps:
            found[bisect(self.split.starts, step.layer - 1) - 1] += step.weight * slowest[len(step.sources)]
        return found

    def least_sent(self, steps: int) -> float:
        """About the USD of the requests of its exchanges, without those that receive: of ``steps`` exchanges inside a stage."""
        tariff, split = self.place.tariff, self._thin.setdefault(steps, self.split.thinned(steps))
        if tariff is None:
            return 0.0
        eager = self.given.objective == "latency"
        outline = self.place.outline.soonest() if eager else self.place.outline
        counts: Counter[str] = Counter()
        for step in split.steps:
            found = exchange(step, split.share, self.channel, eager, outline)
            times = step.weight * len(split.batches)
            counts.update({name: round(count * times) for name, count in found.counts.items()})
        return bill(Usage(counts), tariff).total_usd

    def _median(self, *verbs: str, worst_of: int = 1) -> float:
        """The sum of the medians of some verbs, in seconds; of the slowest of so many."""
        rows = self.place.table.rows if self.place.table else {}
        z = NormalDist().inv_cdf(0.5 ** (1 / worst_of))
        return sum(quantile_ms(rows[verb], z) for verb in verbs if verb in rows) / 1000

    def _platform(self, memory_mb: int, cold: bool) -> Platform:
        place = self.place
        return Platform(
            provider=place.provider,
            outline=place.outline,
            table=place.table,
            tariff=place.tariff,
            memory_mb=memory_mb,
            cold=cold,
            crowded=place.crowded,
        )


@attrs.define(eq=False)
class Ways:
    """The ways to run one workload, within what is ``given``."""

    workload: Workload
    given: Given = attrs.field(factory=Given)
    _known: dict[Parallel, Shaped | str] = attrs.field(factory=dict, init=False)  # the same at all places; or why it cannot be

    @property
    def shapes(self) -> Sequence[Parallel]:
        """The splits to price."""
        return self.workload.shapes(self.given.split)

    def at(self, place: Place, shape: Parallel) -> list[Way | Refused]:
        """The ways to run with this split at a place, or why there are none."""
        functions, outline = place.outline.functions, place.outline
        all_sizes = sorted(outline.memory_mb) if self.given.memory_mb is None else [self.given.memory_mb]
        if functions.concurrency is not None and shape.workers > functions.concurrency:
            return [Refused(f"quota {counted(functions.concurrency, 'function')} at once", all_sizes[-1])]
        known = self._shaped(shape)
        if isinstance(known, str):
            return [Refused(known, all_sizes[-1])]
        fits: list[tuple[int, Batches]] = []
        for memory_mb in all_sizes:
            try:
                fits.append((memory_mb, known.cut(attrs.evolve(functions, memory_bytes=memory_mb << 20), place.provider)))
            except InputError:
                continue
            if place.whole(memory_mb) and _keeps(fits[-1][1], shape.data):
                break
        if not fits:
            needs, most = known.needed_bytes(functions), all_sizes[-1]
            return [Refused(f"needs {needs / 1e9:.3g} GB, a function has {(most << 20) / 1e9:.3g} GB", most, needs)]
        made: list[Way | Refused] = []
        for sizes, batches in _sizes(fits, place, shape.data):
            split = attrs.evolve(known.split, batches=tuple(batches.samples))
            for channel in self._channels(split, outline):
                if channel != "object" and shape.workers > 1 and (why := outline.refuses(shape.workers)):
                    made.append(Refused(why, sizes[0]))
                    continue
                made.append(Way(place, self.given, split, batches, channel, sizes))
        return made

    def _shaped(self, shape: Parallel) -> Shaped | str:
        if shape not in self._known:
            try:
                self._known[shape] = self.workload.shaped(shape, self.given.batch_size)
            except InputError as error:
                self._known[shape] = str(error)
        return self._known[shape]

    def _channels(self, split: Split, outline: Outline) -> Sequence[str]:
        """The channels that differ: without exchanges any is as good as the queue, and hybrid is queue where all payloads are small."""
        if self.given.channel is not None:
            return (self.given.channel,)
        if split.parallel.workers == 1 or not split.steps:
            return CHANNELS[:1]
        large = max(float(step.payloads(split.share).max()) for step in split.steps) > outline.messages.message_bytes
        return CHANNELS if large else CHANNELS[:2]


def _sizes(fits: list[tuple[int, Batches]], place: Place, replicas: int) -> list[tuple[tuple[int, ...], Batches]]:
    """The smallest size of a function that holds a part, the smallest with a whole core, and the smallest of these in which workers keep
    their weights from one micro-batch to the next. Those with equal micro-batches are together.
    """
    whole = [each for each in fits if place.whole(each[0])]
    keeping = [each for each in whole if _keeps(each[1], replicas)]
    found: list[tuple[tuple[int, ...], Batches]] = []
    for size, batches in sorted(dict((*fits[:1], *whole[:1], *keeping[:1])).items()):
        if found and _alike(found[-1][1], batches):
            found[-1] = ((*found[-1][0], size), batches)
        else:
            found.append(((size,), batches))
    return found


def _keeps(batches: Batches, replicas: int) -> bool:
    """Whether a worker loads its weights once."""
    return batches.keep or len(batches.samples) <= replicas


def _alike(one: Batches, other: Batches) -> bool:
    return (one.samples, one.keep) == (other.samples, other.keep)
