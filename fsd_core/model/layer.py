"""A model: layers of sparse (Csr) or dense weights, each with bias, activation and rule. All of it checked when it is made."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsd_core.common import arguments
from fsd_core.errors import InputError

__all__ = ["ACTIVATIONS", "Csr", "Layer", "Model", "describe"]

ACTIVATIONS = ("identity", "relu", "sigmoid", "tanh", "softmax")


@dataclass(frozen=True, eq=False)
class Csr:
    """A sparse matrix in compressed rows; row = output neuron, column = input neuron: ``z = W @ x``.

    ``indptr`` int64 (rows + 1,), ``indices`` int32 and ``values`` float32 (nonzeros,). Columns ascend strictly within a row, so equal
    matrices have equal bytes. Indices may be given in any dtype of whole numbers. What is kept is read-only: a copy, unless the array that
    was given is read-only itself, down to its memory. Raises InputError when anything is not so, or a value is not finite.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    values: NDArray[np.float32]
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        rows, columns = _shape(self.shape)
        object.__setattr__(self, "shape", (rows, columns))
        object.__setattr__(self, "indptr", arguments.own(arguments.integers("csr indptr", self.indptr, np.int64, 0, 2**63 - 1)))
        indices = arguments.integers("csr column index", self.indices, np.int32, 0, columns - 1)
        object.__setattr__(self, "indices", arguments.own(indices))
        object.__setattr__(self, "values", _floats("csr values", self.values, 1))
        if self.indptr.size != rows + 1 or self.indices.size != self.values.size:
            raise InputError(
                f"csr indptr has {self.indptr.size} entries, indices {self.indices.size}, values {self.values.size}: "
                f"expected {rows + 1} and two equal numbers for {rows} rows"
            )
        if self.indptr[0] != 0 or self.indptr[-1] != self.indices.size or (self.indptr[1:] < self.indptr[:-1]).any():
            raise InputError(f"csr indptr must rise from 0 to {self.indices.size}, the number of nonzeros")
        ascends = self.indices[1:] > self.indices[:-1]
        starts = self.indptr[1:-1]
        ascends[starts[(starts > 0) & (starts < self.indices.size)] - 1] = True  # a new row may start lower
        if not ascends.all():
            row = int(np.searchsorted(self.indptr, int(ascends.argmin()) + 1, "right")) - 1
            raise InputError(f"csr row {row} (0-based) has columns out of order or twice: they must ascend strictly")
        _finite("csr values", self.values)

    @staticmethod
    def build(rows: NDArray[Any], columns: NDArray[Any], values: NDArray[Any], shape: tuple[int, int]) -> Csr:
        """From coordinates in any order: 0-based ``rows`` and ``columns`` (nonzeros,), each pair once; zero values are left out.

        Raises InputError for an index outside ``shape``, a pair given twice, a value that is not finite as float32.
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
                raise InputError(f"row {row}, column {column} (0-based) is given twice")
        if not values.all():
            key, values = key[values != 0], values[values != 0]
        row_of = key // shape[1]
        indptr = np.zeros(shape[0] + 1, np.int64)
        np.cumsum(np.bincount(row_of, minlength=shape[0]), out=indptr[1:])
        return Csr(arguments.fresh(indptr), arguments.fresh((key - row_of * shape[1]).astype(np.int32)), arguments.fresh(values), shape)

    def rows(self, ids: NDArray[Any]) -> Csr:
        """The rows ``ids`` (0-based, any order), in that order, columns unchanged."""
        counts = np.diff(self.indptr)[ids]
        indptr = np.zeros(len(ids) + 1, np.int64)
        np.cumsum(counts, out=indptr[1:])
        source = np.repeat(self.indptr[:-1][ids] - indptr[:-1], counts) + np.arange(indptr[-1])
        indices, values = arguments.fresh(self.indices[source]), arguments.fresh(self.values[source])
        return Csr(arguments.fresh(indptr), indices, values, (len(ids), self.shape[1]))

    def scipy(self) -> Any:
        """The same as ``scipy.sparse.csr_matrix`` (rows, columns) float32, sharing memory where scipy can."""
        from scipy.sparse import csr_matrix

        return csr_matrix((self.values, self.indices, self.indptr), shape=self.shape)


@dataclass(frozen=True, eq=False)
class Layer:
    """``activation(weights @ x + bias)`` of a column ``x``; see `fsd_core.model.activation` for the two bias rules.

    Arrays are kept read-only: copied unless what was given is read-only itself, down to its memory. Raises InputError on construction for
    a wrong shape or dtype, a value that is not finite, an unknown activation, or a clip without relu.
    """

    weights: Csr | NDArray[np.float32]  # dense: (outputs, inputs)
    bias: NDArray[np.float32]  # (outputs,); a scalar given is broadcast
    activation: str
    clip: float | None  # only with relu: min(relu(z), clip)
    challenge: bool  # bias only where the pre-activation is nonzero

    def __post_init__(self) -> None:
        if not isinstance(self.weights, Csr):
            dense = _floats("dense weights", self.weights, 2)
            if not dense.size:
                raise InputError(f"dense weights of shape {dense.shape} are empty")
            object.__setattr__(self, "weights", dense)
        if not self.outputs:
            raise InputError("a layer needs at least one output")
        with np.errstate(over="ignore"):
            bias = arguments.array("bias", self.bias).astype(np.float32, copy=False)
        if bias.shape not in ((), (self.outputs,)):
            raise InputError(f"bias has shape {bias.shape}: expected a scalar or one value for each of {self.outputs} outputs")
        object.__setattr__(self, "bias", _finite("bias", arguments.own(np.broadcast_to(bias, (self.outputs,)))))
        object.__setattr__(self, "activation", arguments.one_of("activation", self.activation, ACTIVATIONS))
        if self.clip is not None:
            if self.activation != "relu":
                raise InputError(f"clip {arguments.shown(self.clip)} goes with activation relu only, not {self.activation}")
            clip = arguments.number("clip", self.clip, "a finite number above 0", lambda value: value > 0)
            object.__setattr__(self, "clip", clip)
        object.__setattr__(self, "challenge", arguments.yes_or_no("challenge", self.challenge))

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
        """The number of stored weights: multiply-adds a sample. All of them where dense."""
        return int(self.weights.values.size if isinstance(self.weights, Csr) else self.weights.size)

    def rows(self, ids: NDArray[Any]) -> Csr | NDArray[np.float32]:
        """The weights of the output neurons ``ids`` (0-based), in that order."""
        return self.weights.rows(ids) if isinstance(self.weights, Csr) else self.weights[ids]

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """What is stored, by name: ``indptr``, ``indices``, ``values`` or ``weights``, and ``bias``."""
        if isinstance(self.weights, Csr):
            return {"indptr": self.weights.indptr, "indices": self.weights.indices, "values": self.weights.values, "bias": self.bias}
        return {"weights": self.weights, "bias": self.bias}

    @cached_property
    def checksum(self) -> str:
        """Hexadecimal sha256 over structure and arrays."""
        shape = [self.outputs, self.inputs]
        content = hashlib.sha256(
            json.dumps([sorted(self.arrays), shape, self.nonzeros, self.activation, self.clip, self.challenge]).encode()
        )
        for array in self.arrays.values():
            content.update(array.data)
        return content.hexdigest()


@dataclass(frozen=True, eq=False)
class Model:
    """Layers that fit each other; softmax may only be the last one's activation. InputError where they do not."""

    layers: tuple[Layer, ...]
    name: str = "model"

    def __post_init__(self) -> None:
        if not isinstance(self.layers, list | tuple) or not all(isinstance(layer, Layer) for layer in self.layers):
            raise arguments.wrong("layers", self.layers, "a list or tuple of Layer")
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "name", arguments.text("name", self.name))
        if not self.layers:
            raise InputError("a model needs at least one layer")
        for k, (layer, after) in enumerate(zip(self.layers, self.layers[1:], strict=False), 1):
            if layer.outputs != after.inputs:
                raise InputError(f"layer {k} has {layer.outputs} outputs, layer {k + 1} takes {after.inputs} inputs: they must be equal")
            if layer.activation == "softmax":
                raise InputError(f"layer {k} of {len(self.layers)} has activation softmax: only the last layer may")

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
        """The width of the widest layer, the input included."""
        return max(self.inputs, *(layer.outputs for layer in self.layers))

    @property
    def nonzeros(self) -> int:
        """Stored weights of all layers: multiply-adds a sample."""
        return sum(layer.nonzeros for layer in self.layers)

    @cached_property
    def digest(self) -> str:
        """Hexadecimal sha256 of the content (the layers' checksums in order); the name does not count."""
        return hashlib.sha256("\n".join(layer.checksum for layer in self.layers).encode()).hexdigest()


