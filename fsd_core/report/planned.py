"""The page of a plan: time against money, the parts of the best ways, what they would send, and why the plan did not choose other ways."""

from __future__ import annotations

import os
from collections.abc import Sequence

from fsd_core.common import arguments
from fsd_core.common.files import check_file, write_file
from fsd_core.plan.choose import Candidate, shape_words
from fsd_core.plan.making import Plan
from fsd_core.plan.predict import PARTS, Prediction
from fsd_core.report import charts
from fsd_core.report.charts import Bar
from fsd_core.report.html import MARK, count, details, escaped, facts, page, seconds, section, size, table, usd
from fsd_core.report.scatter import Point, scatter

__all__ = ["check_page", "write_plan"]

REASONS = 40  # rows about what is not possible
FAR = 10.0  # a way that takes or costs more than this many times as much as the choice is not drawn


def check_page(path: str | os.PathLike[str]) -> None:
    """Raise `InputError` unless `write_plan` can write ``path``, also if matplotlib is not installed."""
    charts.check()
    check_file("report", arguments.path("report", path), MARK)


def write_plan(plan: Plan, out: str | os.PathLike[str]) -> None:
    """Write an HTML page about a plan. The page is one file that loads nothing from the network.

    An existing file is replaced only if fsd made it. Raises `InputError` if the file cannot be written, or matplotlib is not installed.
    """
    check_page(out)
    write_file("report", arguments.path("report", out), _page(arguments.instance("plan", plan, Plan)), MARK)


def _page(plan: Plan) -> str:
    about = plan.about
    title = f"Plan for {about['model']} on {about['input']}"
    shown = [("objective", plan.objective), *((name, count(size)) for name, size in plan.sizes.items())]
    shown += [(name.replace("_", " "), f"{about[name]:g}") for name in ("deadline", "budget", "per_day") if name in about]
    parts = [
        f"<h1>{escaped(title)}</h1>",
        f"<p><strong>{escaped(plan.reason)}</strong></p>",
        section("The task", facts(shown)),
        '<div class="pair">' + _against(plan, cold=True) + _against(plan, cold=False) + "</div>",
        _parts(plan),
        _best(plan),
    ]
    if plan.per_day:
        parts.append(_servers(plan))
    parts += [_lost(plan), section("Assumptions", "".join(f"<p>{escaped(note[0].upper() + note[1:])}.</p>" for note in plan.notes))]
    return page(title, parts)


def _against(plan: Plan, *, cold: bool) -> str:
    """Time against money of all ways that were simulated, cold or warm."""
    name = "cold" if cold else "warm"
    title = "Cold starts: time and money" if cold else "Warm functions: time and money"
    shown = [each for each in plan.candidates if each.cold == cold and each.prediction is not None and each.prediction.usd]
    if not shown:
        free = all(each.prediction.usd == 0 for each in plan.candidates if each.prediction is not None)
        why = "Nobody bills anything" if free else "No price is known"
        return section(title, f"<p>{why}, so there is nothing to compare with time.</p>")
    chosen = plan.choice.prediction if cold else (plan.warm(plan.choice) or plan.choice).prediction
    assert chosen is not None
    near = [each for each in shown if each.prediction and _near(each.prediction, chosen)] or shown
    providers = list(dict.fromkeys(each.provider for each in plan.candidates))
    best = {id(each) for each in plan.front} | {id(plan.warm(each)) for each in plan.front}
    ringed = {id(plan.choice), id(plan.warm(plan.choice))}
    points = [
        Point(
            name=shape_words(each.parallel),
            p50=each.prediction.seconds["p50"],
            p95=each.prediction.seconds["p95"],
            usd=each.prediction.usd,
            part=providers.index(each.provider) % 7,
            front=id(each) in best,
            chosen=id(each) in ringed,
        )
        for each in near
        if each.prediction is not None and each.prediction.usd
    ]
    words = "Each point is a way to run; its line goes from p50 to p95. No other way is both faster and cheaper than a joined point. "
    words += "The ring is the choice." if any(point.chosen for point in points) else "The choice has no point, because nobody bills it."
    if len(near) < len(shown):
        more = "take or cost more than" if chosen.usd else "take more than"
        words += f" {len(shown) - len(near)} ways are not shown: they {more} {FAR:g} times as much as the choice."
    return section(title, f'<figure>{scatter(name, title, points, providers)}</figure><p class="soft">{words}</p>')


def _near(found: Prediction, chosen: Prediction) -> bool:
    """Whether a way is worth a point. If nobody bills the choice, only the time of the way counts."""
    cheap = not chosen.usd or (found.usd or 0.0) <= FAR * chosen.usd
    return cheap and found.seconds["p50"] <= FAR * chosen.seconds["p50"]


