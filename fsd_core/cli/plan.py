"""``fsd plan``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fsd_core.cli.options import Checked, Command, as_flags, with_settings
from fsd_core.cli.screen import Screen, pairs
from fsd_core.common import arguments
from fsd_core.common.amount import counted
from fsd_core.common.fields import choice, number
from fsd_core.common.files import check_apart
from fsd_core.config import PATH, Settings
from fsd_core.plan.choose import OBJECTIVES, Candidate, shape_words
from fsd_core.plan.writing import check_settings, write_settings

if TYPE_CHECKING:
    from rich.table import Table

    from fsd_core.plan.making import Plan

__all__ = ["plan"]

LOST = 12  # lines about what is not possible


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  fsd plan model/ input.npz
  fsd plan model/ input.npz --providers aws,gcp --objective latency --deadline 10
  fsd plan radixnet:1024:120 digits --providers aws --per-day 2000 --report plan.html
  fsd plan model.onnx input.npz --providers aws
  fsd plan model/ input.npz --providers aws --write fsd.toml && fsd run model/ input.npz
""",
)
@click.argument("model")
@click.argument("inputs", metavar="INPUT")
@click.option("--providers", metavar="A,B", help="Providers to choose from (default: all with a table of latencies).")
@click.option(
    "--objective",
    type=Checked(choice(*OBJECTIVES)),
    default="cost",
    help="What the plan minimises: cost, latency, or their product (balanced).  [default: cost]",
)
@click.option("--deadline", type=Checked(number(0, 1e9, "seconds", above=True)), help="Seconds within which 95 % of the runs have to end.")
@click.option("--budget", type=Checked(number(0, 1e9, "USD", above=True)), help="Largest cost of a run.")
@click.option(
    "--per-day", type=Checked(number(0, 1e12, above=True)), help="Number of runs a day: compare the cost with a server that always runs."
)
@click.option("--report", metavar="OUT.html", help="Write an HTML page about the plan.")
@click.option("--write", metavar="FSD.toml", help="Write the choice as a settings file for fsd run.")
@with_settings("engine", "batch_axis", "latency")
def plan(
    screen: Screen,
    settings: Settings,
    model: str,
    inputs: str,
    providers: str | None,
    objective: str,
    deadline: float | None,
    budget: float | None,
    per_day: float | None,
    report: str | None,
    write: str | None,
) -> None:
    """Predict time and cost of a run of MODEL on INPUT, and choose how to run it.

    Starts nothing and makes no request. MODEL and INPUT are those of fsd run. The command computes some samples on this machine for half a
    second, and predicts the rest from the limits, prices and latencies of each provider (docs/prediction.md). The exit code is 2 if no way
    to run the model fits the functions, --deadline and --budget.
    """
    from fsd_core import make_plan

    targets: list[tuple[str, Any]] = []
    file = Path(PATH.read_text(write, "--write ")) if write is not None else None
    with as_flags("write", "report"):
        check_apart(write=file, report=None if report is None else arguments.path("report", report))
        if file is not None:
            check_settings(file)
        if report is not None:
            from fsd_core.report.planned import check_page, write_plan

            check_page(report)
            targets.append((report, write_plan))
    names = [name.strip() for name in providers.split(",")] if providers is not None else None
    with screen.progress() as show, as_flags("providers", "deadline", "budget", "per_day", "engine", "batch_axis", "latency"):
        found = make_plan(
            model,
            inputs,
            providers=names,
            objective=objective,
            deadline=deadline,
            budget=budget,
            per_day=per_day,
            engine=settings.engine,
            batch_axis=settings.batch_axis,
            settings=settings.tables,
            latency=settings.latency,
            progress=lambda done, total: show("plan", done, total, ""),
        )
    for path, writer in targets:
        writer(found, path)
    if file is not None:
        write_settings(found, file)
    screen.print(*_shown(found))
    screen.answer(found.to_json())


def _shown(found: Plan) -> Sequence[Any]:
    """The plan for people."""
    about = found.about
    sizes = [counted(size, name.removesuffix("s"), ",") for name, size in found.sizes.items()]
    title = f"{about['model']} on {about['input']}: {', '.join(sizes)}"
    parts: list[Any] = [title, "", _table(found), "", found.reason]
    for each in found.per_day:
        wins = "servers are cheaper" if each["server_wins"] else "functions are cheaper"
        servers = f"{each['servers']} x {each['server']}" if each["servers"] > 1 else each["server"]
        runs = counted(each["runs"], "run", ",.0f")
        costs = f"{runs} a day: functions cost {each['functions_usd_a_day']:.3g} USD"
        always = f"{servers}, always running, {each['server_usd_a_day']:.3g} USD"
        limit = each["from_runs"]
        beyond = "servers are never cheaper" if limit is None else f"from {counted(limit, 'run', ',')} a day on, servers are cheaper"
        parts.append(f"{each['provider']}: {costs}, {always}: {wins}; {beyond}.")
    lost = [each for each in found.candidates if not each.feasible]
    if lost:
        words: dict[str, list[str]] = {}
        for way in lost:
            words.setdefault(f"{way.provider}: {way.why}", []).append(shape_words(way.parallel))
        rows = [(", ".join(dict.fromkeys(shapes))[:60], why) for why, shapes in list(words.items())[:LOST]]
        parts.append(pairs("\nNot possible", rows))
        if len(words) > LOST:
            parts.append(f"and {counted(len(words) - LOST, 'more reason')}; --json has all")
    parts += ["", *(f"Note: {note}." for note in found.notes)]
    return parts


def _table(found: Plan) -> Table:
    """The Pareto front, with the choice marked."""
    from rich.table import Table

    title = "Ways that no other way beats in both time and cost (cold starts)"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("", "provider", "split", "workers", "channel", "memory"):
        table.add_column(name)
    for name in ("p50 s", "p95 s", "warm s", "USD of 1,000"):
        table.add_column(name, justify="right")
    rows = found.front
    for each in [*rows, *([found.choice] if found.choice not in rows else [])]:
        table.add_row(*_row(each, found.warm(each), "*" if each is found.choice else ""))
    return table


def _row(each: Candidate, warm: Candidate | None, mark: str) -> list[str]:
    made = each.prediction
    assert made is not None
    usd = "-" if made.usd is None else f"{1000 * made.usd:.3f}"
    channel = each.channel if each.parallel.workers > 1 else "-"
    warm_s = "-" if warm is None or warm.prediction is None else f"{warm.prediction.seconds['p50']:.2f}"
    facts = [mark, each.provider, shape_words(each.parallel), str(each.parallel.workers), channel, f"{each.memory_mb} MB"]
    return [*facts, f"{made.seconds['p50']:.2f}", f"{made.seconds['p95']:.2f}", warm_s, usd]
