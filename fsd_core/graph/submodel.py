"""Makes a smaller ONNX model of some nodes of a larger one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from numpy.typing import NDArray

from fsd_core.graph.graph import Graph
from fsd_core.graph.library import NATIVE, reads

__all__ = ["Forms", "feeds", "forms", "submodel"]

FED_BYTES = 1 << 20  # smaller weights stay constants: ONNX Runtime optimises with constants, and a copy of them takes little memory
_FED = ("MatMul", "Gemm", "Conv", "Gather")  # operators whose weights may be inputs of the model


def feeds(graph: Graph, numbers: Sequence[int]) -> list[str]:
    """The large weights of these nodes that can be inputs of a model. ONNX Runtime copies weights that are constants, but not inputs."""
    nodes = [graph.model.graph.node[number] for number in numbers]
    kept = {each.name for each in graph.model.graph.output}
    kept |= {name for node in nodes if node.op_type not in _FED or node.domain not in ("", "ai.onnx") for name in reads(node)}
    read = dict.fromkeys(name for node in nodes for name in reads(node))
    return [name for name in read if name not in kept and name in graph.weights and graph.weights[name].nbytes >= FED_BYTES]


def submodel(
    graph: Graph, numbers: Sequence[int], inputs: Sequence[str], outputs: Sequence[str], fed: Sequence[str] = ()
) -> tuple[bytes, dict[str, NDArray[Any]]]:
    """Make a model of the nodes ``numbers`` of ``graph``, ascending. Returns its ONNX bytes, and its large weights, which are not in them.

    ``inputs``: inputs of ``graph``, and tensors that other nodes compute. ``outputs``: tensors that these nodes compute, or weights.
    ``fed``: weights that become inputs of the model, after ``inputs``.
    """
    whole = graph.model
    part = type(whole)(ir_version=whole.ir_version, producer_name="fsd")
    part.opset_import.extend(whole.opset_import)
    part.graph.name = whole.graph.name
    part.graph.node.extend(whole.graph.node[number] for number in numbers)
    wanted = {name for node in part.graph.node for name in reads(node)} | set(outputs)
    weights = [each for each in whole.graph.initializer if each.name in wanted and each.name not in inputs]
    part.graph.initializer.extend(each for each in weights if each.name not in fed)
    known = {each.name: each for each in whole.graph.input}
    for name in inputs:
        value = part.graph.input.add(name=name)
        if name in known:
            value.CopyFrom(known[name])
        else:  # without a shape: it may depend on the input
            value.type.tensor_type.elem_type = _TYPES[graph.trial.tensors[name].dtype]
    for each in weights:
        if each.name in fed:
            value = part.graph.input.add(name=each.name)
            value.type.tensor_type.elem_type = each.data_type
            for size in each.dims:
                value.type.tensor_type.shape.dim.add(dim_value=size)
    for name in outputs:  # ONNX Runtime finds their types
        part.graph.output.add(name=name)
    used = {each.name for each in weights}
    return part.SerializeToString(deterministic=True), {name: each for name, each in graph.weights.items() if name in used}


@attrs.frozen
class Forms:
    """A smaller model in two forms, as ONNX bytes, and its large ``weights``, which are not in these bytes.

    ``model`` is faster; ``lean`` needs less memory, because ONNX Runtime does not copy its ``feeds``.
    """

    model: bytes
    lean: bytes  # the model with ``feeds`` as inputs; empty if it has none
    weights: dict[str, NDArray[Any]]
    feeds: list[str]


def forms(graph: Graph, numbers: Sequence[int], inputs: Sequence[str], outputs: Sequence[str]) -> Forms:
    """Both forms of the model that `submodel` makes of these arguments."""
    fed = feeds(graph, numbers)
    model, weights = submodel(graph, numbers, inputs, outputs)
    return Forms(model, submodel(graph, numbers, inputs, outputs, fed)[0] if fed else b"", weights, fed)


_TYPES = {dtype: number for number, dtype in NATIVE.items()}