def _parts(plan: Plan) -> str:
    """Mean seconds of the parts of the ways on the front, and of one function."""
    shown = _shown(plan)
    bars, rows = [], []
    for each in shown:
        assert each.prediction is not None
        values = tuple(each.prediction.parts[name] for name in PARTS)
        bars.append(Bar(_label(each), "chosen" if each is plan.choice else "", values, sum(values), sum(values)))
        rows.append([_label(each), *map(seconds, values)])
    figure = charts.stacked("parts", "Where the time goes", "mean seconds of a cold start", PARTS, bars, seconds)
    return section("Where the time goes", f"<figure>{figure}</figure>" + details(table(["way", *PARTS], rows)))


def _best(plan: Plan) -> str:
    names = [
        "way",
        "workers",
        "channel",
        "memory",
        "p50",
        "p95",
        "warm p50",
        "USD of 1,000",
        "publishes",
        "receives",
        "puts",
        "gets",
        "sent",
    ]
    rows = []
    for each in _shown(plan):
        found, warm = each.prediction, plan.warm(each)
        assert found is not None
        meter = found.meter
        warm_s = seconds(warm.prediction.seconds["p50"]) if warm and warm.prediction else ""
        money = "" if found.usd is None else usd(1000 * found.usd)
        label = f"{each.provider}, {shape_words(each.parallel)}{' (chosen)' * (each is plan.choice)}"
        channel = each.channel if each.parallel.workers > 1 else "none"
        head = [
            label,
            str(each.parallel.workers),
            channel,
            f"{each.memory_mb} MB",
            seconds(found.seconds["p50"]),
            seconds(found.seconds["p95"]),
        ]
        counts = [count(meter[name]) for name in ("publish_requests", "receive_requests", "object_puts", "object_gets")]
        rows.append([*head, warm_s, money, *counts, size(meter["payload_bytes_sent"])])
    return section("The best ways", table(names, rows))


def _servers(plan: Plan) -> str:
    rows = [
        [
            str(each["provider"]),
            f"{each['servers']} x {each['server']}",
            usd(each["server_usd_a_day"]),
            f"{usd(each['functions_usd_a_day'])} for {count(each['runs'])} runs",
            "never" if each["from_runs"] is None else f"from {count(each['from_runs'])} runs a day on",
        ]
        for each in plan.per_day
    ]
    return section(
        "A server that always runs", table(["provider", "server", "USD a day", "functions, USD a day", "servers are cheaper"], rows)
    )


def _lost(plan: Plan) -> str:
    """Why the plan did not choose the other ways: some are not possible, the others are slower or more expensive by a factor."""
    best = plan.choice.prediction
    assert best is not None
    rows, seen = [], set()
    for each in sorted(plan.candidates, key=lambda each: each.feasible):  # first what is not possible
        if each is plan.choice or not each.cold:
            continue
        words = each.why or each.beaten or _behind(each, plan)
        priced = each.prediction is not None or bool(each.beaten)
        label = f"{each.provider}, {shape_words(each.parallel)}" + (f", {each.channel}, {each.memory_mb} MB" if priced else "")
        if (label, words) not in seen:
            seen.add((label, words))
            rows.append([label, words])
    body = table(["way", "why not"], rows[:REASONS])
    more = f'<p class="soft">and {len(rows) - REASONS} more, which fsd plan --json shows</p>' if len(rows) > REASONS else ""
    return section("Why not another way", details(body + more))


def _behind(each: Candidate, plan: Plan) -> str:
    mine, best = each.prediction, plan.choice.prediction
    if mine is None or best is None:
        return ""
    time = mine.seconds["p50"] / best.seconds["p50"]
    if mine.usd and best.usd == 0:
        return f"takes {time:.2g} times as long as the choice and costs {mine.usd:.2g} USD; nobody bills the choice"
    if mine.usd is None or not best.usd:
        return f"takes {time:.2g} times as long as the choice"
    return f"takes {time:.2g} times as long and costs {mine.usd / best.usd:.2g} times as much as the choice"


def _shown(plan: Plan) -> Sequence[Candidate]:
    """The front, the choice, and one function, each once."""
    one = [each for each in plan.candidates if each.cold and each.parallel.workers == 1 and each.prediction is not None]
    return list({id(each): each for each in (*plan.front, plan.choice, *one[:1])}.values())


def _label(each: Candidate) -> str:
    return f"{each.provider}, {shape_words(each.parallel)}, {each.memory_mb} MB"
