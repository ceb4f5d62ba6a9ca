"""`make_plan`: prices the ways to run a model on an input at several providers, and chooses one, as ``fsd plan`` does."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from fsd_core import latency as tables
from fsd_core.common import arguments
from fsd_core.common.fields import suggestion
from fsd_core.errors import InputError
from fsd_core.model import Model, open_model
from fsd_core.model.inputs import open_samples
from fsd_core.plan.choose import OBJECTIVES, Candidate, Wishes, choose, front, key_of, reason, shape_words
from fsd_core.plan.places import has_outline, place
from fsd_core.plan.pricing import Priced, priced
from fsd_core.plan.ways import Place
from fsd_core.providers import registry

__all__ = ["Plan", "make_plan", "nothing"]


@attrs.frozen(kw_only=True, eq=False)
class Plan:
    """What `make_plan` found.

    - ``choice``: the `Candidate` that the objective chooses, a cold start; ``reason``: why, in one sentence.
    - ``candidates``: all ways that were priced, possible or not; ``front``: of the cold ones, those that no other one beats in both time
      and money, the fastest first.
    - ``about``: model, input, sizes and wishes, for people. ``notes``: what the figures rest on.
    - ``per_day``: for each provider with a server in its tariff, from how many runs a day that server is cheaper; empty if not asked for.
    """

    choice: Candidate
    reason: str
    candidates: tuple[Candidate, ...] = attrs.field(repr=False)
    objective: str
    about: Mapping[str, Any]
    notes: tuple[str, ...]
    per_day: tuple[Mapping[str, Any], ...] = ()

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
            "about": dict(self.about),
            "candidates": [each.to_json() for each in self.candidates],
            "notes": list(self.notes),
            "per_day": [dict(each) for each in self.per_day],
        }

    def settings(self) -> dict[str, dict[str, Any]]:
        """The keys of ``fsd.toml`` that make ``fsd run`` do what was chosen, by table; the table "" is the top of the file."""
        choice, shape = self.choice, self.choice.parallel
        top: dict[str, Any] = {"provider": choice.provider, "workers": shape.workers}
        top |= {f"{name}_parallel": size for name, size in shape.to_json().items()}
        if shape.workers > 1:
            top["channel"] = choice.channel
        if choice.prediction is not None and choice.prediction.micro_batches > shape.data:
            top["batch_size"] = -(-int(self.about["samples"]) // choice.prediction.micro_batches)
        return {"": top, choice.provider: {"memory_mb": choice.memory_mb}}


def make_plan(
    model: Model | str | os.PathLike[str],
    inputs: Any,
    *,
    providers: Sequence[str] | None = None,
    objective: str = "cost",
    deadline: float | None = None,
    budget: float | None = None,
    per_day: float | None = None,
    settings: Mapping[str, Mapping[str, object]] | None = None,
    latency: str | os.PathLike[str] | None = None,
    home: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """Price the ways to run ``model`` on ``inputs`` and choose one, as ``fsd plan`` does. Starts nothing and makes no request.

    - ``model``, ``inputs``: as `run` takes them. Some samples are computed here for about half a second.
    - ``providers``: names. Default: the installed ones that have a table of latencies, which are aws, gcp and azure.
    - ``objective``: cost (the least USD), latency (the least median time) or balanced (the least product of the two).
    - ``deadline``: seconds that 95 % of the runs may take, from a cold start. ``budget``: USD of a run.
    - ``per_day``: runs a day; the plan then also says from how many a server that always runs is cheaper.
    - ``settings``: the tables of ``fsd.toml`` by provider, for instance ``{"aws": {"concurrency": 10}}``.
    - ``latency``: the table of latencies of all providers, a name or a path. Default: the table that `measure` made of each provider, else
      the one that comes with the provider; for the local provider, what this machine takes by itself.
    - ``home``: the folder below which plans are kept, so that the same call is fast the next time. Default: ``$FSD_HOME``, else ``~/.fsd``.
    - ``progress``: called with the number of ways that are priced and of all ways.

    Returns a `Plan`. Raises `InputError` if an argument is wrong; if no split makes the model fit into functions (the line says how much
    memory is missing); or if no way meets the deadline and the budget (the line names the nearest way).
    """
    objective = arguments.one_of("objective", objective, OBJECTIVES)
    limit_s = None if deadline is None else arguments.seconds("deadline", deadline)
    limit_usd, runs = (
        None if each is None else arguments.number(name, each, "a number above 0", lambda value: value > 0)
        for name, each in (("budget", budget), ("per_day", per_day))
    )
    wishes = Wishes(limit_s, limit_usd)
    advance = arguments.callback("progress", progress)
    given = {name: arguments.table(f"settings[{name!r}]", each) for name, each in arguments.table("settings", settings or {}).items()}
    folder = arguments.home(home)
    places = [place(name, given.get(name, {}), latency) for name in _names(providers)]
    opened = model if isinstance(model, Model) else open_model(model)
    samples = open_samples(inputs, opened)
    found = priced(opened, samples, places, wishes, home=folder, progress=advance)
    candidates = found.candidates
    cold = [each for each in candidates if each.cold and each.feasible and each.prediction is not None]
    if not cold:
        raise InputError(nothing(opened, candidates, wishes))
    choice = choose(objective, cold)
    assert choice.prediction is not None
    words: dict[str, Any] = {"model": opened.name, "input": "given"}
    words |= {key: os.fsdecode(each) for key, each in (("model", model), ("input", inputs)) if isinstance(each, str | os.PathLike)}
    words |= {"samples": samples.shape[0], "neurons": opened.neurons, "layers": len(opened.layers), "weights": opened.nonzeros}
    words |= {name: each for name, each in (("deadline", deadline), ("budget", budget), ("per_day", per_day)) if each is not None}
    return Plan(
        choice=choice,
        reason=reason(choice, candidates, objective),
        candidates=tuple(candidates),
        objective=objective,
        about=words,
        notes=tuple(choice.prediction.notes),
        per_day=tuple(_servers(found, places, cold, runs)) if runs is not None else (),
    )


def _way(each: Candidate) -> tuple[Any, ...]:
    return each.provider, each.channel, each.parallel, each.memory_mb


def _names(providers: Sequence[str] | None) -> list[str]:
    known = registry.installed()
    if providers is None:
        measured = [name for name in known if name in tables.names() and name != "local" and has_outline(name)]
        return measured or ["local"]
    if isinstance(providers, str) or not isinstance(providers, Sequence) or not providers:
        raise InputError(f"providers {providers!r}: expected a list of some of {', '.join(known)}")
    for name in providers:
        if name not in known:
            raise InputError(f"providers: {name!r} is not installed: {suggestion(str(name), known)}")
    return list(dict.fromkeys(providers))


def nothing(model: Model, candidates: Sequence[Candidate], wishes: Wishes) -> str:
    """The error line where nothing is possible, or nothing meets the wishes."""
    simulated = [each for each in candidates if each.prediction is not None and each.cold]
    if not simulated:
        large = [each for each in candidates if each.needs_bytes]
        if not large:
            quota = "; ".join(dict.fromkeys(each.why for each in candidates))
            return f"{model.name}: there is no possible way to run it: {quota}"
        least = min(large, key=lambda each: each.needs_bytes)
        most = max(each.memory_mb for each in candidates) << 20
        workers = -(-least.needs_bytes * least.parallel.workers // most)
        quotas = sorted({each.why for each in candidates if each.why.startswith("quota")})
        also = f" ({quotas[0]})" if quotas else ""
        return (
            f"{model.name}: fits no function however it is split: the smallest part, with {shape_words(least.parallel)}, needs "
            f"{least.needs_bytes / 1e9:.3g} GB, a function has {most / 1e9:.3g} GB{also}: expected about {workers} workers or more"
        )
    words = []
    if wishes.deadline is not None:
        near = min(simulated, key=lambda each: each.prediction.seconds["p95"] if each.prediction else math.inf)
        assert near.prediction is not None
        best = f"takes {near.prediction.seconds['p95']:.3g} s (p95)"
        words.append(f"deadline {wishes.deadline:g}: the fastest way, {shape_words(near.parallel)} on {near.provider}, {best}")
    if wishes.budget is not None:
        near = min(simulated, key=lambda each: key_of("cost", each))
        assert near.prediction is not None
        best = f"costs {near.prediction.usd or 0:.3g} USD"
        words.append(f"budget {wishes.budget:g}: the cheapest way, {shape_words(near.parallel)} on {near.provider}, {best}")
    if not words:
        return f"{model.name}: there is no possible way to run it: {simulated[0].why}"
    return f"{'; '.join(words)}: expected limits that at least one way meets"


def _servers(ways: Priced, places: Sequence[Place], cold: Sequence[Candidate], runs: float) -> list[dict[str, Any]]:
    """For each provider: from how many runs a day servers that always run are cheaper than its cheapest way to run."""
    found = []
    needed = 1.2 * ways.stored_bytes + (1 << 30)
    for each_place in places:
        server = each_place.tariff.server if each_place.tariff else None
        here = [each for each in cold if each.provider == each_place.provider and each.prediction is not None and each.prediction.usd]
        if server is None or not here:
            continue
        cheapest = min(here, key=lambda each: key_of("cost", each))
        assert cheapest.prediction is not None
        usd = cheapest.prediction.usd or 0.0
        count = math.ceil(needed / (server.memory_mb << 20))
        a_day = 24 * server.usd_hour * count
        who = {"provider": each_place.provider, "server": server.name, "servers": count, "server_usd_a_day": a_day}
        what = {"run_usd": usd, "runs": runs, "functions_usd_a_day": usd * runs}
        found.append(who | what | {"from_runs": math.ceil(a_day / usd), "server_wins": usd * runs > a_day})
    return found
