"""`predict`: the seconds, requests and USD of one way to run a workload. Pure: equal arguments give equal predictions."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.cost import Tariff, Usage, bill
from fsd_core.latency import Latency, Table
from fsd_core.partition import Parallel
from fsd_core.plan.cores import cores
from fsd_core.plan.counts import RECORD_BYTES as OWN_BYTES
from fsd_core.plan.counts import fixed
from fsd_core.plan.ending import recorded, written_lines, written_reports
from fsd_core.plan.following import collected, written_pieces
from fsd_core.plan.keeping import kept_objects, queued_bytes
from fsd_core.plan.launching import BEGIN_S, forked, launched, prepared
from fsd_core.plan.received import Tables
from fsd_core.plan.sample import Sampler
from fsd_core.plan.simulate import Cpu, Simulation
from fsd_core.plan.split import Split
from fsd_core.protocol.records import HEAD_BYTES
from fsd_core.providers.outline import Outline
from fsd_core.storage.meter import FIELDS

__all__ = ["PARTS", "Platform", "Prediction", "middle", "predict", "predict_each"]

PARTS = ("launch", "load", "compute", "exchange", "collect")
RUNS, BRIEF = 64, 8  # simulated runs, and those that tell how long workers wait
VALUES = 400_000  # about the numbers in one array of the simulation
INIT_S = 0.35  # of a cold start on a cloud: the part that its tariff may bill, the import of the code


@attrs.frozen(kw_only=True, eq=False)
class Platform:
    """Where a run would be. ``table``: its latencies; `None`: those of this machine, which are next to nothing.

    ``memory_mb``: of a function. ``cold``: no function waits for the run. ``speed``: of a core of a function, as a multiple of one of this
    machine. ``crowded``: all workers share the cores of this machine. ``seeds``: simulate the hours of ``--latency TABLE,seed=N``.
    """

    provider: str
    outline: Outline
    table: Table | None
    tariff: Tariff | None
    memory_mb: int
    cold: bool = True
    speed: float = 1.0
    crowded: bool = False
    seeds: tuple[int, ...] = ()

    @property
    def pace(self) -> float:
        """The seconds that a worker needs for work that takes a core of this machine one second."""
        return 1 / (self.speed if self.crowded else self.core_speed * min(1.0, self.cores))

    @property
    def cores(self) -> float:
        """The processor cores of a function."""
        return cores(self.provider, self.outline, self.table, self.memory_mb)

    @property
    def core_speed(self) -> float:
        """``speed``, or what `fsd_core.measure` found of the provider."""
        measured = self.table.measured if self.table else None
        return measured.speed if measured and measured.speed else self.speed

    def crowd(self, split: Split, computes_s: float, waits_s: float) -> float:
        """How many workers of this split share a core. ``computes_s``: of a worker that has a core for itself; ``waits_s``: what it waits,
        less than 0 where it computes while it loads.

        With n workers of which each computes for a share s of its time, 1 + (n - 1) s compute at once. They slow each other down, which
        makes s larger: a fixed point, found from above.
        """
        if not self.crowded:
            return 1.0
        others, cores = self._busy(split) - 1, os.cpu_count() or 1
        found = max(1.0, (1 + others) / cores)
        for _ in range(30):
            computes = found * computes_s
            found = max(1.0, (1 + others * computes / max(1e-9, computes + max(0.0, waits_s))) / cores)
        return found

    def shares_cores(self, split: Split) -> bool:
        """Whether `crowd` may be more than 1: not if each worker has a core for itself, and waits for others, as in a pipeline."""
        busy = self._busy(split)
        return self.crowded and busy > 1 and (split.parallel.pipeline == 1 or busy > (os.cpu_count() or 1))

    def gain(self, split: Split) -> float:
        """How many times faster a worker of this split computes with all cores that it has than with one: Amdahl's law."""
        cores = (os.cpu_count() or 1) / self._busy(split) if self.crowded else self.cores
        used = max(1.0, min(split.cores, cores))
        return 1 / (1 - split.threaded + split.threaded / used)

    def _busy(self, split: Split) -> int:
        """How many workers compute at the same time."""
        return split.parallel.data * split.parallel.tensor * min(split.parallel.pipeline, split.replica_batches)


