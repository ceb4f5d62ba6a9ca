"""Compares many ways to run a workload: which are possible, what they take and cost, and which one an objective chooses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs
import numpy as np

from fsd_core.cost import Tariff
from fsd_core.driver import InvokeLimits
from fsd_core.errors import InputError
from fsd_core.latency import Table
from fsd_core.partition import Parallel, Profile, worthwhile
from fsd_core.partition.stages import LOAD_BYTES_S, cut
from fsd_core.plan.batches import Batches
from fsd_core.plan.batches import cut as cut_batches
from fsd_core.plan.facts import Facts
from fsd_core.plan.predict import Platform, Prediction, predict
from fsd_core.plan.traffic import Estimator, Split
from fsd_core.protocol.runconfig import CHANNELS
from fsd_core.providers.outline import Outline

__all__ = ["OBJECTIVES", "Candidate", "Place", "Wishes", "choose", "compare", "front", "key_of", "reason", "shape_words"]

OBJECTIVES = ("cost", "latency", "balanced")
MOST_WORKERS = 64  # of one kind of split among the candidates; more only where fewer are too small for the model
MOST_STAGES = 256
SOME, LARGE_BYTES, LONG_S = 16, 20e6, 0.5  # more than so many parts are priced only where each still loads or computes for so much
SCREEN_STEPS, SCREEN_RUNS = 3, 12  # of a simulation that decides whether a candidate is worth a longer one
FINAL_STEPS, FINAL_RUNS = 12, 64
FINALISTS = 8  # of each provider
ALIKE = 1.05  # predictions that differ by less count as equal
SPARE = 1.6  # a candidate is worth a longer simulation if it takes and costs at most so many times what another one does


@attrs.frozen(kw_only=True, eq=False)
class Place:
    """A provider among which to choose."""

    provider: str
    outline: Outline
    table: Table | None
    tariff: Tariff | None
    crowded: bool = False


@attrs.frozen(kw_only=True, eq=False)
class Candidate:
    """One way to run. ``why``: the reason why it is not feasible, or empty. ``needs_bytes``: memory of the worker that needs most."""

    provider: str
    channel: str
    parallel: Parallel
    memory_mb: int
    cold: bool
    prediction: Prediction | None
    why: str = ""
    needs_bytes: int = 0

    @property
    def feasible(self) -> bool:
        """Whether it can run and meets what the user asked for."""
        return not self.why

    def to_json(self) -> dict[str, Any]:
        """The candidate as values that JSON can hold: names as in docs/prediction.md; figures are null where nothing was simulated."""
        blank = {"seconds": None, "parts": None, "usd": None, "meter": None, "micro_batches": None, "bytes_by_rank_max": None}
        found: dict[str, Any] = {"provider": self.provider, "channel": self.channel, "workers": self.parallel.workers}
        found |= {"parallel": self.parallel.to_json(), "memory_mb": self.memory_mb, "cold": self.cold, **blank}
        if self.prediction is not None:
            found |= self.prediction.to_json()
        return found | {"feasible": self.feasible, "why": self.why}


@attrs.frozen
class Wishes:
    """What a choice must meet: seconds (p95) and USD of a run; `None`: no limit."""

    deadline: float | None = None
    budget: float | None = None

    def refuses(self, found: Prediction, limits: InvokeLimits) -> str:
        """Why a prediction does not meet them; empty if it does."""
        slow, usd = found.seconds["p95"], found.usd
        if limits.timeout_s is not None and slow > limits.timeout_s:
            return f"takes {slow:.3g} s (p95), a function may run {limits.timeout_s:g} s"
        if self.deadline is not None and slow > self.deadline:
            shape = found.parallel
            if shape.tensor > 1 and found.parts["exchange"] > self.deadline:
                return f"its exchanges take {found.parts['exchange']:.3g} s, longer than the deadline of {self.deadline:g} s"
            return f"takes {slow:.3g} s (p95), longer than the deadline of {self.deadline:g} s"
        if self.budget is not None and usd is not None and usd > self.budget:
            return f"costs {usd:.3g} USD, more than the budget of {self.budget:g} USD"
        return ""


def compare(
    facts: Facts,
    places: Sequence[Place],
    wishes: Wishes,
    *,
    colds: Sequence[bool] = (True, False),
    progress: Callable[[int, int], None] | None = None,
) -> list[Candidate]:
    """Price the ways to run a workload at all ``places``. First briefly, then at length those that may be among the best."""
    estimator, found = Estimator(facts), list[Candidate]()
    shapes = list(_shapes(facts))
    for number, place in enumerate(places):
        makers: list[_Maker] = []
        for at, shape in enumerate(shapes):
            if progress is not None:
                progress(number * len(shapes) + at, len(places) * len(shapes))
            makers += _makers(facts, estimator, place, shape, found)
        rough = [(maker, maker.make(wishes, SCREEN_STEPS, SCREEN_RUNS, cold=True)) for maker in makers]
        best = _worth(rough)
        for maker, candidate in rough:
            if maker in best:
                found += [maker.make(wishes, FINAL_STEPS, FINAL_RUNS, cold=cold) for cold in colds]
            else:
                found.append(candidate)
    return found


def _worth(rough: list[tuple[_Maker, Candidate]]) -> list[_Maker]:
    """Those whose brief simulation is on the front of time and money, or near it."""
    scored = [(maker, each.prediction) for maker, each in rough if each.prediction is not None]
    points = [(maker, each.seconds["p50"], math.inf if each.usd is None else each.usd) for maker, each in scored]

    def beaten(seconds: float, usd: float) -> float:
        """How many times longer and dearer than another one: 1 on the front."""
        return max((min(seconds / other_s, (usd / other_usd) if other_usd else 1.0) for _, other_s, other_usd in points), default=1.0)

    order = sorted(points, key=lambda point: beaten(point[1], point[2]))
    return [maker for maker, seconds, usd in order[:FINALISTS] if beaten(seconds, usd) <= SPARE]


@attrs.frozen(eq=False)
class _Maker:
    """A way to run that is possible, before its simulation."""

    facts: Facts
    place: Place
    split: Split
    batches: Batches
    channel: str
    memory_mb: int
    _thin: dict[int, Split] = attrs.field(factory=dict, init=False)

    def make(self, wishes: Wishes, steps: int, runs: int, *, cold: bool) -> Candidate:
        place = self.place
        platform = Platform(
            provider=place.provider,
            outline=place.outline,
            table=place.table,
            tariff=place.tariff,
            memory_mb=self.memory_mb,
            cold=cold,
            crowded=place.crowded,
        )
        split = self._thin.setdefault(steps, self.split.thinned(steps))
        found = predict(self.facts, split, platform, self.channel, runs=runs, keep=self.batches.keep, most_batches=steps)
        found = attrs.evolve(found, memory_by_rank=np.array([self.batches.predicted_bytes]))
        return Candidate(
            provider=place.provider,
            channel=self.channel,
            parallel=self.split.parallel,
            memory_mb=self.memory_mb,
            cold=cold,
            prediction=found,
            why=wishes.refuses(found, place.outline.functions),
            needs_bytes=self.batches.predicted_bytes,
        )


def _shapes(facts: Facts) -> Iterable[Parallel]:
    """The splits to price: powers of two of each kind, and products of two kinds.

    More than `SOME` of a kind only where the parts are large even then: else they only add launches and messages.
    """
    layers, widest = len(facts.nonzeros), int(facts.widths[1:].max())
    model, layer, work_s = float(facts.stored.sum()), float(facts.stored.max()), float(facts.work_s.sum())
    doubles = [2**power for power in range(1, 15)]
    data = [size for size in doubles if size <= min(MOST_WORKERS, facts.samples) and (size <= SOME or work_s > size * LONG_S)]
    stages = [size for size in doubles if size <= min(MOST_STAGES, layers) and (size <= SOME or model > size * LARGE_BYTES)]
    tensor = [size for size in doubles if size <= min(MOST_WORKERS, widest) and (size <= SOME or layer > size * LARGE_BYTES)]
    yield Parallel()
    for size in data:
        yield Parallel(data=size)
    for size in stages:
        yield Parallel(pipeline=size)
    for size in tensor:
        yield Parallel(tensor=size)
    for first in (2, 4):
        for second in stages:
            if first in data and second * first <= 4 * SOME:
                yield Parallel(data=first, pipeline=second)
            if first in tensor and second * first <= 4 * SOME:
                yield Parallel(pipeline=second, tensor=first)


def _makers(facts: Facts, estimator: Estimator, place: Place, shape: Parallel, found: list[Candidate]) -> list[_Maker]:
    """The possible ways to run with this split at a place. Adds the impossible ones to ``found``, with the reason."""
    functions, outline = place.outline.functions, place.outline

    def refuse(why: str, memory_mb: int, needs: int = 0) -> list[_Maker]:
        channel = CHANNELS[0]
        found.append(
            Candidate(
                provider=place.provider, channel=channel, parallel=shape, memory_mb=memory_mb, cold=True, prediction=None, why=why,
                needs_bytes=needs,
            )
        )  # fmt: skip
        return []

    largest = max(outline.memory_mb)
    if functions.concurrency is not None and shape.workers > functions.concurrency:
        return refuse(f"quota {functions.concurrency} functions at once", largest)
    starts, wanted = _cut(facts, shape)
    if starts is None:
        return refuse(f"the layers do not fill {shape.pipeline} stages of {shape.tensor} workers", largest)
    once = estimator.split(shape, starts, [facts.samples])
    fits: list[tuple[int, Batches]] = []
    for memory_mb in sorted(outline.memory_mb):
        limits = attrs.evolve(functions, memory_bytes=memory_mb << 20)
        try:
            fits.append((memory_mb, cut_batches(once.sizes, facts.samples, None, shape, wanted, limits, place.provider)))
        except InputError:
            continue
    if not fits:
        free = attrs.evolve(functions, memory_bytes=None)
        needs = cut_batches(once.sizes, facts.samples, 1, shape, wanted, free, place.provider).predicted_bytes
        return refuse(f"needs {needs / 1e9:.3g} GB, a function has {(largest << 20) / 1e9:.3g} GB", largest, needs)
    made = []
    for memory_mb, batches in _two_sizes(fits, outline):
        split = attrs.evolve(once, batches=tuple(batches.samples))
        for channel in _channels(split, outline):
            if channel != "object" and shape.workers > 1 and (why := outline.refuses(shape.workers)):
                refuse(why, memory_mb)
                continue
            made.append(_Maker(facts, place, split, batches, channel, memory_mb))
    return made


def _two_sizes(fits: list[tuple[int, Batches]], outline: Outline) -> list[tuple[int, Batches]]:
    """The smallest size of a function that holds a part, and the smallest with a whole core."""
    whole = [each for each in fits if outline.cores(each[0]) >= 1.0]
    return list({size: (size, batches) for size, batches in (fits[0], *whole[:1])}.values())


def _channels(split: Split, outline: Outline) -> Sequence[str]:
    """The channels that differ: without exchanges any is as good as the queue, and hybrid is queue where all payloads are small."""
    if split.parallel.workers == 1 or not split.steps:
        return CHANNELS[:1]
    share = max(split.batches) / sum(split.batches)
    large = max(float(step.payloads(share).max()) for step in split.steps) > outline.messages.message_bytes
    return CHANNELS if large else CHANNELS[:2]


def _cut(facts: Facts, shape: Parallel) -> tuple[list[int] | None, int]:
    """The first layers of the stages, `None` if there are none, and the micro-batches that a replica should get."""
    if shape.pipeline == 1:
        return [0], 1
    widths = facts.widths[1:]
    costs = Profile(facts.stored / LOAD_BYTES_S, facts.work_s / shape.data, facts.live[1:] * widths / shape.data, widths)
    wanted = worthwhile(costs, shape.pipeline, shape.tensor)
    return cut(attrs.evolve(costs, batches=wanted), shape.pipeline, shape.tensor), wanted


def key_of(objective: str, candidate: Candidate) -> float:
    """What an objective makes small: USD, median seconds, or their product."""
    found = candidate.prediction
    assert found is not None
    usd = math.inf if found.usd is None else found.usd
    seconds = found.seconds["p50"]
    return {"cost": usd, "latency": seconds, "balanced": usd * seconds if usd else seconds}[objective]


def choose(objective: str, candidates: Sequence[Candidate]) -> Candidate:
    """The candidate that an objective chooses, of those that are feasible and predicted; at least one must be.

    Those within `ALIKE` of the best count as equal, because a prediction is no more exact than that: of them, the objectives cost and
    balanced take the fastest, latency the cheapest.
    """
    usable = [each for each in candidates if each.feasible and each.prediction is not None]
    best = min(key_of(objective, each) for each in usable)
    alike = [each for each in usable if key_of(objective, each) <= ALIKE * best]
    other = "cost" if objective == "latency" else "latency"
    return min(alike, key=lambda each: (key_of(other, each), key_of(objective, each)))


def front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The Pareto front of median seconds against USD: no other one is both faster and cheaper. The fastest first."""
    usable = [each for each in candidates if each.feasible and each.prediction is not None]
    found: list[Candidate] = []
    for each in sorted(usable, key=lambda one: (key_of("latency", one), key_of("cost", one))):
        if not found or key_of("cost", each) < key_of("cost", found[-1]):
            found.append(each)
    return found


