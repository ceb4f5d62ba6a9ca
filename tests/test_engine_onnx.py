"""The engine onnx: runs of ONNX models with real processes, what travels, what is refused, and what a damaged shard does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

import onnx
from onnx import TensorProto, helper

from flips import refused
from fsd_core import TensorResult, open_graph, run
from fsd_core.cli import main
from fsd_core.client.apps import check_engine
from fsd_core.client.opened import open_run
from fsd_core.client.stages import RUNTIME_BYTES, stages_work
from fsd_core.codec import CodecError, decode_tensors, encode_tensors
from fsd_core.codec.named import DTYPES
from fsd_core.driver import Code, Resources
from fsd_core.errors import DamagedContent, InputError, RunFailed
from fsd_core.model import Model
from fsd_core.protocol.stage_shard import StageReader
from fsd_core.worker.session import Session
from fsd_local.limits import functions
from onnx_models import INT64, answer, layers, made, residual, saved
from stage_runs import computed

LIMITS = functions(8, 2048, 900.0)
KINDS = st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=4).map(tuple), st.booleans())


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a skip connection, of images of any size."""
    return saved(residual(), tmp_path_factory.mktemp("model") / "residual.onnx")


@pytest.fixture(scope="module")
def images() -> np.ndarray[Any, Any]:
    return np.random.default_rng(3).random((5, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def start(tmp_path: Path, path: Path, images: Any) -> Callable[..., TensorResult]:
    def start(**options: Any) -> TensorResult:
        found = run(path, {"x": images}, home=tmp_path, settings={"root": str(tmp_path / "root")}, **options)
        assert isinstance(found, TensorResult)
        return found

    return start


def normalized() -> onnx.ModelProto:
    """A model whose samples cannot be computed separately: it subtracts the mean of all of them."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], "mean", axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["away"], "sub"),
        helper.make_node("Tanh", ["away"], ["y"], "tanh"),
    ]
    return made(nodes, {"x": ["N", 4]}, {"y": ["N", 4]})


def tokens() -> onnx.ModelProto:
    """Token ids and a mask in, embeddings and their number out: int64 and bool cross a cut."""
    table = np.random.default_rng(5).standard_normal((50, 8)).astype(np.float32)
    nodes = [
        helper.make_node("Greater", ["ids", "zero"], ["known"], "greater"),
        helper.make_node("Abs", ["ids"], ["positive"], "abs"),
        helper.make_node("Gather", ["table", "positive"], ["embedded"], "gather"),
        helper.make_node("Unsqueeze", ["known", "last"], ["wide"], "unsqueeze"),
        helper.make_node("Where", ["wide", "embedded", "nothing"], ["y"], "where"),
        helper.make_node("Cast", ["known"], ["ones"], "cast", to=INT64),
        helper.make_node("ReduceSum", ["ones", "last"], ["count"], "sum", keepdims=0),
    ]
    weights = {"table": table, "zero": np.array(0, np.int64), "last": np.array([-1], np.int64), "nothing": np.array(0, np.float32)}
    dtypes = {"ids": INT64, "count": INT64}
    return made(nodes, {"ids": ["N", "T"]}, {"y": ["N", "T", 8], "count": ["N"]}, weights, dtypes=dtypes)


def test_a_disturbed_run_gives_the_same_answer(start: Callable[..., TensorResult], path: Path, images: Any) -> None:
    faults = "duplicate=.2,reorder=.2,delay=20ms,reject=.1,throttle=.1,lost_reply=.05,seed=1"
    found = start(pipeline_parallel=3, batch_size=2, channel="queue", faults=faults)
    assert (found.micro_batches, found.layers, found.samples) == (3, 3, 5)
    np.testing.assert_allclose(found.output["y"], answer(path, {"x": images})[0], rtol=1e-4, atol=1e-5)
    assert found.output_nonzero_samples == 5
    assert found.meter["payload_bytes_sent"] > 0
    assert found.memory["peak_bytes_max"] < found.memory["predicted_bytes_max"]
    assert found.parallel == {"data": 1, "pipeline": 3, "tensor": 1}


def test_a_stage_that_is_killed_starts_again_or_is_named(start: Callable[..., TensorResult], path: Path, images: Any) -> None:
    found = start(pipeline_parallel=3, batch_size=2, channel="queue", faults="kill=1@2")
    assert [each["rank"] for each in found.recovered] == [1]
    np.testing.assert_allclose(found.output["y"], answer(path, {"x": images})[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(RunFailed) as failed:
        start(pipeline_parallel=2, recovery="off", faults="kill=1@2")
    assert (failed.value.rank, failed.value.layer) == (1, 2)


def test_samples_that_fit_alone_and_not_together_fail_in_the_worker(tmp_path: Path) -> None:
    """The trial computes the first two samples; a worker names the stage that refuses a later one."""
    table = np.ones((5, 4), np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], "gather"),
        helper.make_node("Tanh", ["rows"], ["y"], "tanh"),
    ]
    model = saved(made(nodes, {"ids": ["N", 1]}, {"y": ["N", 1, 4]}, {"table": table}, dtypes={"ids": INT64}), tmp_path / "m.onnx")
    with pytest.raises(RunFailed, match=r"layer 1: ONNX Runtime cannot compute this stage: .*indices element out of data bounds") as failed:
        run(model, {"ids": np.array([[0], [1], [9]])}, home=tmp_path, settings={"root": str(tmp_path / "root")})
    assert failed.value.code is Code.INVALID


def test_fsd_run_takes_inputs_and_writes_outputs_by_name(tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSD_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    model, ids = saved(tokens(), tmp_path / "tokens.onnx"), np.random.default_rng(0).integers(-5, 50, (4, 6))
    (tmp_path / "fsd.toml").write_text(f"[local]\nroot = {str(tmp_path / 'root')!r}\n")
    np.savez(tmp_path / "in.npz", ids=ids)
    expected = dict(zip(("y", "count"), answer(model, {"ids": ids}), strict=True))
    np.savez(tmp_path / "wanted.npz", **expected)
    words = ["run", str(model), "in.npz", "--data-parallel", "2", "--pipeline-parallel", "2", "--output", "out.npz", "--json"]
    assert main([*words, "--expect", "wanted.npz"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert (found["samples"], found["layers"], found["workers"], found["micro_batches"]) == (4, 2, 4, 2)
    assert found["expect"]["values"] == 4 * 6 * 8 + 4
    with np.load(tmp_path / "out.npz") as written:
        assert set(written.files) == {"y", "count", "made_by"}
        assert written["count"].dtype == np.int64
        np.testing.assert_array_equal(written["count"], expected["count"])
    np.savez(tmp_path / "wanted.npz", count=expected["count"] + 1)
    np.save(tmp_path / "in.npy", ids)
    assert main(["run", str(model), "in.npy", "--pipeline-parallel", "1", "--expect", "wanted.npz"]) == 1
    out, err = capfd.readouterr()
    assert "4 of 4 values differ, the largest difference is 1" in err
    assert "1 stage of whole nodes, tensors of up to 48 values" in out
    assert main(["report", found["run"]]) == 0


def test_an_axis_of_the_first_sizes_that_is_time_is_computed_whole(tmp_path: Path) -> None:
    model, x = saved(normalized(), tmp_path / "m.onnx"), np.random.default_rng(1).random((6, 4)).astype(np.float32)
    why = "output 'y' of two samples together differs from those of each alone"
    for name in ("data_parallel", "batch_size"):
        with pytest.raises(InputError, match=f"{name} 2: the samples of .* cannot be computed separately: {why}: expected 1"):
            run(model, x, home=tmp_path, **{name: 2})
    for axis in ("auto", "none"):
        opened: Any = open_run(model, {"x": x}, "auto", axis)
        work = stages_work(opened.model, opened.inputs, "auto", None, 2, None, None)
        assert (work.samples, work.sizes()) == (1, [1])
        with ThreadPoolExecutor(2) as pool:
            np.testing.assert_allclose(computed(work, pool)["y"], answer(model, {"x": x})[0], rtol=1e-4, atol=1e-5)


def test_a_chain_of_layers_is_offered_to_rows(tmp_path: Path) -> None:
    model, x = saved(layers([8, 6, 4]), tmp_path / "m.onnx"), np.ones((3, 8), np.float32)
    assert isinstance(open_run(model, x).model, Model)
    assert isinstance(open_run(model, {"x": x}).model, Model)
    assert not isinstance(open_run(model, x, "onnx").model, Model)
    with pytest.raises(InputError, match="expected a chain of MatMul"):
        open_run(saved(normalized(), tmp_path / "n.onnx"), np.ones((3, 4), np.float32), "rows")
    with pytest.raises(InputError, match="model 'radixnet:1024:2': the engine onnx computes only ONNX models: expected an ONNX file"):
        open_run("radixnet:1024:2", "digits", "onnx")


X = np.ones((2, 3, 8, 8), np.float32)


@pytest.mark.parametrize(
    ("inputs", "options", "line"),
    [
        ({"y": X}, {}, r"has no input 'y': expected a shape of x"),
        ({"x": X, "z": X}, {}, r"has no input 'z': expected .* of x"),
        ({"x": X.astype(np.float64)}, {}, r"input 'x' of dtype float64: expected float32; convert it with .astype\(numpy.float32\)"),
        ({"x": X[0]}, {}, r"the given input x=3x8x8 has 3 axes: expected 4, as Nx3xHxW"),
        ({"x": X[:, :2]}, {}, r"the given input x=2x2x8x8: axis 1 is 2: expected 3"),
        ({"x": X[:0]}, {}, r"input 'x' of shape \(0, 3, 8, 8\) is empty: expected at least one value"),
        ({"x": np.array(["a"])}, {}, r"inputs\['x'\] of dtype <U1: expected one of bool, uint8"),
        ({"x": [[1], [1, 2]]}, {}, r"inputs\['x'\]: cannot be an array"),
        ("digits", {}, r"input 'x': the size of axis 2 \('H'\) is free: expected it with --shape"),
        ({"x": X}, {"pipeline_parallel": 99}, r"^pipeline_parallel 99: expected at most 10, the number of nodes"),
        ({"x": X}, {"data_parallel": 3}, r"data_parallel 3: expected at most 2, the number of samples"),
        ({"x": X}, {"batch_axis": "1"}, r"batch_axis '1': expected auto, 0 or none|batch_axis '1'"),
        ({"x": X}, {"engine": "tf"}, r"engine 'tf'"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(path: Path, tmp_path: Path, inputs: Any, options: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=line) as refusal:
        run(path, inputs, home=tmp_path, **options)
    assert "\n" not in str(refusal.value)


def test_an_imported_model_names_the_shape_that_it_has(path: Path, tmp_path: Path, images: Any) -> None:
    assert main(["model", "import", str(path), str(tmp_path / "kept"), "--shape", "x=1x3x8x8"]) == 0
    opened: Any = open_run(tmp_path / "kept", {"x": images})
    assert stages_work(opened.model, opened.inputs, 2, 1, None, None, None).parallel.pipeline == 2
    with pytest.raises(InputError, match=r"input 'x' of shape \(2, 3, 9, 9\): expected \(N, 3, 8, 8\)"):
        run(tmp_path / "kept", {"x": np.ones((2, 3, 9, 9), np.float32)}, home=tmp_path)


def test_memory_decides_on_micro_batches_and_on_prepacking(path: Path, images: Any) -> None:
    opened: Any = open_run(path, {"x": images})
    work = stages_work(opened.model, opened.inputs, "auto", None, 2, None, None)
    need = work.batches(attrs.evolve(LIMITS, memory_bytes=None), "local")
    assert (need.samples, [rank.keep for rank in need.ranks]) == ([5], [True, True])
    one = LIMITS.process_bytes + RUNTIME_BYTES
    tight = next(cut for more in range(0, 1 << 20, 1024) if (cut := _cut(work, one + more)) is not None)
    assert max(tight.samples) == 1
    assert not any(rank.keep for rank in tight.ranks)
    with pytest.raises(InputError, match=r"\[local\] memory_mb = 50: the largest of 2 stages needs .* MB more than a function has"):
        work.batches(attrs.evolve(LIMITS, memory_bytes=50 << 20), "local")


def _cut(work: Any, memory: int) -> Any:
    try:
        return work.batches(attrs.evolve(LIMITS, memory_bytes=memory), "local")
    except InputError:
        return None


def test_a_damaged_stage_is_refused(path: Path, images: Any) -> None:
    opened: Any = open_run(path, {"x": images})
    shard = stages_work(opened.model, opened.inputs, "auto", None, 2, None, None).shards().build(1)
    with ThreadPoolExecutor(2) as pool:

        def load(_: int, data: bytes) -> Any:
            reader = StageReader("k", lambda key, start, end: data[start:end], pool)
            return [Session(*each, prepack=False) for each in reader.load(lambda: None, lean=True)]

        load(0, shard)
        refused([shard], load, DamagedContent, longer=False)


@settings(max_examples=30)
@given(kinds=st.dictionaries(st.text(max_size=6), KINDS, max_size=4), seed=st.integers(0))
def test_tensors_become_bytes_and_back(kinds: dict[str, tuple[str, tuple[int, ...], bool]], seed: int) -> None:
    """Of any dtype and shape, with values that are all bits by chance, or mostly zero."""
    rng, tensors = np.random.default_rng(seed), dict[str, Any]()
    for name, (dtype, shape, noise) in kinds.items():
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        values = rng.integers(0, 2 if dtype == "bool" else 256, size) * (noise or rng.random(size) < 0.1)
        tensors[name] = values.astype(np.uint8).view(dtype).reshape(shape)
    found = decode_tensors(encode_tensors(tensors), tensors)
    for name, array in tensors.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()
    with pytest.raises(CodecError, match="expected"):
        decode_tensors(encode_tensors(tensors), [*tensors, "another one"])


def test_damaged_tensors_are_refused() -> None:
    data = encode_tensors({"x": np.arange(300, dtype=np.int64), "ünï": np.array(True), "z": np.zeros((0, 3), np.float16)})
    refused([data], lambda _, bad: decode_tensors(bad, ["x", "ünï", "z"]), CodecError)


def test_a_function_without_the_engine_says_the_command() -> None:
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from fsd_core.worker.session import runtime\n"
        "try: runtime()\n"
        "except Exception as error: print(error)\n"
        "import fsd_core.worker.stages, fsd_core.worker\n"
        "print(*sorted(name for name in sys.modules if name.partition('.')[0] in ('onnx', 'scipy', 'click')))\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    first, rest = done.stdout.split("\n", 1)
    assert re.search(r"has no ONNX Runtime .*: expected an app that 'fsd deploy --engine onnx' made", first)
    assert rest.strip() == ""


def test_dtypes_of_inputs_widen(tmp_path: Path) -> None:
    model = saved(tokens(), tmp_path / "m.onnx")
    opened: Any = open_run(model, {"ids": np.array([[1, -2, 3]], np.int32)})
    work = stages_work(opened.model, opened.inputs, "auto", None, None, None, None)
    assert work.tensors["ids"].dtype == np.int64
    assert open_graph(model, {"ids": (1, 3)}).outputs[1].dtype == TensorProto.DataType.Name(INT64).lower()


def test_an_app_without_the_engine_names_the_command() -> None:
    app = Resources("mine", 8, 4, {"code": "0123456789abcdef"})
    with pytest.raises(
        InputError, match=r"app mine on aws: .*: expected it for this model: run 'fsd deploy --provider aws --app mine --engine onnx' first"
    ):
        check_engine(app, "onnx", "aws")
    check_engine(app, "rows", "aws")
    check_engine(attrs.evolve(app, names={**app.names, "engine": "onnx"}), "onnx", "aws")
    check_engine(attrs.evolve(app, names={"code": "installed"}), "onnx", "aws")
