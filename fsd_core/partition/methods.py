"""The methods of partitioning by name: hypergraph, random, block, or a file; in each stage of a pipeline on its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from fsd_core.common import arguments
from fsd_core.common.home import expanded
from fsd_core.errors import InputError
from fsd_core.model import Model
from fsd_core.partition.hypergraph import hypergraph
from fsd_core.partition.owners import Partition
from fsd_core.partition.plain import block, random
from fsd_core.partition.stages import Profile, cut, profile

__all__ = ["METHODS", "first_layers", "of_size", "partition"]

METHODS = ("hypergraph", "random", "block")


def partition(
    model: Model,
    workers: int,
    method: str | os.PathLike[str] = "hypergraph",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    *,
    stages: int = 1,
    costs: Profile | None = None,
) -> Partition:
    """Distribute the rows of every layer over ``workers`` ranks, those of one replica.

    ``method`` is ``hypergraph`` (few rows travel; see `fsd_core.partition.hypergraph`), ``random`` (each rank gets random rows, about
    equally many), ``block`` (each rank gets contiguous rows of about equal work), or the path of a saved partition. With ``stages``, the
    layers are first cut into so many stages, and each stage gets the same number of ranks; ``costs`` says what each layer costs (default:
    `profile` of the model without an input). Equal arguments give equal partitions. The hypergraph method calls ``progress(done, layers)``
    after each layer. Raises `InputError` for fewer than 1 worker, more ranks than the largest layer of a stage has rows, more stages than
    layers, a negative ``seed``, an unknown method, and a file for another model or other numbers of workers or stages.
    """
    layers = arguments.instance("model", model, Model).layers
    workers, seed, stages = arguments.whole("workers", workers, 1), arguments.whole("seed", seed), arguments.whole("stages", stages, 1)
    method = arguments.folder_or_name("method", method, f"one of {', '.join(METHODS)}, or the path of a partition")
    arguments.callback("progress", progress)
    if costs is not None and len(arguments.instance("costs", costs, Profile).work_s) != len(layers):
        raise InputError(f"costs of {len(costs.work_s)} layers: expected {len(layers)}, the number of layers of {model.name}")
    if workers % stages:
        raise InputError(f"workers {workers} in {stages} stages: expected a number of workers that {stages} divides")
    if stages == 1 and workers > (largest := max(layer.outputs for layer in layers)):
        raise InputError(f"workers {workers}: expected at most {largest}, the number of rows of the largest layer of {model.name}")
    if method not in METHODS:
        if not expanded(method).exists():
            raise InputError(f"partition {method}: expected {', '.join(METHODS)}, or an existing file or folder")
        return of_size(Partition.load(method, model), workers, stages, str(method))
    starts = first_layers(model, stages, workers // stages, costs)
    parts: list[Partition] = []
    for first, last in zip(starts, [*starts[1:], len(layers)], strict=True):
        shown = None if progress is None else partial(_shifted, progress, first, len(layers))
        parts.append(_one_stage(Model(layers[first:last], model.name), workers // stages, str(method), seed, shown))
    return _joined(parts)


def of_size(made: Partition, workers: int, stages: int, name: str) -> Partition:
    """Return ``made`` if it is for these numbers of workers and stages, else raise `InputError`.

    A file need not name its stages. So if ``made`` has one stage, but its owners fit ``stages`` stages, the result has ``stages`` stages.
    """
    if made.workers != workers:
        raise InputError(f"partition {name}: made for {made.workers} workers: expected {workers}, the number of workers of one replica")
    if made.stages == 1 < stages:
        try:
            return Partition(workers, made.owners, made.label, stages)
        except InputError as error:
            raise InputError(f"partition {name}: not made for {stages} stages: {error}") from error
    if made.stages != stages:
        raise InputError(f"partition {name}: made for {made.stages} stages: expected {stages}; use pipeline_parallel {made.stages}")
    return made


def first_layers(model: Model, stages: int, tensor: int, costs: Profile | None = None) -> list[int]:
    """The first layer (0-based) of each of ``stages`` stages. Raises `InputError` if there is no way to cut the model like that."""
    if stages == 1:
        return [0]
    layers = model.layers
    if stages > len(layers):
        raise InputError(f"pipeline_parallel {stages}: expected at most {len(layers)}, the number of layers of {model.name}")
    starts = cut(costs or profile(model), stages, tensor)
    if starts is None:
        able = sum(layer.outputs >= tensor for layer in layers)
        raise InputError(
            f"pipeline_parallel {stages} x tensor_parallel {tensor}: {able} layers of {model.name} have {tensor} or more rows: "
            f"expected such a layer in each of {stages} stages"
        )
    return starts


def _shifted(progress: Callable[[int, int], None], first: int, layers: int, done: int, _: int) -> None:
    progress(first + done, layers)


def _one_stage(model: Model, tensor: int, method: str, seed: int, progress: Callable[[int, int], None] | None) -> Partition:
    if method == "hypergraph":
        return hypergraph(model, tensor, seed, progress)
    return random(model, tensor, seed) if method == "random" else block(model, tensor)


def _joined(parts: Sequence[Partition]) -> Partition:
    """One partition of all stages. The partition of a later stage has also owners of its inputs, which its predecessor owns."""
    if len(parts) == 1:
        return parts[0]
    tensor, owners = parts[0].workers, [parts[0].owners[0]]
    for stage, part in enumerate(parts):
        owners += [owner + np.int32(stage * tensor) for owner in part.owners[1:]]
    labels = {part.label for part in parts}
    return Partition(tensor * len(parts), tuple(owners), labels.pop() if len(labels) == 1 else "hypergraph, completed by block", len(parts))
