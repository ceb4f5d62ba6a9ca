"""`Graph`: an ONNX model that has been read, checked and folded, and whose inputs have shapes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.common import arguments
from fsd_core.common.folders import MANIFEST
from fsd_core.errors import InputError
from fsd_core.graph.fold import fold, infer
from fsd_core.graph.library import NATIVE, label, opsets
from fsd_core.graph.read import read_file
from fsd_core.graph.shapes import Input, check_shapes, input_shapes, with_shapes
from fsd_core.graph.stored import FORMAT, stored
from fsd_core.graph.trial import Trial, trial

__all__ = ["BATCH_AXES", "Graph", "input_names", "is_graph", "open_graph"]

BATCH_AXES = ("auto", "0", "none")


@attrs.frozen(eq=False)
class Graph:
    """An ONNX model. Its constants are folded. Its nodes are in topological order: a node comes after all nodes whose outputs it reads.

    - ``model``: the ``onnx.ModelProto`` without the data of large weights. ``weights``: the arrays of large weights by name, read-only.
    - ``inputs``: name, dtype and shape of each input; `None` in a shape is the batch axis.
    - ``no_batch``: why the inputs have no batch axis; `None`: axis 0 of each input is for samples.
    - ``name``: a name for people. ``path``: the file or folder, for errors.
    - ``given``: inputs for the trial by name; `None`: random numbers. ``tried``: the trial, if it is already known.
    """

    model: Any
    weights: Mapping[str, NDArray[Any]]
    inputs: list[Input]
    no_batch: str | None
    name: str
    path: str
    given: Mapping[str, NDArray[Any]] | None = None
    tried: Trial | None = None

    @property
    def opset(self) -> int:
        """The version of ONNX's own operators."""
        return opsets(self.model).get("", 0)

    @property
    def outputs(self) -> list[Input]:
        """Name, dtype and shape of each output; a shape is `None` if the file does not have it."""
        found = []
        for each in self.model.graph.output:
            tensor = each.type.tensor_type
            sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
            found.append(Input(each.name, NATIVE.get(tensor.elem_type, "?"), tuple(sizes) if tensor.HasField("shape") else None))
        return found

    def label(self, number: int) -> str:
        """The name, operator and opset of node ``number``, counted from 0, for an error line."""
        return label(self.model, number, self.model.graph.node[number])

    @cached_property
    def trial(self) -> Trial:
        """The result of running the model on this machine, computed at the first use. Raises `InputError` like the function `trial`."""
        return trial(self) if self.tried is None else self.tried

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the graph and its weights, hexadecimal. The name does not change it."""
        bare = type(self.model)()
        bare.CopyFrom(self.model)
        del bare.graph.value_info[:]  # it follows from the rest
        content = hashlib.sha256(bare.SerializeToString(deterministic=True))
        for name in sorted(self.weights):
            content.update(f"{name} {self.weights[name].dtype} {self.weights[name].shape}\n".encode())
            content.update(np.ascontiguousarray(self.weights[name]).data.cast("B") if self.weights[name].size else b"")
        return content.hexdigest()


def is_graph(path: Path) -> bool:
    """Whether a path is that of an ONNX file, by its name, or of a folder that `save_graph` wrote."""
    return path.suffix == ".onnx" if not os.path.isdir(path) else FORMAT.matches(path)


def input_names(path: str | os.PathLike[str]) -> list[str]:
    """The names of the inputs of an ONNX file. Raises `InputError` like `open_graph`."""
    model, _ = read_file(arguments.path("path", path))
    return [each.name for each in model.graph.input]


def open_graph(
    path: str | os.PathLike[str],
    shapes: Mapping[str, Sequence[int]] | None = None,
    batch_axis: str = "auto",
) -> Graph:
    """Open an ONNX file, with the files of weights beside it, or a folder that `save_graph` wrote.

    ``shapes``: shapes of inputs by name, for instance ``{"image": (1, 3, 224, 224)}``. An input needs one if the file leaves an axis other
    than the first free. The first axis stays free for samples if it is free in every input. ``batch_axis``: "none" if the first axis is
    not for samples; "0" to refuse a model without a batch axis; "auto", the default, which decides by the file.

    Needs the packages of the extra ``onnx``. Raises `InputError`, which names file, node, operator and opset, if the file is no ONNX model,
    is damaged, or names weights outside its folder; if an operator or opset is not known; or if shapes are not known or do not fit.
    """
    path = arguments.path("path", path)
    shapes = check_shapes(shapes)
    batch_axis = arguments.one_of("batch_axis", batch_axis, BATCH_AXES)
    file, name = path, path.stem
    if os.path.isdir(path):
        kept = stored(path)
        if shapes or batch_axis != "auto":
            raise InputError(f"{path}: is an imported model, whose {MANIFEST} has its shapes: expected no other shapes and no batch axis")
        file, name, batch_axis = path / kept.graph, kept.name, kept.batch_axis
        shapes = check_shapes(kept.shapes)
    elif not os.path.exists(path):
        raise InputError(f"{path}: no such file: expected an ONNX file, or a folder that 'fsd model import' made of one")
    model, weights = read_file(file)
    del model.graph.value_info[:]  # it may hold the sizes of the exporter's example
    inputs, no_batch = input_shapes(model, shapes, batch_axis, str(path))
    infer(with_shapes(model, inputs), str(path))
    fold(model, weights, str(path))
    if not model.graph.node:
        raise InputError(f"{path}: each output is an input or a constant: expected at least one node that computes an output")
    return Graph(model, weights, inputs, no_batch, name, str(path))
