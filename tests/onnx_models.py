"""Small ONNX models for tests, and what ONNX Runtime computes with them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def made(
    nodes: Sequence[Any],
    inputs: Mapping[str, Sequence[Any]],
    outputs: Mapping[str, Sequence[Any]],
    weights: Mapping[str, NDArray[Any]] | None = None,
    *,
    opset: int = 17,
    dtypes: Mapping[str, int] | None = None,
    functions: Sequence[Any] = (),
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A model. ``inputs``, ``outputs``: shapes by name, of float32 unless ``dtypes`` has another one."""
    kinds = dtypes or {}

    def values(shapes: Mapping[str, Sequence[Any]]) -> list[Any]:
        return [helper.make_tensor_value_info(name, kinds.get(name, FLOAT), shape) for name, shape in shapes.items()]

    tensors = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(list(nodes), "tested", values(inputs), values(outputs), tensors)
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8, functions=list(functions), producer_name="tests")


def residual(opset: int = 17, width: int = 16) -> onnx.ModelProto:
    """Convolutions with a skip connection, then Reshape to a shape that the model computes, and Gemm. The size of the image is free."""
    rng = np.random.default_rng(1)
    weights = {
        "k1": rng.standard_normal((width, 3, 3, 3)).astype(np.float32) / 5,
        "k2": rng.standard_normal((width, width, 3, 3)).astype(np.float32) / 9,
        "w": rng.standard_normal((10, width)).astype(np.float32),
        "b": rng.standard_normal(10).astype(np.float32),
        "one": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Constant", [], ["rest"], value=numpy_helper.from_array(np.array([-1], np.int64))),
        helper.make_node("Conv", ["x", "k1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "k2"], ["c2"], "conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "r1"], ["sum"], "add"),
        helper.make_node("GlobalAveragePool", ["sum"], ["pooled"], "pool"),
        helper.make_node("Shape", ["pooled"], ["shape"], "shape"),
        helper.make_node("Gather", ["shape", "zero"], ["batch"], "gather"),
        helper.make_node("Concat", ["batch", "rest"], ["target"], "concat", axis=0),
        helper.make_node("Reshape", ["pooled", "target"], ["flat"], "reshape"),
        helper.make_node("Gemm", ["flat", "w", "b"], ["y"], "gemm", transB=1),
    ]
    weights["zero"] = np.array([0], np.int64)
    return made(nodes, {"x": ["N", 3, "H", "W"]}, {"y": ["N", 10]}, weights, opset=opset)


def layers(sizes: Sequence[int], opset: int = 17, activation: str = "Relu", seed: int = 0, dense: float = 1.0) -> onnx.ModelProto:
    """MatMul, Add and an activation for each layer; the last layer is a Gemm without one. ``dense``: the share of nonzero weights."""
    rng = np.random.default_rng(seed)
    weights, nodes, current = {}, [], "x"
    for k, (before, after) in enumerate(itertools.pairwise(sizes), 1):
        matrix = (rng.standard_normal((before, after)) / np.sqrt(before)).astype(np.float32)
        matrix[rng.random(matrix.shape) >= dense] = 0
        weights |= {f"w{k}": matrix, f"b{k}": rng.standard_normal(after).astype(np.float32)}
        if k == len(sizes) - 1:
            nodes.append(helper.make_node("Gemm", [current, f"w{k}", f"b{k}"], ["y"], f"gemm{k}"))
        else:
            nodes += [
                helper.make_node("MatMul", [current, f"w{k}"], [f"m{k}"], f"matmul{k}"),
                helper.make_node("Add", [f"m{k}", f"b{k}"], [f"a{k}"], f"add{k}"),
                helper.make_node(activation, [f"a{k}"], [f"h{k}"], f"act{k}"),
            ]
            current = f"h{k}"
    return made(nodes, {"x": ["N", sizes[0]]}, {"y": ["N", sizes[-1]]}, weights, opset=opset)


def saved(model: onnx.ModelProto, path: Path, *, external: bool = False) -> Path:
    """Write a model; with ``external``, its weights into ``weights.data`` beside it."""
    onnx.save_model(model, str(path), save_as_external_data=external, location="weights.data", size_threshold=0)
    return path


def answer(path: Path | bytes, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """What ONNX Runtime computes with a whole file."""
    source = str(path) if isinstance(path, Path) else path
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC  # others compute quantised weights less exactly
    found: list[NDArray[Any]] = onnxruntime.InferenceSession(source, options, ["CPUExecutionProvider"]).run(None, dict(inputs))
    return found
