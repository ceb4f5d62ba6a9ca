"""The cases of `prediction.py`: a case is a model, a split and a channel, with a prediction and runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import attrs
from scipy.sparse import csr_matrix

import fsd_core
import onnx_matrix
from fsd_core import cost, latency
from fsd_core.client.opened import open_run
from fsd_core.client.rows import Rows, rows_work
from fsd_core.client.stages import Stages, stages_work
from fsd_core.client.tensors import Tensors
from fsd_core.common.home import home_folder
from fsd_core.demo.training import digits, network
from fsd_core.errors import InputError
from fsd_core.graph import Graph
from fsd_core.model import Model
from fsd_core.model.challenge import radixnet
from fsd_core.model.inputs import open_inputs
from fsd_core.partition import Parallel
from fsd_core.plan.facts import Facts, learn
from fsd_core.plan.places import Place, place
from fsd_core.plan.predict import Platform, Prediction, predict
from fsd_core.plan.row_workload import RowWorkload
from fsd_core.plan.split import Split
from fsd_core.plan.traffic import of_partition
from graphchallenge import load as challenge

CHANNELS = ("queue", "object", "hybrid")
MEMORY_MB = 2048
ONNX = {"minilm": "paraphrase-MiniLM-L3-v2", "ocr": "ch_PP-OCRv4_rec_infer", "vad": "silero_vad"}
ONNX_WAYS = (Parallel(), Parallel(pipeline=2), Parallel(pipeline=4), Parallel(data=2, pipeline=2))
SAMPLES = 4  # of an ONNX model


@attrs.frozen(eq=False)
class RowModel:
    """A `Model` with its samples. ``budget``: the seconds that a prediction may spend on computing some of the samples."""

    name: str
    model: Model
    inputs: Any
    method: str
    budget: float

    @property
    def digest(self) -> str:
        """The digest of the model."""
        return self.model.digest

    @cached_property
    def _facts(self) -> Facts:
        return learn(self.model, self.inputs, self.budget)

    def ways(self, kinds: Sequence[str], counts: Sequence[int]) -> Iterator[Parallel]:
        """The splits of these ``kinds`` for each number of workers in ``counts``."""
        for count in counts:
            if count == 1:
                yield Parallel()
                continue
            for kind in kinds:
                if kind in ("data", "pipeline", "tensor"):
                    yield Parallel(**{kind: count})
                elif count >= 4:
                    yield Parallel(pipeline=2, tensor=count // 2)

    def work(self, shape: Parallel, home: Path) -> Rows:
        """The work of a run with this split. Raises `InputError` if the model cannot be split in this way."""
        return rows_work(RowWorkload(self.model, self.inputs), shape, None, self.method, 0, home, lambda *_: None)

    def split(self, work: Rows, batches: Sequence[int]) -> Split:
        """What the parts load, compute and send."""
        return of_partition(self._facts, work.partition, work.plan, work.parallel, batches)

    def options(self, work: Rows) -> dict[str, Any]:
        """The arguments of a run that depend on the kind of model."""
        return {"partition": work.partition}


@attrs.frozen(eq=False)
class OnnxModel:
    """An ONNX model with its inputs by name."""

    name: str
    model: Path
    inputs: Tensors

    @cached_property
    def _whole(self) -> Stages:
        graph = open_run(self.model, self.inputs, "onnx").model
        assert isinstance(graph, Graph)
        return stages_work(graph, self.inputs)

    @property
    def digest(self) -> str:
        """The digest of the model."""
        return self._whole.digest

    def ways(self, kinds: Sequence[str], counts: Sequence[int]) -> Iterator[Parallel]:
        """`ONNX_WAYS`."""
        yield from ONNX_WAYS

    def work(self, shape: Parallel, home: Path) -> Stages:
        """The work of a run with this split. Raises `InputError` if the model cannot be split in this way."""
        return self._whole.divided(shape)

    def split(self, work: Stages, batches: Sequence[int]) -> Split:
        """What the stages load, compute and send."""
        return self._whole.workload.split(work, batches)

    def options(self, work: Stages) -> dict[str, Any]:
        """The arguments of a run that depend on the kind of model."""
        return {"engine": "onnx"}


def models(options: argparse.Namespace, folder: Path) -> Iterator[RowModel | OnnxModel]:
    """The models with their inputs. ONNX files are written to ``folder``."""
    made = partial(RowModel, method=options.partition, budget=options.budget)
    for name in options.models.split(","):
        if name == "radixnet":
            model = radixnet(1024, 24)
            yield made(name, model, open_inputs("digits", model.inputs))
        elif name == "digits":
            model, _ = network(home_folder())
            yield made(name, model, csr_matrix(digits(0).held))
        elif name == "normal":
            model = radixnet(1024, 12, 1, "normal")
            yield made(name, model, open_inputs("random:500:0.2", model.inputs))
        elif name == "official":
            if not options.data:
                sys.exit("--models official needs --data, the folder with the files of the Graph Challenge")
            loaded = challenge(Path(options.data))
            yield made(name, loaded.model, loaded.images)
        else:
            files = {each.stem: each for each in onnx_matrix.models(folder)}
            if (stem := ONNX.get(name, name)) not in files:
                sys.exit(f"--models {name}: expected radixnet, digits, normal, official, {', '.join(ONNX)} or one of {', '.join(files)}")
            found = onnx_matrix.case(files[stem], SAMPLES)
            yield OnnxModel(name, files[stem], dict(found.inputs))


@attrs.frozen(eq=False)
class Case:
    """A model with one split and one channel. ``table``: the table of latencies, if any, with a run for each of the ``seeds``.

    ``emulator``: what `fsd_core.measure` found of the emulator on which the case runs, if any.
    """

    model: RowModel | OnnxModel
    work: Any  # a `Work`
    channel: str
    table: str | None
    seeds: Sequence[int]
    where: Mapping[str, Any]  # provider and settings
    emulator: latency.Table | None = None

    @property
    def name(self) -> str:
        """The name of the case, for people."""
        return f"{self.model.name} {way(self.work.parallel)} {self.channel}{f' {self.table}' if self.table else ''}"

    @property
    def place(self) -> Place:
        """The place where the case runs."""
        return place(self.where["provider"], self.where["settings"], latency.load(self.table) if self.table else self.emulator)

    @property
    def tariff(self) -> cost.Tariff:
        """The tariff for the case: that of the table of latencies or of the provider; for this machine, that of AWS."""
        named = self.table or self.where["provider"]
        return cost.load((cost.default_tariff(named) if named != "local" else None) or "aws-us-east-1")

    def expected(self) -> Prediction:
        """The prediction of a run whose weights and inputs are staged."""
        found = self.place
        platform = Platform(
            provider=self.where["provider"],
            outline=found.outline,
            table=found.table,
            tariff=self.tariff,
            memory_mb=MEMORY_MB,
            crowded=True,
            seeds=tuple(self.seeds) if self.table else (),
        )
        batches = self.work.batches(found.outline.functions, self.where["provider"])
        split = self.model.split(self.work, batches.samples)
        return predict(split, platform, self.channel, keep=all(rank.keep for rank in batches.ranks))

    @property
    def runs(self) -> dict[str, int | None]:
        """The keys of its runs in the kept figures, with their seeds."""
        about = f"{self.name} {self.model.digest[:12]} {self.where['provider']}"
        return {f"{about} {seed}": seed for seed in self.seeds} if self.table else {about: None}

    def run(self, seed: int | None, home: Path, *, slowed: bool = True) -> dict[str, Any]:
        """The figures of one run."""
        split = {f"{name}_parallel": size for name, size in self.work.parallel.to_json().items()}
        table = f"{self.table},seed={seed}" if self.table and slowed else None
        same: dict[str, Any] = {"channel": self.channel, "home": home, "latency": table, **self.where, **self.model.options(self.work)}
        found = fsd_core.run(self.model.model, self.model.inputs, **same, **split)
        assert found.predicted is not None
        usage = attrs.evolve(cost.Usage.of_run(found.to_json() | {"ranks": found.ranks}), memory_mb=float(MEMORY_MB))
        parts = {name: value / found.workers for name, value in found.seconds_sum.items()}  # means over the ranks
        figures = {"seconds": found.predicted["lasted"], "usd": cost.bill(usage, self.tariff).total_usd, "meter": dict(found.meter)}
        return figures | {"parts": parts}


def way(shape: Parallel) -> str:
    """A split as on the command line."""
    return f"{shape.data}x{shape.pipeline}x{shape.tensor}"


def cases(options: argparse.Namespace, folder: Path, used: Mapping[str, Any], emulator: latency.Table | None = None) -> Iterator[Case]:
    """The cases that the command names. Leaves out a split that is impossible for its model. ``emulator``: see `Case`."""
    seeds, counts = [int(seed) for seed in options.seeds.split(",")], [int(count) for count in options.workers.split(",")]
    given = [Parallel(*map(int, each.split("x"))) for each in options.ways.split(",")] if options.ways else None
    for model in models(options, folder):
        for shape in given or model.ways(options.splits.split(","), counts):
            try:
                work = model.work(shape, folder)
            except InputError as error:
                print(f"{model.name} {way(shape)} is left out: {error}", file=sys.stderr)
                continue
            for channel in options.channels.split(",") if shape.workers > 1 else CHANNELS[:1]:
                for table in options.latency.split(",") if options.latency else [None]:
                    yield Case(model, work, channel, table, seeds, used, emulator)
