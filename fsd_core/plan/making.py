"""`Plan`: the ways to run a model on an input at several providers, and the one that is best."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from fsd_core.common.amount import counted
from fsd_core.errors import InputError
from fsd_core.plan.choose import Candidate, Wishes, choose, front, key_of, reason, shape_words
from fsd_core.plan.pricing import Priced, priced
from fsd_core.plan.servers import servers
from fsd_core.plan.ways import Given, Place
from fsd_core.plan.workload import Workload

__all__ = ["Plan", "nothing", "plan_of"]


@attrs.frozen(kw_only=True, eq=False)
class Plan:
    """The result of `fsd_core.make_plan`.

    - ``choice``: the `Candidate` that the objective chooses, with a cold start; ``reason``: why, in one sentence.
    - ``candidates``: all ways that were priced, possible or not; ``front``: the cold starts that no other one beats in both time and money,
      the fastest first.
    - ``about``: model, input and wishes, as texts; ``sizes``: the sizes of model and input. ``notes``: the assumptions of the figures.
    - ``per_day``: for each provider with a server in its tariff, from how many runs a day servers are cheaper (``from_runs``; `None`: they
      never are); empty if not asked for.
    - ``given``: the settings that the plan rests on: the tables of providers, and, with the key "", keys of a run.
    """

    choice: Candidate
    reason: str
    candidates: tuple[Candidate, ...] = attrs.field(repr=False)
    objective: str
    about: Mapping[str, Any]
    sizes: Mapping[str, int]
    notes: tuple[str, ...]
    per_day: tuple[Mapping[str, Any], ...] = ()
    given: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict, repr=False)

    @property
    def front(self) -> list[Candidate]:
        """The Pareto front of the cold starts, the fastest first."""
        return front([each for each in self.candidates if each.cold])

    def warm(self, cold: Candidate) -> Candidate | None:
        """The same way to run with functions that are warm; `None` if it was not simulated at length."""
        return next((each for each in self.candidates if not each.cold and _way(each) == _way(cold)), None)

    def to_json(self) -> dict[str, Any]:
        """The plan as values that JSON can hold."""
        return {
            "choice": self.choice.to_json(),
            "reason": self.reason,
            "objective": self.objective,
            "about": dict(self.about) | dict(self.sizes),
            "candidates": [each.to_json() for each in self.candidates],
            "notes": list(self.notes),
            "per_day": [dict(each) for each in self.per_day],
        }

    def settings(self) -> dict[str, dict[str, Any]]:
        """The keys of ``fsd.toml`` with which ``fsd run`` uses the choice, by table; the table "" is the top of the file."""
        choice, shape = self.choice, self.choice.parallel
        top: dict[str, Any] = {"provider": choice.provider, **self.given.get("", {}), "workers": shape.workers}
        top |= {f"{name}_parallel": size for name, size in shape.to_json().items()}
        if shape.workers > 1:
            top["channel"] = choice.channel
        if choice.prediction is not None and choice.prediction.micro_batches > shape.data:
            top["batch_size"] = -(-self.sizes["samples"] // choice.prediction.micro_batches)
        return {"": top, choice.provider: {**self.given.get(choice.provider, {}), "memory_mb": choice.memory_mb}}


def plan_of(
    workload: Workload,
    places: Sequence[Place],
    wishes: Wishes,
    words: Mapping[str, str],
    *,
    objective: str,
    per_day: float | None,
    given: Mapping[str, Mapping[str, Any]],
    home: Path,
    progress: Callable[[int, int], None] | None,
) -> Plan:
    """The `Plan` for a workload. ``words``: what the user called the model and the input. ``given``: see `Plan`. For other arguments and
    errors see `make_plan`.
    """
    of_run = "latency" if objective == "latency" else "cost"  # a run has no objective between them
    found = priced(workload, places, wishes, given=Given(objective=of_run), home=home, progress=progress)
    candidates = found.candidates
    cold = [each for each in candidates if each.cold and each.feasible and each.prediction is not None]
    if not cold:
        raise InputError(nothing(workload.name, candidates, wishes))
    choice = choose(objective, cold)
    assert choice.prediction is not None
    limits = (("deadline", wishes.deadline), ("budget", wishes.budget), ("per_day", per_day))
    return Plan(
        choice=choice,
        reason=reason(choice, candidates, objective),
        candidates=tuple(candidates),
        objective=objective,
        about={"model": workload.name, "input": "given"} | dict(words) | {name: each for name, each in limits if each is not None},
        sizes=dict(workload.about()),
        notes=tuple(choice.prediction.notes),
        per_day=tuple(_servers(found, places, cold, per_day)) if per_day is not None else (),
        given=given,
    )


def _way(each: Candidate) -> tuple[Any, ...]:
    return each.provider, each.channel, each.parallel, each.memory_mb


def nothing(name: str, candidates: Sequence[Candidate], wishes: Wishes) -> str:
    """The text of the error if no way is possible, or no way meets the wishes."""
    simulated = [each for each in candidates if each.prediction is not None and each.cold]
    if not simulated:
        large = [each for each in candidates if each.needs_bytes]
        if not large:
            quota = "; ".join(dict.fromkeys(each.why for each in candidates))
            return f"{name}: there is no possible way to run it: {quota}"
        names = dict.fromkeys(each.provider for each in large)
        by_provider = [[each for each in candidates if each.provider == provider] for provider in names]
        workers, least, most, quotas = min((_short_of(each) for each in by_provider), key=lambda found: found[0])
        also = f" ({quotas[0]})" if quotas else ""
        return (
            f"{name}: fits no function however it is split: the smallest part, with {shape_words(least.parallel)}, needs "
            f"{least.needs_bytes / 1e9:.3g} GB, a function of {least.provider} has {most / 1e9:.3g} GB{also}: "
            f"expected about {counted(workers, 'worker')} or more"
        )
    cheap = [each for each in simulated if wishes.budget is None or _usd(each) <= wishes.budget]
    quick = [each for each in simulated if wishes.deadline is None or _p95(each) <= wishes.deadline]
    words = []
    fastest, cheapest = min(cheap or simulated, key=_p95), min(quick or simulated, key=_usd)
    if wishes.deadline is not None and _p95(fastest) > wishes.deadline:
        within = " within the budget" if wishes.budget is not None and cheap else ""
        line = f"deadline {wishes.deadline:g}: the fastest way{within}, {shape_words(fastest.parallel)} on {fastest.provider}, takes "
        line += (
            f"{_p95(fastest):.3g} s (p95), most of it to {_longest(fastest)}: expected at least {math.ceil(100 * _p95(fastest)) / 100:g}"
        )
        words.append(line)
    if wishes.budget is not None and _usd(cheapest) > wishes.budget:
        within = " within the deadline" if wishes.deadline is not None and quick else ""
        line = f"budget {wishes.budget:g}: the cheapest way{within}, {shape_words(cheapest.parallel)} on {cheapest.provider}, costs "
        words.append(f"{line}{_usd(cheapest):.3g} USD: expected at least {_above(_usd(cheapest)):g}")
    return "; ".join(words) or f"{name}: there is no possible way to run it: {simulated[0].why}"


def _short_of(candidates: Sequence[Candidate]) -> tuple[int, Candidate, int, list[str]]:
    """Of one provider: about the workers that the model needs, the way with the smallest part, the bytes of a function, the quotas."""
    least = min((each for each in candidates if each.needs_bytes), key=lambda each: each.needs_bytes)
    most = max(each.memory_mb for each in candidates) << 20
    workers = -(-least.needs_bytes * least.parallel.workers // most)
    return workers, least, most, sorted({each.why for each in candidates if each.why.startswith("quota")})


def _above(usd: float) -> float:
    """A number of three digits that is at least ``usd``, which is above 0."""
    near = float(f"{usd:.3g}")
    return near if near >= usd else float(f"{near + 10.0 ** (math.floor(math.log10(usd)) - 2):.3g}")


def _p95(each: Candidate) -> float:
    return each.prediction.seconds["p95"] if each.prediction else math.inf


def _usd(each: Candidate) -> float:
    return (each.prediction.usd or 0.0) if each.prediction else math.inf


def _longest(each: Candidate) -> str:
    """What takes most of the time of a run, in words."""
    parts: Mapping[str, float] = each.prediction.parts if each.prediction else {}
    words = {"launch": "start functions", "load": "load weights", "compute": "compute", "exchange": "exchange activations"}
    return words.get(max(parts, key=lambda name: parts[name]), "collect the output")


def _servers(ways: Priced, places: Sequence[Place], cold: Sequence[Candidate], runs: float) -> list[dict[str, Any]]:
    """For each provider: servers that always run, beside its cheapest way to run."""
    found = []
    for where in places:
        server = where.tariff.server if where.tariff else None
        here = [each for each in cold if each.provider == where.provider and each.prediction is not None and each.prediction.usd]
        if server is None or not here:
            continue
        cheapest = min(here, key=lambda each: key_of("cost", each))
        assert cheapest.prediction is not None
        usd = cheapest.prediction.usd or 0.0
        measured = where.table.measured if where.table else None
        always = servers(server, ways.stored_bytes, ways.work_s, (measured.speed if measured else None) or 1.0)
        count = always.count(runs)
        who = {"provider": where.provider, "server": server.name, "servers": count, "server_usd_a_day": count * always.usd}
        what = {"run_usd": usd, "runs": runs, "functions_usd_a_day": usd * runs}
        found.append(who | what | {"from_runs": always.cheaper_from(usd), "server_wins": usd * runs > count * always.usd})
    return found
