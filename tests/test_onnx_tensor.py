"""Ranks that share a stage of an ONNX model: which nodes they divide, what they send, and models that are larger than a function."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

import onnx
from onnx import helper

import fsd_core.graph.submodel
from fsd_core import TensorResult, graph_stages, open_graph, run
from fsd_core.client.stages import stages_work
from fsd_core.errors import InputError
from fsd_core.graph.divide import Columns, divide, divisible
from fsd_core.partition.graph_stages import divide_graph
from onnx_models import FLOAT, INT64, answer, layers, made, residual, saved
from stage_runs import computed

RNG = np.random.default_rng(2)
MEMORY_MB = 118


def normal(*shape: int) -> Any:
    return (RNG.standard_normal(shape) / 4).astype(np.float32)


def every_kind() -> onnx.ModelProto:
    """A node of each kind that can be divided, and of some that stay whole."""
    inner = helper.make_graph(
        [helper.make_node("MatMul", ["g3", "w"], ["inner"], "inside")],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", FLOAT, None)],
    )
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"], "look"),  # (N, 4, 8)
        helper.make_node("MatMul", ["e", "w"], ["m"], "product"),
        helper.make_node("Conv", ["m", "k", "kb"], ["c"], "conv"),  # 4 channels of length 8
        helper.make_node("Conv", ["c", "grouped"], ["c2"], "by groups", group=2),
        helper.make_node("Flatten", ["c2"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "g", "gb"], ["g1"], "columns", transB=1),
        helper.make_node("Gemm", ["g1", "h", "one"], ["g2"], "one bias", alpha=0.5),
        helper.make_node("Gemm", ["g2", "w", "g2"], ["g3"], "moving bias"),
        helper.make_node("MatMul", ["g3", "column"], ["narrow"], "one column"),
        helper.make_node("If", ["true"], ["chosen"], "if", then_branch=inner, else_branch=inner),
        helper.make_node("MatMul", ["chosen", "w"], ["again"], "shared"),
        helper.make_node("Add", ["again", "narrow"], ["y"], "sum"),
    ]
    weights = {"table": normal(9, 8), "w": normal(8, 8), "k": normal(6, 4, 1), "kb": normal(6), "grouped": normal(4, 3, 1)}
    weights |= {"g": normal(7, 32), "gb": normal(7), "h": normal(7, 8), "one": normal(1), "column": normal(8, 1), "true": np.array(True)}
    return made(nodes, {"ids": ["N", 4]}, {"y": ["N", 8]}, weights, dtypes={"ids": INT64})


def test_what_ranks_can_divide(tmp_path: Path) -> None:
    path = saved(every_kind(), tmp_path / "m.onnx")
    graph, ids = open_graph(path), RNG.integers(-9, 9, (3, 4))
    names = {graph.model.graph.node[number].name: columns for number, columns in divisible(graph).items()}
    assert names == {
        "look": Columns(8, 2, {0: 1}),
        "product": Columns(8, 2, {1: 1}),
        "conv": Columns(6, 1, {1: 0, 2: 0}),
        "columns": Columns(7, 1, {1: 0, 2: 0}),
        "one bias": Columns(8, 1, {1: 1}),
        "shared": Columns(8, 1, {1: 1}),
    }
    expected = answer(path, {"ids": ids})[0]
    with ThreadPoolExecutor(2) as pool:
        for stages, tensor in ((1, 2), (2, 3), (1, 9)):
            work = stages_work(graph, {"ids": ids}, "auto", None, stages, tensor, None)
            np.testing.assert_allclose(computed(work, pool)["y"], expected, rtol=1e-4, atol=1e-5)


def test_parts_of_weights_are_views_and_made_once(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "one"),
        helper.make_node("MatMul", ["a", "w"], ["y"], "two"),
    ]
    model = made(nodes, {"x": ["N", 64]}, {"y": ["N", 64]}, {"w": normal(64, 64)})
    graph = open_graph(saved(model, tmp_path / "m.onnx", external=True))
    divided, pieces = divide(graph, {0: [0, 24, 64], 1: [0, 24, 64]})
    parts = [name for name in divided.weights if name != "w"]
    assert len(parts) == 2
    assert all(np.shares_memory(divided.weights[name], graph.weights["w"]) for name in parts)
    assert [(piece.number, piece.rank, piece.joins) for piece in pieces[:3]] == [(0, 0, False), (0, 1, False), (0, None, True)]


def test_ranks_get_equal_shares_and_the_first_one_the_whole_nodes(tmp_path: Path) -> None:
    graph = open_graph(saved(layers([200, 300, 300, 300, 40]), tmp_path / "m.onnx"))
    ranks = graph_stages(graph, 1, 3)
    whole = sum(rank.weight_bytes for rank in ranks)
    assert whole == graph_stages(graph, 1)[0].weight_bytes
    assert all(abs(rank.weight_bytes - whole / 3) < 0.02 * whole for rank in ranks)
    assert {rank.outputs[0] if rank.outputs else None for rank in ranks} == {"y", None}
    assert [section.step for section in ranks[1].sections] == [2, 4]  # two of four products are enough
    assert ranks[1].receives == {1: ["h1", "h2"]}
    assert divide_graph(graph, 1, 3).steps == 5


def test_an_axis_without_columns_is_refused(tmp_path: Path) -> None:
    path = saved(made([helper.make_node("Tanh", ["x"], ["y"], "t")], {"x": ["N", 4]}, {"y": ["N", 4]}), tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"tensor_parallel 2: .* has no MatMul, Gemm, Conv or Gather with weights of several columns: exp"):
        run(path, {"x": np.ones((2, 4), np.float32)}, tensor_parallel=2, engine="onnx", home=tmp_path)


@pytest.mark.parametrize("tensor", [1, 2])
def test_weights_that_are_inputs_give_the_same_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tensor: int) -> None:
    """As in a function without the memory for a copy of them."""
    monkeypatch.setattr(fsd_core.graph.submodel, "FED_BYTES", 0)
    with ThreadPoolExecutor(2) as pool:
        for model, shape in ((residual(), (3, 8, 8)), (layers([40, 90, 50, 70, 30]), (40,))):
            path, x = saved(model, tmp_path / "m.onnx"), RNG.random((3, *shape)).astype(np.float32)
            work = stages_work(open_graph(path, {"x": (1, *shape)}), {"x": x}, "auto", None, 1, tensor, None)
            assert sum(stage.fed_bytes for stage in work.stages) > 0
            np.testing.assert_allclose(computed(work, pool, lean=True)["y"], answer(path, {"x": x})[0], rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """A model of 64 MB, more than a function of `MEMORY_MB` holds beside its runtime, with input and answer."""
    path, x = saved(layers([2000] * 5), tmp_path_factory.mktemp("large") / "m.onnx", external=True), normal(4, 2000)
    return path, x, answer(path, {"x": x})[0]


@pytest.mark.parametrize("split", [{"pipeline_parallel": 2}, {"tensor_parallel": 2}])
def test_a_model_that_is_larger_than_a_function_runs_in_two(large: tuple[Path, Any, Any], tmp_path: Path, split: dict[str, int]) -> None:
    path, x, expected = large
    options: dict[str, Any] = {"engine": "onnx", "home": tmp_path, "settings": {"root": str(tmp_path / "root"), "memory_mb": MEMORY_MB}}
    with pytest.raises(
        InputError, match=rf"memory_mb = {MEMORY_MB}: the largest of 1 stages needs \d+ MB with one sample, \d+ MB more than"
    ):
        run(path, {"x": x}, workers=1, **options)
    result = run(path, {"x": x}, **split, **options)
    assert isinstance(result, TensorResult)
    assert result.check_values({"y": expected})["differing"] == 0
    for rank in result.ranks:
        assert 0.8 < rank["peak_bytes"] / rank["predicted_bytes"] < 1.0


def test_a_node_that_is_larger_than_a_function_is_named(large: tuple[Path, Any, Any]) -> None:
    path, x, _ = large
    work = stages_work(open_graph(path), {"x": x}, "auto", None, 4, None, None)
    from fsd_local.limits import functions

    with pytest.raises(
        InputError, match=r"; its node 'gemm4' alone has 15 MB of weights: expected ranks that share it \(tensor_parallel\)"
    ):
        work.batches(functions(8, 85, 900.0), "local")


def test_ranks_of_shared_stages_exchange_under_faults_and_are_replaced(tmp_path: Path) -> None:
    path, x = saved(residual(), tmp_path / "m.onnx"), RNG.random((5, 3, 8, 8)).astype(np.float32)
    faults = "duplicate=.2,reorder=.2,reject=.1,throttle=.1,lost_reply=.05,seed=1,kill=1@1"
    options: dict[str, Any] = {"engine": "onnx", "home": tmp_path, "settings": {"root": str(tmp_path / "root")}, "batch_size": 2}
    shared = {"pipeline_parallel": 2, "tensor_parallel": 2}
    for more, lost in (({**shared, "channel": "queue", "faults": faults}, [1]), ({"tensor_parallel": 3, "channel": "object"}, [])):
        found = run(path, {"x": x}, **options, **more)
        assert isinstance(found, TensorResult)
        assert found.check_values(dict(zip("y", answer(path, {"x": x}), strict=True)))["differing"] == 0
        assert [each["rank"] for each in found.recovered] == lost
    assert (found.layers, found.workers) == (3, 3)
    assert found.network.startswith("1 stage of 3 ranks each, 3 steps")
