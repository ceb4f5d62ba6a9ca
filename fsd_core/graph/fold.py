"""Folds the constants of a model: computes nodes that depend on no input once, here, and makes their results weights. Removes unused nodes.

Exporters write weights and shapes as nodes. If these nodes stayed, workers would send their results to each other.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsd_core.errors import InputError
from fsd_core.graph.library import NATIVE, RANDOM, STANDARD, label, library, reads, refused, session, subgraphs
from fsd_core.graph.read import add_weights

__all__ = ["fold", "infer"]

_SMALL_BYTES = 1 << 16  # a folded tensor may have this size or the size of the inputs of its node: folding must not inflate a model


def fold(model: Any, weights: dict[str, NDArray[Any]], where: str) -> None:
    """Compute the nodes that depend on no input, and make their results weights; remove nodes and weights that no output needs.

    Changes ``model``, which also gets the shapes of its tensors where they can be inferred, and ``weights``, its large weights. Raises
    `InputError` if shapes or dtypes contradict each other, or if a constant cannot be computed.
    """
    nodes = -1
    while nodes != len(model.graph.node):  # once a constant is folded, more shapes are known, and more constants can be folded
        nodes = len(model.graph.node)
        model.CopyFrom(infer(model, where))
        _fold(model, weights, where)


def infer(model: Any, where: str) -> Any:
    """A copy of ``model`` with the shapes of its tensors, where they can be inferred.

    Raises `InputError` if shapes or dtypes contradict each other.
    """
    onnx = library()
    with refused(where):
        try:
            return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        except onnx.shape_inference.InferenceError as error:
            raise _named(model, error, where) from error


def _named(model: Any, error: Exception, where: str) -> InputError:
    """The error of shape inference. If the error names a node, it begins with the label of this node."""
    text = " ".join(str(error).split()).replace("[ShapeInferenceError] ", "").replace("Inference error(s): ", "")
    for number, node in enumerate(model.graph.node):
        start = f"(op_type:{node.op_type}, node name: {node.name}): "
        if node.name and start in text:
            return InputError(f"{where}: {label(model, number, node)}: {text.partition(start)[2]}")
    return InputError(f"{where}: {text}")


def _fold(model: Any, weights: dict[str, NDArray[Any]], where: str) -> None:
    """Compute the constants that have a known size, and remove nodes and weights that no output needs."""
    graph = model.graph
    bytes_of = _sizes(model)
    constant = {each.name for each in graph.initializer}
    folded = []
    for number, node in enumerate(graph.node):
        if _foldable(node, constant, bytes_of):
            constant |= set(node.output)
            folded.append(number)
    rest = [node for number, node in enumerate(graph.node) if number not in set(folded)]
    wanted = {name for node in rest for name in reads(node)} | {each.name for each in graph.output}
    made = [name for number in folded for name in graph.node[number].output if name in wanted]
    if made:
        part = _part(model, folded)
        with refused(f"{where}: the constants cannot be computed"):
            values = session(part, weights, made).run(None, {})
        for name, value in zip(made, values, strict=True):
            add_weights(model, weights, name, np.asarray(value))
    _keep(graph, rest)
    _prune(graph, weights)


def _foldable(node: Any, constant: set[str], bytes_of: dict[str, int]) -> bool:
    """Whether a node depends on constants alone, and its results have a known size that does not inflate the model."""
    if node.domain not in STANDARD or node.op_type in RANDOM or any(True for _ in subgraphs(node)):
        return False
    read = [name for name in node.input if name]
    if not constant.issuperset(read) or not all(name in bytes_of for name in node.output if name):
        return False
    most = max(_SMALL_BYTES, sum(bytes_of.get(name, 0) for name in read))
    return all(bytes_of[name] <= most for name in node.output if name)


def _sizes(model: Any) -> dict[str, int]:
    """The bytes of each tensor whose shape is known, by name."""
    found = {}
    for each in model.graph.initializer:
        if each.data_type in NATIVE:
            found[each.name] = math.prod(each.dims) * np.dtype(NATIVE[each.data_type]).itemsize
    for each in (*model.graph.value_info, *model.graph.output):
        tensor = each.type.tensor_type
        if tensor.elem_type in NATIVE and tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            found[each.name] = math.prod(dim.dim_value for dim in tensor.shape.dim) * np.dtype(NATIVE[tensor.elem_type]).itemsize
    return found


def _part(model: Any, numbers: list[int]) -> Any:
    """A model of only these nodes and the weights that they read."""
    part = type(model)(ir_version=model.ir_version)
    part.opset_import.extend(model.opset_import)
    part.graph.name = "constants"
    part.graph.node.extend(model.graph.node[number] for number in numbers)
    read = {name for node in part.graph.node for name in node.input}
    part.graph.initializer.extend(each for each in model.graph.initializer if each.name in read)
    return part


def _prune(graph: Any, weights: dict[str, NDArray[Any]]) -> None:
    """Remove nodes and weights that no output needs."""
    wanted = {each.name for each in graph.output}
    kept = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(reads(node))
            kept.append(node)
    _keep(graph, kept[::-1])
    left = [type(each).FromString(each.SerializeToString()) for each in graph.initializer if each.name in wanted]
    for each in graph.initializer:
        if each.name not in wanted:
            weights.pop(each.name, None)
    del graph.initializer[:]
    graph.initializer.extend(left)


def _keep(graph: Any, nodes: list[Any]) -> None:
    """Remove all nodes of the graph except ``nodes``. Copies these first, because a removed message loses its content."""
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
