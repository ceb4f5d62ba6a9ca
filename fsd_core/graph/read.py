"""Reads an ONNX file, and checks its parts, the files of weights that it names, and the operators that it uses.

Large weights leave the model's protobuf message, which can hold at most 2 GiB: they become arrays. Weights in a separate file are mapped
into memory.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsd_core.common.files import open_regular
from fsd_core.errors import InputError
from fsd_core.graph.library import NATIVE, STANDARD, label, library, opsets, refused, subgraphs

__all__ = ["LARGE_BYTES", "WEIGHTS_FILE", "add_weights", "outside", "read_file"]

LARGE_BYTES = 1024  # weights of this size leave the message; smaller ones may be shapes, which shape inference reads
WEIGHTS_FILE = "weights.bin"
_MESSAGE_BYTES = 2**31 - 1
_INLINED_NODES, _CALLS_DEEP = 10**6, 100


def read_file(path: Path) -> tuple[Any, dict[str, NDArray[Any]]]:
    """Read the ``ModelProto`` of a file, without functions that the model defines, and its large weights by name.

    The file passes the checker of onnx. Raises `InputError` of one line that names the file, and the node, the tensor or the file of
    weights where one is wrong.
    """
    onnx = library()
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read() if size <= _MESSAGE_BYTES else b""
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    if size > _MESSAGE_BYTES:
        raise InputError(f"{path}: {size} bytes: expected at most 2 GiB in one ONNX file; larger models keep their weights in other files")
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's errors have no common class that onnx exports
        raise InputError(f"{path}: is not an ONNX model, or is damaged: {error}") from error
    where, folder = str(path), path.parent
    if not model.HasField("graph") or not model.graph.node or not model.ir_version:
        raise InputError(f"{path}: is not an ONNX model, or is damaged: expected a graph with nodes and a version")
    _check_versions(onnx, model, where)
    _check_values(model, where)
    _check_calls(model, where)
    for tensor in _tensors(model, where):
        _check_tensor(tensor, folder, where)
    with refused(where):
        onnx.checker.check_model(os.fspath(path))  # by its path: the weights may be larger than a message
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
    _check_operators(model, model.graph, where)
    del model.training_info[:]
    _constants_to_weights(model)
    return model, _take_out(model, folder, where)


def outside(name: str, array: NDArray[Any], data_type: int, start: int) -> Any:
    """A ``TensorProto`` whose data is in the file of weights, from byte ``start`` on."""
    tensor = library().TensorProto(name=name, dims=array.shape, data_type=data_type, data_location=1)
    for key, value in (("location", WEIGHTS_FILE), ("offset", str(start)), ("length", str(array.nbytes))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def add_weights(model: Any, weights: dict[str, NDArray[Any]], name: str, value: NDArray[Any]) -> None:
    """Add a weight to ``model``; the data of a large one goes into ``weights``."""
    onnx = library()
    if value.nbytes >= LARGE_BYTES:
        weights[name] = value
        tensor = outside(name, value, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), 0)
    else:
        tensor = onnx.numpy_helper.from_array(value, name)
    model.graph.initializer.add().CopyFrom(tensor)


def _check_versions(onnx: Any, model: Any, where: str) -> None:
    found = (("opset", opsets(model).get("", 0), onnx.defs.onnx_opset_version()), ("ir_version", model.ir_version, onnx.IR_VERSION))
    for what, version, newest in found:
        if version > newest:
            raise InputError(f"{where}: {what} {version}: expected at most {newest}, the newest that the installed package onnx knows")


def _check_values(model: Any, where: str) -> None:
    """Raise `InputError` for an input or output without a type or a shape. The error of the checker would not name it."""
    for kind, values in (("input", model.graph.input), ("output", model.graph.output)):
        for each in values:
            of = each.type.WhichOneof("value")
            if of is None or (of == "tensor_type" and not each.type.tensor_type.HasField("shape")):
                lacks = "type" if of is None else "shape"
                raise InputError(f"{where}: {kind} {each.name!r} has no {lacks} in the file: expected one, with free axes where it varies")


def _check_calls(model: Any, where: str) -> None:
    """Raise `InputError` if inlining the functions would make too many nodes, or if a function calls itself.

    Each function may call another one twice: a few functions can stand for billions of nodes.
    """
    calls: dict[tuple[str, str], Counter[tuple[str, str]]] = {}
    for function in model.functions:  # two of one name may differ in their overload: they count as one that does what both do
        calls.setdefault(_operator(function.domain, function.name), Counter()).update(_operators(function.node))
    known: dict[tuple[str, str], tuple[int, int]] = {}  # of a function: its nodes when inlined, and how deep its calls are

    def inlined(called: Counter[tuple[str, str]], above: int) -> tuple[int, int]:
        nodes, deep = 0, 0
        for each, times in called.items():
            if each in calls and each not in known and above < _CALLS_DEEP:
                known[each] = inlined(calls[each], above + 1)
            size, below = known.get(each, (1, _CALLS_DEEP if each in calls else -1))
            nodes, deep = nodes + times * size, max(deep, below + 1)
        if deep > _CALLS_DEEP:
            raise InputError(f"{where}: functions that call each other more than {_CALLS_DEEP} deep, or themselves: expected fewer calls")
        return nodes, deep

    if model.functions and inlined(Counter(_operators(model.graph.node)), 0)[0] > _INLINED_NODES:
        raise InputError(f"{where}: functions that become more than {_INLINED_NODES} nodes when inlined: expected a model with fewer")


def _operator(domain: str, name: str) -> tuple[str, str]:
    return "" if domain == "ai.onnx" else domain, name


def _operators(nodes: Any) -> Iterator[tuple[str, str]]:
    """Domain and name of the operator or function of each node, also in subgraphs."""
    for node in nodes:
        yield _operator(node.domain, node.op_type)
        for graph in subgraphs(node):
            yield from _operators(graph.node)


def _check_operators(model: Any, graph: Any, where: str) -> None:
    """Raise `InputError` for an operator that neither ONNX nor ONNX Runtime defines."""
    for number, node in enumerate(graph.node):
        if node.domain not in (*STANDARD, "com.microsoft"):
            raise InputError(f"{where}: {label(model, number, node)}: a custom operator: expected operators of ONNX")
        for inner in subgraphs(node):
            _check_operators(model, inner, where)


def _tensors(model: Any, where: str) -> Iterator[Any]:
    """Each tensor of a model, also those in attributes, in subgraphs and in functions."""
    yield from _tensors_of_graph(model.graph, where)
    for function in model.functions:
        yield from _tensors_of_nodes(function.node, where)


def _tensors_of_graph(graph: Any, where: str) -> Iterator[Any]:
    if graph.sparse_initializer:
        raise InputError(f"{where}: weights {graph.sparse_initializer[0].values.name!r} are a sparse tensor: expected dense weights")
    yield from graph.initializer
    yield from _tensors_of_nodes(graph.node, where)


def _tensors_of_nodes(nodes: Any, where: str) -> Iterator[Any]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
        for graph in subgraphs(node):
            yield from _tensors_of_graph(graph, where)


def _check_tensor(tensor: Any, folder: Path, where: str) -> None:
    """Check the size of a tensor's data against its shape, and the file that it is in."""
    what = f"{where}: weights {tensor.name!r}" if tensor.name else f"{where}: a constant"
    if min(tensor.dims, default=0) < 0:
        raise InputError(f"{what}: shape {list(tensor.dims)}: expected sizes of at least 0")
    size = math.prod(tensor.dims) * np.dtype(NATIVE[tensor.data_type]).itemsize if tensor.data_type in NATIVE else None
    if tensor.data_location == tensor.EXTERNAL:
        _, start, length = _place(tensor, folder, what)
        if size is not None and length != size:
            raise InputError(f"{what}: {length} bytes from byte {start} on: expected {size} for its shape {list(tensor.dims)}")
    elif tensor.HasField("raw_data") and size is not None and len(tensor.raw_data) != size:
        raise InputError(f"{what}: {len(tensor.raw_data)} bytes: expected {size} for its shape {list(tensor.dims)}")


