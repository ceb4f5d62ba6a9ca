"""The figures of an ONNX model: weights, multiply-adds and bytes by node, and the tensors that cross each place where it can be cut."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np

from fsd_core.common import arguments
from fsd_core.graph.graph import Graph
from fsd_core.graph.library import NATIVE, RANDOM, attributes, opsets, reads, subgraphs

__all__ = ["Cut", "NodeCost", "cuts", "describe_graph", "makers", "node_costs", "weight_sizes"]

Shape = Sequence[int]


@attrs.frozen
class NodeCost:
    """The figures of one node for one sample."""

    name: str
    operator: str
    weight_bytes: int  # of the weights that no earlier node reads, and ``inner_bytes``
    inner_bytes: int  # of the constants inside its subgraphs
    multiply_adds: int | None  # `None`: not known; 0 for all operators that are not linear algebra
    output_bytes: int | None  # `None`: not known


@attrs.frozen
class Cut:
    """A place to cut a model into two parts: after the first ``nodes`` nodes. The figures are for one sample.

    ``tensors``: the tensors that cross the cut: the first part computes them and the second part reads them. Inputs, outputs and weights
    do not cross.
    """

    nodes: int
    name: str  # of the last node before the cut
    operator: str
    tensors: list[str]
    bytes: int | None  # `None`: not known
    work: float  # the share of the multiply-adds before the cut
    load: float  # the share of the bytes of weights before the cut

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return attrs.asdict(self)


def node_costs(graph: Graph) -> list[NodeCost]:
    """The cost of each node, in order. Runs the trial of the graph."""
    tensors = graph.trial.tensors
    shapes: dict[str, Shape] = {name: tensor.shape for name, tensor in tensors.items()}
    shapes |= {each.name: tuple(each.dims) for each in graph.model.graph.initializer}
    shapes |= {each.name: tuple(1 if size is None else size for size in each.shape or ()) for each in graph.inputs}
    sizes = weight_sizes(graph)
    found = []
    for number, node in enumerate(graph.model.graph.node):
        outputs = [tensors.get(name) for name in node.output if name]
        known = [each.bytes for each in outputs if each is not None]
        inner_bytes = sum(_inner_bytes(inner) for inner in subgraphs(node))
        weight_bytes = sum(sizes.pop(name, 0) for name in reads(node)) + inner_bytes
        made = sum(known) if len(known) == len(outputs) else None
        name = node.name or str(number + 1)
        found.append(NodeCost(name, node.op_type, weight_bytes, inner_bytes, _multiply_adds(node, shapes), made))
    return found


def weight_sizes(graph: Graph) -> dict[str, int]:
    """The bytes of each weight, by name."""
    return _weight_bytes(graph.model.graph)


def makers(graph: Graph) -> dict[str, int]:
    """By name of a tensor: the number of the node that computes it. Only tensors that depend on an input or on random numbers."""
    varying = {each.name for each in graph.inputs}
    made: dict[str, int] = {}
    for number, node in enumerate(graph.model.graph.node):
        if varying.intersection(reads(node)) or node.op_type in RANDOM:
            varying.update(node.output)
            made |= dict.fromkeys((name for name in node.output if name), number)
    return made


def _weight_bytes(graph: Any) -> dict[str, int]:
    """The bytes of each weight. A dtype that numpy does not have counts one byte for each entry."""
    return {each.name: math.prod(each.dims) * np.dtype(NATIVE.get(each.data_type, "uint8")).itemsize for each in graph.initializer}


def _inner_bytes(graph: Any) -> int:
    """The bytes of the constants inside a subgraph."""
    found = sum(_weight_bytes(graph).values())
    for node in graph.node:
        if node.op_type == "Constant":
            found += sum(math.prod(each.t.dims) * np.dtype(NATIVE.get(each.t.data_type, "uint8")).itemsize for each in node.attribute)
        found += sum(_inner_bytes(inner) for inner in subgraphs(node))
    return found


def _multiply_adds(node: Any, shapes: dict[str, Shape]) -> int | None:
    """The multiply-adds of a node for one sample. `None` if a shape that decides their number is not known."""
    if any(True for _ in subgraphs(node)):
        return None  # which branch runs, and how often, depends on the input
    count = _COUNTS.get(node.op_type)
    if count is None:
        return 0
    try:
        return count(node, [shapes.get(name, ()) if name else () for name in node.input], shapes[node.output[0] or node.output[1]])
    except (KeyError, IndexError):
        return None


def _matmul(node: Any, inputs: list[Shape], output: Shape) -> int:
    return math.prod(output) * inputs[0][-1]


def _gemm(node: Any, inputs: list[Shape], output: Shape) -> int:
    return math.prod(output) * inputs[0][0 if attributes(node).get("transA") else 1]


def _conv(node: Any, inputs: list[Shape], output: Shape) -> int:
    return math.prod(output) * math.prod(inputs[1][1:]) if inputs[1] else _unknown()


def _quantized_conv(node: Any, inputs: list[Shape], output: Shape) -> int:
    return math.prod(output) * math.prod(inputs[3][1:]) if inputs[3] else _unknown()


def _transposed_conv(node: Any, inputs: list[Shape], output: Shape) -> int:
    return math.prod(inputs[0]) * math.prod(inputs[1][1:]) if inputs[0] and inputs[1] else _unknown()


def _recurrent(node: Any, inputs: list[Shape], output: Shape) -> int:
    """Each step multiplies the input by the weights W, and the state by the recurrent weights R."""
    steps, batch = inputs[0][0], inputs[0][1]
    return steps * batch * (math.prod(inputs[1]) + math.prod(inputs[2]))


def _unknown() -> int:
    raise KeyError("a shape")


_COUNTS: dict[str, Callable[[Any, list[Shape], Shape], int]] = {
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _conv,
    "ConvInteger": _conv,
    "QLinearConv": _quantized_conv,
    "ConvTranspose": _transposed_conv,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
}


def cuts(graph: Graph, costs: Sequence[NodeCost]) -> list[Cut]:
    """The cuts after each node except the last, in order. ``costs``: from `node_costs`.

    A tensor crosses all cuts from the node that computes it to the last node that reads it. A tensor that depends on weights alone does not
    cross a cut: each stage that reads this tensor computes it.
    """
    nodes, tensors, made = graph.model.graph.node, graph.trial.tensors, makers(graph)
    last: dict[str, int] = {}
    for number, node in enumerate(nodes):
        last |= dict.fromkeys((name for name in reads(node) if name in made), number)
    ends: dict[int, list[str]] = {}
    for name, number in last.items():
        ends.setdefault(number, []).append(name)
    work = np.cumsum([each.multiply_adds or 0 for each in costs])
    load = np.cumsum([each.weight_bytes for each in costs])
    found, crossing = [], dict[str, None]()
    for number, node in enumerate(nodes[:-1]):
        crossing |= dict.fromkeys(name for name in node.output if made.get(name) == number and name in last)
        for name in ends.get(number, ()):
            del crossing[name]
        size = sum(tensors[name].bytes for name in crossing) if all(name in tensors for name in crossing) else None
        share = (float(work[number] / work[-1]) if work[-1] else 0.0, float(load[number] / load[-1]) if load[-1] else 0.0)
        found.append(Cut(number + 1, costs[number].name, node.op_type, list(crossing), size, *share))
    return found


def describe_graph(graph: Graph) -> dict[str, Any]:
    """A summary of an ONNX model, as values that JSON can hold. Runs the model on this machine with one sample and with two.

    - ``format`` ("onnx"), ``name``, ``opsets`` (version by domain), ``ir_version``, ``producer``, ``digest``.
    - ``inputs``, ``outputs``: each a ``name``, ``dtype`` and ``shape`` for one sample; `None` in the shape of an input is the batch axis.
    - ``batch_axis``: 0; or `None`, and ``no_batch`` says why. ``trial``: why the run on this machine failed, or `None`.
    - ``nodes``, their number; ``weights`` (``tensors`` and ``bytes``); ``multiply_adds`` of one sample, without ``uncounted`` nodes, whose
      shapes or loops are not known.
    - ``types``: by operator, most multiply-adds first: ``operator``, ``nodes``, ``multiply_adds``, ``weight_bytes``, ``output_bytes``.
    - ``largest``: the node with the most bytes of weights, or with the most multiply-adds if no node has weights: ``name``, ``operator``,
      ``weight_bytes``, ``inner_bytes`` (constants in its subgraphs), ``multiply_adds``, ``output_bytes``.
    - ``cuts``: a place to cut the model after each node except the last: ``nodes`` before the cut, ``name`` and ``operator`` of the last of
      them, ``tensors`` and ``bytes`` that cross, ``work`` and ``load`` (shares of the multiply-adds and of the weights before the cut).

    Raises `InputError` if ``graph`` is not a `Graph`, or if ONNX Runtime does not take the model.
    """
    arguments.instance("graph", graph, Graph)
    costs, trial, model = node_costs(graph), graph.trial, graph.model
    outputs = [each.to_json() for each in graph.outputs]
    for each in outputs:
        if each["name"] in trial.tensors:
            each |= {"dtype": trial.tensors[each["name"]].dtype, "shape": list(trial.tensors[each["name"]].shape)}
    no_batch = graph.no_batch or trial.no_batch
    return {
        "format": "onnx",
        "name": graph.name,
        "opsets": opsets(model),
        "ir_version": model.ir_version,
        "producer": model.producer_name,
        "inputs": [each.to_json() for each in graph.inputs],
        "outputs": outputs,
        "batch_axis": 0 if no_batch is None else None,
        "no_batch": no_batch,
        "trial": trial.failed,
        "nodes": len(costs),
        "weights": {"tensors": len(model.graph.initializer), "bytes": sum(each.weight_bytes for each in costs)},
        "multiply_adds": sum(each.multiply_adds or 0 for each in costs),
        "uncounted": sum(each.multiply_adds is None for each in costs),
        "types": _by_operator(costs),
        "largest": attrs.asdict(max(costs, key=lambda each: (each.weight_bytes, each.multiply_adds or 0))),
        "cuts": [each.to_json() for each in cuts(graph, costs)],
        "digest": graph.digest,
    }


def _by_operator(costs: Sequence[NodeCost]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for each in costs:
        row = found.setdefault(
            each.operator, {"operator": each.operator, "nodes": 0, "multiply_adds": 0, "weight_bytes": 0, "output_bytes": 0}
        )
        row["nodes"] += 1
        row["weight_bytes"] += each.weight_bytes
        row["multiply_adds"] += each.multiply_adds or 0
        row["output_bytes"] += each.output_bytes or 0
    return sorted(found.values(), key=lambda row: (-row["multiply_adds"], -row["weight_bytes"], row["operator"]))
