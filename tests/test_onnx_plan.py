"""Plans for ONNX models, and predictions of their runs against what the runs requested."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

import fsd_core
import fsd_core.client.expected
import fsd_core.client.stage_workload
from fsd_core.cli.main import main
from fsd_core.client.opened import open_run
from fsd_core.client.stages import Stages, stages_work
from fsd_core.cost import load as load_tariff
from fsd_core.latency import load as load_table
from fsd_core.partition import Parallel
from fsd_core.plan.deciding import decide
from fsd_core.plan.places import outline_of
from fsd_core.plan.predict import Platform, predict
from fsd_core.plan.ways import Given
from onnx_models import answer, layers, residual, saved
from stage_runs import PLANNED


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(residual(), tmp_path_factory.mktemp("models") / "residual.onnx")


@pytest.fixture(scope="module")
def images() -> dict[str, Any]:
    return {"x": np.random.default_rng(1).random((6, 3, 24, 24), np.float32)}


@pytest.fixture(scope="module")
def work(path: Path, images: dict[str, Any]) -> Stages:
    opened: Any = open_run(path, images, "onnx")
    return stages_work(opened.model, opened.inputs)


CASES = [
    (Parallel(pipeline=5), None, "queue"),
    (Parallel(pipeline=3), 3, "object"),
    (Parallel(data=2, pipeline=2), None, "hybrid"),
    (Parallel(pipeline=2, tensor=2), None, "queue"),
    (Parallel(), None, "queue"),
]


@pytest.mark.parametrize(("shape", "batch_size", "channel"), CASES, ids=str)
def test_counts_are_those_of_a_run(
    path: Path, images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: Parallel, batch_size: int | None, channel: str
) -> None:
    """A run ends with its prediction. The skip connection of this model crosses a cut more, from its producer straight to its reader."""
    monkeypatch.setattr(fsd_core.client.expected, "FORECAST_S", 300.0)
    result = fsd_core.run(
        path,
        images,
        data_parallel=shape.data,
        pipeline_parallel=shape.pipeline,
        tensor_parallel=shape.tensor,
        batch_size=batch_size,
        channel=channel,
        home=tmp_path,
        settings={"root": str(tmp_path / "root"), "lease_s": 600.0},
    )
    assert result.check_values(dict(zip(("y",), answer(path, images), strict=True)))["differing"] == 0
    assert result.predicted is not None
    for name in PLANNED:
        assert result.predicted["meter"][name] == pytest.approx(result.meter[name], rel=0.1, abs=2), name
    assert result.predicted["lasted"] > 0


def test_a_skip_connection_is_waited_for_where_it_is_read(work: Stages) -> None:
    """A stage that reads from two earlier ones begins when the later of both payloads is there."""
    found = work.divided(Parallel(pipeline=5)).split([6])
    sources = {step.layer: step.sources.tolist() for step in found.steps}
    assert any(len(each) > 1 for each in sources.values())
    platform = Platform(
        provider="aws", outline=outline_of("aws", {}), table=load_table("aws"), tariff=load_tariff("aws-us-east-1"), memory_mb=1769
    )  # type: ignore[arg-type]
    five, one = (predict(each.split([6]), platform, "queue") for each in (work.divided(Parallel(pipeline=5)), work))
    hop = load_table("aws").rows["deliver"].p50_ms / 1000
    assert five.parts["exchange"] > one.parts["exchange"] + hop
    assert five.seconds["p50"] > one.seconds["p50"] + 3 * hop  # four cuts, one behind the other


def test_an_output_of_an_earlier_stage_is_waited_for(work: Stages) -> None:
    """The last stage may make no output, or be done before."""
    split = work.divided(Parallel(pipeline=3)).split([6])
    early = attrs.evolve(split, steps=(), output_bytes=split.output_bytes[::-1].copy(), work_s=np.diag([50.0, 0.0, 0.0]))
    platform = Platform(provider="local", outline=outline_of("local", {}), table=None, tariff=None, memory_mb=2048)  # type: ignore[arg-type]
    assert predict(early, platform, "queue").seconds["p50"] > 50 / max(1.0, split.cores)


def test_a_plan_chooses_and_says_what_cannot_be(path: Path, images: Any, tmp_path: Path) -> None:
    plan = fsd_core.make_plan(path, images, providers=["aws"], engine="onnx", home=tmp_path)
    assert plan.reason.startswith("One function is best here")
    assert {each.parallel for each in plan.candidates} >= {Parallel(), Parallel(data=2), Parallel(pipeline=2), Parallel(data=2, pipeline=2)}
    assert plan.sizes["nodes"] == 10
    alone = fsd_core.make_plan(path, images, providers=["aws"], engine="onnx", batch_axis="none", home=tmp_path)
    (refused,) = (each for each in alone.candidates if each.parallel == Parallel(data=2))
    assert not refused.feasible
    assert refused.why.startswith("samples cannot be computed separately: ")
    with pytest.raises(
        fsd_core.InputError, match=r"residual: fits no function however it is split: .* needs .* GB, a function of local has 0.0671 GB"
    ):
        fsd_core.make_plan(path, images, providers=["local"], settings={"local": {"memory_mb": 64}}, engine="onnx", home=tmp_path)


def test_a_model_that_is_too_large_is_counted(work: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = work.divided(Parallel(pipeline=3)).split([6])
    monkeypatch.setattr(fsd_core.client.stage_workload, "COMPUTED_BYTES", 0)
    monkeypatch.setattr(fsd_core.client.stage_workload, "Session", lambda *_, **__: pytest.fail("computed"))
    counted = work.divided(Parallel(pipeline=3)).split([6])
    for ours, theirs in zip(counted.steps, computed.steps, strict=True):
        np.testing.assert_allclose(ours.bytes + ours.empty, theirs.bytes + theirs.empty, rtol=0.7)  # what is mostly zero becomes shorter
        assert (ours.rows == theirs.rows).all()
    assert counted.reads == computed.reads
    assert counted.notes == ("the model is too large to compute samples here for a plan: its multiply-adds and sizes are counted",)


def test_a_process_ends_well_while_a_late_prediction_computes(tmp_path: Path) -> None:
    """ONNX Runtime aborts a process whose interpreter ends while a thread is inside it."""
    path = saved(layers([512] * 9), tmp_path / "layers.onnx")
    code = (
        "import sys, threading, numpy\n"
        "from fsd_core.client.opened import open_run\n"
        "from fsd_core.client.stages import stages_work\n"
        "from fsd_core.client.stage_workload import StageWorkload\n"
        "opened = open_run(sys.argv[1], {'x': numpy.ones((4000, 512), numpy.float32)}, 'onnx')\n"
        "work, begun = stages_work(opened.model, opened.inputs), threading.Event()\n"
        "def predict():\n"
        "    while True:\n"
        "        begun.set()\n"
        "        StageWorkload(work).measured\n"
        "threading.Thread(target=predict, daemon=True).start()\n"
        "begun.wait()\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code, str(path)], capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_run_asks_the_planner(work: Stages, tmp_path: Path) -> None:
    def decided(**given: Any) -> Any:
        return decide(work.workload, "aws", {}, Given(**given), latency=None, home=tmp_path)

    assert decided().parallel == Parallel()
    assert decided(split=2).parallel.tensor == 1
    assert decided(split=2).parallel.workers == 2
    assert decided(split=Parallel(pipeline=2)).channel in ("queue", "object")


def test_the_command_plans_and_writes_what_a_run_reads(
    path: Path, images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FSD_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    np.savez("in.npz", **images)
    assert main(["plan", str(path), "in.npz", "--providers", "local", "--write", "fsd.toml"]) == 0
    out = capfd.readouterr().out
    assert "6 samples, 10 nodes" in out
    assert "One function is best here" in out
    (tmp_path / "fsd.toml").write_text((tmp_path / "fsd.toml").read_text() + f"root = {json.dumps(str(tmp_path / 'root'))}\n")
    assert main(["run", str(path), "in.npz", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["workers"] == 1
