"""`StageWorkload`: an ONNX model on its inputs, as the planner sees it. A step of a stage counts as one layer.

This machine computes some samples, for up to half a second, in the kind of session that workers use. Each rank gets the share of these
seconds that it has of the model's multiply-adds. The bytes of a transfer come from encoding the tensors of a few samples. For a model
of more than `COMPUTED_BYTES`, nothing is computed, because a session would hold the weights a second time: multiply-adds and bytes are
counted instead.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.codec import encode_tensors
from fsd_core.driver import InvokeLimits
from fsd_core.errors import InputError, RunFailed
from fsd_core.graph.figures import node_costs
from fsd_core.graph.submodel import feeds, forms, submodel
from fsd_core.partition import Parallel
from fsd_core.partition.graph_stages import Division, GraphStage
from fsd_core.partition.stages import DENSE_SHARE, WORK_S
from fsd_core.plan.batches import Batches
from fsd_core.plan.coding import Coding
from fsd_core.plan.kept import digest
from fsd_core.plan.pace import python_pace
from fsd_core.plan.split import EMPTY_BYTES, Split, Step
from fsd_core.plan.workload import doubles, factors
from fsd_core.protocol.stage_shard import CHUNK_BYTES, HEAD_BYTES
from fsd_core.versions import versions
from fsd_core.worker.session import Session

if TYPE_CHECKING:
    from fsd_core.client.stages import Stages
    from fsd_core.graph import Graph

__all__ = ["StageWorkload"]

LEARN_S = 0.5  # seconds for computing samples on this machine
LEARN_BYTES = 64 << 20  # the largest size of the tensors that are encoded to measure their bytes
COMPUTED_BYTES = 512 << 20  # of weights
READY_S = 1.5e-9  # core seconds to make a session, for each byte of weights, if no session is made here
NODE_ADDS = 200_000  # each node takes the time of these multiply-adds in addition to its own: about 5 us
IMPORT_S = 0.05  # core seconds to import ONNX Runtime in a worker, which has numpy
SECTION_HEAD_BYTES, WEIGHT_HEAD_BYTES = 400, 100  # in the head of a shard: of a section, and of a weight (name, dtype, shape, place)
MOST_WORKERS, MOST_STAGES, SOME = 64, 64, 16  # of one kind of split; more than `SOME` only if each still has enough work or bytes
LARGE_BYTES, LONG_S = 20e6, 0.5
VALUE_BYTES = 4  # the simulation counts what is encoded in values of float32
Coded = Callable[[Sequence[str]], tuple[float, float]]  # of tensors by name: the bytes without a sample, and those that all samples add

# A process aborts if it exits while one of its threads is inside ONNX Runtime, as the thread of a late prediction may be. So it waits.
_INSIDE, EXIT_S = threading.Lock(), 30.0
atexit.register(_INSIDE.acquire, timeout=EXIT_S)


@attrs.frozen
class Measured:
    """The seconds that the model took on this machine, as seconds of one core."""

    sampled: int  # the number of computed samples; 0: the model is too large to compute any
    sample_s: float  # to compute a sample
    ready_s: float  # to make the session
    cores: float  # how many cores worked at a time


@attrs.frozen(eq=False)
class ShapedStages:
    """An ONNX model in stages; see `fsd_core.plan.workload.Shaped`."""

    work: Stages
    split: Split

    def cut(self, limits: InvokeLimits, provider: str) -> Batches:
        """Cut the samples into micro-batches that fit a function."""
        found = self.work.batches(limits, provider)
        return Batches(found.samples, found.ranks)

    def needed_bytes(self, limits: InvokeLimits) -> int:
        """The smallest memory of a function that holds the largest stage."""
        return self.work.needed_bytes(limits)


@attrs.define(eq=False, slots=False)
class StageWorkload:
    """An ONNX model with its inputs; see `fsd_core.plan.workload.Workload`. ``work``: the model in any split."""

    work: Stages
    _splits: dict[tuple[int, int], Split] = attrs.field(factory=dict, init=False)  # by the numbers of stages and of their ranks

    @property
    def name(self) -> str:
        """The name of the model."""
        return self.work.graph.name

    @cached_property
    def digest(self) -> str:
        """A digest of the model, its inputs, and the versions and number of processors of this machine."""
        hashed = hashlib.sha256()
        for name, array in self.work.tensors.items():
            hashed.update(f"{name} {array.dtype} {array.shape}\n".encode())
            hashed.update(array.reshape(-1).view(np.uint8).data)
        return digest(self.work.digest, hashed.hexdigest(), self.work.graph.no_batch, versions(), os.cpu_count())

    @property
    def samples(self) -> int:
        """The number of samples."""
        return self.work.samples

    @property
    def stored_bytes(self) -> float:
        """The bytes of all weights."""
        return float(sum(each.weight_bytes for each in self._costs))

    def about(self) -> Mapping[str, Any]:
        """The sizes of model and input."""
        adds = sum(each.multiply_adds or 0 for each in self._costs)
        return {"samples": self.samples, "nodes": len(self._costs), "weight bytes": int(self.stored_bytes), "multiply-adds": adds}

    @cached_property
    def _costs(self) -> Any:
        return node_costs(self.work.graph)

    def shapes(self, given: Parallel | int | None) -> Sequence[Parallel]:
        """The splits to price, or those that ``given`` leaves.

        Replicas, stages and ranks of a stage are powers of two; a stage has several ranks only if a node is large. For a model without a
        batch axis, two replicas are in the list too, so that the plan says why replicas are impossible.
        """
        if isinstance(given, Parallel):
            return [given]
        if given is not None:
            return list(factors(given))
        work_s = self.measured.sample_s * self.samples
        largest = max(each.weight_bytes for each in self._costs)
        data = [size for size in doubles(min(MOST_WORKERS, self.samples)) if size <= SOME or work_s > size * LONG_S]
        stages = [size for size in doubles(min(MOST_STAGES, len(self._costs))) if size <= SOME or self.stored_bytes > size * LARGE_BYTES]
        tensor = [size for size in doubles(MOST_WORKERS) if largest > size * LARGE_BYTES]
        found = [Parallel()]
        found += [Parallel(data=size) for size in (data if self.work.graph.no_batch is None else [2])]
        found += [Parallel(pipeline=size) for size in stages] + [Parallel(tensor=size) for size in tensor]
        for first in (2, 4):
            few = [size for size in stages if first * size <= 4 * SOME]
            found += [Parallel(data=first, pipeline=size) for size in few if first in data]
            found += [Parallel(pipeline=size, tensor=first) for size in few if first in tensor]
        return found

    def unplanned(self, workers: int | None) -> Parallel:
        """The split if the planner does not choose: ``workers`` replicas, or stages if the model has no batch axis. Default: one worker."""
        return Parallel(data=workers or 1) if self.work.graph.no_batch is None else Parallel(pipeline=workers or 1)

    def shaped(self, shape: Parallel, batch_size: int | None) -> ShapedStages:
        """The model with this split. Raises `InputError` if it has fewer micro-batches than replicas, or cannot be split like this."""
        work = attrs.evolve(self.work.divided(shape), batch_size=batch_size)
        if shape.data > len(work.sizes()):
            raise InputError(f"{len(work.sizes())} micro-batches are too few for {shape.data} replicas")
        if (parts := (shape.pipeline, shape.tensor)) not in self._splits:
            self._splits[parts] = self.split(work, [self.samples])
        return ShapedStages(work, attrs.evolve(self._splits[parts], parallel=shape))

    @property
    def _large(self) -> bool:
        return self.stored_bytes > COMPUTED_BYTES

    @cached_property
    def measured(self) -> Measured:
        """The seconds of computing some samples on this machine."""
        if self._large:
            adds = sum(each.multiply_adds or 0 for each in self._costs)
            return Measured(0, adds * DENSE_SHARE / WORK_S, self.stored_bytes * READY_S, 1.0)
        graph = self.work.graph
        given, gives = [each.name for each in graph.inputs], [each.name for each in graph.outputs]
        with _INSIDE:
            began = time.process_time()
            whole = _session(graph, given, gives, prepack=True)
            ready_s = time.process_time() - began
            count, took, wall = self._timed(whole, gives, 1)
            more = min(self.samples, int(0.8 * (LEARN_S - wall) / max(wall, 1e-6)))
            if more > 1:
                with suppress(RunFailed):  # of a later sample: the worker that computes it names stage and reason
                    count, took, wall = self._timed(whole, gives, more)
        return Measured(count, took / count, ready_s, float(np.clip(took / max(wall, 1e-6), 1.0, os.cpu_count() or 1)))

    def _timed(self, whole: Session, gives: Sequence[str], count: int) -> tuple[int, float, float]:
        """Compute ``count`` samples. Returns ``count``, the CPU seconds of all cores, and the seconds of the clock."""
        began, cpu = time.monotonic(), time.process_time()
        whole.run(self._some(count), gives)
        return count, time.process_time() - cpu, time.monotonic() - began

    def _some(self, count: int) -> Mapping[str, NDArray[Any]]:
        """The first ``count`` samples; all samples if the model has no batch axis."""
        tensors = self.work.tensors
        return tensors if self.work.graph.no_batch is not None else {name: array[:count] for name, array in tensors.items()}

    def split(self, work: Stages, batches: Sequence[int]) -> Split:
        """What the ranks of ``work`` load, compute and send. ``batches``: the number of samples of each micro-batch."""
        measured, ranks, samples = self.measured, work.stages, self.samples
        coded = self._counted(work.division) if self._large else self._encoded(work.division)
        costs, tensors = node_costs(work.division.graph), work.division.graph.trial.tensors
        shape = (work.division.steps, len(ranks))
        adds, nodes = np.zeros(shape), np.zeros(shape)
        pairs: dict[int, list[tuple[int, int, list[str]]]] = {}  # source, target and names of what travels, by step
        for rank, stage in enumerate(ranks):
            for each in stage.sections:
                adds[each.step - 1, rank] = sum((costs[number].multiply_adds or 0) + NODE_ADDS for number in each.own)
                nodes[each.step - 1, rank] = len(each.own)
                pairs.setdefault(each.step, []).extend((source, rank, names) for source, names in each.receives.items())
        steps = []
        for step in sorted(number for number, some in pairs.items() if some):
            sources, targets, names = zip(*sorted(pairs[step]), strict=True)
            sizes = np.array([coded(each) for each in names])
            steps.append(
                Step(
                    layer=step,
                    sources=np.array(sources, np.int64),
                    targets=np.array(targets, np.int64),
                    rows=np.array([sum(tensors[name].bytes for name in each) / VALUE_BYTES for each in names], np.float64),
                    bytes=sizes[:, 1],
                    live=float(samples),
                    empty=float(sizes[:, 0].mean()),
                )
            )
        weights = np.array([stage.weight_bytes for stage in ranks], np.float64)
        parts = (nodes > 0) / np.maximum(1, (nodes > 0).sum(axis=0))  # the share of a step in what its rank prepares
        ready_s = measured.ready_s * (nodes / nodes.sum() + parts * weights / max(1.0, weights.sum())) / 2 + parts * IMPORT_S
        tensor = work.parallel.tensor
        lasts = [max((each.step for each in stage.sections), default=0) for stage in ranks]
        starts = [0, *(max(lasts[: stage * tensor]) for stage in range(1, work.parallel.pipeline))]
        input_bytes = np.array([_beyond(sum(coded(stage.inputs)), stage.inputs) for stage in ranks])
        output_bytes = np.array([_beyond(sum(coded(stage.outputs)), stage.outputs) for stage in ranks])
        return Split(
            parallel=work.parallel,
            samples=samples,
            batches=tuple(batches),
            starts=tuple(starts),
            steps=tuple(steps),
            work_s=measured.sample_s * samples * adds / adds.sum(),
            ready_s=ready_s,
            reads=tuple(_reads(*_shard_bytes(work.division, each)) for each in ranks),
            input_bytes=input_bytes,
            output_bytes=output_bytes,
            input_s=input_bytes / VALUE_BYTES * Coding().decode_s,
            output_s=output_bytes / VALUE_BYTES * Coding().encode_s,
            loads_first=True,
            cores=measured.cores,
            python=python_pace(),
            notes=_notes(measured.sampled, samples),
        )

    def _counted(self, division: Division) -> Coded:
        """A function that gives the bytes of tensors before they are encoded: 0 for no sample, and the bytes of all samples."""
        tensors, given = division.graph.trial.tensors, self.work.tensors

        def coded(names: Sequence[str]) -> tuple[float, float]:
            return 0.0, float(sum(given[name].nbytes if name in given else tensors[name].bytes * self.samples for name in names))

        return coded

    def _encoded(self, division: Division) -> Coded:
        """The bytes of encoded tensors: a line through the bytes of one sample and of several samples, which this machine computes.

        Tensors that have the same size for any number of samples add only to the constant of the line.
        """
        graph = division.graph
        sections = [each for stage in division.stages for each in stage.sections]
        gives = list(dict.fromkeys(name for each in sections for some in (each.outputs, *each.receives.values()) for name in some))
        each_bytes = sum(graph.trial.tensors[name].bytes for name in gives)
        count = 1 if graph.no_batch is not None else int(np.clip(LEARN_BYTES // max(1, each_bytes), 1, self.measured.sampled))
        with _INSIDE:
            runs = _session(graph, [each.name for each in graph.inputs], gives, prepack=False)
            values = [{**self._some(many), **runs.run(self._some(many), gives)} for many in dict.fromkeys((1, count))]

        def coded(names: Sequence[str]) -> tuple[float, float]:
            if not names:
                return 0.0, 0.0
            sizes = [len(encode_tensors({name: tensors[name] for name in names})) for tensors in values]
            empty = max(0.0, sizes[0] - (sizes[-1] - sizes[0]) / (count - 1)) if count > 1 else 0.0
            return empty, (sizes[-1] - empty) * self.samples / count

        return coded


def _beyond(size: float, names: Sequence[str]) -> float:
    """The bytes of encoded tensors beyond those of an empty block: above 0 where there are any."""
    return max(1.0, size - EMPTY_BYTES) if names else 0.0


def _notes(sampled: int, samples: int) -> tuple[str, ...]:
    if not sampled:
        return ("the model is too large to compute samples here for a plan: its multiply-adds and sizes are counted",)
    return (f"{sampled} of {samples} samples were computed here",) if sampled < samples else ()


def _session(graph: Graph, inputs: Sequence[str], outputs: Sequence[str], *, prepack: bool) -> Session:
    """A session of all nodes. Without prepacking, the large weights are its inputs, because a session copies all other weights."""
    nodes = range(len(graph.model.graph.node))
    fed = [] if prepack else feeds(graph, nodes)
    model, weights = submodel(graph, nodes, inputs, outputs, fed)
    rest = {name: np.ascontiguousarray(array) for name, array in weights.items() if name not in fed}  # columns are not contiguous
    return Session(model, rest, {name: weights[name] for name in fed}, prepack=prepack)


def _shard_bytes(division: Division, stage: GraphStage) -> tuple[float, float]:
    """The bytes of head and body of the shard of a rank."""
    models, weights = 0, dict[str, int]()
    for each in stage.sections:
        arrived = [name for names in each.receives.values() for name in names]
        made = forms(division.graph, each.own, [*each.inputs, *arrived, *each.uses], each.gives)
        models += len(made.model) + len(made.lean)
        weights |= {name: array.nbytes for name, array in made.weights.items()}
    body = models + sum(weights.values())
    return SECTION_HEAD_BYTES * len(stage.sections) + WEIGHT_HEAD_BYTES * len(weights) + 11 * (body // CHUNK_BYTES), float(body)


def _reads(head: float, body: float) -> tuple[float, ...]:
    """The bytes of each request for a shard: first the head, then the rest of each chunk of the body."""
    found = [min(HEAD_BYTES, head + body)]
    for start in np.arange(0.0, body, CHUNK_BYTES):
        end = head + min(start + CHUNK_BYTES, body)
        if end > HEAD_BYTES:
            found.append(end - max(head + start, HEAD_BYTES))
    return tuple(float(each) for each in found)
