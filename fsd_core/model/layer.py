"""Models: a model is a sequence of layers. A layer has sparse (`Csr`) or dense weights, a bias, an activation and a bias rule.

The constructors check all values.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.common import arguments
from fsd_core.errors import InputError

__all__ = ["ACTIVATIONS", "Csr", "Layer", "Model", "describe", "unchecked"]

ACTIVATIONS = ("identity", "relu", "sigmoid", "tanh", "softmax")
_INT32 = 2**31 - 1


def _shape(shape: Any) -> tuple[int, int]:
    """The rows and columns of a sparse matrix, checked."""
    if not isinstance(shape, list | tuple | np.ndarray) or len(shape) != 2:
        raise arguments.wrong("csr shape", shape, "two whole numbers, rows and columns")
    return arguments.whole("csr rows", shape[0]), arguments.whole("csr columns", shape[1], 1, _INT32)  # column numbers are int32


def _row_starts(indptr: Any) -> NDArray[np.int64]:
    return arguments.own(arguments.integers("csr indptr", indptr, np.int64, 0, 2**63 - 1))


def _columns(indices: Any) -> NDArray[np.int32]:
    return arguments.own(arguments.integers("csr column index", indices, np.int32, 0, _INT32))


def _values(values: Any) -> NDArray[np.float32]:
    return _floats("csr values", values, 1)


def _floats(what: str, array: Any, ndim: int) -> NDArray[np.float32]:
    """Convert a float32 array of ``ndim`` dimensions and any byte order and layout to a read-only one. Refuses infinity and NaN."""
    plain = isinstance(array, np.ndarray) and not isinstance(array, np.ma.MaskedArray)
    if not plain or array.dtype.newbyteorder("=") != np.float32 or array.ndim != ndim:
        found = f"{array.ndim} dimensions of {array.dtype}" if plain else type(array).__name__
        raise InputError(f"{what}: {found}: expected a numpy array of {ndim} dimension{'s' * (ndim > 1)} of float32")
    return _finite(what, arguments.own(array.astype(np.float32, copy=False)))


def _finite(what: str, array: NDArray[Any]) -> NDArray[Any]:
    """The same ``array``. Raises InputError if an entry is infinite or NaN."""
    finite = np.isfinite(array)
    if not finite.all():
        raise InputError(f"{what}: entry {int(finite.argmin())} is {array.ravel()[finite.argmin()]}: expected a finite float32")
    return array


@attrs.frozen(eq=False)
class Csr:
    """A sparse matrix W in compressed sparse rows. A row is an output neuron, and a column is an input neuron (``z = W @ x``).

    ``indptr`` is int64 (rows + 1,), ``indices`` int32 (nonzeros,) and ``values`` float32 (nonzeros,). The columns of a row ascend strictly,
    so equal matrices have equal bytes. The constructor takes ``indptr`` and ``indices`` of any integer dtype. It stores read-only arrays,
    and copies each given array unless the array and its memory are read-only. Raises InputError if the arrays do not have this form, or if
    a value is not finite.
    """

    indptr: NDArray[np.int64] = attrs.field(converter=_row_starts)
    indices: NDArray[np.int32] = attrs.field(converter=_columns)
    values: NDArray[np.float32] = attrs.field(converter=_values)
    shape: tuple[int, int] = attrs.field(converter=_shape)

    def __attrs_post_init__(self) -> None:
        rows, columns = self.shape
        if self.indices.size and (largest := int(self.indices.max())) >= columns:
            raise InputError(f"csr column index {largest}: expected 0 to {columns - 1}, as the shape has {columns} columns")
        if self.indptr.size != rows + 1 or self.indices.size != self.values.size:
            raise InputError(
                f"csr indptr has {self.indptr.size} entries, indices {self.indices.size}, values {self.values.size}: "
                f"expected {rows + 1} entries of indptr for {rows} rows, and as many indices as values"
            )
        if self.indptr[0] != 0 or self.indptr[-1] != self.indices.size or (self.indptr[1:] < self.indptr[:-1]).any():
            raise InputError(f"csr indptr: expected numbers that ascend from 0 to {self.indices.size}, the number of nonzeros")
        ascends = self.indices[1:] > self.indices[:-1]
        starts = self.indptr[1:-1]
        ascends[starts[(starts > 0) & (starts < self.indices.size)] - 1] = True  # the first column of a row has no column before it
        if not ascends.all():
            row = int(np.searchsorted(self.indptr, int(ascends.argmin()) + 1, "right")) - 1
            raise InputError(f"csr row {row} (0-based) has columns out of order or twice: expected columns that ascend strictly")

    @staticmethod
    def build(rows: NDArray[Any], columns: NDArray[Any], values: NDArray[Any], shape: tuple[int, int]) -> Csr:
        """Build a matrix from its entries, in any order.

        ``rows`` and ``columns`` are integers (entries,), 0-based; ``values`` are real numbers (entries,). Leaves out zero values. Raises
        `InputError` for an index outside ``shape``, for a pair of row and column that occurs twice, and for a value that is not finite as
        float32.
        """
        shape = _shape(shape)
        rows = arguments.integers("row index", rows, np.int64, 0, shape[0] - 1)
        columns = arguments.integers("column index", columns, np.int64, 0, shape[1] - 1)
        with np.errstate(over="ignore"):
            values = arguments.array("values", values, dims=1).astype(np.float32)
        if not rows.size == columns.size == values.size:
            raise InputError(f"{rows.size} rows, {columns.size} columns, {values.size} values: expected equal numbers")
        key = rows * shape[1] + columns
        if not (key[1:] > key[:-1]).all():
            order = np.argsort(key, kind="stable")
            key, values = key[order], values[order]
            twice = np.flatnonzero(key[1:] == key[:-1])
            if twice.size:
                row, column = divmod(int(key[twice[0]]), shape[1])
                raise InputError(f"row {row}, column {column} (0-based) is given twice: expected each pair once")
        if not values.all():
            key, values = key[values != 0], values[values != 0]
        row_of = key // shape[1]
        indptr = np.zeros(shape[0] + 1, np.int64)
        np.cumsum(np.bincount(row_of, minlength=shape[0]), out=indptr[1:])
        return Csr(arguments.fresh(indptr), arguments.fresh((key - row_of * shape[1]).astype(np.int32)), arguments.fresh(values), shape)

    def rows(self, ids: NDArray[Any]) -> Csr:
        """The matrix of only the rows ``ids``, in this order. ``ids`` is an integer array (rows,), 0-based. All columns stay."""
        counts = np.diff(self.indptr)[ids]
        indptr = np.zeros(len(ids) + 1, np.int64)
        np.cumsum(counts, out=indptr[1:])
        source = np.repeat(self.indptr[:-1][ids] - indptr[:-1], counts) + np.arange(indptr[-1])
        indices, values = arguments.fresh(self.indices[source]), arguments.fresh(self.values[source])
        return Csr(arguments.fresh(indptr), indices, values, (len(ids), self.shape[1]))

    def scipy(self) -> Any:
        """The same matrix as ``scipy.sparse.csr_matrix`` (rows, columns) float32. It shares the memory of the arrays if scipy can do so."""
        from scipy.sparse import csr_matrix

        return csr_matrix((self.values, self.indices, self.indptr), shape=self.shape)


def unchecked(indptr: NDArray[np.int64], indices: NDArray[np.int32], values: NDArray[np.float32], shape: tuple[int, int]) -> Csr:
    """A `Csr` of read-only arrays that have its form for certain, because this package has just made them so: nothing is checked."""
    made = object.__new__(Csr)
    for name, value in (("indptr", indptr), ("indices", indices), ("values", values), ("shape", shape)):
        object.__setattr__(made, name, value)
    return made


def _weights(weights: Any) -> Csr | NDArray[np.float32]:
    if isinstance(weights, Csr):
        if not weights.shape[0]:
            raise InputError("weights of 0 outputs: expected at least one output")
        return weights
    dense = _floats("dense weights", weights, 2)
    if not dense.size:
        raise InputError(f"dense weights of shape {dense.shape} are empty: expected at least one output and one input")
    return dense


def _bias(bias: Any, layer: Any) -> NDArray[np.float32]:
    """One value for each output of ``layer``, a `Layer` whose weights are set already."""
    with np.errstate(over="ignore"):
        given = arguments.array("bias", bias).astype(np.float32, copy=False)
    if given.shape not in ((), (layer.outputs,)):
        raise InputError(f"bias has shape {given.shape}: expected a scalar or one value for each of {layer.outputs} outputs")
    return _finite("bias", arguments.own(np.broadcast_to(given, (layer.outputs,))))


def _activation(activation: Any) -> str:
    return arguments.one_of("activation", activation, ACTIVATIONS)


def _clip(clip: Any) -> float | None:
    return None if clip is None else arguments.number("clip", clip, "a finite number above 0", lambda value: value > 0)


def _challenge(challenge: Any) -> bool:
    return arguments.yes_or_no("challenge", challenge)


@attrs.frozen(eq=False)
class Layer:
    """A layer computes ``activation(weights @ x + bias)`` of a column ``x``. `fsd_core.model.activation` describes the two bias rules.

    - ``weights``: a `Csr` of shape (outputs, inputs), or a dense float32 array (outputs, inputs).
    - ``bias``: real numbers (outputs,), or one for all outputs; stored as float32 (outputs,).
    - ``activation``: identity, relu, sigmoid, tanh or softmax; softmax only in the last layer of a model.
    - ``clip``: the upper limit of the activations of relu; `None`: no limit.
    - ``challenge``: True adds the bias only where ``weights @ x`` is not 0, as the Graph Challenge does.

    The constructor stores read-only arrays, and copies each given array unless the array and its memory are read-only. Raises InputError
    for a wrong shape or dtype, a value that is not finite, weights without outputs, an unknown activation, or a clip without relu.
    """

    weights: Csr | NDArray[np.float32] = attrs.field(converter=_weights)  # dense: (outputs, inputs)
    # (outputs,); a scalar is for all outputs
    bias: NDArray[np.float32] = attrs.field(converter=attrs.Converter(_bias, takes_self=True))  # type: ignore[misc]  # unknown to mypy
    activation: str = attrs.field(converter=_activation)
    clip: float | None = attrs.field(converter=_clip)  # only with relu: min(relu(z), clip)
    challenge: bool = attrs.field(converter=_challenge)  # True: the bias is added only where the pre-activation is not 0

    def __attrs_post_init__(self) -> None:
        if self.clip is not None and self.activation != "relu":
            raise InputError(f"clip {self.clip}: expected None for activation {self.activation}: only relu can have a clip")

    @property
    def inputs(self) -> int:
        """The number of input neurons."""
        return int(self.weights.shape[1])

    @property
    def outputs(self) -> int:
        """The number of output neurons."""
        return int(self.weights.shape[0])

    @property
    def nonzeros(self) -> int:
        """The number of stored weights, which is the number of multiply-adds for a sample. A dense layer stores all its weights."""
        return int(self.weights.values.size if isinstance(self.weights, Csr) else self.weights.size)

    def rows(self, ids: NDArray[Any]) -> Csr | NDArray[np.float32]:
        """The weights of only the output neurons ``ids``, in this order. ``ids`` is an integer array (rows,), 0-based."""
        return self.weights.rows(ids) if isinstance(self.weights, Csr) else self.weights[ids]

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The stored arrays by name: ``indptr``, ``indices``, ``values`` and ``bias`` if sparse; ``weights`` and ``bias`` if dense."""
        if isinstance(self.weights, Csr):
            return {"indptr": self.weights.indptr, "indices": self.weights.indices, "values": self.weights.values, "bias": self.bias}
        return {"weights": self.weights, "bias": self.bias}

    @cached_property
    def checksum(self) -> str:
        """The SHA-256 of the layer's structure and arrays, hexadecimal."""
        shape = [self.outputs, self.inputs]
        content = hashlib.sha256(
            json.dumps([sorted(self.arrays), shape, self.nonzeros, self.activation, self.clip, self.challenge]).encode()
        )
        for array in self.arrays.values():
            content.update(array.data)
        return content.hexdigest()


