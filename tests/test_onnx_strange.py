"""ONNX files and inputs that a stranger may bring: dtypes that numpy does not have, names that numpy uses, files that are missing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

from onnx import TensorProto, helper

from fsd_core.cli.main import main
from fsd_core.client.opened import open_run
from fsd_core.client.stages import stages_work
from fsd_core.client.tensors import open_tensors, read_expected_tensors
from fsd_core.errors import InputError
from fsd_core.graph import describe_graph, open_graph
from onnx_models import answer, layers, made, saved
from stage_runs import computed

X = np.random.default_rng(5).standard_normal((3, 8)).astype(np.float32)


def _through(kind: int) -> Any:
    """Values that become another dtype, pass a node, and come back."""
    nodes = [
        helper.make_node("Neg", ["x"], ["n"], "neg"),
        helper.make_node("Cast", ["n"], ["other"], "cast", to=kind),
        helper.make_node("Identity", ["other"], ["same"], "same"),
        helper.make_node("Cast", ["same"], ["back"], "back", to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["back", "w"], ["y"], "product"),
    ]
    weights = {"w": np.random.default_rng(6).standard_normal((8, 5)).astype(np.float32)}
    return made(nodes, {"x": ["N", 8]}, {"y": ["N", 5]}, weights, opset=19)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT8E4M3FN, TensorProto.BFLOAT16, TensorProto.STRING])
def test_a_tensor_of_a_dtype_that_numpy_does_not_have_stays_in_its_function(tmp_path: Path, kind: int) -> None:
    graph = open_graph(saved(_through(kind), path := tmp_path / "m.onnx"))
    assert describe_graph(graph)["trial"] is None
    with ThreadPoolExecutor(2) as pool:
        np.testing.assert_array_equal(computed(stages_work(graph, {"x": X}), pool)["y"], answer(path, {"x": X})[0])
        for stages, ranks in ((2, 1), (3, 1), (1, 2), (3, 2)):
            work = stages_work(graph, {"x": X}, stages * ranks, None, stages, ranks)
            np.testing.assert_allclose(computed(work, pool)["y"], answer(path, {"x": X})[0], rtol=1e-4, atol=1e-5)
            assert not {"other", "same"} & {name for stage in work.stages for names in stage.receives.values() for name in names}
    reason = "behind 'cast' is not known: 'other' is no tensor of numbers that numpy has: expected at most 3"
    with pytest.raises(InputError, match=f"cannot be cut into 4 stages: .* {reason}"):
        stages_work(graph, {"x": X}, 4, None, 4, None)


def test_an_output_of_texts_is_refused_in_one_line(tmp_path: Path) -> None:
    """Texts are no numbers: two samples together cannot be compared with each alone."""
    label = helper.make_node(
        "LabelEncoder", ["k"], ["y"], "label", domain="ai.onnx.ml", keys_int64s=[0, 1], values_strings=["cat", "dog"], default_string="?"
    )
    nodes = [helper.make_node("ArgMax", ["x"], ["k"], "largest", axis=1), label]
    model = made(nodes, {"x": ["N", 8]}, {"y": ["N", 1]}, dtypes={"y": TensorProto.STRING}, domains=["ai.onnx.ml"])
    model.opset_import[1].version = 2
    graph = open_graph(saved(model, tmp_path / "m.onnx"))
    assert describe_graph(graph)["no_batch"] == "output 'y' is no tensor of numbers"
    with pytest.raises(InputError, match=r"output 'y' is no tensor of numbers: expected one of bool"):
        stages_work(graph, {"x": X})


def test_an_answer_is_kept_whatever_its_names_and_whatever_is_expected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The expected values are for another number of samples: fsd finds that when it has the answer."""
    monkeypatch.setenv("FSD_HOME", str(tmp_path / "home"))
    names = ("file", "allow_pickle", "a/b")
    nodes = [helper.make_node(operator, ["x"], [name]) for operator, name in zip(("Neg", "Relu", "Erf"), names, strict=True)]
    model = saved(made(nodes, {"x": ["N", 8]}, {name: ["N", 8] for name in names}), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=X)
    np.savez(tmp_path / "wrong.npz", **{"a/b": X[:2]})
    out = tmp_path / "out.npz"
    command = ["run", str(model), str(tmp_path / "x.npz"), "--workers", "1", "--output", str(out), "--expect", str(tmp_path / "wrong.npz")]
    assert main(command) == 2
    assert "wrong.npz: the values for output 'a/b' have shape (2, 8): expected (3, 8), the shape of the output" in capfd.readouterr().err
    wanted = dict(zip(names, answer(model, {"x": X}), strict=True))
    for found in (read_expected_tensors(out, open_graph(model)), open_tensors(out), open_tensors(dict(np.load(out)))):
        assert found is not None
        assert found.keys() == set(names)
        for name in names:
            np.testing.assert_array_equal(found[name], wanted[name])


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    graph = open_graph(saved(made([helper.make_node("Erf", ["x"], ["y"])], {"x": ["N", 8]}, {"y": ["N", 8]}), tmp_path / "m.onnx"))
    for name in ("no.npz", "no.npy"):
        with pytest.raises(InputError, match=f"^.*{name}: no such file: expected an .npz or .npy file"):
            open_run(graph, tmp_path / name)
        with pytest.raises(InputError, match=f"^expect .*{name}: no such file: expected an .npz or .npy file"):
            read_expected_tensors(tmp_path / name, graph)
    with pytest.raises(InputError, match=r"^inputs 'digits': expected arrays by the names of the model's inputs"):
        open_run(graph, "digits")
    with pytest.raises(InputError, match=r"input 'x' is missing, only z is given: expected arrays for the inputs x"):
        stages_work(graph, {"z": X})


