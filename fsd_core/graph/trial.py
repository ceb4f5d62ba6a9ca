"""Runs a model on this machine for one sample and for two: this shows the shape of every tensor, and whether samples can be batched.

Shape inference alone leaves many shapes unknown, for instance behind a Reshape whose target the model computes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.errors import InputError
from fsd_core.graph.library import NATIVE, refused, session

if TYPE_CHECKING:
    from fsd_core.graph.graph import Graph

__all__ = ["Tensor", "Trial", "trial"]

_INPUT_BYTES = 2 << 30
_NAMES = {"float32": "float", "float64": "double"}  # of ONNX Runtime, where they are not those of numpy
_NUMBERS = {f"tensor({_NAMES.get(dtype, dtype)})" for dtype in NATIVE.values()}
RTOL, ATOL = 1e-4, 1e-5  # two samples together have to give what each gives alone


@attrs.frozen
class Tensor:
    """A tensor that a node makes, for one sample."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int


@attrs.frozen(eq=False)
class Trial:
    """The result of a trial."""

    tensors: dict[str, Tensor]  # by name; only those of `NATIVE` dtypes, and none if the trial failed
    failed: str | None  # why the model cannot compute the trial's inputs
    no_batch: str | None  # why two samples together give other outputs than each alone; `None`: they do not, or there is no batch axis


def trial(graph: Graph) -> Trial:
    """Compute the first two samples of ``graph.given``, or of random numbers from 0 to 1.

    Raises `InputError` if ONNX Runtime does not take the model, in one line that names the node, or if one sample of an input is too large.

    A model that ONNX Runtime takes may still refuse the inputs, for instance because of an unknown sampling rate. Then `Trial.failed` says
    why, and the trial has no tensors.
    """
    made = [name for node in graph.model.graph.node for name in node.output if name]
    outputs = [each.name for each in graph.model.graph.output]
    with refused(f"{graph.path}: ONNX Runtime does not take this model"):
        runs = session(graph.model, graph.weights, made + [name for name in outputs if name not in made])
    # ONNX Runtime cannot return bfloat16 as an array, and returns other dtypes that numpy does not have as uint8.
    order = [each.name for each in runs.get_outputs() if each.type in _NUMBERS]
    random = np.random.default_rng(0)
    samples = [_inputs(graph, random) for _ in range(2 if graph.no_batch is None else 1)] if graph.given is None else _given(graph)
    try:
        first = dict(zip(order, runs.run(order, samples[0]) if order else [], strict=True))
    except Exception as error:  # of ONNX Runtime, of any kind
        return Trial({}, " ".join(str(error).split()), None)
    tensors = {name: Tensor(value.dtype.name, value.shape, value.nbytes) for name, value in first.items()}
    if len(samples) == 1:
        return Trial(tensors, None, None)
    if others := [name for name in outputs if name not in first]:
        return Trial(tensors, None, f"output {others[0]!r} is no tensor of numbers")
    alone = [{name: first[name] for name in outputs}]
    return Trial(tensors, None, _why_not_alone(runs, samples, alone, outputs))


def _inputs(graph: Graph, random: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Inputs for one sample. Whole numbers are 0 or 1, which most models take: as token, as mask, as index."""
    found: dict[str, NDArray[Any]] = {}
    for each in graph.inputs:
        assert each.shape is not None
        shape = tuple(1 if size is None else size for size in each.shape)
        size = math.prod(shape) * np.dtype(each.dtype).itemsize
        where = f"{graph.path}: input {each.name!r} of {each.dtype} and shape {list(shape)}"
        if size > _INPUT_BYTES:
            raise InputError(f"{where}: {size} bytes for one sample: expected at most {_INPUT_BYTES >> 30} GiB")
        whole = np.dtype(each.dtype).kind != "f"
        with refused(where):  # the memory of this machine may not suffice
            found[each.name] = (random.integers(0, 2, shape) if whole else random.random(shape)).astype(each.dtype)
    return found


def _given(graph: Graph) -> list[dict[str, NDArray[Any]]]:
    """The first two samples of the given inputs, each alone; without a batch axis, the whole inputs."""
    given = graph.given or {}
    if graph.no_batch is not None:
        return [dict(given)]
    count = min(2, *(len(array) for array in given.values()))
    return [{name: array[number : number + 1] for name, array in given.items()} for number in range(count)]


def _why_not_alone(
    runs: Any, samples: list[dict[str, NDArray[Any]]], alone: list[dict[str, NDArray[Any]]], outputs: list[str]
) -> str | None:
    """Why two samples together do not give what each gives alone, or `None`. ``alone``: the outputs of the first sample."""
    both = {name: np.concatenate([each[name] for each in samples]) for name in samples[0]}
    try:
        alone.append(dict(zip(outputs, runs.run(outputs, samples[1]), strict=True)))
        together = dict(zip(outputs, runs.run(outputs, both), strict=True))
    except Exception as error:  # of ONNX Runtime, of any kind
        return f"the model does not compute two samples together: {' '.join(str(error).split())}"
    for name in outputs:
        ones, two = [np.asarray(each[name]) for each in alone], np.asarray(together[name])
        if not ones[0].ndim or two.shape != (2, *ones[0].shape[1:]) or ones[0].shape[0] != 1:
            return f"output {name!r} has shape {ones[0].shape} for one sample, and {two.shape} for two"
        if not np.allclose(two.astype(np.float64), np.concatenate(ones).astype(np.float64), RTOL, ATOL, equal_nan=True):
            return f"output {name!r} of two samples together differs from those of each alone"
    return None
