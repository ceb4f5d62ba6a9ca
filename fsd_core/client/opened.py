"""Opens what a run computes: a model and its samples, or an ONNX model and its inputs, and decides which engine computes them."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from fsd_core.client.tensors import ONLY, Tensors, open_tensors
from fsd_core.common import arguments
from fsd_core.common.home import expanded
from fsd_core.errors import InputError
from fsd_core.graph import BATCH_AXES, Graph, input_names, is_graph, open_graph
from fsd_core.model.inputs import open_samples
from fsd_core.protocol.runconfig import ENGINES

if TYPE_CHECKING:
    from fsd_core.model import Model

__all__ = ["Opened", "open_run"]


@attrs.frozen(eq=False)
class Opened:
    """A model with its samples, scipy CSR float32 (samples, inputs); or an ONNX model with its inputs by name, for ONNX Runtime."""

    model: Model | Graph
    inputs: Any


def open_run(model: Any, inputs: Any, engine: str = "auto", batch_axis: str = "auto", checksums: bool = True) -> Opened:
    """Open the model and the inputs that `run` takes, unless they are open.

    With the engine auto, an ONNX model that is a chain of layers becomes a `Model`. ``checksums``: compare the content of a model's folder
    with its checksums. Raises `InputError` if one of them is wrong, or if the
    engine does not take them.
    """
    from fsd_core.model import Model, open_model
    from fsd_core.model.chain import chain

    engine = arguments.one_of("engine", engine, ("auto", *ENGINES))
    batch_axis = arguments.one_of("batch_axis", batch_axis, BATCH_AXES)
    if not isinstance(model, Graph) and not _names_graph(model):
        if engine == "onnx":
            wanted = "expected an ONNX file, or a folder that 'fsd model import' made of one"
            raise InputError(f"model {arguments.shown(model)}: the engine onnx computes only ONNX models: {wanted}")
        opened = model if isinstance(model, Model) else open_model(model, checksums)
        return Opened(opened, open_samples(inputs, opened))
    tensors = open_tensors(inputs)
    graph = model if isinstance(model, Graph) else _graph(model, tensors, batch_axis)
    if engine != "onnx":
        only = next(iter(tensors.values())) if tensors is not None and len(tensors) == 1 else inputs
        try:
            network = chain(graph)
        except InputError:
            if engine == "rows":
                raise
        else:
            images = isinstance(only, np.ndarray) and only.ndim > 2  # each sample becomes a row
            return Opened(network, open_samples(only.reshape(len(only), -1) if images else only, network))
    if tensors is None:
        raise InputError(
            f"inputs {arguments.shown(inputs)}: expected arrays by the names of the model's inputs, or an .npz or .npy with them"
        )
    return Opened(graph, tensors)


def _names_graph(model: Any) -> bool:
    if not isinstance(model, str | os.PathLike):
        return False
    with suppress(InputError, ValueError, OSError):  # not a path: `open_model` says what is wrong
        return is_graph(expanded(os.fspath(model)))
    return False


def _graph(model: Any, tensors: Tensors | None, batch_axis: str) -> Graph:
    """The ONNX model. If the file leaves axes free, they get the sizes of the inputs."""
    try:
        return open_graph(model, None, batch_axis)
    except InputError:
        if tensors is None or os.path.isdir(model):
            raise
        names = input_names(model) if ONLY in tensors else list(tensors)
        if len(names) != len(tensors):
            raise
    shapes = {}
    for name, array in zip(names, tensors.values(), strict=True):
        if not array.size:
            raise InputError(f"{model}: input {name!r} of shape {array.shape} is empty: expected at least one value")
        shapes[name] = array.shape
    try:
        return open_graph(model, shapes, batch_axis)
    except InputError as error:
        raise InputError(str(error).replace("--shape ", "the given input ")) from error
