"""`StageWorkload`: an ONNX model on its inputs, as the planner sees it. A stage counts as one layer.

The model computes some samples here, for up to half a second, in a session as workers have it. Stages share these seconds as they share
the model's multiply-adds, and bytes come from encoding what crosses for a few samples.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
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
from fsd_core.graph.library import session
from fsd_core.graph.submodel import submodel
from fsd_core.partition import Parallel
from fsd_core.partition.graph_stages import GraphStage
from fsd_core.plan.batches import Batches
from fsd_core.plan.kept import digest
from fsd_core.plan.split import EMPTY_BYTES, Split, Step
from fsd_core.plan.workload import doubles, factors
from fsd_core.protocol.stage_shard import CHUNK_BYTES, HEAD_BYTES
from fsd_core.versions import versions
from fsd_core.worker.session import Session

if TYPE_CHECKING:
    from fsd_core.client.stages import Stages

__all__ = ["StageWorkload"]

LEARN_S = 0.5  # seconds that the model computes here
LEARN_BYTES = 64 << 20  # of what crosses and is encoded here
PREPACKED_BYTES = 512 << 20  # larger weights are not held a second time here
NODE_ADDS = 200_000  # a node takes the time of so many multiply-adds, whatever it computes: about 5 us
IMPORT_S = 0.05  # core seconds to import ONNX Runtime in a worker, which has numpy
WEIGHT_HEAD_BYTES = 100  # of a weight in the head of a shard: name, dtype, shape, place
MOST_WORKERS, MOST_STAGES, SOME = 64, 64, 16  # of one kind of split; more than `SOME` only where each still has much to do
LARGE_BYTES, LONG_S = 20e6, 0.5


@attrs.frozen
class Measured:
    """What the model took here. Seconds are those of one core."""

    sampled: int
    sample_s: float  # to compute a sample
    ready_s: float  # to make the session
    cores: float  # so many cores worked at a time


@attrs.frozen(eq=False)
class ShapedStages:
    """An ONNX model in stages; see `fsd_core.plan.workload.Shaped`."""

    work: Stages
    split: Split

    def cut(self, limits: InvokeLimits, provider: str) -> Batches:
        """Cut the samples into micro-batches that fit a function."""
        found = self.work.batches(limits, provider)
        return Batches(found.samples, found.ranks)

    def least_bytes(self, limits: InvokeLimits) -> int:
        """The smallest memory of a function that holds the largest stage."""
        return self.work.least_bytes(limits)


@attrs.define(eq=False, slots=False)
class StageWorkload:
    """An ONNX model with its inputs; see `fsd_core.plan.workload.Workload`. ``work``: in any number of stages."""

    work: Stages
    _splits: dict[int, Split] = attrs.field(factory=dict, init=False)  # by the number of stages

    @property
    def name(self) -> str:
        """The name of the model."""
        return self.work.graph.name

    @cached_property
    def digest(self) -> str:
        """A digest of the model, its inputs, and of what computes them."""
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
        """The splits to price: powers of two of replicas and stages. Two replicas also where they cannot be, so that a plan says why."""
        if isinstance(given, Parallel):
            return [given]
        if given is not None:
            return [each for each in factors(given) if each.tensor == 1]
        work_s = self.measured.sample_s * self.samples
        data = [size for size in doubles(min(MOST_WORKERS, self.samples)) if size <= SOME or work_s > size * LONG_S]
        stages = [size for size in doubles(min(MOST_STAGES, len(self._costs))) if size <= SOME or self.stored_bytes > size * LARGE_BYTES]
        both = [
            Parallel(data=first, pipeline=second) for first in (2, 4) if first in data for second in stages if first * second <= 4 * SOME
        ]
        alone = data if self.work.graph.no_batch is None else [2]
        return [Parallel(), *(Parallel(data=size) for size in alone), *(Parallel(pipeline=size) for size in stages), *both]

    def unplanned(self, workers: int | None) -> Parallel:
        """Replicas, or stages where samples cannot be computed apart; one function unless the user says how many."""
        return Parallel(data=workers or 1) if self.work.graph.no_batch is None else Parallel(pipeline=workers or 1)

    def shaped(self, shape: Parallel, batch_size: int | None) -> ShapedStages:
        """The model in so many replicas and stages."""
        work = attrs.evolve(self.work.divided(shape), batch_size=batch_size)
        if shape.data > len(work.sizes()):
            raise InputError(f"{len(work.sizes())} micro-batches are too few for {shape.data} replicas")
        if shape.pipeline not in self._splits:
            self._splits[shape.pipeline] = self.split(work, [self.samples])
        return ShapedStages(work, attrs.evolve(self._splits[shape.pipeline], parallel=shape))

    @cached_property
    def measured(self) -> Measured:
        """What computing some samples takes here."""
        graph = self.work.graph
        given, gives = [each.name for each in graph.inputs], [each.name for each in graph.outputs]
        model, weights = submodel(graph, range(len(graph.model.graph.node)), given, gives)
        began = time.process_time()
        whole = Session(model, weights, prepack=self.stored_bytes <= PREPACKED_BYTES)
        ready_s = time.process_time() - began
        count, took, wall = self._timed(whole, gives, 1)
        more = min(self.samples, int(0.8 * (LEARN_S - wall) / max(wall, 1e-6)))
        if more > 1:
            with suppress(RunFailed):  # of a later sample: the worker that computes it names stage and reason
                count, took, wall = self._timed(whole, gives, more)
        return Measured(count, took / count, ready_s, float(np.clip(took / max(wall, 1e-6), 1.0, os.cpu_count() or 1)))

    def _timed(self, whole: Session, gives: Sequence[str], count: int) -> tuple[int, float, float]:
        """Compute some samples: their number, and the seconds of all cores and of the clock."""
        began, cpu = time.monotonic(), time.process_time()
        whole.run(self._some(count), gives)
        return count, time.process_time() - cpu, time.monotonic() - began

    def _some(self, count: int) -> Mapping[str, NDArray[Any]]:
        """The first ``count`` samples; all where there is no batch axis."""
        tensors = self.work.tensors
        return tensors if self.work.graph.no_batch is not None else {name: array[:count] for name, array in tensors.items()}

    def split(self, work: Stages, batches: Sequence[int]) -> Split:
        """What the stages of ``work`` load, compute and send, with micro-batches of so many samples."""
        measured, stages, samples = self.measured, work.stages, self.samples
        values = self._crossing(stages)
        count, largest = values[-1]
        adds = np.array([each.multiply_adds + NODE_ADDS * len(each.own) for each in stages], np.float64)
        nodes = np.array([len(each.own) for each in stages], np.float64)
        weights = np.array([each.weight_bytes for each in stages], np.float64)
        ready_s = measured.ready_s * (nodes / nodes.sum() + weights / max(1.0, weights.sum())) / 2 + IMPORT_S
        steps = []
        for number, stage in enumerate(stages):
            if stage.receives:
                coded = [self._coded(names, values) for names in stage.receives.values()]
                rows = [sum(largest[name].size for name in names) / count for names in stage.receives.values()]
                steps.append(
                    Step(
                        layer=number + 1,
                        sources=np.array([source - 1 for source in stage.receives], np.int64),
                        targets=np.full(len(coded), number, np.int64),
                        rows=np.array(rows, np.float64),
                        bytes=np.array([more for _, more in coded], np.float64),
                        live=float(samples),
                        empty=float(np.mean([empty for empty, _ in coded])),
                    )
                )
        inputs = [self._coded(each.inputs, values) for each in stages]
        outputs = [self._coded(each.outputs, values) for each in stages]
        notes = [f"{measured.sampled} of {samples} samples were computed here"] if measured.sampled < samples else []
        return Split(
            parallel=work.parallel,
            samples=samples,
            batches=tuple(batches),
            starts=tuple(range(len(stages))),
            steps=tuple(steps),
            work_s=np.diag(measured.sample_s * samples * adds / adds.sum()),
            ready_s=np.diag(ready_s),
            reads=tuple(_reads(*self._shard_bytes(each)) for each in stages),
            input_bytes=np.array([max(0.0, sum(each) - EMPTY_BYTES) for each in inputs]),
            output_bytes=np.array([max(0.0, sum(each) - EMPTY_BYTES) for each in outputs]),
            loads_first=True,
            cores=measured.cores,
            notes=tuple(notes),
        )

    def _crossing(self, stages: Sequence[GraphStage]) -> list[tuple[int, Mapping[str, NDArray[Any]]]]:
        """Inputs, outputs and what crosses, for one sample and for some, each with the number of samples."""
        graph = self.work.graph
        names = list(dict.fromkeys(name for each in stages for some in (each.outputs, *each.receives.values()) for name in some))
        each_bytes = sum(graph.trial.tensors[name].bytes for name in names)
        most = 1 if graph.no_batch is not None else int(np.clip(LEARN_BYTES // max(1, each_bytes), 1, self.measured.sampled))
        runs = session(graph.model, graph.weights, names)
        found: list[tuple[int, Mapping[str, NDArray[Any]]]] = []
        for count in dict.fromkeys((1, most)):
            given = self._some(count)
            made: dict[str, NDArray[Any]] = dict(zip(names, runs.run(names, dict(given)), strict=True))
            found.append((count, {**given, **made}))
        return found

    def _coded(self, names: Sequence[str], values: Sequence[tuple[int, Mapping[str, NDArray[Any]]]]) -> tuple[float, float]:
        """The bytes of encoded tensors of no sample, and those that all samples add: a line through what one and some samples take.

        Some tensors have the same size for any number of samples.
        """
        if not names:
            return 0.0, 0.0
        sizes = [len(encode_tensors({name: tensors[name] for name in names})) for _, tensors in values]
        count = values[-1][0]
        empty = max(0.0, sizes[0] - (sizes[-1] - sizes[0]) / (count - 1)) if count > 1 else 0.0
        return empty, (sizes[-1] - empty) * self.samples / count

    def _shard_bytes(self, stage: GraphStage) -> tuple[float, float]:
        """The bytes of head and body of the shard of a stage."""
        received = [name for names in stage.receives.values() for name in names]
        model, weights = submodel(self.work.graph, stage.own, [*stage.inputs, *received], stage.outputs)
        body = len(model) + sum(each.nbytes for each in weights.values())
        return 300.0 + WEIGHT_HEAD_BYTES * len(weights) + 11 * (body // CHUNK_BYTES), float(body)


def _reads(head: float, body: float) -> tuple[float, ...]:
    """The bytes of each request for a shard: the first one, then what is missing of each chunk of the body."""
    found = [min(HEAD_BYTES, head + body)]
    for start in np.arange(0.0, body, CHUNK_BYTES):
        end = head + min(start + CHUNK_BYTES, body)
        if end > HEAD_BYTES:
            found.append(end - max(head + start, HEAD_BYTES))
    return tuple(float(each) for each in found)