@attrs.frozen(kw_only=True, eq=False)
class Prediction:
    """The predicted seconds, requests and USD of one way to run.

    - ``seconds``: p50 and p95 of the time until the client has the answer; ``parts``: the mean seconds of each of `PARTS`, which add up to
      the mean time. ``exchange`` is waiting; ``load`` and ``compute`` are means over ranks.
    - ``meter``: counts by the names of a run's meter. ``bytes_by_rank``: payload bytes that each rank of a replica sends and receives.
      ``memory_by_rank``: bytes, an upper estimate. ``kept_by_rank``: bytes that each rank of a replica keeps for lost ranks, if its
      function has the memory.
    - ``usd``: of one run, `None` without a tariff; ``usd_by_service``: its parts.
    - ``error``: the relative standard error of the number of live samples. ``notes``: what the figures rest on, for people.
    """

    provider: str
    channel: str
    parallel: Parallel
    micro_batches: int
    memory_mb: int
    cold: bool
    seconds: Mapping[str, float]
    parts: Mapping[str, float]
    meter: Mapping[str, int]
    bytes_by_rank: NDArray[np.float64] = attrs.field(repr=False)
    memory_by_rank: NDArray[np.float64] = attrs.field(repr=False)
    kept_by_rank: NDArray[np.float64] = attrs.field(repr=False)
    usd: float | None
    usd_by_service: Mapping[str, float]
    error: float
    notes: Sequence[str] = ()

    @property
    def workers(self) -> int:
        """The number of ranks."""
        return self.parallel.workers

    def to_json(self) -> dict[str, Any]:
        """The prediction as values that JSON can hold."""
        names = ("provider", "channel", "workers", "micro_batches", "memory_mb", "cold", "usd", "error")
        found: dict[str, Any] = {name: getattr(self, name) for name in names}
        found |= {"parallel": self.parallel.to_json(), "seconds": dict(self.seconds), "parts": dict(self.parts), "meter": dict(self.meter)}
        found |= {"usd_by_service": dict(self.usd_by_service), "bytes_by_rank_max": int(self.bytes_by_rank.max())}
        found |= {"memory_bytes_max": int(self.memory_by_rank.max()), "kept_bytes_max": int(self.kept_by_rank.max())}
        return found | {"notes": list(self.notes)}


def predict(split: Split, platform: Platform, channel: str, **options: Any) -> Prediction:
    """Predict one run, as `predict_each` does for several platforms."""
    return predict_each(split, [platform], channel, **options)[0]


