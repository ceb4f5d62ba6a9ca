"""Compares many ways to run a workload: which ways are possible, their seconds and USD, and which way an objective chooses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from fsd_core.driver import InvokeLimits
from fsd_core.partition import Parallel
from fsd_core.plan.predict import Prediction
from fsd_core.plan.ways import Given, Place, Refused, Way, Ways
from fsd_core.plan.workload import Workload
from fsd_core.protocol.runconfig import CHANNELS

__all__ = ["OBJECTIVES", "Candidate", "Wishes", "choose", "compare", "front", "key_of", "reason", "shape_words"]

OBJECTIVES = ("cost", "latency", "balanced")
SCREEN_STEPS, SCREEN_RUNS = 3, 12  # of a simulation that decides whether a candidate is worth a longer one
SCREENED = 20  # at each provider, beside one function and replicas
FINAL_STEPS, FINAL_RUNS = 12, 64
FINALISTS = 8  # of each provider
ALIKE = 1.05  # predictions that differ by less count as equal
ALIKE_FREE = 1.25  # where nothing is billed: on this machine, whose cores other programs use too
SPARE = 1.6  # a candidate is worth a longer simulation if it takes and costs at most so many times what another one does


@attrs.frozen(kw_only=True, eq=False)
class Candidate:
    """One way to run. ``why``: the reason why it is not feasible; empty if it is. ``needs_bytes``: of memory, in the worker with most.

    ``beaten``: why it was not simulated although it is feasible: another way is faster and cheaper than the lower bounds of this one.
    """

    provider: str
    channel: str
    parallel: Parallel
    memory_mb: int
    cold: bool
    prediction: Prediction | None
    why: str = ""
    needs_bytes: int = 0
    beaten: str = ""

    @property
    def feasible(self) -> bool:
        """Whether this way can run and meets the wishes of the user."""
        return not self.why

    def to_json(self) -> dict[str, Any]:
        """The candidate as values that JSON can hold: names as in docs/prediction.md; figures are null where nothing was simulated."""
        blank = {"seconds": None, "parts": None, "usd": None, "meter": None, "micro_batches": None, "bytes_by_rank_max": None}
        found: dict[str, Any] = {"provider": self.provider, "channel": self.channel, "workers": self.parallel.workers}
        found |= {"parallel": self.parallel.to_json(), "memory_mb": self.memory_mb, "cold": self.cold, **blank}
        if self.prediction is not None:
            found |= self.prediction.to_json()
        return found | {"feasible": self.feasible, "why": self.why or self.beaten}


@attrs.frozen
class Wishes:
    """What a choice must meet: seconds (p95) and USD of a run; `None`: no limit."""

    deadline: float | None = None
    budget: float | None = None

    def beyond(self, seconds: float, usd: float) -> str:
        """Why a way that takes at least ``seconds`` and costs at least ``usd`` cannot meet the wishes; empty if it may."""
        if self.deadline is not None and seconds > self.deadline:
            return f"takes at least {seconds:.3g} s, longer than the deadline of {self.deadline:g} s"
        if self.budget is not None and usd > self.budget:
            return f"costs at least {usd:.3g} USD, more than the budget of {self.budget:g} USD"
        return ""

    def refuses(self, found: Prediction, limits: InvokeLimits) -> str:
        """Why a prediction does not meet the wishes; empty if it does."""
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
    workload: Workload,
    places: Sequence[Place],
    wishes: Wishes,
    *,
    given: Given | None = None,
    colds: Sequence[bool] = (True, False),
    progress: Callable[[int, int], None] | None = None,
) -> list[Candidate]:
    """Price the ways to run a workload at all ``places``, within what is ``given``.

    First briefly, those that may be the fastest before others; a way that cannot beat these is not simulated. Then at length those that may
    be among the best.
    """
    ways, found = Ways(workload, given or Given()), list[Candidate]()
    elsewhere: list[Candidate] = []  # at the places before
    for number, place in enumerate(places):
        queue: list[tuple[Way, dict[int, tuple[float, float]]]] = []  # with the least that it takes and costs, by size of a function
        for shape in ways.shapes:
            for way in ways.at(place, shape):
                if isinstance(way, Refused):
                    found.append(_refused(place, shape, way))
                else:
                    queue.append((way, {memory_mb: way.least(memory_mb) for memory_mb in way.memory}))
        points = [point for _, least in queue for point in least.values()]
        queue.sort(key=lambda each: _order(each[0].split.parallel, list(each[1].values()), points, wishes))
        rough: list[tuple[Way, Candidate]] = []
        for at, (way, least) in enumerate(queue):
            if progress is not None:
                progress(number * len(queue) + at, len(places) * len(queue))
            here = [each for _, each in rough]
            worth = [size for size in least if _better(least[size], here, elsewhere) is None]
            if worth and way.split.steps:  # now with the price of its requests
                sent = way.least_sent(SCREEN_STEPS)
                least |= {size: (least[size][0], least[size][1] + sent) for size in worth}
                worth = [size for size in worth if _better(least[size], here, elsewhere) is None]
            found += [_beaten(way, size, least[size], _better(least[size], here, elsewhere), wishes) for size in least if size not in worth]
            enough = way.split.parallel.parts > 1 and sum(other.split.parallel.parts > 1 for other, _ in rough) >= SCREENED
            hopeless = all(wishes.beyond(*point) for point in least.values()) and any(each.feasible for _, each in rough)
            if worth and (enough or hopeless):
                found += [_beaten(way, size, least[size], None, wishes) for size in worth]
            elif worth:
                rough += [(way, _candidate(way, each, wishes)) for each in way.simulated(SCREEN_STEPS, SCREEN_RUNS, worth, [True])]
        elsewhere += [each for _, each in rough if each.feasible and each.prediction is not None and each.prediction.usd is not None]
        best = _worth(rough)
        for way in dict.fromkeys(way for way, _ in rough):
            sizes = [each.memory_mb for other, each in rough if other is way and each in best]
            found += [each for other, each in rough if other is way and each not in best]
            if sizes:
                found += [_candidate(way, each, wishes) for each in way.simulated(FINAL_STEPS, FINAL_RUNS, sizes, colds)]
    return found


def _order(
    shape: Parallel, least: Sequence[tuple[float, float]], points: Sequence[tuple[float, float]], wishes: Wishes
) -> tuple[bool, bool, bool, float]:
    """One function, then replicas, which both beat many others; then those that promise most. Those that miss the wishes come last."""
    beyond = all(wishes.beyond(*point) for point in least)
    return beyond, shape.workers > 1, shape.parts > 1, min(_behind(point, points) for point in least)


def _candidate(way: Way, found: Prediction, wishes: Wishes) -> Candidate:
    return Candidate(
        provider=found.provider,
        channel=found.channel,
        parallel=found.parallel,
        memory_mb=found.memory_mb,
        cold=found.cold,
        prediction=found,
        why=wishes.refuses(found, way.place.outline.functions),
        needs_bytes=way.batches.predicted_bytes,
    )


def _refused(place: Place, shape: Parallel, found: Refused) -> Candidate:
    return Candidate(
        provider=place.provider,
        channel=CHANNELS[0],
        parallel=shape,
        memory_mb=found.memory_mb,
        cold=True,
        prediction=None,
        why=found.why,
        needs_bytes=found.needs_bytes,
    )


def _better(least: tuple[float, float], here: Sequence[Candidate], elsewhere: Sequence[Candidate]) -> Candidate | None:
    """One that is faster and cheaper than the ``least`` that another one can take and cost: ``here``, at the same place, or ``elsewhere``.

    One elsewhere counts only if a way here is cheaper than this least, so that the cheapest way of each place is known.
    """
    seconds, usd = least
    known = any(each.feasible and each.prediction is not None and (each.prediction.usd or 0.0) <= usd for each in here)
    for each in (*here, *elsewhere) if known else here:
        made = each.prediction
        if made is not None and made.seconds["p50"] < seconds and (made.usd or 0.0) <= usd:
            return each
    return None


def _beaten(way: Way, memory_mb: int, least: tuple[float, float], better: Candidate | None, wishes: Wishes) -> Candidate:
    """A way that was not simulated, because a ``better`` one exists even for the ``least`` that it takes, or many others promise more."""
    seconds, usd = least
    takes = f"takes at least {seconds:.3g} s"
    words = f"{takes}{f' and {usd:.2g} USD' if usd else ''}: "
    on = f" on {better.provider}" if better is not None and better.provider != way.place.provider else ""
    words += f"{shape_words(better.parallel)}{on} is better in both" if better else f"{SCREENED} other ways promise more"
    return Candidate(
        provider=way.place.provider,
        channel=way.channel,
        parallel=way.split.parallel,
        memory_mb=memory_mb,
        cold=True,
        prediction=None,
        why=wishes.beyond(seconds, usd),
        needs_bytes=way.batches.predicted_bytes,
        beaten=words,
    )


def _worth(rough: Sequence[tuple[Way, Candidate]]) -> list[Candidate]:
    """Those whose brief simulation is on the front of time and money, or near it."""
    scored = [(each, each.prediction) for _, each in rough if each.prediction is not None]
    points = [(made.seconds["p50"], made.usd or 0.0) for _, made in scored]
    order = sorted(((_behind(point, points), number) for number, point in enumerate(points)))
    return [scored[number][0] for behind, number in order[:FINALISTS] if behind <= SPARE]


def _behind(point: tuple[float, float], points: Sequence[tuple[float, float]]) -> float:
    """How many times longer and dearer than another one: 1 on the front. Points are seconds and USD; where all is free, time counts."""
    seconds, usd = point
    return max(min(seconds / other_s, usd / other_usd if other_usd else math.inf) for other_s, other_usd in points)


def key_of(objective: str, candidate: Candidate) -> float:
    """The figure that an objective minimises: USD, median seconds, or their product."""
    found = candidate.prediction
    assert found is not None
    usd = math.inf if found.usd is None else found.usd
    seconds = found.seconds["p50"]
    return {"cost": usd, "latency": seconds, "balanced": usd * seconds}[objective]


def choose(objective: str, candidates: Sequence[Candidate]) -> Candidate:
    """The candidate that an objective chooses, of those that are feasible and predicted; at least one must be.

    Those within `ALIKE` of the best count as equal, because a prediction is no more exact than that: of them, the objectives cost and
    balanced take the fastest, latency the cheapest; of those that are equal in both, all take the one with the fewest workers. Where
    nothing is billed, all take the fastest, and those within `ALIKE_FREE` count as equal.
    """
    usable = [each for each in candidates if each.feasible and each.prediction is not None]
    first, other = ("latency", "latency") if _free(usable) else (objective, "cost" if objective == "latency" else "latency")
    margin = ALIKE_FREE if _free(usable) else ALIKE
    alike = usable
    for key in (first, other):
        best = min(key_of(key, each) for each in alike)
        alike = [each for each in alike if key_of(key, each) <= margin * best]
    return min(alike, key=lambda each: (each.parallel.workers, key_of(other, each), key_of(first, each)))


def _free(candidates: Sequence[Candidate]) -> bool:
    """Whether nobody bills anything, or no price is known."""
    return not any(each.prediction is not None and each.prediction.usd for each in candidates)


def front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The Pareto front of median seconds against USD: the candidates that no other one beats in both. The fastest first."""
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
            beaten = any(each.beaten and each.parallel.workers > 1 for each in candidates)  # such a split is possible, but not better
            splits = "no possible split is faster or cheaper" if beaten else "no split that was priced is possible"
            return f"One function is best here: it takes {_figures(choice)}, and {splits}."
        sought = "latency" if _free(alike) else objective
        other = min(split, key=lambda each: key_of(sought, each))
        next_one = f"the next best split, {shape_words(other.parallel)}, takes {_figures(other)}"
        return f"One function is best here: it takes {_figures(choice)}; {next_one}."
    what = {"cost": "the cheapest", "latency": "the fastest", "balanced": "the one with the smallest product of time and money"}[objective]
    what = "the fastest" if _free(candidates) else what
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
    return f"{found.seconds['p50']:.3g} s" + (f" and {found.usd:.2g} USD" if found.usd else "")


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