@pytest.mark.parametrize(
    ("part", "lacking", "line"),
    [
        ("input", "shape", "input 'x' has no shape in the file: expected one"),
        ("output", "shape", "output 'y' has no shape in the file: expected one"),
        ("output", "type", "output 'y' has no type in the file: expected one"),
        ("", "", r"ir_version 999: expected at most \d+, the newest that the installed package onnx knows"),
    ],
)
def test_what_a_file_lacks_is_named(tmp_path: Path, part: str, lacking: str, line: str) -> None:
    model = layers([8, 4])
    if part:
        value = getattr(model.graph, part)[0]
        (value if lacking == "type" else value.type.tensor_type).ClearField(lacking)
    else:
        model.ir_version = 999
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=f"m.onnx: {line}"):
        open_graph(tmp_path / "m.onnx")


def test_an_input_has_one_shape(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = saved(made([helper.make_node("Erf", ["x"], ["y"])], {"x": ["N", "T"]}, {"y": ["N", "T"]}), tmp_path / "m.onnx")
    assert main(["model", "show", str(model), "--shape", "x=1x4", "--shape", "x=1x5"]) == 2
    assert "--shape x=1x5: input 'x' has another --shape before: expected one for each input" in capfd.readouterr().err
    assert main(["model", "show", str(model), "--shape", "x=1x4", "--shape", "x=1x4"]) == 0


def test_a_batch_axis_that_takes_one_sample_only_is_refused_before_anything_starts(tmp_path: Path) -> None:
    """The file leaves the axis free, but a node inside gives it the size 1, as exporters write."""
    nodes = [helper.make_node("Reshape", ["x", "one"], ["r"], "one sample"), helper.make_node("Erf", ["r"], ["y"], "erf")]
    model = saved(made(nodes, {"x": ["N", 8]}, {"y": [1, 8]}, {"one": np.array([1, 8])}), tmp_path / "m.onnx")
    assert stages_work(open_graph(model), {"x": X[:1]}).samples == 1
    line = r"computes the first sample of the input, but not all 3 together: expected one sample: .*'one sample'"
    with pytest.raises(InputError, match=line):
        stages_work(open_graph(model), {"x": X})


def test_ranks_of_a_stage_do_not_keep_what_is_no_array(tmp_path: Path) -> None:
    """A tensor of bfloat16 is made before an exchange and read behind it, by the same rank."""
    nodes = [
        helper.make_node("Cast", ["x"], ["b"], "down", to=TensorProto.BFLOAT16),
        helper.make_node("MatMul", ["x", "w"], ["m"], "product"),
        helper.make_node("Cast", ["b"], ["f"], "up", to=TensorProto.FLOAT),
        helper.make_node("Add", ["m", "f"], ["y"], "sum"),
        helper.make_node("CastLike", ["y", "b"], ["like"], "like"),
        helper.make_node("Cast", ["like"], ["z"], "last", to=TensorProto.FLOAT),
    ]
    model = made(nodes, {"x": ["N", 8]}, {"z": ["N", 8]}, {"w": np.eye(8, dtype=np.float32)}, opset=19)
    graph = open_graph(saved(model, tmp_path / "m.onnx"))
    with pytest.raises(
        InputError, match=r"tensor_parallel 2: .*m.onnx: the ranks of a stage cannot exchange a tensor: 'b' is no tensor of numbers"
    ):
        stages_work(graph, {"x": X}, 2, None, 1, 2)
    assert stages_work(graph, {"x": X}).parallel.tensor == 1
