"""A model: layers of sparse (Csr) or dense weights, each with bias, activation and rule. All of it checked when it is made."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsd_core.errors import InputError

__all__ = ["ACTIVATIONS", "Csr", "Layer", "Model", "describe"]

ACTIVATIONS = ("identity", "relu", "sigmoid", "tanh", "softmax")


@dataclass(frozen=True, eq=False)
class Csr:
    """A sparse matrix in compressed rows; row = output neuron, column = input neuron: ``z = W @ x``.

    ``indptr`` int64 (rows + 1,), ``indices`` int32 and ``values`` float32 (nonzeros,). Columns ascend strictly within a row, so equal
    matrices have equal bytes. The arrays become read-only views. Raises InputError when anything is not so, or a value is not finite.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    values: NDArray[np.float32]
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        rows, columns = self.shape
        for name, dtype in (("indptr", np.int64), ("indices", np.int32), ("values", np.float32)):
            object.__setattr__(self, name, _frozen(f"csr {name}", getattr(self, name), np.dtype(dtype), 1))
        if rows < 0 or columns < 1 or columns > 2**31 - 1:
            raise InputError(f"csr shape {rows} x {columns}: columns must be at least 1 and fit 32 bits")
        if self.indptr.size != rows + 1 or self.indices.size != self.values.size:
            raise InputError(
                f"csr indptr has {self.indptr.size} entries, indices {self.indices.size}, values {self.values.size}: "
                f"{rows + 1} and two equal numbers would be right for {rows} rows"
            )
        if self.indptr[0] != 0 or self.indptr[-1] != self.indices.size or (self.indptr[1:] < self.indptr[:-1]).any():
            raise InputError(f"csr indptr must rise from 0 to {self.indices.size}, the number of nonzeros")
        if self.indices.size and not (self.indices.min() >= 0 and self.indices.max() < columns):
            raise InputError(f"csr column index {self._worst_column()} is outside 0 to {columns - 1}")
        ascends = self.indices[1:] > self.indices[:-1]
        starts = self.indptr[1:-1]
        ascends[starts[(starts > 0) & (starts < self.indices.size)] - 1] = True  # a new row may start lower
        if not ascends.all():
            row = int(np.searchsorted(self.indptr, int(ascends.argmin()) + 1, "right")) - 1
            raise InputError(f"csr row {row} (0-based) has columns out of order or twice: they must ascend strictly")
        _finite("csr values", self.values)

    def _worst_column(self) -> int:
        return int(self.indices.min() if self.indices.min() < 0 else self.indices.max())

    @staticmethod
    def build(rows: NDArray[Any], columns: NDArray[Any], values: NDArray[Any], shape: tuple[int, int]) -> Csr:
        """From coordinates in any order: 0-based ``rows`` and ``columns`` (nonzeros,), each pair once; zero values are left out.

        Raises InputError for an index outside ``shape``, a pair given twice, a value that is not finite as float32.
        """
        for axis, ids, size in (("row", rows, shape[0]), ("column", columns, shape[1])):
            if ids.size and not (ids.min() >= 0 and ids.max() < size):
                raise InputError(f"{axis} index {int(ids.min() if ids.min() < 0 else ids.max())} is outside 0 to {size - 1}")
        with np.errstate(over="ignore"):
            values = values.astype(np.float32, copy=False)
        key = rows.astype(np.int64) * shape[1] + columns
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
        return Csr(indptr, (key - row_of * shape[1]).astype(np.int32), values, shape)

    def rows(self, ids: NDArray[Any]) -> Csr:
        """The rows ``ids`` (0-based, any order), in that order, columns unchanged."""
        counts = np.diff(self.indptr)[ids]
        indptr = np.zeros(len(ids) + 1, np.int64)
        np.cumsum(counts, out=indptr[1:])
        source = np.repeat(self.indptr[:-1][ids] - indptr[:-1], counts) + np.arange(indptr[-1])
        return Csr(indptr, self.indices[source], self.values[source], (len(ids), self.shape[1]))

    def scipy(self) -> Any:
        """The same as ``scipy.sparse.csr_matrix`` (rows, columns) float32, sharing memory where scipy can."""
        from scipy.sparse import csr_matrix

        return csr_matrix((self.values, self.indices, self.indptr), shape=self.shape)


@dataclass(frozen=True, eq=False)
class Layer:
    """``activation(weights @ x + bias)`` of a column ``x``; see `fsd_core.model.activation` for the two bias rules.

    Raises InputError on construction for a wrong shape or dtype, a value that is not finite, an unknown activation, or a clip without relu.
    """

    weights: Csr | NDArray[np.float32]  # dense: (outputs, inputs)
    bias: NDArray[np.float32]  # (outputs,); a scalar given is broadcast
    activation: str
    clip: float | None  # only with relu: min(relu(z), clip)
    challenge: bool  # bias only where the pre-activation is nonzero

    def __post_init__(self) -> None:
        if not isinstance(self.weights, Csr):
            dense = _frozen("dense weights", self.weights, np.dtype(np.float32), 2)
            if not dense.size:
                raise InputError(f"dense weights of shape {dense.shape} are empty")
            object.__setattr__(self, "weights", _finite("dense weights", dense))
        if not self.outputs:
            raise InputError("a layer needs at least one output")
        with np.errstate(over="ignore"):
            bias = np.asarray(self.bias, np.float32)
        if bias.shape not in ((), (self.outputs,)):
            raise InputError(f"bias has shape {bias.shape}: a scalar or one value for each of {self.outputs} outputs would be right")
        bias = np.ascontiguousarray(np.broadcast_to(bias, (self.outputs,)))
        object.__setattr__(self, "bias", _finite("bias", _frozen("bias", bias, np.dtype(np.float32), 1)))
        if self.activation not in ACTIVATIONS:
            raise InputError(f"activation {self.activation!r} is unknown: one of {', '.join(ACTIVATIONS)} would be right")
        if self.clip is not None:
            if self.activation != "relu":
                raise InputError(f"clip {self.clip} goes with activation relu only, not {self.activation}")
            if not (math.isfinite(self.clip) and self.clip > 0):
                raise InputError(f"clip {self.clip}: a finite number above 0 would be right")
            object.__setattr__(self, "clip", float(self.clip))
        object.__setattr__(self, "challenge", bool(self.challenge))

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
        object.__setattr__(self, "layers", tuple(self.layers))
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


def _frozen(what: str, array: Any, dtype: np.dtype[Any], ndim: int) -> NDArray[Any]:
    """A read-only contiguous view of ``array``, which must have this dtype and number of dimensions."""
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != ndim:
        found = f"{array.ndim} dimensions of {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
        raise InputError(f"{what}: {found}, a numpy array of {ndim} dimension{'s' * (ndim > 1)} of {dtype} would be right")
    frozen = np.ascontiguousarray(array).view()
    frozen.flags.writeable = False
    return frozen


def _finite(what: str, array: NDArray[Any]) -> NDArray[Any]:
    """``array``, which must hold no infinity and no NaN."""
    finite = np.isfinite(array)
    if not finite.all():
        raise InputError(f"{what}: entry {int(finite.argmin())} is {array.ravel()[finite.argmin()]}, a finite float32 would be right")
    return array
