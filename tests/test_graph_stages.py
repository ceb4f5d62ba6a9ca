"""Stages of ONNX models: where they are cut, what each receives, and that it is enough to compute what the whole model computes."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

import onnx
from onnx import TensorProto, helper

from fsd_core.cli import main
from fsd_core.client.stages import stages_work
from fsd_core.errors import InputError
from fsd_core.graph import open_graph
from fsd_core.graph.divide import divisible
from fsd_core.graph.figures import node_costs
from fsd_core.partition.graph_stages import graph_stages
from fsd_core.partition.stages import DENSE_SHARE, LOAD_BYTES_S, SLACK, WORK_S
from onnx_models import INT64, answer, layers, made, residual, saved
from stage_runs import computed


@st.composite
def graphs(draw: st.DrawFn) -> onnx.ModelProto:
    """Nodes that read any tensors before them: floats, int64 and bool; two inputs, several outputs, with or without a batch axis."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    width, batch = draw(st.integers(1, 5)), draw(st.sampled_from(["N", 2]))
    shape = [batch, width]
    kinds: dict[str, list[str]] = {"float": ["x"], "int": ["i"], "bool": []}
    weights: dict[str, Any] = {}
    nodes: list[Any] = []
    dtypes = {"i": INT64}

    def add(operator: str, kind: str, *read: str, **attributes: Any) -> None:
        name = f"t{len(nodes)}"
        nodes.append(helper.make_node(operator, read, [name], f"n{len(nodes)}", **attributes))
        kinds[kind].append(name)
        dtypes[name] = {"float": TensorProto.FLOAT, "int": INT64, "bool": TensorProto.BOOL}[kind]

    for _ in range(draw(st.integers(2, 14))):
        one, two = (draw(st.sampled_from(kinds["float"])) for _ in range(2))
        match draw(
            st.sampled_from(
                ["product", "shared", "Gemm", "look", "Add", "Tanh", "Less", "Where", "to int", "add int", "to float", "turned"]
            )
        ):
            case "product":
                weights[f"w{len(nodes)}"] = (rng.standard_normal((width, width)) / width).astype(np.float32)
                add("MatMul", "float", one, f"w{len(nodes)}")
            case "shared":
                weights["shared"] = np.full((width, width), 0.125, np.float32)  # exact: a sum in another order has the same bits
                add("MatMul", "float", one, "shared")
            case "Gemm":
                weights["g"] = (rng.standard_normal((width, width)) / width).astype(np.float32)
                bias = draw(st.sampled_from(["one", "many"]))
                weights[bias] = rng.standard_normal((1, width if bias == "many" else 1)).astype(np.float32)
                add("Gemm", "float", one, "g", bias, transB=1)
            case "look":
                weights["table"], weights["rows"] = rng.standard_normal((7, 3)).astype(np.float32), np.array(7)
                add("Mod", "int", draw(st.sampled_from(kinds["int"])), "rows")
                add("Gather", "float", "table", kinds["int"][-1])
                add("ReduceMean", "float", kinds["float"].pop(), axes=[-1], keepdims=0)  # what it read has three axes
            case "Add":
                add("Add", "float", one, two)
            case "Tanh":
                add("Tanh", "float", one)
            case "Less":
                add("Less", "bool", one, two)
            case "Where":
                if kinds["bool"]:
                    add("Where", "float", draw(st.sampled_from(kinds["bool"])), one, two)
            case "to int":
                add("Cast", "int", one, to=INT64)
            case "add int":
                add("Add", "int", *(draw(st.sampled_from(kinds["int"])) for _ in range(2)))
            case "to float":
                add("Cast", "float", draw(st.sampled_from(kinds["int"])), to=TensorProto.FLOAT)
            case "turned":  # depends on weights alone
                weights["q"], weights["scale"] = np.arange(width * width, dtype=np.int8).reshape(width, width), np.float32(0.01)
                add("DequantizeLinear", "float", "q", "scale")
                kinds["float"].pop()  # of another shape
                add("MatMul", "float", one, f"t{len(nodes) - 1}")
    add("Tanh", "float", kinds["float"][-1])
    every = [name for node in nodes for name in node.output if node.op_type not in ("DequantizeLinear", "Gather")]
    outputs = {every[-1], *draw(st.lists(st.sampled_from(every), max_size=2))}
    shapes = dict.fromkeys(sorted(outputs), shape)
    return made(nodes, {"x": shape, "i": shape}, shapes, {name: np.asarray(each) for name, each in weights.items()}, dtypes=dtypes)


