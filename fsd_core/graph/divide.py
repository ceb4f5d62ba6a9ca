"""Divides nodes with large weights by the columns of their output, so that ranks share them.

Each rank has some columns of the weights and computes the same columns of the output; a Concat joins the columns of all ranks. Each column
is the same sum of the same products as in the whole node. Nodes inside If, Loop and Scan, quantised operators and grouped convolutions
stay whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from numpy.typing import NDArray

from fsd_core.graph.figures import makers
from fsd_core.graph.graph import Graph
from fsd_core.graph.library import NATIVE, attributes, library
from fsd_core.graph.read import add_weights
from fsd_core.graph.trial import Tensor, Trial

__all__ = ["Columns", "Piece", "divide", "divisible"]


@attrs.frozen
class Columns:
    """The columns of a node: their ``count``, their ``axis`` in the output, and their axis in each of its ``weights``, by input."""

    count: int
    axis: int
    weights: dict[int, int]


@attrs.frozen
class Piece:
    """Describes a node of a divided graph. It comes from node ``number`` of the whole graph.

    ``rank``: the node computes the columns of this rank; `None`: it computes the whole node, or joins the columns if ``joins``. ``share``:
    the share of the columns that it computes: 1 for a whole node, 0 for a node that joins.
    """

    number: int
    rank: int | None = None
    joins: bool = False
    share: float = 1.0


def divisible(graph: Graph) -> dict[int, Columns]:
    """The columns of the nodes that can be divided, by number of the node: MatMul, Gemm, Conv and Gather with at least two columns."""
    shapes = {each.name: tuple(each.dims) for each in graph.model.graph.initializer if each.data_type in NATIVE}
    tensors, varying = graph.trial.tensors, set(makers(graph).values())
    found = {}
    for number, node in enumerate(graph.model.graph.node):
        count = _COLUMNS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if count is not None and number in varying and node.output[0] in tensors:
            columns = count(node, [shapes.get(name) for name in node.input])
            if columns is not None and columns.count > 1:
                axis = columns.axis % len(tensors[node.output[0]].shape)  # old versions of Concat count from the front only
                found[number] = attrs.evolve(columns, axis=axis)
    return found


Shapes = Sequence[tuple[int, ...] | None]  # of the weights among the inputs of a node; `None`: the input is no weight


def _matmul(node: Any, shapes: Shapes) -> Columns | None:
    weights = shapes[1]
    return Columns(weights[-1], -1, {1: len(weights) - 1}) if weights is not None and len(weights) > 1 else None


def _gemm(node: Any, shapes: Shapes) -> Columns | None:
    if shapes[1] is None:
        return None
    axis = 0 if attributes(node).get("transB") else 1
    columns = Columns(shapes[1][axis], 1, {1: axis})
    return _with_bias(node, shapes, columns, -1)


def _conv(node: Any, shapes: Shapes) -> Columns | None:
    if shapes[1] is None or attributes(node).get("group", 1) != 1:
        return None
    return _with_bias(node, shapes, Columns(shapes[1][0], 1, {1: 0}), 0)


def _gather(node: Any, shapes: Shapes) -> Columns | None:
    """The columns of a table of at least two axes. Each rank has some columns of all rows, so that every rank has every index."""
    table = shapes[0]
    if table is None or len(table) < 2 or attributes(node).get("axis", 0) % len(table) != 0:
        return None
    return Columns(table[-1], -1, {0: len(table) - 1})


def _with_bias(node: Any, shapes: Shapes, columns: Columns, axis: int) -> Columns | None:
    """The columns of a node whose third input is its bias. The bias has the columns at ``axis``, or one value for all of them."""
    if len(node.input) < 3 or not node.input[2]:
        return columns
    bias = shapes[2]
    if bias is None:
        return None
    if not bias or bias[axis] != columns.count:
        return columns
    return attrs.evolve(columns, weights=columns.weights | {2: axis % len(bias)})


_COLUMNS = {"MatMul": _matmul, "Gemm": _gemm, "Conv": _conv, "Gather": _gather}


def divide(graph: Graph, edges: Mapping[int, Sequence[int]]) -> tuple[Graph, list[Piece]]:
    """Divide some nodes of ``graph``. Returns the divided graph, with its trial, and a `Piece` for each of its nodes.

    ``edges``: for each node to divide, by its number in `divisible`: the first column of each rank, ascending, then the number of columns.
    A rank without columns gets no node. The weights of a rank are views of the whole weights.
    """
    columns = divisible(graph)
    model = type(graph.model)()
    model.CopyFrom(graph.model)
    del model.graph.node[:]
    whole_weights = {each.name: each for each in graph.model.graph.initializer}
    taken = {*whole_weights, *(name for node in graph.model.graph.node for name in (*node.input, *node.output))}
    maker = _Maker(model, dict(graph.weights), whole_weights, taken)
    tensors, pieces = dict(graph.trial.tensors), list[Piece]()
    for number, node in enumerate(graph.model.graph.node):
        if number not in edges:
            model.graph.node.add().CopyFrom(node)
            pieces.append(Piece(number))
            continue
        output, (count, axis) = node.output[0], (columns[number].count, columns[number].axis)
        parts = []
        for rank, (start, end) in enumerate(zip(edges[number][:-1], edges[number][1:], strict=True)):
            if start == end:
                continue
            part = model.graph.node.add()
            part.CopyFrom(node)
            part.name = f"{node.name or number + 1}:{start}-{end}"
            for place, weights_axis in columns[number].weights.items():
                part.input[place] = maker.part(node.input[place], weights_axis, start, end)
            part.output[0] = _free(f"{output}:{start}-{end}", taken)
            parts.append(part.output[0])
            whole = tensors[output]
            shape = (*whole.shape[:axis], end - start, *whole.shape[axis + 1 :])
            tensors[parts[-1]] = Tensor(whole.dtype, shape, whole.bytes * (end - start) // count)
            pieces.append(Piece(number, rank, share=(end - start) / count))
        joined = library().helper.make_node("Concat", parts, [output], f"{node.name or number + 1}:joined", axis=axis)
        model.graph.node.add().CopyFrom(joined)
        pieces.append(Piece(number, joins=True, share=0.0))
    trial = Trial(tensors, graph.trial.failed, graph.trial.no_batch)
    return attrs.evolve(graph, model=model, weights=maker.weights, tried=trial), pieces


@attrs.define
class _Maker:
    """Adds parts of weights to a model, each once."""

    model: Any
    weights: dict[str, NDArray[Any]]
    whole: Mapping[str, Any]  # the tensors of the model by name
    taken: set[str]  # all names in the model
    _made: dict[tuple[str, int, int, int], str] = attrs.field(factory=dict, init=False)

    def part(self, name: str, axis: int, start: int, end: int) -> str:
        """The name of the part of weights ``name`` from ``start`` to ``end`` - 1 along ``axis``."""
        key = (name, axis, start, end)
        if key not in self._made:
            array = self.weights[name] if name in self.weights else library().numpy_helper.to_array(self.whole[name])
            self._made[key] = _free(f"{name}:{axis}:{start}-{end}", self.taken)
            add_weights(self.model, self.weights, self._made[key], array[(slice(None),) * axis + (slice(start, end),)])
        return self._made[key]


def _free(name: str, taken: set[str]) -> str:
    """A name that is not in ``taken``. Adds it to ``taken``."""
    while name in taken:
        name += "'"
    taken.add(name)
    return name
