"""Makes a `Model` of an ONNX model that is a chain of layers, so that ``fsd run`` splits its rows like those of any other model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.errors import InputError
from fsd_core.graph import Graph
from fsd_core.graph.library import NATIVE, attributes, library
from fsd_core.model.layer import Csr, Layer, Model

__all__ = ["OPERATORS", "chain"]

_ACTIVATIONS = {"Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh", "Softmax": "softmax"}


class _Unfit(Exception):
    """The reason why a node is not part of a chain."""


@attrs.define
class _Open:
    """A layer that is not complete yet: more constants and one activation may follow."""

    weights: NDArray[np.float32]  # (outputs, inputs)
    bias: NDArray[np.float32]  # (outputs,)
    activation: str = "identity"
    clip: float | None = None

    def scale(self, by: NDArray[np.float32]) -> None:
        """Multiply the outputs by one number each."""
        self.weights, self.bias = self.weights * by[:, None], self.bias * by

    def layer(self) -> Layer:
        """The layer: sparse where that takes less memory than a dense matrix."""
        rows, columns = np.nonzero(self.weights)
        sparse = 2 * len(rows) < self.weights.size
        weights: Any = Csr.build(rows, columns, self.weights[rows, columns], self.weights.shape) if sparse else self.weights
        return Layer(weights, self.bias, self.activation, self.clip, False)


def chain(graph: Graph) -> Model:
    """The model whose layers compute what ``graph`` computes, with constants that follow a product folded into it.

    The graph has one input and one output, float32, with a batch axis and one other axis; before the first product, Flatten may make it so.
    Its nodes form a chain of `OPERATORS`. Raises `InputError`, which names the first node that is not part of such a chain.
    """
    only = f"expected a chain of {', '.join(OPERATORS)} with one float32 input; 'fsd model show' shows what this model has"
    inputs = graph.inputs
    if len(inputs) != 1 or len(graph.outputs) != 1:
        raise InputError(f"{graph.path}: {len(inputs)} inputs and {len(graph.outputs)} outputs: {only}")
    if graph.no_batch is not None or inputs[0].dtype != "float32":
        raise InputError(f"{graph.path}: input {inputs[0].name!r} of {inputs[0].dtype}: {graph.no_batch or 'another dtype'}: {only}")
    shape = inputs[0].shape or ()
    made = _Chain(graph, inputs[0].name, math.prod(size or 1 for size in shape[1:]), len(shape) == 2)
    for number, node in enumerate(graph.model.graph.node):
        try:
            if node.domain not in ("", "ai.onnx") or node.op_type not in _TAKERS:
                raise _Unfit("another operator")
            with np.errstate(all="ignore"):  # `Model` refuses weights that are not finite
                made.take(node)
        except _Unfit as error:
            raise InputError(f"{graph.path}: {graph.label(number)}: {error}: {only}") from error
    if not made.layers or made.current != graph.outputs[0].name:
        raise InputError(f"{graph.path}: output {graph.outputs[0].name!r} is not the result of a product: {only}")
    try:
        return Model(tuple(each.layer() for each in made.layers), graph.name)
    except InputError as error:
        raise InputError(f"{graph.path}: {error}") from error


class _Chain:
    """The layers so far. ``current``: the tensor that they compute. ``flat``: it has one axis besides the batch axis, of size ``width``."""

    def __init__(self, graph: Graph, current: str, width: int, flat: bool) -> None:
        self.opset = graph.opset
        self.weights = graph.weights
        self.small = {each.name: each for each in graph.model.graph.initializer}
        self.current = current
        self.width = width
        self.flat = flat
        self.layers: list[_Open] = []

    def take(self, node: Any) -> None:
        """Add what a node computes to the layers. Raises `_Unfit`."""
        read = [name for name in node.input if name and name not in self.small]
        if read != [self.current]:
            raise _Unfit(f"it reads {', '.join(map(repr, read)) or 'constants alone'}, not only the result before it")
        _TAKERS[node.op_type](self, node, attributes(node))
        self.current = node.output[0]

    def constant(self, node: Any, number: int) -> NDArray[Any] | None:
        """The constant input of this number, or `None` if the node has no such input."""
        name = node.input[number] if number < len(node.input) else ""
        if not name:
            return None
        if name not in self.small:
            raise _Unfit(f"its input {number} is not constant")
        found: NDArray[Any] = self.weights[name] if name in self.weights else library().numpy_helper.to_array(self.small[name])
        return found

    def vector(self, node: Any, number: int) -> NDArray[np.float32]:
        """The constant input of this number as one value for each output of the layer."""
        found = self.constant(node, number)
        if found is None or found.ndim > 2 or (found.ndim == 2 and found.shape[0] != 1) or found.size not in (1, self.width):
            raise _Unfit(f"a constant of shape {None if found is None else found.shape} for {self.width} outputs")
        return np.broadcast_to(np.asarray(found, np.float32).reshape(-1), (self.width,))

    def product(self, weights: NDArray[Any] | None, bias: NDArray[np.float32] | None = None) -> None:
        """Begin a layer. ``weights``: (outputs, inputs)."""
        if not self.flat or weights is None or weights.ndim != 2 or weights.shape[1] != self.width or weights.dtype != np.float32:
            what = "no constant" if weights is None else f"{weights.dtype} weights of shape {weights.shape}"
            raise _Unfit(f"{what}: the node does not multiply {self.width} inputs by a float32 matrix")
        self.width = weights.shape[0]
        self.layers.append(_Open(np.asarray(weights), np.zeros(self.width, np.float32) if bias is None else bias))

    def open(self) -> _Open:
        """The last layer, which has no activation yet."""
        if not self.layers or self.layers[-1].activation != "identity":
            raise _Unfit("it does not follow a product")
        return self.layers[-1]


def _matmul(to: _Chain, node: Any, given: dict[str, Any]) -> None:
    weights = to.constant(node, 1)  # raises if the constant is on the left
    to.product(None if weights is None else weights.T)


def _gemm(to: _Chain, node: Any, given: dict[str, Any]) -> None:
    weights = to.constant(node, 1)
    if given.get("transA") or weights is None:
        raise _Unfit("its first input is transposed")
    weights = weights if given.get("transB") else weights.T
    alpha, beta = (np.float32(given.get(name, 1.0)) for name in ("alpha", "beta"))
    to.product(weights if alpha == 1 else weights * alpha)
    if to.constant(node, 2) is not None:
        to.open().bias = to.vector(node, 2) * beta


def _add(to: _Chain, node: Any, given: dict[str, Any]) -> None:
    layer = to.open()
    layer.bias = layer.bias + to.vector(node, 1 if node.input[0] == to.current else 0)


def _sub(to: _Chain, node: Any, given: dict[str, Any]) -> None:
    layer = to.open()
    if node.input[0] == to.current:
        layer.bias = layer.bias - to.vector(node, 1)
    else:
        layer.scale(np.full(to.width, -1, np.float32))
        layer.bias = layer.bias + to.vector(node, 0)


def _mul(to: _Chain, node: Any, given: dict[str, Any]) -> None:
    to.open().scale(to.vector(node, 1 if node.input[0] == to.current else 0))


def _div(to: _Chain, node: Any, given: dict[str, Any]) -> None:
    to.open().scale(np.float32(1) / to.vector(node, 1))


def _batch_normalization(to: _Chain, node: Any, given: dict[str, Any]) -> None:
    if given.get("training_mode") or len([name for name in node.output if name]) > 1:
        raise _Unfit("it is in training mode")
    layer = to.open()
    scale, bias, mean, variance = (to.vector(node, number) for number in (1, 2, 3, 4))
    by = scale / np.sqrt(variance + np.float32(given.get("epsilon", 1e-5)))
    layer.bias = layer.bias - mean
    layer.scale(by)
    layer.bias = layer.bias + bias


def _activation(to: _Chain, node: Any, given: dict[str, Any]) -> None:
    if node.op_type == "Softmax" and given.get("axis", -1 if to.opset >= 13 else 1) not in (-1, 1):
        raise _Unfit(f"axis {given['axis']}")
    to.open().activation = _ACTIVATIONS[node.op_type]


def _clip(to: _Chain, node: Any, given: dict[str, Any]) -> None:
    low, high = (to.constant(node, number) for number in (1, 2)) if to.opset >= 11 else (given.get("min"), given.get("max"))
    least, most = (None if each is None else float(each) for each in (low, high))
    if to.layers and to.layers[-1].activation == "relu" and to.layers[-1].clip is None and (least is None or least <= 0):
        layer = to.layers[-1]
    elif least == 0:
        layer = to.open()
    else:
        raise _Unfit(f"its limits are {least} and {most}")
    if most is not None and not 0 < most < math.inf:
        raise _Unfit(f"its limits are {least} and {most}")
    layer.activation, layer.clip = "relu", most


def _same(to: _Chain, node: Any, given: dict[str, Any]) -> None:
    if node.op_type == "Cast" and NATIVE.get(given.get("to", 0)) != "float32":
        raise _Unfit("to another dtype than float32")
    if node.op_type == "Dropout" and len(node.input) > 2 and np.any(to.constant(node, 2)):
        raise _Unfit("it is in training mode")


def _flatten(to: _Chain, node: Any, given: dict[str, Any]) -> None:
    if node.op_type == "Flatten":
        fits = given.get("axis", 1) == 1
    else:
        shape = to.constant(node, 1)
        sizes = [] if shape is None else shape.tolist()
        fits = len(sizes) == 2 and (sizes[0], sizes[1]) in ((-1, to.width), (0, to.width), (0, -1))
    if not fits:
        raise _Unfit("it does not give one row for each sample")
    to.flat = True


_TAKERS: dict[str, Callable[[_Chain, Any, dict[str, Any]], None]] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Add": _add,
    "Sub": _sub,
    "Mul": _mul,
    "Div": _div,
    "BatchNormalization": _batch_normalization,
    **dict.fromkeys(_ACTIVATIONS, _activation),
    "Clip": _clip,
    "Flatten": _flatten,
    "Reshape": _flatten,
    **dict.fromkeys(("Identity", "Dropout", "Cast"), _same),
}
OPERATORS = tuple(_TAKERS)
