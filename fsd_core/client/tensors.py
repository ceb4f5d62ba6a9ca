"""Inputs and outputs of ONNX models: named tensors from the caller or a file, checked against the model, and the result of such a run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.client.outputs import MARK, check_output
from fsd_core.client.result import Result
from fsd_core.codec.named import DTYPES
from fsd_core.common import arguments
from fsd_core.common.amount import counted
from fsd_core.common.files import replacing
from fsd_core.common.home import expanded
from fsd_core.errors import InputError
from fsd_core.model.npz import SCIPY_KEYS, check_is_file, read_npy, read_npz, write_npz

if TYPE_CHECKING:
    from fsd_core.graph import Graph

__all__ = ["TensorResult", "Tensors", "fitted", "open_tensors", "read_expected_tensors"]

Tensors = dict[str, NDArray[Any]]
ONLY = ""  # the name of a tensor that the caller gives without one


def open_tensors(inputs: Any) -> Tensors | None:
    """The arrays by name that a caller gives: a table of arrays, one array, or the path of an .npz or .npy.

    One array without a name gets the name `ONLY`. Returns `None` if ``inputs`` has another form that the engine rows may take, as a scipy
    matrix. Raises `InputError` if a file cannot be read, or if the dtype of an array is not one of numbers.
    """
    if isinstance(inputs, Mapping):
        return {str(name): _array(f"inputs[{name!r}]", value) for name, value in inputs.items() if not _is_mark(name, value)}
    if isinstance(inputs, np.ndarray | list | tuple):
        return {ONLY: _array("inputs", inputs)}
    if not isinstance(inputs, str | os.PathLike):
        return None
    path = expanded(inputs)
    if path.suffix not in (".npy", ".npz"):
        return None
    check_is_file(path)
    if path.suffix == ".npy":
        return {ONLY: _array(f"{path}:", read_npy(path))}
    arrays = read_npz(path)
    if arrays.keys() >= SCIPY_KEYS:
        return None
    return {name: _array(f"{path}: array {name!r}", each) for name, each in arrays.items() if not _is_mark(name, each)}


def _is_mark(name: str, value: Any) -> bool:
    """Whether an array is the text that marks files of fsd: the output of a run may be the input or the expected output of another run."""
    return name == MARK and getattr(getattr(value, "dtype", None), "kind", "") == "U"


def _array(name: str, value: Any) -> NDArray[Any]:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:  # rows of different lengths, and what other libraries raise
        raise InputError(f"{name}: cannot be an array: {error}: expected an array, or nested lists of equal lengths") from error
    if array.dtype.name not in DTYPES:
        raise InputError(f"{name} of dtype {array.dtype}: expected one of {', '.join(DTYPES)}")
    return array


def fitted(graph: Graph, arrays: Tensors) -> Tensors:
    """The arrays in the order of the model's inputs, with their dtypes.

    Converts an array to the model's dtype if that changes no value, for instance int32 to int64. Raises `InputError` if an array does not
    fit: it names the input, what was given and what was expected.
    """
    wanted = {each.name: each for each in graph.inputs}
    names = ", ".join(wanted)
    if set(arrays) == {ONLY}:
        if len(wanted) != 1:
            raise InputError(
                f"{graph.path}: one array without a name is given: expected an array for each input by name, {names}, "
                "as numpy.savez writes them"
            )
        arrays = {next(iter(wanted)): arrays[ONLY]}
    if missing := [name for name in wanted if name not in arrays]:
        given = f"only {', '.join(arrays)}" if arrays else "no array"
        raise InputError(f"{graph.path}: input {missing[0]!r} is missing, {given} is given: expected arrays for the inputs {names}")
    if unknown := [name for name in arrays if name not in wanted]:
        raise InputError(f"{graph.path}: has no input {unknown[0]!r}: expected arrays for the inputs {names}")
    found: Tensors = {}
    for name, each in wanted.items():
        array, where = arrays[name], f"{graph.path}: input {name!r}"
        if not np.can_cast(array.dtype, each.dtype, "safe"):
            raise InputError(f"{where} of dtype {array.dtype}: expected {each.dtype}; convert it with .astype(numpy.{each.dtype})")
        shape = each.shape or ()
        fits = array.ndim == len(shape) and all(size in (None, have) for size, have in zip(shape, array.shape, strict=True))
        if not fits:
            raise InputError(
                f"{where} of shape {array.shape}: expected ({', '.join('N' if size is None else str(size) for size in shape)})"
            )
        found[name] = np.ascontiguousarray(array, each.dtype).reshape(array.shape)
    if graph.no_batch is None:
        counts = {name: len(array) for name, array in found.items()}
        if len(set(counts.values())) > 1:
            raise InputError(f"{graph.path}: the inputs have {counts} samples at axis 0: expected the same number")
        if not min(counts.values()):
            raise InputError(f"{graph.path}: the inputs have no samples: expected at least one")
    return found


def read_expected_tensors(path: Path, graph: Graph) -> Tensors:
    """The expected outputs of a model by name, from an .npz, or from an .npy if it has one. Raises `InputError`."""
    try:
        arrays = open_tensors(path)
    except InputError as error:
        raise InputError(f"expect {error}") from error
    if arrays is None:
        raise InputError(f"expect {path}: is neither an .npz with arrays by name nor an .npy: expected one of these")
    return _expected(f"expect {path}", arrays, [each.name for each in graph.outputs])


def _expected(where: str, arrays: Tensors, names: list[str]) -> Tensors:
    if set(arrays) == {ONLY} and len(names) == 1:
        arrays = {names[0]: arrays[ONLY]}
    for name in arrays:
        if name not in names:
            raise InputError(f"{where}: {name!r} is no output of the model: expected arrays for some of the outputs {', '.join(names)}")
    if not arrays:
        raise InputError(f"{where}: has no array: expected one for some of the outputs {', '.join(names)}")
    return arrays


@attrs.frozen(eq=False)
class TensorResult(Result):
    """The result of an ONNX model that ONNX Runtime computed: `output` has an array for each output of the model, by name.

    ``layers``: the number of stages of a replica; if ranks share a stage, its steps between exchanges count instead. ``neurons``: the
    number of values of the largest tensor of a sample. All other fields: see `Result`.
    """

    @property
    def network(self) -> str:
        """The size of the model, for people."""
        stages, ranks = self.parallel["pipeline"], self.parallel["tensor"]
        shared = f"{ranks} ranks each, {counted(self.layers, 'step')}" if ranks > 1 else "whole nodes"
        return f"{counted(stages, 'stage')} of {shared}, tensors of up to {counted(self.neurons, 'value')}"

    @property
    def output_nonzero_samples(self) -> int:
        """The number of samples with a nonzero value in an output. A model without a batch axis has one sample."""
        live = np.zeros(self.samples, bool)
        for array in self.output.values():
            if array.ndim and len(array) == self.samples:
                live |= (array != 0).reshape(self.samples, -1).any(axis=1)
            else:
                live |= bool(np.any(array))
        return int(np.count_nonzero(live))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the outputs to an .npz by name, in one step. An existing file is replaced only if fsd made it.

        Raises `InputError` if the path cannot be written.
        """
        file = arguments.path("output", path)
        check_output(file)
        with replacing(file) as target:
            mark = {MARK: np.array(f"fsd {version('fsd-inference')}")}
            write_npz(target, mark | self.output)

    def check(self, truth: Any) -> dict[str, int]:
        """Raises `InputError`: only a result of the engine rows has a truth. Use `check_values`."""
        raise InputError("truth: the engine onnx computed this result: expected a result of the engine rows; use check_values instead")

    def check_values(self, expected: Any, rtol: float = 1e-4, atol: float = 1e-5) -> dict[str, float]:
        """Compare outputs with expected values.

        ``expected``: arrays by the names of some outputs; one array if the model has one output; or the path of an .npz or .npy with them.
        A value differs if its difference is larger than ``atol`` + ``rtol`` x the absolute expected value. Returns ``values``, the number
        of compared values; ``differing``, the number of values that differ; and ``largest``, the largest absolute difference. Raises
        `InputError` if the model has no output of a name, if a shape is another one, or if the file cannot be read.
        """
        rtol, atol = (arguments.number(name, value, "a number of at least 0", lambda found: found >= 0) for name, value in
                      (("rtol", rtol), ("atol", atol)))  # fmt: skip
        arrays = open_tensors(expected)
        if arrays is None:
            raise arguments.wrong("expected", expected, "arrays by name, or the path of an .npz or .npy")
        values, differing, largest = 0, 0, 0.0
        for name, wanted in _expected("expected", arrays, list(self.output)).items():
            got = self.output[name]
            if got.shape != wanted.shape:
                raise InputError(f"the values for output {name!r} have shape {wanted.shape}: expected {got.shape}, the shape of the output")
            exact, found = wanted.astype(np.float64), got.astype(np.float64)
            with np.errstate(invalid="ignore"):
                apart = np.where((exact == found) | (np.isnan(exact) & np.isnan(found)), 0.0, np.abs(found - exact))
            values += apart.size
            differing += int(np.count_nonzero(~(apart <= atol + rtol * np.abs(np.nan_to_num(exact)))))
            largest = max(largest, float(np.nan_to_num(apart, nan=np.inf).max(initial=0.0)))
        return {"values": values, "differing": differing, "largest": min(largest, float(np.finfo(np.float64).max))}
