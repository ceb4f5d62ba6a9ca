"""What fsd predicts of a run against what the run metered, on this machine, for several models, splits and channels.

    python benchmarks/prediction.py [--models radixnet,digits,normal] [--workers 1,2,4,8] [--splits data,pipeline,tensor,mixed]
    python benchmarks/prediction.py --data FOLDER --models official          # the official network and images of the Graph Challenge
    python benchmarks/prediction.py --latency aws,gcp,azure --seeds 1,2,3    # seconds too: let nothing else run meanwhile
    python benchmarks/prediction.py --provider aws --emulator                # the counts of a cloud, on its emulator

Counts that follow from the plan are judged: publishes, puts, acks, messages and bytes within 10 % (and 2 requests). With --latency,
receives and gets within 10 %, seconds within 25 %, against the medians of the seeds. Without it, they are only printed. The models:
`radixnet`, a generated network of the challenge on handwritten digits; `digits`, the trained network of `fsd demo`; `normal`, a generated
network with signed normal weights. Seconds begin with the lease of a slot; staging is done before.

At the end: of the cases that ran, which one the planner would choose for cost and for latency, and by how much that one is worse than the
best. With --latency, a choice that is over 10 % worse is off. Money is that of the tariff of --provider, of this machine that of AWS.
The exit code is 1 if a judged figure or a choice is off.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import attrs
import numpy as np
from scipy.sparse import csr_matrix

import fsd_core
from emulated import where
from fsd_core import cost, latency
from fsd_core.demo.training import digits, network
from fsd_core.model import Model
from fsd_core.model.challenge import radixnet
from fsd_core.model.inputs import open_inputs
from fsd_core.partition import ExchangePlan, Parallel, Partition
from fsd_core.partition.methods import partition
from fsd_core.plan.batches import plan_batches, sizes
from fsd_core.plan.choose import Candidate, choose
from fsd_core.plan.facts import Facts, learn
from fsd_core.plan.places import place
from fsd_core.plan.predict import Platform, Prediction, predict
from fsd_core.plan.traffic import of_partition
from graphchallenge import load as challenge

PLANNED = ("payload_bytes_sent", "message_bytes_sent", "messages_sent", "publish_requests", "publish_units", "ack_requests")
PLANNED += ("object_puts", "object_bytes_written", "object_bytes_read", "invocations")
TIMED = ("receive_requests", "object_gets")
CHANNELS = ("queue", "object", "hybrid")
MEMORY_MB = 2048
WORSE = 0.1  # by so much a choice may be worse than the best case


def models(names: list[str], data: str | None) -> Iterator[tuple[str, Model, Any]]:
    """The models with their inputs, by name."""
    for name in names:
        if name == "radixnet":
            model = radixnet(1024, 24)
            yield name, model, open_inputs("digits", model.inputs)
        elif name == "digits":
            model, _ = network(os.environ["FSD_HOME"])
            yield name, model, csr_matrix(digits(0).held)
        elif name == "normal":
            model = radixnet(1024, 12, 1, "normal")
            yield name, model, open_inputs("random:500:0.2", model.inputs)
        elif name == "official":
            if not data:
                sys.exit("--models official needs --data, the folder with the files of the Graph Challenge")
            loaded = challenge(Path(data))
            yield name, loaded.model, loaded.inputs
        else:
            sys.exit(f"--models {name}: expected radixnet, digits, normal or official")


def shapes(kinds: list[str], counts: list[int]) -> Iterator[Parallel]:
    """The splits of so many workers."""
    for count in counts:
        if count == 1:
            yield Parallel()
            continue
        for kind in kinds:
            if kind in ("data", "pipeline", "tensor"):
                yield Parallel(**{kind: count})
            elif count >= 4:
                yield Parallel(pipeline=2, tensor=count // 2)


@attrs.frozen(eq=False)
class Case:
    """A model on its inputs, split in one way, over one channel. ``table``: of latencies, for each of the ``seeds``."""

    facts: Facts
    inputs: Any
    made: Partition
    shape: Parallel
    batches: list[int]
    channel: str
    table: str | None
    seeds: list[int]
    where: Mapping[str, Any]  # provider and settings

    def expected(self) -> Prediction:
        """The prediction of a run on this machine whose weights and inputs are staged."""
        name = self.where["provider"]
        found = place(name, self.where["settings"], latency.load(self.table) if self.table else None)
        where = Platform(
            provider=name,
            outline=found.outline,
            table=found.table,
            tariff=cost.load(tariff_of(name)),
            memory_mb=MEMORY_MB,
            crowded=True,
            seeds=tuple(self.seeds) if self.table else (),
        )
        plan = ExchangePlan(self.facts.model, self.made)
        return predict(of_partition(self.facts, self.made, plan, self.shape, self.batches), where, self.channel)

    def measured(self, home: Path) -> list[fsd_core.Result]:
        """The runs: one for each seed, or one without a latency. One before them stages the model."""
        split = {f"{name}_parallel": size for name, size in self.shape.to_json().items()}
        same: dict[str, Any] = {"partition": self.made, "channel": self.channel, "home": home, **self.where}
        slowed = [f"{self.table},seed={seed}" for seed in self.seeds] if self.table else [None]
        fsd_core.run(self.facts.model, self.inputs, **same, **split)
        return [fsd_core.run(self.facts.model, self.inputs, latency=each, **same, **split) for each in slowed]


@attrs.frozen
class Ran:
    """A case that ran: what was predicted, and medians of its seconds and USD."""

    shape: Parallel
    channel: str
    found: Prediction
    seconds: float
    usd: float

    @property
    def words(self) -> str:
        """The case and its figures, for people."""
        return f"{self.shape.data}x{self.shape.pipeline}x{self.shape.tensor} {self.channel}, {self.seconds:.2f} s, {self.usd:.2g} USD"


def tariff_of(provider: str) -> str:
    """The tariff by which runs of ``provider`` are billed here."""
    return "aws-us-east-1" if provider == "local" else cost.default_tariff(provider) or "aws-us-east-1"


def lasted(run: fsd_core.Result) -> float:
    """The seconds that a prediction is about."""
    return float(run.predicted["lasted"]) if run.predicted else run.seconds["total"] - run.seconds["stage"]


def usd(run: fsd_core.Result) -> float:
    """The bill of a run, as if its functions had `MEMORY_MB`."""
    usage = attrs.evolve(cost.Usage.of_run(run.to_json() | {"ranks": run.ranks}), memory_mb=float(MEMORY_MB))
    return cost.bill(usage, cost.load(tariff_of(run.provider))).total_usd


def worse(cases: list[Ran], objective: str) -> tuple[Ran, Ran, float]:
    """Of the cases that ran: the one that the planner chooses, the best one, and by what share the first is worse."""
    candidates = {id(each.found): each for each in cases}
    options = [
        Candidate(
            provider=each.found.provider, channel=each.channel, parallel=each.shape, memory_mb=MEMORY_MB, cold=True, prediction=each.found
        )
        for each in cases
    ]
    chosen = choose(objective, options).prediction
    real = (lambda each: each.usd) if objective == "cost" else (lambda each: each.seconds)
    mine, best = candidates[id(chosen)], min(cases, key=real)
    return mine, best, real(mine) / real(best) - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="radixnet,digits,normal")
    parser.add_argument("--workers", default="1,2,4,8")
    parser.add_argument("--splits", default="data,pipeline,tensor,mixed")
    parser.add_argument("--channels", default=",".join(CHANNELS))
    parser.add_argument("--partition", default="block")
    parser.add_argument("--data", help="folder with the files of the Graph Challenge")
    parser.add_argument("--provider", default="local")
    parser.add_argument("--emulator", nargs="?", const="", help="use the provider's emulator (of this name)")
    parser.add_argument("--latency", help="tables of latencies, for instance aws,gcp,azure")
    parser.add_argument("--seeds", default="1,2,3,4,5")
    parser.add_argument("--budget", type=float, default=5.0, help="seconds for which samples of the input are computed")
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    wrong = 0
    errors: dict[str, list[float]] = {name: [] for name in (*PLANNED, *TIMED, "seconds")}
    print("| case | " + " | ".join((*PLANNED, *TIMED, "seconds")) + " |")
    print("|---|" + "---:|" * (len(PLANNED) + len(TIMED) + 1))
    choices: dict[tuple[str, str | None], list[Ran]] = {}
    with tempfile.TemporaryDirectory() as folder, where(options.provider, options.emulator) as (used, _):
        os.environ["FSD_HOME"] = folder
        used["settings"] = {"root": f"{folder}/local"} if options.provider == "local" else used["settings"]
        for name, model, inputs in models(options.models.split(","), options.data):
            facts = learn(model, inputs, options.budget)
            for shape in shapes(options.splits.split(","), [int(count) for count in options.workers.split(",")]):
                if shape.pipeline > len(model.layers):
                    continue
                wanted, costs = plan_batches(model, inputs, None, shape)
                made = partition(model, shape.parts, options.partition, stages=shape.pipeline, costs=costs)
                batches = sizes(inputs.shape[0], None, shape, wanted)
                for channel in options.channels.split(",") if shape.workers > 1 else CHANNELS[:1]:
                    for table in options.latency.split(",") if options.latency else [None]:
                        case = Case(facts, inputs, made, shape, batches, channel, table, seeds, used)
                        found, runs = case.expected(), case.measured(Path(folder))
                        ran = Ran(shape, channel, found, median(map(lasted, runs)), median(map(usd, runs)))
                        choices.setdefault((name, table), []).append(ran)
                        cells = []
                        for key in (*PLANNED, *TIMED, "seconds"):
                            real = ran.seconds if key == "seconds" else median(run.meter[key] for run in runs)
                            mine = found.seconds["p50"] if key == "seconds" else found.meter[key]
                            off = (mine - real) / real if real else float(mine > 2)
                            slack = 0.25 if key == "seconds" else 0.1
                            judged = key in PLANNED or table is not None
                            bad = judged and abs(off) > slack and (key == "seconds" or abs(mine - real) > 2)
                            wrong += bad
                            errors[key].append(off)
                            shown = f"{mine:.3g}/{real:.3g}" if key == "seconds" else f"{mine:.0f}/{real:.0f}"
                            cells.append(f"{'**' if bad else ''}{shown}{'**' if bad else ''}")
                        words = f"{name} {shape.data}x{shape.pipeline}x{shape.tensor} {channel}{f' {table}' if table else ''}"
                        print(f"| {words} | " + " | ".join(cells) + " |", flush=True)
    print("\nErrors (predicted less metered, in % of the metered), median and largest:")
    for key, values in errors.items():
        print(f"{key:24} {100 * float(np.median(values)):7.1f} {100 * max(values, key=abs):7.1f}")
    print("\n| model | table | objective | the planner's choice | the best case | worse by |\n|---|---|---|---|---|---:|")
    for (name, table), cases in choices.items():
        for objective in ("cost", "latency"):
            mine, best, off = worse(cases, objective)
            wrong += table is not None and off > WORSE
            print(f"| {name} | {table or 'none'} | {objective} | {mine.words} | {best.words} | {off:.1%} |")
    print(f"\n{wrong} judged figures are off")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
