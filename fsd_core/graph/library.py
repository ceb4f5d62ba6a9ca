"""The packages onnx and onnxruntime: imported at their first use, with errors of one line."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsd_core.errors import InputError

__all__ = [
    "NATIVE", "RANDOM", "STANDARD", "attributes", "label", "library", "opsets", "reads", "refused", "runtime", "session", "subgraphs",
]  # fmt: skip

STANDARD = ("", "ai.onnx", "ai.onnx.ml")  # the domains whose operators the package onnx describes
RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
# The dtypes of tensors that numpy holds, by their number in ONNX.
NATIVE = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64",
    12: "uint32", 13: "uint64",
}  # fmt: skip


def library() -> Any:
    """The package onnx. Raises `InputError` if it is not installed."""
    try:
        import onnx
        import onnx.checker
        import onnx.inliner
        import onnx.numpy_helper
        import onnx.shape_inference
    except ImportError as error:
        raise _missing("onnx") from error
    return onnx


def runtime() -> Any:
    """The package onnxruntime. Raises `InputError` if it is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise _missing("onnxruntime") from error
    return onnxruntime


def _missing(package: str) -> InputError:
    return InputError(f"ONNX models: the package {package} is not installed: expected the extra onnx: pip install 'fsd-inference[onnx]'")


@contextmanager
def refused(where: str) -> Iterator[None]:
    """Within the block, turn every error into an `InputError` of one line that starts with ``where``. The packages raise many classes."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        text = " ".join(str(error).replace("==> Context:", ";").split()).replace(" ;", ";") or type(error).__name__
        raise InputError(f"{where}: {text}") from error


def session(model: Any, weights: Mapping[str, NDArray[Any]], outputs: list[str]) -> Any:
    """An ``onnxruntime.InferenceSession`` of ``model`` that returns the tensors ``outputs``.

    ``weights``: the arrays of those initializers whose data is not in ``model``. Raises what onnxruntime raises.
    """
    ort = runtime()
    changed = type(model)()
    changed.CopyFrom(model)
    del changed.graph.output[:]
    for name in outputs:
        changed.graph.output.add().name = name
    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors are raised: no lines beside them
    options.intra_op_num_threads = min(4, os.cpu_count() or 1)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.disable_prepacking", "1")  # which would hold the weights a second time
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    used = [each.name for each in changed.graph.initializer if each.name in weights]
    values = [ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(weights[name])) for name in used]
    if used:
        options.add_external_initializers(used, values)
    return ort.InferenceSession(changed.SerializeToString(), options, providers=["CPUExecutionProvider"])


def label(model: Any, number: int, node: Any) -> str:
    """A node for an error line: its name, else its number from 1; its operator; and the operator's opset."""
    name = f"node {node.name!r}" if node.name else f"node {number + 1}"
    operator = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
    return f"{name} (operator {operator}, opset {opsets(model).get(node.domain, '?')})"


def opsets(model: Any) -> dict[str, int]:
    """The version of each domain of operators. The domain "ai.onnx" is the same as ""."""
    return {"" if each.domain == "ai.onnx" else each.domain: each.version for each in model.opset_import}


def attributes(node: Any) -> dict[str, Any]:
    """The attributes of a node by name, as Python values."""
    onnx = library()
    return {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}


def subgraphs(node: Any) -> Iterator[Any]:
    """The graphs inside a node: the branches of If, the bodies of Loop and Scan."""
    for each in node.attribute:
        if each.HasField("g"):
            yield each.g
        yield from each.graphs


def reads(node: Any) -> list[str]:
    """The names of the tensors that a node reads, also those that its subgraphs take from outside."""
    found = [name for name in node.input if name]
    for graph in subgraphs(node):
        own = {each.name for each in (*graph.input, *graph.initializer)}
        for inner in graph.node:
            found += [name for name in reads(inner) if name not in own]
            own |= set(inner.output)
        found += [each.name for each in graph.output if each.name not in own]
    return list(dict.fromkeys(found))
