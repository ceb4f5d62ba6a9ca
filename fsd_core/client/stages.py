"""`Stages`: the work of the engine onnx. Each part is a stage of an ONNX model, or the share of one rank if several ranks share a stage."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import numpy as np

from fsd_core.client.result import Result
from fsd_core.client.stage_workload import StageWorkload
from fsd_core.client.tensors import TensorResult, Tensors, fitted
from fsd_core.client.work import Cut, Pieces
from fsd_core.codec import decode_tensors, encode_tensors
from fsd_core.codec.named import DTYPES, FORM
from fsd_core.driver import InvokeLimits
from fsd_core.errors import InputError
from fsd_core.partition import Parallel, parallel
from fsd_core.partition.graph_stages import Division, GraphStage, divide_graph
from fsd_core.partition.stages import DENSE_SHARE, FILL, PAYS_S, WORK_S
from fsd_core.plan.batches import sizes as cut_samples
from fsd_core.plan.memory import RankMemory
from fsd_core.plan.split import Split
from fsd_core.protocol.stage_shard import CHUNK_BYTES, FORMAT, Section, Transfer, build_stage

if TYPE_CHECKING:
    from fsd_core.graph import Graph

__all__ = ["StageBatches", "Stages", "stages_work"]

RUNTIME_BYTES = 36 << 20  # memory of a worker for ONNX Runtime itself
NODE_BYTES = 16 << 10  # of a session for each node: its own form of the graph
READING_BYTES = CHUNK_BYTES  # in addition to the buffer of all weights: when the last chunk arrives, no other chunk is under way
ENCODED = 2  # a tensor that travels and its encoded form are in memory at the same time


@attrs.frozen
class StageBatches:
    """How the samples are cut; see `fsd_core.client.work.Cut`."""

    samples: list[int]
    ranks: list[RankMemory]  # ``keep``: a worker has the memory to hold its weights a second time, in a form that multiplies faster

    @property
    def predicted_bytes(self) -> int:
        """The predicted peak memory of the worker that needs most."""
        return max(rank.bytes for rank in self.ranks)


@attrs.frozen(kw_only=True, eq=False)
class Stages:
    """The work on an ONNX model; see `fsd_core.client.work.Work`. ``tensors``: its inputs by name.

    If `Graph.no_batch` is `None`, axis 0 of each input and output is for samples. Else it says why the model has no batch axis.
    """

    engine: ClassVar = "onnx"
    result: ClassVar[type[Result]] = TensorResult
    graph: Graph
    tensors: Tensors
    division: Division
    parallel: Parallel
    batch_size: int | None

    @property
    def digest(self) -> str:
        """The digest of the model."""
        return self.graph.digest

    @property
    def given(self) -> Tensors:
        """The inputs by name."""
        return self.tensors

    @property
    def stages(self) -> list[GraphStage]:
        """The part of the model of each rank of a replica."""
        return self.division.stages

    @property
    def label(self) -> str:
        """How the model is divided: into stages of whole nodes, or also by columns."""
        return "stages" if self.parallel.tensor == 1 else "stages and columns"

    @property
    def samples(self) -> int:
        """The number of samples; 1 without a batch axis."""
        return 1 if self.graph.no_batch is not None else len(next(iter(self.tensors.values())))

    @property
    def neurons(self) -> int:
        """The values of the largest tensor of a sample."""
        return max((math.prod(each.shape) for each in self.graph.trial.tensors.values()), default=1) or 1

    @property
    def layers(self) -> int:
        """The steps of all stages: one for each stage, and if ranks share a stage, one more after each exchange in it."""
        return self.division.steps

    @property
    def last(self) -> list[int]:
        """The parts that compute outputs of the model."""
        return [part for part, stage in enumerate(self.stages) if stage.outputs]

    @cached_property
    def _sample_s(self) -> float:
        """The estimated seconds in which the largest stage computes one sample."""
        return max(stage.multiply_adds for stage in self.stages) * DENSE_SHARE / WORK_S

    @property
    def stage_s(self) -> float:
        """The estimated seconds in which the largest stage computes a micro-batch."""
        return self._sample_s * max(self.sizes())

    def sizes(self) -> list[int]:
        """The samples of each micro-batch, without regard to memory. With several stages, a run with enough work has more micro-batches."""
        stages = self.parallel.pipeline
        wanted = min(FILL * stages, self._sample_s * self.samples / self.parallel.data / PAYS_S) if stages > 1 else 1
        return cut_samples(self.samples, self.batch_size, self.parallel, max(1, int(wanted)))

    def batches(self, limits: InvokeLimits, provider: str) -> StageBatches:
        """Cut the samples into micro-batches that fit a function."""
        found, memory = self.sizes(), limits.memory_bytes
        if memory is not None:
            while max(self._bytes(max(found), limits, prepack=False)) > memory and max(found) > 1:
                found = cut_samples(self.samples, -(-max(found) // 2), self.parallel)
        if memory is not None and max(self._bytes(max(found), limits, prepack=False)) > memory:
            raise InputError(f"[{provider}] memory_mb = {memory >> 20}: {self._too_large(memory, limits)}")
        keep = memory is None or max(self._bytes(max(found), limits, prepack=True)) <= memory
        return StageBatches(found, [RankMemory(each, keep) for each in self._bytes(max(found), limits, prepack=keep)])

    def needs(self, cut: Cut, limits: InvokeLimits, live: Sequence[float] | None) -> list[int]:
        """The memory that each part is expected to need: what ``cut`` says."""
        del limits, live  # they change nothing here
        return [rank.bytes for rank in cut.ranks]

    def _too_large(self, memory: int, limits: InvokeLimits) -> str:
        """Why one sample does not fit into this memory, how much memory is missing, and what to change."""
        needed = self._bytes(1, limits, prepack=False)
        part = needed.index(max(needed))
        stage, over = self.stages[part], -((memory - needed[part]) >> 20)
        parts = f"of {len(needed)} stages" if self.parallel.tensor == 1 else f"part of {len(needed)} ranks"
        line = f"the largest {parts} needs {needed[part] >> 20} MB with one sample, {over} MB more than a function has"
        room = memory - (needed[part] - stage.weight_bytes)  # for weights
        shared = self.parallel.tensor > 1
        if stage.largest_bytes <= room:
            more = "more ranks of a stage (tensor_parallel), " * shared
            return f"{line}: expected more stages (pipeline_parallel), {more}or more memory"
        line += f"; its node {stage.largest!r} alone has {stage.largest_bytes >> 20} MB of weights"
        return f"{line}: expected {'more ranks of a stage' if shared else 'ranks that share it'} (tensor_parallel), or more memory"

    def _bytes(self, samples: int, limits: InvokeLimits, *, prepack: bool) -> list[int]:
        """The predicted memory of each part, in bytes, for a micro-batch of ``samples`` samples."""
        found = []
        for stage in self.stages:
            tensors = (stage.live_bytes + ENCODED * stage.passed_bytes) * samples
            nodes = sum(len(section.own) for section in stage.sections)
            # A session copies its weights. With prepacking, the copy becomes the form that multiplies faster; without, it is freed.
            beside = stage.weight_bytes + tensors if prepack else max(stage.weight_bytes - stage.fed_bytes, tensors)
            own = stage.weight_bytes + max(beside, min(READING_BYTES, stage.weight_bytes)) + NODE_BYTES * nodes
            found.append(limits.process_bytes + RUNTIME_BYTES + own)
        return found

    def needed_bytes(self, limits: InvokeLimits) -> int:
        """The smallest memory of a function that holds the largest stage with one sample."""
        return max(self._bytes(1, limits, prepack=False))

    @cached_property
    def workload(self) -> StageWorkload:
        """The model and its inputs as the planner sees them."""
        return StageWorkload(self)

    def split(self, batches: Sequence[int]) -> Split:
        """What the stages load, compute and send. ``batches``: the number of samples of each micro-batch."""
        return self.workload.split(self, batches)

    def divided(self, shape: Parallel) -> Stages:
        """The work on the same model with the split ``shape``. Raises `InputError` if the model cannot be split like this."""
        if shape.data > 1 and self.graph.no_batch is not None:
            raise InputError(f"samples cannot be computed separately: {self.graph.no_batch}")
        same = (shape.pipeline, shape.tensor) == (self.parallel.pipeline, self.parallel.tensor)
        division = self.division if same else divide_graph(self.graph, shape.pipeline, shape.tensor)
        return attrs.evolve(self, division=division, parallel=shape)

    def shards(self) -> Pieces:
        """One shard for each part."""
        model = self.division.graph.model.SerializeToString(deterministic=True)  # without the data of its large weights
        hashed = [FORMAT, self.digest, hashlib.sha256(model).hexdigest(), repr([stage.sections for stage in self.stages])]
        return Pieces(_digest(*hashed), len(self.stages), self._shard)

    def _shard(self, part: int) -> bytes:
        from fsd_core.graph.submodel import forms

        stage, sections, models, weights = self.stages[part], list[Section](), list[bytes](), Tensors()
        later = set(stage.outputs)  # the tensors that the rank still needs after a section
        for each in reversed(stage.sections):
            arrived = [name for names in each.receives.values() for name in names]
            reads = [*each.inputs, *arrived, *each.uses]
            made = forms(self.division.graph, each.own, reads, each.gives)
            sections.append(
                Section(
                    step=each.step,
                    model_bytes=len(made.model),
                    lean_bytes=len(made.lean),
                    weights=list(made.weights),
                    feeds=made.feeds,
                    reads=reads,
                    gives=each.gives,
                    keeps=sorted(later),
                    receives=[Transfer(rank=rank, step=each.step, names=names) for rank, names in each.receives.items()],
                    sends=[Transfer(rank=rank, step=step, names=names) for rank, step, names in each.sends],
                )
            )
            models += [made.lean, made.model]  # the last one first, as the sections
            weights |= made.weights
            later |= {*each.inputs, *each.uses, *(name for _, _, names in each.sends for name in names)}
        return build_stage(sections[::-1], models[::-1], weights, stage.inputs, stage.outputs)

    def inputs(self, batches: Sequence[int]) -> tuple[Pieces, list[list[int | None]]]:
        """The inputs that each stage reads."""
        readers = [part for part, stage in enumerate(self.stages) if stage.inputs]
        hashed = [f"fsd-tensors-{FORM}", self.digest, repr([stage.inputs for stage in self.stages]), *map(str, batches)]
        for name, array in self.tensors.items():
            hashed += [name, array.dtype.name, repr(array.shape), hashlib.sha256(array.reshape(-1).view(np.uint8).data).hexdigest()]
        starts = np.concatenate([[0], np.cumsum(batches)])

        def build(number: int) -> bytes:
            batch, part = number // len(readers), readers[number % len(readers)]
            start, end = starts[batch], starts[batch + 1]
            read = {name: self.tensors[name] for name in self.stages[part].inputs}
            return encode_tensors(read if self.graph.no_batch is not None else {name: array[start:end] for name, array in read.items()})

        found: list[list[int | None]] = [[None] * len(self.stages) for _ in batches]
        for number in range(len(batches) * len(readers)):
            found[number // len(readers)][readers[number % len(readers)]] = number
        return Pieces(_digest(*hashed), len(batches) * len(readers), build), found

    def slice(self, data: bytes, writer: int, samples: int) -> Tensors:
        """The outputs that a stage wrote."""
        return decode_tensors(data, self.stages[self.last[writer]].outputs)

    def assemble(self, slices: Sequence[Sequence[Tensors]], batches: Sequence[int], progress: Callable[[int, int], None]) -> Tensors:
        """The outputs of the model by name, in its order."""
        found: list[Tensors] = []
        for batch, parts in enumerate(slices):
            found.append({name: array for part in parts for name, array in part.items()})
            progress(batch + 1, len(batches))
        names = [each.name for each in self.graph.outputs]
        return {name: np.concatenate([each[name] for each in found]) if len(found) > 1 else found[0][name] for name in names}


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def stages_work(
    graph: Graph,
    tensors: Tensors,
    workers: Any = 1,
    data: Any = None,
    pipeline: Any = None,
    tensor: Any = None,
    batch_size: int | None = None,
) -> Stages:
    """The work of an ONNX model on inputs by name.

    ``workers``, ``data``, ``pipeline``, ``tensor``: those of `fsd_core.partition.parallel`. Without any of them, the run has one worker.

    Runs the model on this machine for the first two samples. Raises `InputError` if an input does not fit, if ONNX Runtime cannot compute
    the first sample, or if the model cannot be split like this.
    """
    given = fitted(graph, tensors)
    graph = attrs.evolve(graph, given=given)
    trial = graph.trial
    if trial.failed is not None:
        what = "the input" if graph.no_batch is not None else "the first sample of the input"
        raise InputError(f"{graph.path}: ONNX Runtime cannot compute {what}: {trial.failed}")
    for each in graph.outputs:
        if each.name not in trial.tensors:
            raise InputError(f"{graph.path}: output {each.name!r} is no tensor of numbers: expected one of {', '.join(DTYPES)}")
    if graph.no_batch is None and trial.no_batch is not None:
        graph = attrs.evolve(graph, no_batch=trial.no_batch)  # its trial is one of all samples together
        if graph.trial.failed is not None:
            count = len(next(iter(given.values())))
            raise InputError(
                f"{graph.path}: ONNX Runtime computes the first sample of the input, but not all {count} together: expected one sample: "
                f"{graph.trial.failed}"
            )
    if graph.no_batch is not None:
        for name, number in (("data_parallel", data), ("batch_size", batch_size)):
            if number not in (None, 1):
                why = f"the samples of {graph.path} cannot be computed separately: {graph.no_batch}"
                raise InputError(f"{name} {number}: {why}: expected 1")
        data = 1
    shape = parallel(workers, data, pipeline, tensor or 1)
    return Stages(
        graph=graph,
        tensors=given,
        division=divide_graph(graph, shape.pipeline, shape.tensor),
        parallel=shape,
        batch_size=batch_size,
    )