def _place(tensor: Any, folder: Path, what: str) -> tuple[Path, int, int]:
    """The file with the data of a tensor, and the first byte and the number of bytes in it.

    Raises `InputError` unless the file is a regular file below ``folder``, also after following links, and has all these bytes.
    """
    entries = {each.key: each.value for each in tensor.external_data}
    location = entries.get("location", "")
    numbers = [entries.get(key, "") for key in ("offset", "length")]
    if not all(each == "" or (each.isascii() and each.isdigit() and len(each) < 19) for each in numbers):
        raise InputError(f"{what}: offset {numbers[0]!r}, length {numbers[1]!r}: expected whole numbers of at least 0")
    start = int(numbers[0] or 0)
    relative = PurePosixPath(location)
    if not location or "\0" in location or "\\" in location or relative.is_absolute() or ".." in relative.parts:
        raise InputError(f"{what}: are in file {location!r}: expected a file in the folder of the model, {folder}")
    file = folder / relative
    if not os.path.isfile(file):
        state = "is not a file" if os.path.lexists(file) else "does not exist"
        raise InputError(f"{what}: the file of weights {file} {state}: expected it beside the model, as the exporter wrote it")
    if not file.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{what}: the file of weights {file} is a link to {file.resolve()}: expected a file in the folder of the model")
    size = file.stat().st_size
    length = int(numbers[1]) if numbers[1] else size - start
    if start + length > size or length < 0:
        raise InputError(f"{what}: bytes {start} to {start + length} of {file}, which has {size} bytes: expected a file of that size")
    return file, start, length


