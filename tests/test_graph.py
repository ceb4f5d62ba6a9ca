"""ONNX models: what a file may hold, which line refuses it, how constants are folded, and what the figures say."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

import onnx
from onnx import helper, numpy_helper

from fsd_core.cli import main
from fsd_core.errors import InputError
from fsd_core.graph import describe_graph, open_graph, save_graph
from fsd_core.graph.library import session
from fsd_core.graph.read import read_file
from onnx_models import FLOAT, INT64, answer, layers, made, residual, saved

SHAPES = {"x": (1, 3, 8, 8)}


def run_again(graph: Any, inputs: dict[str, Any]) -> list[Any]:
    """What the folded graph computes."""
    names = [each.name for each in graph.outputs]
    return session(graph.model, graph.weights, names).run(None, inputs)


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 21])
@pytest.mark.parametrize("external", [False, True], ids=["one file", "external data"])
def test_a_folded_model_computes_what_the_file_computes(tmp_path: Path, opset: int, external: bool) -> None:
    path = saved(residual(opset), tmp_path / "m.onnx", external=external)
    graph = open_graph(path, SHAPES)
    x = np.random.default_rng(3).random((4, 3, 8, 8), np.float32)
    np.testing.assert_allclose(run_again(graph, {"x": x})[0], answer(path, {"x": x})[0], rtol=1e-5, atol=1e-6)
    assert graph.no_batch is None
    assert [each.shape for each in graph.inputs] == [(None, 3, 8, 8)]
    assert "Constant" not in {node.op_type for node in graph.model.graph.node}


@pytest.mark.parametrize("external", [False, True], ids=["one file", "external data"])
def test_an_imported_folder_opens_to_the_same_model_without_shapes(tmp_path: Path, external: bool) -> None:
    graph = open_graph(saved(residual(), tmp_path / "m.onnx", external=external), SHAPES)
    save_graph(graph, tmp_path / "kept")
    save_graph(graph, tmp_path / "kept")  # replaces what it made
    again = open_graph(tmp_path / "kept")
    assert (again.digest, again.inputs, again.no_batch, again.name) == (graph.digest, graph.inputs, graph.no_batch, "m")
    assert describe_graph(again)["cuts"] == describe_graph(graph)["cuts"]
    x = np.random.default_rng(4).random((2, 3, 8, 8), np.float32)
    manifest = json.loads((tmp_path / "kept" / "model.json").read_text())
    found = answer(tmp_path / "kept" / manifest["graph"], {"x": x})  # other programs can open it
    np.testing.assert_allclose(found[0], run_again(graph, {"x": x})[0], rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="expected no other shapes"):
        open_graph(tmp_path / "kept", SHAPES)


@pytest.mark.parametrize("what", ["graph", "weights"])
def test_a_damaged_imported_folder_is_refused(tmp_path: Path, what: str) -> None:
    save_graph(open_graph(saved(residual(), tmp_path / "m.onnx"), SHAPES), tmp_path / "kept")
    file = tmp_path / "kept" / json.loads((tmp_path / "kept" / "model.json").read_text())[what]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match=f"{file.name}: corrupt: its SHA-256 is"):
        open_graph(tmp_path / "kept")


def test_what_fsd_did_not_make_is_not_replaced(tmp_path: Path) -> None:
    graph = open_graph(saved(residual(), tmp_path / "m.onnx"), SHAPES)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("mine")
    with pytest.raises(InputError, match="not an ONNX model that fsd imported"):
        save_graph(graph, tmp_path / "mine")
    assert [each.name for each in (tmp_path / "mine").iterdir()] == ["notes"]


def test_local_functions_are_inlined(tmp_path: Path) -> None:
    function = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"], "add")], [helper.make_opsetid("", 17)]
    )
    nodes = [helper.make_node("Twice", ["x"], ["d"], "twice", domain="mine"), helper.make_node("Relu", ["d"], ["y"], "relu")]
    model = made(nodes, {"x": ["N", 3]}, {"y": ["N", 3]}, functions=[function], domains=["mine"])
    graph = open_graph(saved(model, tmp_path / "m.onnx"))
    assert [node.op_type for node in graph.model.graph.node] == ["Add", "Relu"]
    assert run_again(graph, {"x": np.ones((1, 3), np.float32)})[0].tolist() == [[2, 2, 2]]


def calling(calls: list[list[int]]) -> onnx.ModelProto:
    """A model whose graph calls function 0. Function k calls those in ``calls[k]`` one after the other; it adds if there are none."""
    functions = []
    for k, called in enumerate(calls):
        nodes = [helper.make_node(f"F{each}", [f"t{at}"], [f"t{at + 1}"], domain="mine") for at, each in enumerate(called)]
        nodes = nodes or [helper.make_node("Add", ["t0", "t0"], ["t1"])]
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
        functions.append(helper.make_function("mine", f"F{k}", ["t0"], [f"t{max(1, len(called))}"], nodes, imports))
    node = helper.make_node("F0", ["x"], ["y"], domain="mine")
    return made([node], {"x": ["N", 3]}, {"y": ["N", 3]}, functions=functions, domains=["mine"])


def test_functions_that_call_functions_are_inlined(tmp_path: Path) -> None:
    graph = open_graph(saved(calling([[1, 1], [2, 2], []]), tmp_path / "m.onnx"))
    assert [node.op_type for node in graph.model.graph.node] == ["Add"] * 4


@pytest.mark.parametrize(
    ("calls", "line"),
    [
        ([*([k + 1, k + 1] for k in range(29)), []], "functions that become more than 1000000 nodes"),
        ([*([k + 1] for k in range(200)), []], "functions that call each other more than 100 deep"),
        ([[100, 50, 1], *([k + 1] for k in range(1, 150)), []], "functions that call each other more than 100 deep"),
        ([[0]], "functions that call each other more than 100 deep"),
        ([[1], [0]], "functions that call each other more than 100 deep"),
    ],
    ids=["doubling", "deep", "deep, short ways first", "itself", "each other"],
)
def test_functions_that_explode_are_refused(tmp_path: Path, calls: list[list[int]], line: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(calling(calls).SerializeToString())
    with pytest.raises(InputError, match=line) as caught:
        open_graph(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "expected" in str(caught.value)


def test_constants_that_weights_alone_give_are_folded_unless_that_inflates_the_model(tmp_path: Path) -> None:
    weights = {
        "w": np.arange(600, dtype=np.float32).reshape(20, 30),
        "q": np.ones((300, 400), np.int8),
        "scale": np.array(0.5, np.float32),
        "zero": np.array(0, np.int8),
    }
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"], "turn"),  # (30, 20)
        helper.make_node("MatMul", ["x", "t"], ["m"], "m"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"], "dequantize"),  # four times as large
        helper.make_node("MatMul", ["z", "d"], ["n"], "n"),
        helper.make_node("Identity", ["w"], ["unused"], "unused"),
    ]
    model = made(nodes, {"x": ["N", 30], "z": ["N", 300]}, {"m": ["N", 20], "n": ["N", 400]}, weights)
    graph = open_graph(saved(model, tmp_path / "m.onnx"))
    assert [node.name for node in graph.model.graph.node] == ["m", "dequantize", "n"]
    assert set(graph.weights) == {"t", "q"}
    found = describe_graph(graph)
    assert found["cuts"][1]["tensors"] == []  # what dequantize makes depends on no input: a stage computes it


def test_the_figures_of_a_small_model(tmp_path: Path) -> None:
    found = describe_graph(open_graph(saved(residual(), tmp_path / "m.onnx"), SHAPES))
    by_name = {row["operator"]: row for row in found["types"]}
    image = 8 * 8
    assert by_name["Conv"] == {
        "operator": "Conv",
        "nodes": 2,
        "multiply_adds": image * 16 * 3 * 9 + image * 16 * 16 * 9,
        "weight_bytes": 4 * (16 * 3 * 9 + 16 * 16 * 9),
        "output_bytes": 2 * 4 * 16 * image,
    }
    assert by_name["Gemm"]["multiply_adds"] == 16 * 10
    assert found["multiply_adds"] == by_name["Conv"]["multiply_adds"] + 160
    assert found["weights"]["bytes"] == 4 * (16 * 3 * 9 + 16 * 16 * 9 + 160 + 10) + 8 + 8  # and two numbers of int64
    assert found["largest"]["name"] == "conv2"
    assert (found["batch_axis"], found["uncounted"]) == (0, 0)
    crossing = {cut["name"]: (sorted(cut["tensors"]), cut["bytes"]) for cut in found["cuts"]}
    assert crossing["conv1"] == (["c1"], 4 * 16 * image)
    assert crossing["relu1"] == (["r1"], 4 * 16 * image)
    assert crossing["conv2"] == (["c2", "r1"], 2 * 4 * 16 * image)  # the skip connection crosses too
    assert crossing["pool"] == (["pooled"], 4 * 16)
    assert crossing["reshape"] == (["flat"], 4 * 16)
    assert json.loads(json.dumps(found)) == found


def test_bytes_and_work_of_recurrent_and_transposed_layers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {"w": rng.random((1, 16, 3), np.float32), "r": rng.random((1, 16, 4), np.float32), "k": rng.random((3, 5, 2, 2), np.float32)}
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r"], ["h", "last"], "lstm", hidden_size=4),
        helper.make_node("ConvTranspose", ["image", "k"], ["big"], "up", strides=[2, 2]),
    ]
    model = made(nodes, {"x": [7, 2, 3], "image": [1, 3, 4, 4]}, {"last": [1, 2, 4], "big": [1, 5, 8, 8]}, weights)
    found = describe_graph(open_graph(saved(model, tmp_path / "m.onnx")))
    work = {row["operator"]: row["multiply_adds"] for row in found["types"]}
    assert work == {"LSTM": 7 * 2 * (16 * 3 + 16 * 4), "ConvTranspose": 3 * 4 * 4 * 5 * 2 * 2}
    assert found["no_batch"] == "input 'x' has the fixed size 7 at axis 0"
    assert found["cuts"][0]["tensors"] == []  # an output does not cross


def test_captures_of_a_branch_are_its_inputs(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("t", FLOAT, ["N", 3])
    then = helper.make_graph([helper.make_node("Add", ["doubled", "w"], ["t"])], "then", [], [value])
    other = helper.make_graph([helper.make_node("Sub", ["doubled", "w"], ["t"])], "else", [], [value])
    nodes = [
        helper.make_node("Add", ["x", "x"], ["doubled"], "double"),
        helper.make_node("ReduceSum", ["x"], ["sum"], "sum", keepdims=0),
        helper.make_node("Cast", ["sum"], ["positive"], "cast", to=onnx.TensorProto.BOOL),
        helper.make_node("If", ["positive"], ["y"], "if", then_branch=then, else_branch=other),
    ]
    model = made(nodes, {"x": ["N", 3]}, {"y": ["N", 3]}, {"w": np.ones((1, 3), np.float32)})
    graph = open_graph(saved(model, tmp_path / "m.onnx"))
    found = describe_graph(graph)
    assert [sorted(cut["tensors"]) for cut in found["cuts"]] == [["doubled"], ["doubled", "sum"], ["doubled", "positive"]]
    assert "w" in {each.name for each in graph.model.graph.initializer}
    assert found["uncounted"] == 1


# the batch axis


def test_a_sum_over_samples_has_no_batch_axis(tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceMean", ["x"], ["m"], "mean", axes=[0], keepdims=1), helper.make_node("Sub", ["x", "m"], ["y"], "sub")]
    path = saved(made(nodes, {"x": ["N", 3]}, {"y": ["N", 3]}), tmp_path / "m.onnx")
    found = describe_graph(open_graph(path))
    assert (found["batch_axis"], found["no_batch"]) == (None, "output 'y' of two samples together differs from those of each alone")


def test_an_output_without_samples_has_no_batch_axis(tmp_path: Path) -> None:
    path = saved(made([helper.make_node("ReduceSum", ["x"], ["y"], "sum", keepdims=0)], {"x": ["N", 3]}, {"y": []}), tmp_path / "m.onnx")
    assert describe_graph(open_graph(path))["no_batch"] == "output 'y' has shape () for one sample, and () for two"


def test_the_first_axis_may_be_time(tmp_path: Path) -> None:
    path = saved(layers([4, 3, 2]), tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"input 'x': the size of axis 0 \('N'\) is free: expected it with --shape x=SIZE0x4"):
        open_graph(path, batch_axis="none")
    graph = open_graph(path, {"x": (9, 4)}, "none")
    found = describe_graph(graph)
    assert (found["inputs"][0]["shape"], found["batch_axis"]) == ([9, 4], None)
    save_graph(graph, tmp_path / "kept")
    assert open_graph(tmp_path / "kept").inputs == graph.inputs


def test_a_model_that_refuses_the_trial_is_still_shown(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gather", ["table", "x"], ["y"], "look", axis=0)]
    weights = {"table": np.ones((1, 300), np.float32)}  # token 1 is out of range
    model = made(nodes, {"x": ["N", 40]}, {"y": ["N", 40, 300]}, weights, dtypes={"x": INT64})
    found = describe_graph(open_graph(saved(model, tmp_path / "m.onnx")))
    assert "look" in found["trial"]
    assert (found["largest"]["output_bytes"], found["largest"]["weight_bytes"]) == (None, 1200)


# what is refused

RELU = [helper.make_node("Relu", ["x"], ["y"], "relu")]


def relu(**more: Any) -> onnx.ModelProto:
    return made(RELU, {"x": ["N", 3]}, {"y": ["N", 3]}, **more)


def unsorted() -> onnx.ModelProto:
    return made([helper.make_node("Relu", ["q"], ["y"], "late"), helper.make_node("Neg", ["x"], ["q"])], {"x": ["N", 3]}, {"y": ["N", 3]})


def with_text_input() -> onnx.ModelProto:
    return made([helper.make_node("Identity", ["x"], ["y"])], {"x": [3]}, {"y": [3]}, dtypes=dict.fromkeys("xy", onnx.TensorProto.STRING))


def huge(size: int, dtype: int = FLOAT) -> onnx.ModelProto:
    return made([helper.make_node("Neg", ["x"], ["y"])], {"x": ["N", size]}, {"y": ["N", size]}, dtypes=dict.fromkeys("xy", dtype))


def misfit() -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "product")]
    return made(nodes, {"x": ["N", 3]}, {"y": ["N", 4]}, {"w": np.ones((5, 4), np.float32)})


def sparse() -> onnx.ModelProto:
    model = relu()
    values, indices = numpy_helper.from_array(np.ones(1, np.float32), "s"), numpy_helper.from_array(np.zeros(1, np.int64), "i")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [3]))
    return model


def short() -> onnx.ModelProto:
    model = layers([4, 3, 2])
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]
    return model


REFUSED = [
    (relu(opset=99), {}, "opset 99: expected at most"),
    (made([helper.make_node("Nowhere", ["x"], ["y"], "n")], {"x": [3]}, {"y": [3]}), {}, "Nowhere"),
    (
        made([helper.make_node("Mine", ["x"], ["y"], "n", domain="my.own")], {"x": [3]}, {"y": [3]}, domains=["my.own"]),
        {},
        r"node 'n' \(operator my.own.Mine, opset 1\): a custom operator: expected operators of ONNX",
    ),
    (
        made([helper.make_node("Odd", ["x"], ["y"], "n", domain="com.microsoft")], {"x": [3]}, {"y": [3]}, domains=["com.microsoft"]),
        {},
        "ONNX Runtime does not take this model: .*Odd",
    ),
    (made([helper.make_node("Neg", ["w"], ["y"])], {"x": [3]}, {"y": [1]}, {"w": np.ones(1, "f")}), {}, "expected at least one node"),
    (unsorted(), {}, "topologically sorted.*late"),
    (with_text_input(), {}, "input 'x' is a tensor of texts"),
    (huge(2**62), {}, "input 'x' of float32 and shape \\[1, 4611686018427387904\\]: .*expected"),
    (huge(2**50), {}, "input 'x' of float32 and shape \\[1, 1125899906842624\\]: .*expected"),
    (huge(2**50, INT64), {}, "input 'x' of int64 and shape \\[1, 1125899906842624\\]: .*expected"),
    (misfit(), {}, r"node 'product' \(operator MatMul, opset 17\): Incompatible dimensions"),
    (sparse(), {}, "sparse tensor: expected dense weights"),
    (short(), {}, r"weights 'w1': 44 bytes: expected 48 for its shape \[4, 3\]"),
    (residual(), {}, r"input 'x': the size of axis 2 \('H'\) is free: expected it with --shape x=1x3xSIZE2xSIZE3"),
    (residual(), {"x": (1, 3, 8)}, r"--shape x=1x3x8 has 3 axes: expected 4, as Nx3xHxW"),
    (residual(), {"x": (1, 4, 8, 8)}, r"--shape x=1x4x8x8: axis 1 is 4: expected 3, as Nx3xHxW"),
    (residual(), {"z": (1, 3, 8, 8)}, "has no input 'z': expected a shape of x"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "shapes", "line"), REFUSED, ids=[str(number) for number in range(len(REFUSED))])
def test_what_cannot_be_used_is_refused_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], model: onnx.ModelProto, shapes: dict[str, Any], line: str
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=line) as caught:
        describe_graph(open_graph(path, shapes))
    assert str(caught.value).startswith(str(path))
    flags = [word for name, sizes in shapes.items() for word in ("--shape", f"{name}={'x'.join(map(str, sizes))}")]
    assert main(["model", "show", str(path), *flags]) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)


def test_a_file_of_weights_outside_the_folder_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(48))
    folder = tmp_path / "model"
    folder.mkdir()
    saved(layers([4, 3, 2]), folder / "m.onnx", external=True)
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "inside").mkdir()
    for location, line in {
        "../secret": "expected a file in the folder",
        "inside/../../secret": "expected a file in the folder",
        str(tmp_path / "secret"): "expected a file in the folder",
        "": "expected a file in the folder",
        "link": "is a link to",
        "inside": "is not a file",
        "gone": "does not exist",
        "..\\secret": "expected a file in the folder",
    }.items():
        model = onnx.load(str(folder / "m.onnx"), load_external_data=False)
        entry = next(each for each in model.graph.initializer[0].external_data if each.key == "location")
        entry.value = location
        (folder / "changed.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(InputError, match=f"weights 'w1': .*{line}"):
            open_graph(folder / "changed.onnx")


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("offset", "1000000", "bytes 1000000 to 1000048 of .*expected a file of that size"),
        ("length", "44", r"44 bytes from byte \d+ on: expected 48 for its shape \[4, 3\]"),
        ("length", "-1", "expected whole numbers"),
        ("offset", "99999999999999999999999", "expected whole numbers"),
    ],
)
def test_the_place_of_weights_in_their_file_is_checked(tmp_path: Path, key: str, value: str, line: str) -> None:
    saved(layers([4, 3, 2]), tmp_path / "m.onnx", external=True)
    model = onnx.load(str(tmp_path / "m.onnx"), load_external_data=False)
    next(each for each in model.graph.initializer[0].external_data if each.key == key).value = value
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=line):
        open_graph(tmp_path / "m.onnx")


def test_a_truncated_file_of_weights_is_refused(tmp_path: Path) -> None:
    path = saved(layers([4, 3, 2]), tmp_path / "m.onnx", external=True)
    os.truncate(tmp_path / "weights.data", 20)
    with pytest.raises(InputError, match=r"weights 'w1': .* which has 20 bytes: expected a file of that size"):
        open_graph(path)


WHOLE = layers([4, 3, 2]).SerializeToString()


@settings(max_examples=40)
@given(data=st.data())
def test_damaged_bytes_give_a_model_or_one_line(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    bytes_of = bytearray(WHOLE[: data.draw(st.integers(0, len(WHOLE)))])
    for at in data.draw(st.lists(st.integers(0, max(0, len(bytes_of) - 1)), max_size=3)) if bytes_of else ():
        bytes_of[at] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "m.onnx"
    path.write_bytes(bytes(bytes_of))
    try:
        open_graph(path)
        line = str(path)
    except InputError as error:
        line = str(error)
    assert str(path) in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "content", [b"", b"hello world, this is no model", b"\x93NUMPY\x01\x00" + bytes(100), json.dumps({"a": 1}).encode()]
)
def test_other_files_are_no_models(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match="is not an ONNX model, or is damaged"):
        open_graph(path)


@pytest.mark.parametrize("what", ["graph", "weights"])
def test_a_pipe_in_an_imported_folder_is_not_read(tmp_path: Path, what: str) -> None:
    save_graph(open_graph(saved(residual(), tmp_path / "m.onnx"), SHAPES), tmp_path / "kept")
    file = tmp_path / "kept" / json.loads((tmp_path / "kept" / "model.json").read_text())[what]
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(InputError, match=f"{file.name}: cannot be read: it is not a regular file"):
        open_graph(tmp_path / "kept")


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_only_a_regular_file_is_read(tmp_path: Path, kind: str) -> None:
    """To open a pipe would wait for its other end, and /dev/zero has no end."""
    path = tmp_path / "p.onnx"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
    with pytest.raises(InputError, match=f"{path}: cannot be read: ") as caught:
        read_file(path)
    assert "\n" not in str(caught.value)


def test_without_the_packages_one_line_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(layers([4, 3, 2]), tmp_path / "m.onnx")
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(
        InputError, match=r"the package onnx is not installed: expected the extra onnx: pip install 'fsd-inference\[onnx\]'"
    ):
        open_graph(path)


# the commands


def test_import_and_show_print_tables_and_one_object(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path, kept = saved(residual(), tmp_path / "m.onnx"), tmp_path / "kept"
    assert main(["model", "import", str(path), str(kept), "--shape", "x=1x3x8x8"]) == 0
    out, _ = capfd.readouterr()
    for words in ("opset 17", "x: float32, N x 3 x 8 x 8", "conv2 (Conv)", "onnx; not rows: node 'conv1'", "Places to cut", "1 tensor"):
        assert words in out
    assert main(["model", "show", str(kept), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["digest"] == open_graph(kept).digest
    assert len(found["cuts"]) == found["nodes"] - 1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["show", "radixnet:1024:2", "--shape", "x=1x3"], "is no ONNX model: expected no --shape"),
        (["show", "FILE", "--shape", "x=1x"], "--shape 'x=1x': expected NAME=1x3x224x224"),
        (["import", "FILE", "OUT", "--bias", "1"], "is an ONNX model: expected no --bias"),
        (["show", "FILE", "--batch-axis", "1"], "expected one of auto, 0, none"),
    ],
)
def test_wrong_flags_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str], words: list[str], line: str) -> None:
    path = saved(layers([4, 3, 2]), tmp_path / "m.onnx")
    places = {"FILE": str(path), "OUT": str(tmp_path / "out")}
    assert main(["model", *(places.get(word, word) for word in words)]) == 2
    assert line in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