@settings(max_examples=40)
@given(
    model=graphs(),
    stages=st.integers(1, 5),
    tensor=st.integers(1, 3),
    seed=st.integers(0, 99),
    samples=st.integers(1, 4),
    batch_size=st.integers(1, 4),
)
def test_the_ranks_compute_what_the_model_computes(
    tmp_path_factory: pytest.TempPathFactory,
    model: onnx.ModelProto,
    stages: int,
    tensor: int,
    seed: int,
    samples: int,
    batch_size: int,
) -> None:
    """Each rank has only what it reads of the model's inputs, and what it receives."""
    path = saved(model, tmp_path_factory.mktemp("graph") / "m.onnx")
    graph = open_graph(path)
    width = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    rng = np.random.default_rng(seed)
    samples = 2 if graph.no_batch else samples
    inputs = {"x": rng.standard_normal((samples, width)).astype(np.float32), "i": rng.integers(-3, 3, (samples, width))}
    count = min(stages, len(graph.model.graph.node))
    if tensor > 1 and not divisible(graph):
        with pytest.raises(InputError, match=f"tensor_parallel {tensor}: .* has no MatMul, Gemm, Conv or Gather with weights of several"):
            graph_stages(graph, count, tensor)
        tensor = 1
    work = stages_work(graph, inputs, "auto", None, count, tensor, None if graph.no_batch else batch_size)
    pieces = sum(stage.nodes for stage in work.stages)
    assert pieces == len(graph.model.graph.node) if tensor == 1 else pieces > len(graph.model.graph.node)
    assert len(work.stages) == count * tensor
    for stage in work.stages:
        received = [name for names in stage.receives.values() for name in names]
        assert stage.received_bytes == sum(work.division.graph.trial.tensors[name].bytes for name in received)
    expected = answer(path, inputs)
    with ThreadPoolExecutor(2) as pool:
        found = computed(work, pool)
    for ours, theirs in zip(found.values(), expected, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="expected at most"):
        graph_stages(graph, len(graph.model.graph.node) + 1)


def test_the_largest_stage_is_as_small_as_it_can_be(tmp_path: Path) -> None:
    graph = open_graph(saved(layers([40, 90, 10, 70, 30, 60, 20, 50, 10]), tmp_path / "m.onnx"))
    costs = node_costs(graph)
    seconds = [each.weight_bytes / LOAD_BYTES_S + (each.multiply_adds or 0) * DENSE_SHARE / WORK_S for each in costs]
    best = min(max(sum(seconds[:one]), sum(seconds[one:two]), sum(seconds[two:])) for one in range(1, 22) for two in range(one + 1, 22))
    ends = np.cumsum([stage.nodes for stage in graph_stages(graph, 3)])
    parts = np.split(np.array(seconds), ends[:-1])
    assert len(costs) == 22
    assert max(part.sum() for part in parts) <= SLACK * best


def test_what_a_stage_holds_and_receives(tmp_path: Path) -> None:
    graph = open_graph(saved(residual(), tmp_path / "m.onnx"), {"x": (1, 3, 8, 8)})
    first, second = graph_stages(graph, 2)
    image = 4 * 16 * 8 * 8
    assert (first.first, first.last, first.inputs, first.receives) == ("conv1", "conv1", ["x"], {})
    assert first.weight_bytes == 4 * 16 * 3 * 9
    assert first.live_bytes == 4 * 3 * 8 * 8 + image  # of x and conv1
    assert (second.inputs, second.receives, second.received_bytes) == ([], {1: ["c1"]}, image)
    assert second.live_bytes == 3 * image  # of relu1, conv2 and their sum
    whole = graph_stages(graph, 1)[0]
    assert whole.weight_bytes == first.weight_bytes + second.weight_bytes


def test_what_weights_alone_give_is_computed_by_each_stage_that_reads_it(tmp_path: Path) -> None:
    weights = {"q": np.ones((300, 300), np.int8), "scale": np.array(0.01, np.float32)}
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "scale"], ["d"], "dequantize"),  # too large to be folded
        helper.make_node("MatMul", ["x", "d"], ["a"], "one"),
        helper.make_node("MatMul", ["a", "d"], ["y"], "two"),
    ]
    graph = open_graph(saved(made(nodes, {"x": ["N", 300]}, {"y": ["N", 300]}, weights), tmp_path / "m.onnx"))
    cut = graph_stages(graph, 3)
    assert [stage.weight_bytes for stage in cut] == [0, 90_004, 90_004]
    assert [stage.receives for stage in cut] == [{}, {}, {2: ["a"]}]


def test_a_model_whose_sizes_are_not_known_is_not_cut(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gather", ["table", "x"], ["g"], "look", axis=0), helper.make_node("Tanh", ["g"], ["y"], "tanh")]
    model = made(nodes, {"x": ["N", 40]}, {"y": ["N", 40, 3]}, {"table": np.ones((1, 3), np.float32)}, dtypes={"x": INT64})
    with pytest.raises(
        InputError, match=r"m.onnx: cannot be cut into 2 stages: the size of the tensors that cross behind 'look' is not known: .*look"
    ):
        graph_stages(open_graph(saved(model, tmp_path / "m.onnx")), 2)


def test_show_prints_the_stages(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = saved(residual(), tmp_path / "m.onnx")
    words = ["model", "show", str(path), "--shape", "x=1x3x8x8", "--stages"]
    assert main([*words, "2"]) == 0
    out, _ = capfd.readouterr()
    assert "stage 2" in out
    assert "1 tensor from stage 1" in " ".join(out.split())
    assert main([*words, "2", "--json"]) == 0
    assert [each["first"] for each in json.loads(capfd.readouterr().out)["stages"]] == ["conv1", "relu1"]
    assert main([*words, "99"]) == 2
    assert "--stages 99: expected at most 10, the number of nodes" in capfd.readouterr().err
    assert main(["model", "show", "radixnet:1024:2", "--stages", "2"]) == 2
    assert "is no ONNX model: expected no --stages" in capfd.readouterr().err