def _constants_to_weights(model: Any) -> None:
    """Make weights of the Constant nodes that hold a tensor. If they stayed nodes, workers would send their data to each other."""
    kept = []
    for node in model.graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx") and node.attribute and node.attribute[0].name == "value":
            tensor = model.graph.initializer.add()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
        else:
            kept.append(node)
    if len(kept) < len(model.graph.node):
        nodes = [type(node).FromString(node.SerializeToString()) for node in kept]
        del model.graph.node[:]
        model.graph.node.extend(nodes)


def _take_out(model: Any, folder: Path, where: str) -> dict[str, NDArray[Any]]:
    """Replace large weights of the graph by `outside`, and return their arrays by name. The message then holds all other data."""
    weights: dict[str, NDArray[Any]] = {}
    names = {each.name for each in model.graph.initializer}
    kept = [each for each in model.graph.input if each.name not in names]  # weights may be inputs that have a default: they are constants
    if len(kept) < len(model.graph.input):
        inputs = [type(each).FromString(each.SerializeToString()) for each in kept]
        del model.graph.input[:]
        model.graph.input.extend(inputs)
    for tensor in model.graph.initializer:
        large = tensor.data_type in NATIVE and math.prod(tensor.dims) * np.dtype(NATIVE[tensor.data_type]).itemsize >= LARGE_BYTES
        if large:
            with refused(f"{where}: weights {tensor.name!r}"):
                array = _array(tensor, folder)
            weights[tensor.name] = array
            tensor.CopyFrom(outside(tensor.name, array, tensor.data_type, 0))
    for tensor in _tensors(model, where):
        if tensor.data_location == tensor.EXTERNAL and tensor.name not in weights:
            file, start, length = _place(tensor, folder, where)
            with file.open("rb") as data:
                data.seek(start)
                tensor.raw_data = data.read(length)
            tensor.data_location = tensor.DEFAULT
            del tensor.external_data[:]
    return weights


def _array(tensor: Any, folder: Path) -> NDArray[Any]:
    """The weights of a tensor: mapped if they are in another file."""
    dtype, shape = np.dtype(NATIVE[tensor.data_type]), tuple(tensor.dims)
    if tensor.data_location == tensor.EXTERNAL:
        file, start, _ = _place(tensor, folder, tensor.name)
        return np.memmap(file, dtype.newbyteorder("<"), "r", start, shape)
    found: NDArray[Any] = library().numpy_helper.to_array(tensor)
    return found.reshape(shape)