def predict_each(
    split: Split,
    platforms: Sequence[Platform],
    channel: str,
    *,
    objective: str = "cost",
    staged: bool = True,
    keep: bool = True,
    branching: int = 4,
    recovery: bool = True,
    runs: int = RUNS,
    seed: int = 0,
    most_batches: int = 40,
    memory_by_rank: Sequence[float] = (0.0,),
) -> list[Prediction]:
    """Predict a run on each of some platforms, which differ only in memory, speed, and whether functions are cold: in one simulation.

    ``channel``: queue, object or hybrid; ``objective``: of the channel, cost or latency. ``staged``: weights and inputs are in the object
    store already, so the client uploads nothing. ``keep``: a worker keeps its weights from one micro-batch to the next. ``branching``: of
    the launch tree. ``recovery``: a worker that ends leaves in its record what it sent. ``runs``: simulated runs of each platform;
    ``seed``: of their draws. Of more than ``most_batches`` micro-batches of a replica, the others take as long as the last simulated one.
    ``memory_by_rank``: bytes; they change nothing else.
    """
    shape, eager, first, variants = split.parallel, objective == "latency", platforms[0], len(platforms)
    outline = _soonest(first) if eager else first.outline
    keep = keep or split.loads_first
    figures = len(json.dumps(Latency(first.table).pack())) if first.seeds and first.table else 0  # that workers need for such a run
    around = fixed(split, channel, outline, staged=staged, keep=keep, latency_bytes=figures)
    pace = np.repeat([each.pace for each in platforms], runs)[:, None]
    cold = np.repeat([each.cold for each in platforms], runs)
    count = runs * variants
    replicas = int(min(shape.data, max(1, VALUES // (count * shape.tensor**2))))
    whole = Sampler(first.table, count, seed, seeds=first.seeds, variants=variants)
    starting = max(1.0, shape.workers / (os.cpu_count() or 1)) if first.crowded else 1.0
    options: dict[str, Any] = {
        "channel": channel,
        "eager": eager,
        "keep": keep,
        "most_batches": most_batches,
        "tables": Tables(split, channel),
    }
    crowd = 1.0
    if first.shares_cores(split):  # a brief simulation of workers that have cores for themselves tells how long they wait
        alone = Cpu(first.pace, 1.0, first.gain(split), starting)
        brief = Simulation(split, around, outline, Sampler(first.table, BRIEF, seed, seeds=first.seeds), alone, **options)
        flow = brief.run(np.zeros((BRIEF, shape.parts)))
        computes = float(flow.compute.mean())
        crowd = first.crowd(split, computes, float((flow.done.max(axis=1) - flow.load).mean()) - computes)
    prepare = prepared(whole, staged=staged, puts=shape.parts * 2, put_bytes=float(sum(map(sum, split.reads))))
    begins = Cpu(pace, crowd).seconds(BEGIN_S * split.python)
    forks = forked(shape.workers, split.python) if first.crowded else np.zeros(shape.workers)
    begun = launched(whole, shape.workers, branching, cold, begins, float(forks[-1]))
    some = np.arange(replicas) * shape.data // replicas
    inner = Sampler(first.table, count * replicas, seed + 1, like=whole, copies=replicas, first=np.tile(some * shape.parts, count))
    gain = np.repeat([each.gain(split) for each in platforms], runs)[:, None]
    cpu = Cpu(np.repeat(pace, replicas, axis=0), crowd, np.repeat(gain, replicas, axis=0), starting)
    simulation = Simulation(split, around, outline, inner, cpu, **options)
    flow = simulation.run(_of(begun.ready, shape, some))
    load, compute = (each.reshape(count, replicas).mean(axis=1) for each in (flow.load, flow.compute))
    done, outputs, shared = (each.reshape(count, replicas, shape.parts) for each in (flow.done, flow.outputs, flow.shared))
    tokens = flow.tokens.reshape(count, replicas)[:, 0]
    ranks = some[:, None] * shape.parts + np.arange(shape.parts)
    made = simulation.order.ended(split.replica_batches) if simulation.order.certain else None
    records, heard = recorded(
        whole, outline, shared, done, outputs, tokens, channel=channel, eager=eager, workers=shape.workers, ranks=ranks, before=made
    )
    output = float(around.output_bytes.sum()) * len(split.batches)
    writers = around.output_bytes > 0
    pieces, objects = written_pieces(outputs, writers, len(split.batches), shape.data), int(writers.sum()) * len(split.batches)
    ended = collected(whole, begun, pieces, objects, records, shape.workers, output)
    total = prepare + ended.answer
    launch, written = begun.ready.mean(axis=1), outputs.max(axis=(1, 2))
    parts = {"launch": prepare + launch, "load": load, "compute": compute}
    parts["exchange"] = np.maximum(0.0, written - launch - load - compute)
    parts["collect"] = ended.answer - written
    lasted = records.reshape(-1, shape.parts) - _of(begun.began, shape, some)  # (runs x replicas, ranks) of a function
    bytes_by_rank = _bytes_by_rank(split)
    kept = queued_bytes(split, simulation.exchanges.values(), channel) if recovery else np.zeros(shape.parts)
    if recovery:
        # A rank writes what it kept: as objects, and the rest in its record, of which the client reads no more than the beginning.
        shelved, left = kept_objects(np.tile(kept, shape.data))
        around.counts.update(object_puts=int(shelved.sum()), object_bytes_written=int(shape.data * kept.sum()))
        around.counts.update(object_bytes_read=int(np.minimum(left, HEAD_BYTES - OWN_BYTES).sum()))
    scale = len(split.batches) / split.replica_batches  # the counts of a flow are those of one replica for all its micro-batches
    timed = {name: scale * counts.reshape(count, replicas).mean(axis=1) for name, counts in flow.counts.items()}
    worked = records - _of(begun.ready, shape, some).reshape(records.shape)
    lines = written_lines(worked, ranks, shape.data / replicas)
    last = shape.parts - 1  # of the first replica: it reports the progress
    began = flow.began.reshape(count, replicas, shape.parts)
    layers = split.stages[-1][0] / (split.layers * split.replica_batches)
    reports = written_reports(begun.ready[:, last], began[:, 0, last], done[:, 0, last], layers)
    for more in (heard, lines, reports, {"object_gets": ended.gets, "object_lists": ended.lists}):
        timed |= {name: timed.get(name, 0.0) + counts for name, counts in more.items()}
    found = []
    for number, platform in enumerate(platforms):
        own = slice(number * runs, (number + 1) * runs)
        inside = slice(own.start * replicas, own.stop * replicas)
        of_runs = {name: middle(counts[own], len(first.seeds)) for name, counts in timed.items()}
        meter = _meter(split, simulation, around.counts, of_runs)
        typical = _typical(lasted[inside].reshape(runs, replicas, -1), _of(begun.starts, shape, some)[inside].reshape(runs, replicas, -1))
        usd, by_service = _bill(platform, meter, *typical, shape.data, float(total[own].mean()), float(forks.mean()))
        median = middle(total[own], len(first.seeds))
        high = max(median, float(np.quantile(total[own], 0.95)))
        found.append(
            Prediction(
                provider=platform.provider,
                channel=channel,
                parallel=shape,
                micro_batches=len(split.batches),
                memory_mb=platform.memory_mb,
                cold=platform.cold,
                seconds={"p50": median, "p95": high},
                parts={name: float(parts[name][own].mean()) for name in PARTS},
                meter=meter,
                bytes_by_rank=bytes_by_rank,
                memory_by_rank=np.array(memory_by_rank, np.float64),
                kept_by_rank=kept,
                usd=usd,
                usd_by_service=by_service,
                error=split.error,
                notes=[*split.notes, *_notes(platform, shape.workers)],
            )
        )
    return found


def _soonest(platform: Platform) -> Outline:
    """The limits under the latency objective. Under a table with a direct way, requests of any provider count as direct."""
    found = platform.outline.soonest()
    if platform.table is None or "publish_direct" not in platform.table.rows:
        return found
    return attrs.evolve(found, messages=attrs.evolve(found.messages, direct=True))


def _of(times: NDArray[np.float64], shape: Parallel, replicas: NDArray[np.int64]) -> NDArray[np.float64]:
    """The times (runs, workers) of the ranks of some replicas, (runs x replicas, ranks of a replica)."""
    return times.reshape(len(times), shape.data, shape.parts)[:, replicas].reshape(-1, shape.parts)


def _meter(
    split: Split,
    simulation: Simulation,
    around: Counter[str],
    timed: Mapping[str, float],
) -> dict[str, int]:
    found = dict.fromkeys(FIELDS, 0.0) | {name: float(count) for name, count in around.items()}
    scale = len(split.batches)  # exchanges are those of one micro-batch
    for each in simulation.exchanges.values():
        for name, count in each.counts.items():
            found[name] += count * each.step.weight * scale
    for name, counts in timed.items():
        found[name] += counts
    return {name: round(value) for name, value in found.items()}


def middle(values: NDArray[np.float64], seeds: int) -> float:
    """The median of some runs (runs,). Of runs with several ``seeds`` in turns, the median of one run of each: the mean of such medians."""
    several = max(1, seeds)
    if several == 1 or len(values) < several:
        return float(np.median(values))
    return float(np.median(values[: len(values) // several * several].reshape(-1, several), axis=1).mean())


def _bytes_by_rank(split: Split) -> NDArray[np.float64]:
    found = np.zeros(split.parallel.parts)
    for step in split.steps:
        payloads = step.payloads(split.share) * step.weight * split.replica_batches
        found += np.bincount(step.sources, payloads, len(found)) + np.bincount(step.targets, payloads, len(found))
    return found


def _typical(lasts: NDArray[np.float64], starts: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The seconds of the functions by rank of a replica, and those of their starts, in runs whose functions take a median time in all.

    That is not the median of each rank: where one of several ranks starts late, it is another one in each run. Arguments: (runs, replicas,
    ranks).
    """
    order = np.argsort(lasts.sum(axis=(1, 2)))
    middle = order[int(0.4 * len(order)) : int(0.6 * len(order)) + 1]
    return lasts[middle].mean(axis=(0, 1)), starts[middle].mean(axis=(0, 1))


def _bill(
    platform: Platform,
    meter: Mapping[str, int],
    lasts: NDArray[np.float64],
    starts: NDArray[np.float64],
    replicas: int,
    total_s: float,
    forked_s: float,
) -> tuple[float | None, dict[str, float]]:
    """The USD of a run, and by service. ``lasts`` and ``starts``: seconds of a function and those that it takes to start, by rank of a
    replica. ``forked_s``: the mean of `forked`.
    """
    if platform.tariff is None:
        return None, {}
    # A process of this machine counts the time since its fork, in which it waits for the start that a table draws.
    inits = np.maximum(0.0, starts - forked_s) if platform.crowded else np.full(len(lasts), INIT_S if platform.cold else 0.0)
    functions = tuple((float(seconds), float(init)) for seconds, init in zip(lasts, inits, strict=True)) * replicas
    counts = {**meter, "stored_byte_seconds": meter["object_bytes_written"] * total_s}
    made = bill(Usage(counts, functions, 0.0, float(platform.memory_mb)), platform.tariff)
    return made.total_usd, {name: sum(line.usd for line in lines) for name, lines in made.by_service.items()}


def _notes(platform: Platform, workers: int) -> list[str]:
    found = []
    table = platform.table
    own = table is not None and table.measured is None and table.name == platform.provider
    if workers > 1 and platform.outline.caveat and own:
        found.append(platform.outline.caveat)
    if table is not None and table.measured is not None:
        found.append(f"latencies of {table.measured.provider}{table.times} were measured {table.where}")
    elif table is not None and own:
        found.append(
            f"latencies of {table.name}{table.times} are those that come with fsd, as of {table.as_of}; they were not measured in your "
            f"account: fsd measure --provider {table.name} measures them"
        )
    if table is None:
        found.append("no table of latencies: every request is as fast as on this machine")
    elif any(row.confidence == "low" for row in table.rows.values()):
        found.append(f"some latencies of table {table.name}{table.times} are estimates of low confidence")
    if not platform.crowded:
        fast = f"{platform.core_speed:.3g} times as fast as" if platform.core_speed != 1 else "as fast as"
        found.append(f"the plan assumes that a core of a function is {fast} a core of this machine")
    return found