def _layers(layers: Any) -> tuple[Layer, ...]:
    if not isinstance(layers, list | tuple) or not all(isinstance(layer, Layer) for layer in layers):
        raise arguments.wrong("layers", layers, "a list or tuple of Layer")
    return tuple(layers)


def _name(name: Any) -> str:
    return arguments.text("name", name)


@attrs.frozen(eq=False)
class Model:
    """A sequence of layers.

    - ``layers``: a list or tuple of `Layer`, the first one first. ``name``: for people.
    - ``digest``: the SHA-256 of the content, hexadecimal; the name does not change it.
    - ``recipe``: a text that identifies the content, so that no digest is needed: the arguments of `radixnet` that made the model, or the
      digest in its folder if nobody compared that with the content; else empty.

    Raises InputError if ``layers`` is empty, if a layer's outputs are not as many as the next layer's inputs, or if a layer before the last
    has activation softmax.
    """

    layers: tuple[Layer, ...] = attrs.field(converter=_layers)
    name: str = attrs.field(default="model", converter=_name)
    recipe: str = attrs.field(default="", init=False, repr=False)  # `attrs.evolve` does not copy it, so it cannot be that of other layers

    def __attrs_post_init__(self) -> None:
        if not self.layers:
            raise InputError("a model of 0 layers: expected at least one layer")
        for k, (layer, after) in enumerate(zip(self.layers, self.layers[1:], strict=False), 1):
            if layer.outputs != after.inputs:
                raise InputError(
                    f"layer {k} has {layer.outputs} outputs, layer {k + 1} takes {after.inputs} inputs: expected equal numbers"
                )
            if layer.activation == "softmax":
                raise InputError(f"layer {k} of {len(self.layers)} has activation softmax: expected softmax in the last layer only")

    @property
    def inputs(self) -> int:
        """The width of an input sample."""
        return self.layers[0].inputs

    @property
    def outputs(self) -> int:
        """The width of an output sample."""
        return self.layers[-1].outputs

    @property
    def neurons(self) -> int:
        """The largest number of neurons of the input or of a layer."""
        return max(self.inputs, *(layer.outputs for layer in self.layers))

    @property
    def nonzeros(self) -> int:
        """The number of stored weights of all layers, which is the number of multiply-adds for a sample."""
        return sum(layer.nonzeros for layer in self.layers)

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the layers' checksums in order, hexadecimal. The name does not change it."""
        return hashlib.sha256("\n".join(layer.checksum for layer in self.layers).encode()).hexdigest()