def describe(model: Model) -> dict[str, Any]:
    """What a person wants to know of a model, ready for JSON. ``groups``: runs of layers that differ in their arrays only.

    A group: ``first`` and ``last`` layer (1-based), kind, inputs, outputs, nonzeros (of one), activation, clip, rule, bias [low, high].
    """
    groups: list[dict[str, Any]] = []
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


def _shape(shape: Any) -> tuple[int, int]:
    """Rows and columns of a sparse matrix, checked."""
    if not isinstance(shape, list | tuple | np.ndarray) or len(shape) != 2:
        raise arguments.wrong("csr shape", shape, "two whole numbers, rows and columns")
    return arguments.whole("csr rows", shape[0]), arguments.whole("csr columns", shape[1], 1, 2**31 - 1)  # they must fit 32 bits


def _floats(what: str, array: Any, ndim: int) -> NDArray[np.float32]:
    """A float32 array of ``ndim`` dimensions, in any byte order and layout, all of it finite, as ours."""
    plain = isinstance(array, np.ndarray) and not isinstance(array, np.ma.MaskedArray)
    if not plain or array.dtype.newbyteorder("=") != np.float32 or array.ndim != ndim:
        found = f"{array.ndim} dimensions of {array.dtype}" if plain else type(array).__name__
        raise InputError(f"{what}: {found}: expected a numpy array of {ndim} dimension{'s' * (ndim > 1)} of float32")
    return _finite(what, arguments.own(array.astype(np.float32, copy=False)))


def _finite(what: str, array: NDArray[Any]) -> NDArray[Any]:
    """``array``, which must hold no infinity and no NaN."""
    finite = np.isfinite(array)
    if not finite.all():
        raise InputError(f"{what}: entry {int(finite.argmin())} is {array.ravel()[finite.argmin()]}: expected a finite float32")
    return array
