"""Makes a smaller ONNX model of some nodes of a larger one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from fsd_core.graph.graph import Graph
from fsd_core.graph.library import NATIVE, reads

__all__ = ["submodel"]


def submodel(graph: Graph, numbers: Sequence[int], inputs: Sequence[str], outputs: Sequence[str]) -> tuple[bytes, dict[str, NDArray[Any]]]:
    """The ONNX bytes of a model of these nodes of ``graph``, ascending, and the large weights that it reads, whose data is not in it.

    ``inputs``: inputs of ``graph``, and tensors that other nodes make. ``outputs``: tensors that the nodes make or that are weights.
    """
    whole = graph.model
    part = type(whole)(ir_version=whole.ir_version, producer_name="fsd")
    part.opset_import.extend(whole.opset_import)
    part.graph.name = whole.graph.name
    part.graph.node.extend(whole.graph.node[number] for number in numbers)
    wanted = {name for node in part.graph.node for name in reads(node)} | set(outputs)
    part.graph.initializer.extend(each for each in whole.graph.initializer if each.name in wanted and each.name not in inputs)
    known = {each.name: each for each in whole.graph.input}
    for name in inputs:
        value = part.graph.input.add(name=name)
        if name in known:
            value.CopyFrom(known[name])
        else:  # without a shape: it may depend on the input
            value.type.tensor_type.elem_type = _TYPES[graph.trial.tensors[name].dtype]
    for name in outputs:  # ONNX Runtime finds their types
        part.graph.output.add(name=name)
    used = {each.name for each in part.graph.initializer}
    return part.SerializeToString(deterministic=True), {name: each for name, each in graph.weights.items() if name in used}


_TYPES = {dtype: number for number, dtype in NATIVE.items()}