def describe(model: Model) -> dict[str, Any]:
    """A summary of ``model``, as values that JSON can hold. Each of its ``groups`` is a sequence of layers with different arrays only.

    A group has ``first`` and ``last`` (layer numbers, 1-based), ``kind`` (csr or dense), ``inputs``, ``outputs`` and ``nonzeros`` of each
    layer, ``activation``, ``clip``, ``rule`` (challenge or plain), and ``bias``, the smallest and the largest bias of the group.
    """
    groups: list[dict[str, Any]] = []
    arguments.instance("model", model, Model)
    for k, layer in enumerate(model.layers, 1):
        group = {
            "kind": "csr" if isinstance(layer.weights, Csr) else "dense",
            "inputs": layer.inputs,
            "outputs": layer.outputs,
            "nonzeros": layer.nonzeros,
            "activation": layer.activation,
            "clip": layer.clip,
            "rule": "challenge" if layer.challenge else "plain",
        }
        low, high = float(layer.bias.min()), float(layer.bias.max())
        if groups and group.items() <= groups[-1].items():
            groups[-1] |= {"last": k, "bias": [min(low, groups[-1]["bias"][0]), max(high, groups[-1]["bias"][1])]}
        else:
            groups.append({"first": k, "last": k} | group | {"bias": [low, high]})
    return {
        "name": model.name,
        "layers": len(model.layers),
        "inputs": model.inputs,
        "outputs": model.outputs,
        "neurons": model.neurons,
        "nonzeros": model.nonzeros,
        "bytes": sum(array.nbytes for layer in model.layers for array in layer.arrays.values()),
        "digest": model.digest,
        "groups": groups,
    }
