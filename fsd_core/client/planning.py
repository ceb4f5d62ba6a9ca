"""`make_plan`: prices the ways to run a model on an input at several providers, and chooses one, as ``fsd plan`` does."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fsd_core import latency as tables
from fsd_core.client.opened import open_run
from fsd_core.common import arguments
from fsd_core.common.fields import suggestion
from fsd_core.errors import InputError
from fsd_core.graph import Graph
from fsd_core.plan.choose import OBJECTIVES, Wishes
from fsd_core.plan.making import Plan, plan_of
from fsd_core.plan.places import has_outline, place
from fsd_core.plan.row_workload import RowWorkload
from fsd_core.plan.workload import Workload
from fsd_core.providers import registry

if TYPE_CHECKING:
    from fsd_core.model import Model

__all__ = ["make_plan"]


def make_plan(
    model: Model | Graph | str | os.PathLike[str],
    inputs: Any,
    *,
    providers: Sequence[str] | None = None,
    objective: str = "cost",
    deadline: float | None = None,
    budget: float | None = None,
    per_day: float | None = None,
    engine: str = "auto",
    batch_axis: str = "auto",
    settings: Mapping[str, Mapping[str, object]] | None = None,
    latency: str | os.PathLike[str] | None = None,
    home: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """Price the ways to run ``model`` on ``inputs`` and choose one, as ``fsd plan`` does. Starts nothing and makes no request.

    - ``model``, ``inputs``: as `run` takes them. `make_plan` computes some samples on this machine, for about half a second.
    - ``engine``, ``batch_axis``: of an ONNX model, as `run` takes them.
    - ``providers``: names. Default: the installed ones that have a table of latencies, which are aws, gcp and azure.
    - ``objective``: cost (the least USD), latency (the least median time) or balanced (the least product of the two).
    - ``deadline``: seconds that 95 % of the runs may take, from a cold start. ``budget``: USD of a run.
    - ``per_day``: the number of runs a day; the plan then also says from how many runs a day a server that always runs is cheaper.
    - ``settings``: the tables of ``fsd.toml`` by provider, for instance ``{"aws": {"concurrency": 10}}``.
    - ``latency``: the table of latencies of all providers: a name, with options as `run` takes it, or a path. Default: the table that
      `measure` made of each provider, else the one that comes with the provider; for the local provider, the times of this machine.
    - ``home``: the folder below which plans are kept, so that the same call is fast the next time. Default: ``$FSD_HOME``, else ``~/.fsd``.
    - ``progress``: called with the number of ways that are priced and of all ways. A way: provider, split, channel and memory size.

    Returns a `Plan`. Raises `InputError` if an argument is wrong; if no split makes the model fit into functions (the error says how much
    memory is missing); or if no way meets the deadline and the budget (the error names the way that is closest to them).
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
    of_run = {"objective": objective, "engine": engine, "batch_axis": batch_axis}  # a run has no objective "balanced"
    given |= {"": {name: value for name, value in of_run.items() if value not in ("cost", "balanced", "auto")}}
    opened = open_run(model, inputs, engine, batch_axis, checksums=False)  # nothing is computed with all of the weights
    if isinstance(opened.model, Graph):
        from fsd_core.client.stages import stages_work

        workload: Workload = stages_work(opened.model, opened.inputs).workload
    else:
        workload = RowWorkload(opened.model, opened.inputs)
    words = {key: os.fsdecode(each) for key, each in (("model", model), ("input", inputs)) if isinstance(each, str | os.PathLike)}
    return plan_of(workload, places, wishes, words, objective=objective, per_day=runs, given=given, home=folder, progress=advance)


def _names(providers: Sequence[str] | None) -> list[str]:
    known = registry.installed()
    if providers is None:
        measured = [name for name in known if name in tables.names() and name != "local" and has_outline(name)]
        return measured or ["local"]
    if isinstance(providers, str) or not isinstance(providers, Sequence) or not providers:
        raise InputError(f"providers {providers!r}: expected a list of names from {', '.join(known)}")
    for name in providers:
        if name not in known:
            raise InputError(f"providers: {name!r} is not installed: {suggestion(str(name), known)}")
    return list(dict.fromkeys(providers))