def reason(choice: Candidate, candidates: Sequence[Candidate], objective: str) -> str:
    """Why the choice is best, in one sentence."""
    alike = [each for each in candidates if each.prediction is not None and each.cold == choice.cold and each is not choice]
    split = [each for each in alike if each.parallel.workers > 1 and each.feasible]
    if choice.parallel.workers == 1:
        if not split:
            return f"One function is best here: it takes {_figures(choice)}, and no split that was priced is possible."
        other = min(split, key=lambda each: key_of(objective, each))
        next_one = f"the next best split, {shape_words(other.parallel)}, takes {_figures(other)}"
        return f"One function is best here: it takes {_figures(choice)}; {next_one}."
    what = {"cost": "the cheapest", "latency": "the fastest", "balanced": "the one with the smallest product of time and money"}[objective]
    said = f"{shape_words(choice.parallel).capitalize()} is {what} of the possible ways, with {_figures(choice)}"
    one = [each for each in candidates if each.parallel.workers == 1 and each.provider == choice.provider]
    if one:
        single = min(one, key=lambda each: (not each.feasible, each.memory_mb))
        said += f"; one function {single.why or 'takes ' + _figures(single)}"
    return f"{said}."


def _figures(candidate: Candidate) -> str:
    found = candidate.prediction
    if found is None:
        return "an unknown time"
    return f"{found.seconds['p50']:.3g} s" + ("" if found.usd is None else f" and {found.usd:.2g} USD")


def shape_words(shape: Parallel) -> str:
    """A split in words."""
    words = []
    if shape.data > 1:
        words.append(f"{shape.data} replicas")
    if shape.pipeline > 1:
        words.append(f"a pipeline of {shape.pipeline} stages")
    if shape.tensor > 1:
        words.append(f"tensor parallel {shape.tensor}")
    return " x ".join(words) or "one function"
