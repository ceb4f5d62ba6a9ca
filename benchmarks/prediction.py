"""What fsd predicts of a run against what the run metered, on this machine, for several models, splits and channels.

    python benchmarks/prediction.py [--models radixnet,digits,normal] [--workers 1,2,4,8] [--splits data,pipeline,tensor,mixed]
    python benchmarks/prediction.py --data FOLDER --models official          # the official network and images of the Graph Challenge
    python benchmarks/prediction.py --latency aws,gcp,azure --seeds 1,2,3    # seconds too: let nothing else run meanwhile

Counts that follow from the plan are judged: publishes, puts, acks, messages and bytes within 10 % (and 2 requests). With --latency,
receives and gets within 10 %, seconds within 25 %, against the medians of the seeds. Without it, they are only printed. The models:
`radixnet`, a generated network of the challenge on handwritten digits; `digits`, the trained network of `fsd demo`; `normal`, a generated
network with signed normal weights. The exit code is 1 if a judged figure is off.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import attrs
import numpy as np
from scipy.sparse import csr_matrix

import fsd_core
from fsd_core import cost, latency
from fsd_core.demo.training import digits, network
from fsd_core.model import Model
from fsd_core.model.challenge import radixnet
from fsd_core.model.inputs import open_inputs
from fsd_core.partition import ExchangePlan, Parallel, Partition
from fsd_core.partition.methods import partition
from fsd_core.plan.batches import plan_batches, sizes
from fsd_core.plan.facts import Facts, learn
from fsd_core.plan.predict import Platform, Prediction, predict
from fsd_core.plan.traffic import of_partition
from fsd_core.providers import registry
from graphchallenge import load as challenge

PLANNED = ("payload_bytes_sent", "message_bytes_sent", "messages_sent", "publish_requests", "publish_units", "ack_requests")
PLANNED += ("object_puts", "object_bytes_written", "object_bytes_read", "invocations")
TIMED = ("receive_requests", "object_gets")
CHANNELS = ("queue", "object", "hybrid")


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

    def expected(self) -> Prediction:
        """The prediction of a run on this machine whose weights and inputs are staged."""
        where = Platform(
            provider="local",
            outline=registry.find("local").outline({}),  # type: ignore[attr-defined]
            table=latency.load(self.table) if self.table else None,
            tariff=cost.load("aws-us-east-1"),
            memory_mb=2048,
            crowded=True,
            seeds=tuple(self.seeds) if self.table else (),
        )
        plan = ExchangePlan(self.facts.model, self.made)
        return predict(self.facts, of_partition(self.facts, self.made, plan, self.shape, self.batches), where, self.channel)

    def measured(self, home: Path) -> list[fsd_core.Result]:
        """The runs: one for each seed, or one without a latency. One before them stages the model."""
        split = {f"{name}_parallel": size for name, size in self.shape.to_json().items()}
        same: dict[str, Any] = {"partition": self.made, "channel": self.channel, "home": home, "settings": {"root": str(home / "local")}}
        slowed = [f"{self.table},seed={seed}" for seed in self.seeds] if self.table else [None]
        fsd_core.run(self.facts.model, self.inputs, **same, **split)
        return [fsd_core.run(self.facts.model, self.inputs, latency=each, **same, **split) for each in slowed]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="radixnet,digits,normal")
    parser.add_argument("--workers", default="1,2,4,8")
    parser.add_argument("--splits", default="data,pipeline,tensor,mixed")
    parser.add_argument("--channels", default=",".join(CHANNELS))
    parser.add_argument("--partition", default="block")
    parser.add_argument("--data", help="folder with the files of the Graph Challenge")
    parser.add_argument("--latency", help="tables of latencies, for instance aws,gcp,azure")
    parser.add_argument("--seeds", default="1,2,3,4,5")
    parser.add_argument("--budget", type=float, default=5.0, help="seconds for which samples of the input are computed")
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    wrong = 0
    errors: dict[str, list[float]] = {name: [] for name in (*PLANNED, *TIMED, "seconds")}
    print("| case | " + " | ".join((*PLANNED, *TIMED, "seconds")) + " |")
    print("|---|" + "---:|" * (len(PLANNED) + len(TIMED) + 1))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FSD_HOME"] = folder
        for name, model, inputs in models(options.models.split(","), options.data):
            facts = learn(model, inputs, options.budget)
            for shape in shapes(options.splits.split(","), [int(count) for count in options.workers.split(",")]):
                wanted, costs = plan_batches(model, inputs, None, shape)
                made = partition(model, shape.parts, options.partition, stages=shape.pipeline, costs=costs)
                batches = sizes(inputs.shape[0], None, shape, wanted)
                for channel in options.channels.split(",") if shape.workers > 1 else CHANNELS[:1]:
                    for table in options.latency.split(",") if options.latency else [None]:
                        case = Case(facts, inputs, made, shape, batches, channel, table, seeds)
                        found, runs = case.expected(), case.measured(Path(folder))
                        cells = []
                        for key in (*PLANNED, *TIMED, "seconds"):
                            real = median(run.seconds["total"] if key == "seconds" else run.meter[key] for run in runs)
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
    print(f"\n{wrong} judged figures are off")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
