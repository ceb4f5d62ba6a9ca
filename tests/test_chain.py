"""ONNX models that are chains of layers run like other models, with the answer of ONNX Runtime."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

import onnx
from onnx import helper
from scipy.sparse import load_npz

from fsd_core.cli import main
from fsd_core.errors import InputError
from fsd_core.model import Csr, open_model
from fsd_core.model.serial import serial
from onnx_models import answer, layers, made, saved


@st.composite
def chains(draw: st.DrawFn) -> onnx.ModelProto:
    """A chain of products, each followed by operators that `chain` folds, and an activation."""
    opset = draw(st.sampled_from([9, 11, 13, 17, 21]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    widths = draw(st.lists(st.integers(1, 12), min_size=2, max_size=5))
    nodes: list[Any] = []
    weights: dict[str, Any] = {}
    current = "x"

    def add(operator: str, *constants: Any, left: bool = False, **attributes: Any) -> None:
        nonlocal current
        names = []
        for array in constants:
            names.append("" if array is None else f"c{len(weights)}")
            if array is not None:
                weights[names[-1]] = np.asarray(array, np.float32)
        output = f"t{len(nodes)}"
        read = [*names, current] if left else [current, *names]
        nodes.append(helper.make_node(operator, read, [output], f"n{len(nodes)}", **attributes))
        current = output

    def clip(low: float, high: float) -> None:
        if opset >= 11:
            add("Clip", np.array(low), np.array(high))
        else:
            add("Clip", min=low, max=high)

    flat = draw(st.booleans())
    if flat:
        add("Flatten", axis=1)
    for number, (before, after) in enumerate(itertools.pairwise(widths), 1):
        matrix = rng.standard_normal((before, after)) / np.sqrt(before) * (rng.random((before, after)) < draw(st.sampled_from([0.2, 1.0])))
        if draw(st.booleans()):
            add("MatMul", matrix)
        else:
            turned = draw(st.booleans())
            bias = rng.standard_normal(draw(st.sampled_from([(after,), (1, after), (1,)])))
            add("Gemm", matrix.T if turned else matrix, bias, transB=int(turned), alpha=0.5, beta=2.0)
        for operator in draw(st.lists(st.sampled_from(["Add", "Sub", "Mul", "Div", "from", "norm", "Identity"]), max_size=3)):
            value = rng.uniform(0.5, 1.5, draw(st.sampled_from([(after,), (1, after), ()])))
            if operator == "norm":
                parts = [rng.uniform(0.5, 1.5, after) for _ in range(4)]
                add("BatchNormalization", *parts, epsilon=1e-3)
            elif operator == "from":
                add("Sub", value, left=True)
            elif operator == "Identity":
                add("Identity")
            else:
                add(operator, value, left=operator in ("Add", "Mul") and draw(st.booleans()))
        last = number == len(widths) - 1
        match draw(st.sampled_from(["", "Relu", "Sigmoid", "Tanh", "clip", "relu6", *(["Softmax"] if last else [])])):
            case "":
                pass
            case "clip":
                clip(0.0, 0.7)
            case "relu6":
                add("Relu")
                clip(-1.0, 0.5)
            case operator:
                add(operator, **({"axis": 1} if operator == "Softmax" else {}))
    nodes[-1].output[0] = "y"
    shape = ["N", 1, widths[0]] if flat else ["N", widths[0]]
    return made(nodes, {"x": shape}, {"y": ["N", widths[-1]]}, weights, opset=opset)


@settings(max_examples=50)
@given(model=chains(), seed=st.integers(0, 1000))
def test_a_chain_gives_the_answer_of_onnx_runtime(tmp_path_factory: pytest.TempPathFactory, model: onnx.ModelProto, seed: int) -> None:
    path = saved(model, tmp_path_factory.mktemp("chain") / "m.onnx")
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim][1:]
    x = np.random.default_rng(seed).standard_normal((5, *shape)).astype(np.float32)
    found = serial(open_model(path), x.reshape(5, -1)).toarray()
    np.testing.assert_allclose(found, answer(path, {"x": x})[0], rtol=1e-4, atol=1e-5)


def test_sparse_weights_stay_sparse(tmp_path: Path) -> None:
    model = open_model(saved(layers([64, 48, 10], dense=0.1), tmp_path / "m.onnx"))
    assert all(isinstance(layer.weights, Csr) for layer in model.layers)
    assert [layer.activation for layer in model.layers] == ["relu", "identity"]
    dense = open_model(saved(layers([64, 48, 10]), tmp_path / "m.onnx"))
    assert not any(isinstance(layer.weights, Csr) for layer in dense.layers)


@pytest.mark.parametrize(
    ("source", "way"),
    [
        ("file", ["--data-parallel", "2", "--pipeline-parallel", "2"]),
        ("external data", ["--tensor-parallel", "3"]),
        ("folder", ["--pipeline-parallel", "3"]),
    ],
)
def test_fsd_run_takes_an_onnx_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any, source: str, way: list[str]) -> None:
    monkeypatch.setenv("FSD_HOME", str(tmp_path / "home"))
    path = saved(layers([20, 16, 12, 6], activation="Tanh"), tmp_path / "m.onnx", external=source == "external data")
    model = path
    if source == "folder":
        model = tmp_path / "kept"
        assert main(["model", "import", str(path), str(model)]) == 0
    x = np.random.default_rng(5).standard_normal((30, 20)).astype(np.float32)
    np.savez(tmp_path / "input.npz", x=x)
    capfd.readouterr()
    words = ["run", str(model), str(tmp_path / "input.npz"), *way, "--partition", "block", "--channel", "queue", "--json"]
    wanted = answer(path, {"x": x})[0]
    np.save(tmp_path / "wanted.npy", wanted)
    assert main([*words, "--output", str(tmp_path / "out.npz"), "--expect", str(tmp_path / "wanted.npy")]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["layers"] == 3
    assert (found["expect"]["values"], found["expect"]["differing"]) == (180, 0)
    np.testing.assert_allclose(load_npz(tmp_path / "out.npz").toarray(), wanted, rtol=1e-4, atol=1e-5)
    if source == "folder":
        wanted[7, 3] += 0.5
        np.savez(tmp_path / "wanted.npz", wanted)
        assert main([*words, "--expect", str(tmp_path / "wanted.npz")]) == 1
        out, err = capfd.readouterr()
        assert json.loads(out)["expect"]["differing"] == 1
        assert "1 of 180 values differ, the largest difference is 0.5: expected differences of at most 1e-05 + 0.0001 x" in err
        assert main([*words, "--expect", str(tmp_path / "wanted.npz"), "--atol", "0.6"]) == 0


@pytest.mark.parametrize(
    ("wanted", "line"),
    [
        (np.ones((3, 2)), r"--expect .*wanted.npy: shape \(3, 2\): expected \(3, 6\), samples by outputs of the model"),
        (np.full((3, 6), np.nan), "--expect .*wanted.npy: .*expected a finite"),
        (None, "--expect .*wanted.npy: no such file"),
    ],
)
def test_an_expected_output_that_does_not_fit_is_refused_before_the_run(tmp_path: Path, capfd: Any, wanted: Any, line: str) -> None:
    path = saved(layers([20, 6]), tmp_path / "m.onnx")
    if wanted is not None:
        np.save(tmp_path / "wanted.npy", wanted)
    assert main(["run", str(path), "random:3", "--expect", str(tmp_path / "wanted.npy")]) == 2
    assert re.search(line, capfd.readouterr().err)


def branch() -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Add", ["a", "b"], ["y"], "skip"),
    ]
    return made(nodes, {"x": ["N", 3]}, {"y": ["N", 3]}, {"w": np.eye(3, dtype=np.float32)})


def one(operator: str, *more: str, **attributes: Any) -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node(operator, ["b", *more], ["y"], "odd", **attributes),
    ]
    return made(nodes, {"x": ["N", 3]}, {"y": None}, {"w": np.eye(3, dtype=np.float32), "c": np.ones(3, np.float32)})


@pytest.mark.parametrize(
    ("model", "line"),
    [
        (branch(), r"node 'skip' \(operator Add, opset 17\): it reads 'a', 'b', not only the result before it: expected a chain of MatMul"),
        (one("Exp"), r"node 'odd' \(operator Exp, opset 17\): another operator: expected a chain"),
        (one("Add", "c"), r"node 'odd' \(operator Add, opset 17\): it does not follow a product"),
        (one("Tanh"), "it does not follow a product"),
        (one("Cast", to=onnx.TensorProto.FLOAT16), "to another dtype than float32"),
        (made([helper.make_node("Relu", ["x"], ["y"], "r")], {"x": ["N", 3]}, {"y": ["N", 3]}), "it does not follow a product"),
        (made([helper.make_node("Identity", ["x"], ["y"], "r")], {"x": ["N", 3]}, {"y": ["N", 3]}), "'y' is not the result of a product"),
        (made([helper.make_node("Identity", ["x"], ["y"], "r")], {"x": [1, 3]}, {"y": [1, 3]}), "input 'x' has the fixed size 1 at axis 0"),
        (
            made([helper.make_node("Add", ["x", "z"], ["y"])], {"x": ["N", 3], "z": ["N", 3]}, {"y": ["N", 3]}),
            "2 inputs and 1 outputs",
        ),
    ],
)
def test_other_models_are_refused_with_the_first_node(tmp_path: Path, capfd: Any, model: onnx.ModelProto, line: str) -> None:
    for output in model.graph.output:
        if not output.type.tensor_type.HasField("shape"):
            output.type.tensor_type.shape.dim.add()
            output.type.tensor_type.shape.dim.add()
    if model.graph.node[-1].op_type == "Cast":
        model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=line):
        open_model(path)
    assert main(["run", str(path), "random:3"]) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)


def scaled(operator: str, *more: Any) -> onnx.ModelProto:
    """A product that an operator with constants follows."""
    names = [f"c{k}" for k in range(len(more))]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"], "first"), helper.make_node(operator, ["a", *names], ["y"], "odd")]
    constants = {name: np.asarray(values, np.float32) for name, values in zip(names, more, strict=True)}
    return made(nodes, {"x": ["N", 3]}, {"y": ["N", 3]}, {"w": 2 * np.eye(3, dtype=np.float32), **constants})


@pytest.mark.filterwarnings("error::RuntimeWarning")  # of numpy; another test may have left a file that warns when it is freed
@pytest.mark.parametrize(
    "model",
    [
        scaled("Div", [1, 0, 1]),
        scaled("BatchNormalization", [1] * 3, [0] * 3, [0] * 3, [1, -2, 1]),
        scaled("BatchNormalization", [1] * 3, [3e38] * 3, [-3e38] * 3, [1] * 3),
        scaled("Mul", [3e38] * 3),
    ],
    ids=["division by zero", "negative variance", "a bias above float32", "weights above float32"],
)
def test_constants_that_give_no_number_are_refused_without_a_warning(tmp_path: Path, model: onnx.ModelProto) -> None:
    with pytest.raises(InputError, match="finite") as caught:
        open_model(saved(model, tmp_path / "m.onnx"))
    assert str(caught.value).startswith(f"{tmp_path / 'm.onnx'}: ")
    assert "\n" not in str(caught.value)
