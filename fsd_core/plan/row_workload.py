"""`RowWorkload`: a `Model` on its samples, as the planner sees it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import attrs

from fsd_core.common.plugins import OWN
from fsd_core.driver import InvokeLimits
from fsd_core.errors import InputError
from fsd_core.kernel import compiled
from fsd_core.model import Model
from fsd_core.partition import Parallel, Profile, worthwhile
from fsd_core.partition.stages import LOAD_BYTES_S
from fsd_core.partition.stages import cut as cut_layers
from fsd_core.plan.batches import Batches, cut, least_bytes
from fsd_core.plan.facts import Facts, learn
from fsd_core.plan.kept import digest, input_digest
from fsd_core.plan.traffic import Estimator, RowSplit
from fsd_core.plan.workload import doubles, factors
from fsd_core.versions import installed

__all__ = ["RowWorkload"]

MOST_WORKERS = 64  # of one kind of split among the candidates; more only where fewer are too small for the model
MOST_STAGES = 256
UNKNOWN_WORKERS = 8  # where a provider does not say its limits
SOME, LARGE_BYTES, LONG_S = 16, 20e6, 0.5  # more than so many parts are priced only where each still loads or computes for so much


@attrs.frozen(eq=False)
class ShapedRows:
    """A model that is split in one way; see `fsd_core.plan.workload.Shaped`. ``wanted``: micro-batches of a replica."""

    split: RowSplit
    batch_size: int | None
    wanted: int

    def cut(self, limits: InvokeLimits, provider: str) -> Batches:
        """Cut the samples into micro-batches that fit a function."""
        split = self.split
        return cut(split.sizes, split.samples, self.batch_size, split.parallel, self.wanted, limits, provider)

    def needed_bytes(self, limits: InvokeLimits) -> int:
        """The smallest memory of a function that runs the largest part."""
        return least_bytes(self.split.sizes, limits)


@attrs.define(eq=False, slots=False)
class RowWorkload:
    """A model with its samples; see `fsd_core.plan.workload.Workload`. ``inputs``: scipy CSR (samples, inputs) float32.

    ``known``: its facts; `None`: they are computed at their first use.
    """

    model: Model
    inputs: Any
    known: Facts | None = None

    @classmethod
    def of(cls, facts: Facts) -> RowWorkload:
        """The workload of which these facts are known."""
        return cls(facts.model, None, facts)  # type: ignore[arg-type]  # described layers have no model: nothing asks for it

    @cached_property
    def facts(self) -> Facts:
        """The facts that follow from some samples, which this machine computes."""
        return learn(self.model, self.inputs) if self.known is None else self.known

    def learned(self, budget_s: float) -> Facts:
        """The facts, if they are computed already; else some that take about so many seconds."""
        return self.facts if self.known is not None or "facts" in vars(self) else learn(self.model, self.inputs, budget_s)

    @cached_property
    def _estimator(self) -> Estimator:
        return Estimator(self.facts)

    @property
    def name(self) -> str:
        """The name of the model."""
        return self.model.name

    @cached_property
    def digest(self) -> str:
        """A digest of the model, its input, the kernel and this machine."""
        kernel = os.environ.get("FSD_KERNEL", ""), compiled.missing
        content = self.model.recipe or self.model.digest  # SHA-256 of 100 million weights takes two seconds
        return digest(content, input_digest(self.inputs), kernel, installed(OWN), os.cpu_count())

    @property
    def samples(self) -> int:
        """The number of samples."""
        return self.facts.samples

    @property
    def stored_bytes(self) -> float:
        """The bytes of all weights in shards."""
        return float(self.facts.stored.sum())

    def about(self) -> Mapping[str, Any]:
        """The sizes of model and input."""
        model = self.model
        return {"samples": self.inputs.shape[0], "neurons": model.neurons, "layers": len(model.layers), "weights": model.nonzeros}

    def shapes(self, given: Parallel | int | None) -> Sequence[Parallel]:
        """The splits to price."""
        if isinstance(given, Parallel):
            return [given]
        return list(factors(given)) if given is not None else list(self._doubles())

    def _doubles(self) -> Iterable[Parallel]:
        """Powers of two of each kind, and products of two kinds.

        More than `SOME` of a kind only where the parts are large even then: else they only add launches and messages.
        """
        facts = self.facts
        layers, widest = len(facts.nonzeros), int(facts.widths[1:].max())
        model, layer, work_s = float(facts.stored.sum()), float(facts.stored.max()), float(facts.work_s.sum())
        data = [size for size in doubles(min(MOST_WORKERS, facts.samples)) if size <= SOME or work_s > size * LONG_S]
        stages = [size for size in doubles(min(MOST_STAGES, layers)) if size <= SOME or model > size * LARGE_BYTES]
        tensor = [size for size in doubles(min(MOST_WORKERS, widest)) if size <= SOME or layer > size * LARGE_BYTES]
        yield Parallel()
        for size in data:
            yield Parallel(data=size)
        for size in stages:
            yield Parallel(pipeline=size)
        for size in tensor:
            yield Parallel(tensor=size)
        for first in (2, 4):
            for second in stages:
                if first in data and second * first <= 4 * SOME:
                    yield Parallel(data=first, pipeline=second)
                if first in tensor and second * first <= 4 * SOME:
                    yield Parallel(pipeline=second, tensor=first)

    def unplanned(self, workers: int | None) -> Parallel:
        """All workers share the layers."""
        return Parallel(tensor=workers or UNKNOWN_WORKERS)

    def shaped(self, shape: Parallel, batch_size: int | None) -> ShapedRows:
        """The model split so: each rank of a stage has contiguous rows."""
        facts, starts, wanted = self.facts, [0], 1
        replicas = facts.samples if batch_size is None else -(-facts.samples // batch_size)
        if shape.data > replicas:
            raise InputError(f"{replicas} micro-batches are too few for {shape.data} replicas")
        if shape.tensor > int(facts.widths[1:].max()):
            raise InputError(f"no layer has rows for {shape.tensor} workers")
        if shape.pipeline > 1:
            widths = facts.widths[1:]
            costs = Profile(facts.stored / LOAD_BYTES_S, facts.work_s / shape.data, facts.live[1:] * widths / shape.data, widths)
            wanted = worthwhile(costs, shape.pipeline, shape.tensor)
            found = cut_layers(attrs.evolve(costs, batches=wanted), shape.pipeline, shape.tensor)
            if found is None:
                raise InputError(f"the layers do not fill {shape.pipeline} stages of {shape.tensor} workers")
            starts = found
        return ShapedRows(self._estimator.split(shape, starts, [facts.samples]), batch_size, wanted)
