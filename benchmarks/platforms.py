"""Makes the tables and plots of docs/platforms.md, which compares the clouds, from predictions under the table of latencies of each cloud.

    python benchmarks/platforms.py --data FOLDER                                  # predict all, write the page and its plots
    python benchmarks/platforms.py --data FOLDER --workloads batch                # predict one of batch, large, calls
    python benchmarks/platforms.py --data FOLDER --measure --workloads batch      # run some ways on this machine under --latency
    python benchmarks/platforms.py --workloads ""                                 # only write the page and its plots again

FOLDER has the files of the Graph Challenge, for `batch`. Figures are kept in docs/platforms.json; figures that a command does not predict
or measure again stay. Seconds of computing are those of a core of this machine: let nothing else run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import attrs

import fsd_core
from fsd_core.common.home import home_folder
from fsd_core.cost import Usage, bill
from fsd_core.latency import Table
from fsd_core.latency.named import shipped_table
from fsd_core.partition import Parallel
from fsd_core.plan.choose import Wishes, choose, compare
from fsd_core.plan.facts import learn
from fsd_core.plan.places import place
from fsd_core.plan.predict import PARTS, Platform, Prediction, predict
from fsd_core.plan.row_workload import RowWorkload
from fsd_core.plan.servers import servers
from fsd_core.plan.ways import Given, Place, Refused, Way, Ways
from graphchallenge import load as challenge
from platforms_page import CLOUDS, FACTORS, KEPT, least, write

STEPS, RUNS = 12, 64  # of a simulation
LEARN_S = 6.0  # seconds for which samples of the input are computed
SHOWN = 0.05  # a row of a table of latencies is listed if half or double of it changes the median time by so much


@attrs.frozen
class Workload:
    """A workload of the page. ``count``: the number of workers of a split. ``measured``: the splits that --measure runs."""

    count: int
    cold: bool
    measured: tuple[Parallel, ...]
    learn_s: float = LEARN_S

    @property
    def shapes(self) -> list[Parallel]:
        """The splits in the tables."""
        return [Parallel(), Parallel(data=self.count), Parallel(pipeline=self.count), Parallel(tensor=self.count)]


WORKLOADS = {
    "batch": Workload(8, True, (Parallel(), Parallel(data=2), Parallel(pipeline=2))),
    "large": Workload(8, True, (Parallel(), Parallel(pipeline=8)), 60.0),
    "calls": Workload(2, False, (Parallel(), Parallel(data=2), Parallel(pipeline=2))),
}
# Google's table of latencies is about messages that come over a stream.
SETTINGS: dict[str, dict[str, object]] = {"gcp": {"receive": "stream"}}


def opened(name: str, data: Path | None) -> tuple[Any, Any]:
    """The model and the input of a workload."""
    if name == "batch":
        loaded = challenge(data)
        return loaded.model, loaded.images
    if name == "large":
        model = fsd_core.radixnet(65536, 120)
        return model, fsd_core.open_inputs("random:64", model.inputs)
    from scipy.sparse import csr_matrix

    from fsd_core.demo.training import digits, network

    return network(home_folder())[0], csr_matrix(digits(0).held[:16])


def placed(cloud: str, factor: float = 1.0, verb: str = "") -> Place:
    """A cloud with its own table of latencies. The rows of low confidence, or only the row ``verb``, are multiplied by ``factor``."""
    table = shipped_table(cloud)
    assert table is not None
    return place(cloud, SETTINGS.get(cloud, {}), scaled(table, factor, verb))


def scaled(table: Table, factor: float, verb: str = "") -> Table:
    """The table of latencies with the rows of low confidence, or only the row ``verb``, multiplied by ``factor``."""
    rows = dict(table.rows)
    for each in [verb] if verb else estimates(table):
        row = rows[each]
        times = {name: getattr(row, name) for name in ("p50_ms", "p90_ms", "p99_ms", "max_ms", "second_ms")}
        rows[each] = attrs.evolve(row, **{name: ms and ms * factor for name, ms in times.items()})
    return attrs.evolve(table, rows=rows)


def estimates(table: Table | None) -> list[str]:
    """The verbs whose figures have low confidence."""
    return [verb for verb, row in table.rows.items() if row.confidence == "low"] if table else []


def short(value: float) -> float:
    """A figure with four digits, as it is kept: the page shows fewer."""
    return float(f"{value:.4g}")


def floor(found: Prediction, where: Place) -> float:
    """The USD of a run whose functions would take no time: its requests, and the shortest time that the cloud bills."""
    assert where.tariff is not None
    none = bill(Usage({"invocations": found.workers}, ((0.0, 0.0),) * found.workers, 0.0, float(found.memory_mb)), where.tariff)
    others = sum(usd for service, usd in found.usd_by_service.items() if service not in none.by_service)
    return others + none.total_usd


def row(found: Prediction, where: Place, channel: str) -> dict[str, Any]:
    """One way as values that JSON can hold.

    ``floor``: the share of `floor` in the USD. ``part``: the longest part of the mean time. ``share``: its share of the mean time.
    """
    assert found.usd is not None
    total = sum(found.parts.values())
    name = {"cloud": where.provider, "way": words(found.parallel), "channel": channel, "memory_mb": found.memory_mb}
    figures = {"p50": short(found.seconds["p50"]), "p95": short(found.seconds["p95"]), "usd": short(found.usd)}
    part = max(PARTS, key=lambda each: found.parts[each])
    shares = {"part": part, "share": round(found.parts[part] / total, 3), "floor": round(floor(found, where) / found.usd, 3)}
    return name | figures | shares


def words(shape: Parallel) -> str:
    """A split in the words of the tables."""
    sizes = ((shape.data, "replicas"), (shape.pipeline, "stages"), (shape.tensor, "workers share layers"))
    return " x ".join(f"{size} {kind}" for size, kind in sizes if size > 1) or "one function"


def grid(workload: RowWorkload, shapes: Iterable[Parallel], cold: bool, places: Sequence[Place]) -> Iterator[dict[str, Any]]:
    """A row for each way at each place; the row of an impossible way has only the reason, ``why``.

    A row is for the size of a function for which seconds times USD is smallest. ``fastest`` and ``cheapest`` are the figures for the sizes
    with the fewest seconds and the fewest USD.
    """
    for shape in shapes:
        for objective in ("cost", "latency") if shape.tensor > 1 else ("cost",):
            given = Given() if objective == "cost" else Given(objective="latency", channel="queue")
            ways = Ways(workload, given)
            for where in places:
                for way in ways.at(where, shape):
                    if isinstance(way, Refused):
                        yield {"cloud": where.provider, "way": words(shape), "channel": "", "why": way.why}
                        continue
                    found = way.simulated(STEPS, RUNS, way.memory, [cold])
                    channel = "" if not way.split.steps else f"{way.channel}, latency" if objective == "latency" else way.channel
                    best = row(min(found, key=lambda each: each.seconds["p50"] * (each.usd or 0.0)), where, channel)
                    yield best | {
                        "fastest": short(min(each.seconds["p50"] for each in found)),
                        "cheapest": short(min(each.usd or 0.0 for each in found)),
                    }


def predicted(name: str, data: Path | None) -> dict[str, Any]:
    """All predictions of a workload."""
    kind = WORKLOADS[name]
    model, inputs = opened(name, data)
    workload = RowWorkload(model, inputs, learn(model, inputs, kind.learn_s))
    places, choices = [placed(cloud) for cloud in CLOUDS], list[dict[str, Any]]()
    shapes = dict.fromkeys(kind.shapes)
    for where in places:
        priced = [each for each in compare(workload, [where], Wishes()) if each.cold == kind.cold and each.feasible and each.prediction]
        for objective in ("latency", "cost"):
            chosen = choose(objective, priced)
            assert chosen.prediction is not None
            choices.append({"objective": objective} | row(chosen.prediction, where, chosen.channel if chosen.parallel.parts > 1 else ""))
            shapes[chosen.parallel] = None
    rows = list(grid(workload, kind.shapes, kind.cold, places))
    others = list(grid(workload, [each for each in shapes if each not in kind.shapes], kind.cold, places))
    changes, verbs = list[dict[str, Any]](), list[dict[str, Any]]()
    for where in places:
        own = [each for each in rows + others if each["cloud"] == where.provider and "why" not in each]
        quickest = min(own, key=lambda each: each["fastest"])
        good = {each["way"] for each in choices} | {quickest["way"]}
        changes += altered(workload, [each for each in shapes if words(each) in good], kind.cold, where)
        verbs += sensitive(workload, next(each for each in shapes if words(each) == quickest["way"]), kind.cold, where, quickest["fastest"])
        print(f"{name}: {where.provider} is predicted", file=sys.stderr, flush=True)
    about = {"samples": inputs.shape[0], "layers": len(model.layers), "neurons": model.neurons}
    about |= {"stored_mb": short(workload.stored_bytes / 1e6), "core_s": short(float(workload.facts.work_s.sum()))}
    always = [server(where, workload, least(choices, "usd")[where.provider]) for where in places]
    return {"about": about, "choices": choices, "rows": rows, "others": others, "changes": changes, "verbs": verbs, "servers": always}


def altered(workload: RowWorkload, shapes: Sequence[Parallel], cold: bool, where: Place) -> Iterator[dict[str, Any]]:
    """The best figures at a cloud, for each of `FACTORS`, if all its figures of low confidence are multiplied by the factor."""
    for factor in FACTORS:
        rows = list(grid(workload, shapes, cold, [placed(where.provider, factor)]))
        found = {key: least(rows, key)[where.provider] for key in ("fastest", "cheapest")}
        yield {"cloud": where.provider, "factor": factor} | found


def sensitive(workload: RowWorkload, shape: Parallel, cold: bool, where: Place, seconds: float) -> Iterator[dict[str, Any]]:
    """The rows of low confidence that matter. Each has the relative change of ``seconds`` if only this row is multiplied by each factor."""
    for verb in estimates(where.table):
        rows = [grid(workload, [shape], cold, [placed(where.provider, factor, verb)]) for factor in FACTORS]
        effect = [round(least(each, "fastest")[where.provider] / seconds - 1, 3) for each in rows]
        if max(map(abs, effect)) >= SHOWN:
            yield {"cloud": where.provider, "way": words(shape), "verb": verb, "effect": effect}


def server(where: Place, workload: RowWorkload, usd: float) -> dict[str, Any]:
    """The number of runs a day, each for ``usd``, from which servers that always run are cheaper, as in `fsd plan --per-day`."""
    assert where.tariff is not None
    assert where.tariff.server is not None
    found = where.tariff.server
    always = servers(found, workload.stored_bytes, float(workload.facts.work_s.sum()))
    runs = always.cheaper_from(usd)
    count = always.count(runs or 0)
    return {"cloud": where.provider, "server": found.name, "count": count, "usd_day": short(count * always.usd), "runs": runs}


def limits(where: Place) -> dict[str, Any]:
    """The limits of functions of a cloud."""
    functions = where.outline.functions
    most = where.outline.memory_mb[-1]
    return {"cloud": where.provider, "memory_mb": most, "functions": functions.concurrency, "timeout_s": functions.timeout_s}


def measured(name: str, data: Path | None, seeds: Sequence[int], tables: Sequence[str], only: str) -> Iterator[dict[str, Any]]:
    """Runs on this machine under the table of each cloud, with predictions for this machine, where all workers share the cores."""
    kind = WORKLOADS[name]
    model, inputs = opened(name, data)
    ways = Ways(RowWorkload(model, inputs, learn(model, inputs, kind.learn_s)), Given(channel="queue"))
    for shape in kind.measured:
        if only not in ("", words(shape)):
            continue
        split: dict[str, Any] = {f"{each}_parallel": size for each, size in shape.to_json().items()} | {"channel": "queue"}
        fsd_core.run(model, inputs, **split)  # stages the weights
        for table in tables:
            latency = f"{table},warm={0 if kind.cold else 1}"
            runs = [fsd_core.run(model, inputs, latency=f"{latency},seed={seed}", **split) for seed in seeds]
            seconds = sorted(run.seconds["total"] - run.seconds["stage"] for run in runs)
            found = {"workload": name, "way": words(shape), "cloud": table, "seeds": len(seeds)}
            found["predicted"] = short(here(ways, shape, table, seeds, kind.cold).seconds["p50"])
            yield found | {"p50": short(median(seconds)), "least": short(seconds[0]), "most": short(seconds[-1])}


def here(ways: Ways, shape: Parallel, table: str, seeds: Sequence[int], cold: bool) -> Prediction:
    """The prediction of runs on this machine under the table of a cloud, for the same seeds as the runs."""
    where = place("local", {}, table)
    way = next(each for each in ways.at(where, shape) if isinstance(each, Way))
    machine = Platform(
        provider="local",
        outline=where.outline,
        table=where.table,
        tariff=None,
        memory_mb=way.memory[0],
        cold=cold,
        crowded=True,
        seeds=tuple(seeds),
    )
    return predict(way.split, machine, way.channel)


def keep(name: str = "", workload: Mapping[str, Any] | None = None, run: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Put the predictions of the workload ``name``, or a measured run, into the file of figures, in place of older ones; return all."""
    data = json.loads(KEPT.read_text()) if KEPT.exists() else {"workloads": {}, "measured": []}
    known = data["workloads"] | ({name: workload} if workload else {})
    runs = {_place(each): each for each in (*data["measured"], *([run] if run else []))}
    data = {
        "limits": [limits(placed(cloud)) for cloud in CLOUDS],
        "workloads": {each: known[each] for each in WORKLOADS if each in known},
        "measured": [runs[each] for each in sorted(runs)],
    }
    text = re.sub(r"\{[^{}]*\}", lambda found: json.dumps(json.loads(found[0])), json.dumps(data, indent=1))  # a row is a line
    KEPT.write_text(f"{text}\n")
    return data


def _place(run: Mapping[str, Any]) -> tuple[int, str, int]:
    """The place of a measured run in the table."""
    return list(WORKLOADS).index(run["workload"]), run["way"], list(CLOUDS).index(run["cloud"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the files of the Graph Challenge")
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    parser.add_argument("--measure", action="store_true", help="run, do not predict")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--tables", default=",".join(CLOUDS), help="of latencies, for --measure")
    parser.add_argument("--only", default="", help="measure only this way: a name as in the table")
    options = parser.parse_args()
    for name in filter(None, options.workloads.split(",")):
        if options.measure:
            seeds = [int(seed) for seed in options.seeds.split(",")]
            for found in measured(name, options.data, seeds, options.tables.split(","), options.only):
                print(json.dumps(found), flush=True)
                keep(run=found)
        else:
            keep(name, predicted(name, options.data))
    write(keep())


if __name__ == "__main__":
    main()
