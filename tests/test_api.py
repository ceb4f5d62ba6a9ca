"""The Python API: a call for every command, names that are found, results that show themselves, arguments that stay as they are."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import attrs
import click
import numpy as np
import pytest
from scipy.sparse import csr_matrix, load_npz

import fsd_core
from fsd_core import InputError, Result
from fsd_core.cli.commands import root
from fsd_core.protocol.runconfig import CHANNELS

NET, INPUT = "radixnet:1024:6", "random:40"
CORE = Path(fsd_core.__file__).parent
DOCS = Path(__file__).parents[1] / "docs"


def paths(group: click.Group, before: str = "") -> Iterator[str]:
    """The names of all commands that are not only groups, such as ``model show``."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from paths(command, f"{before}{name} ")
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield f"{before}{name}"


COMMANDS = sorted(paths(root), key=lambda command: command == "emulators down")  # which ends the emulator that others use


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """FSD_HOME of this file, and no other settings."""
    made = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("FSD_")]:
            patch.delenv(name)
        patch.setenv("FSD_HOME", str(made))
        yield made


@pytest.fixture
def here(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def result(home: Path) -> Result:
    return fsd_core.run(NET, INPUT, workers=2, partition="block")


@pytest.fixture(scope="module")
def emulated(home: Path) -> Iterator[None]:
    """Whatever a test starts in this home ends with this file."""
    yield
    fsd_core.stop_emulators()


# a call for each command


def call_run(here: Path, result: Result) -> None:
    settings = fsd_core.read_settings()
    made = fsd_core.run(NET, INPUT, workers=2, partition="block", channel=settings.channel, settings=settings.table())
    model = fsd_core.open_model(NET)
    expected = fsd_core.serial(model, fsd_core.open_inputs(INPUT, model.inputs)).toarray()
    np.testing.assert_allclose(made.output.toarray(), expected, rtol=1e-4, atol=1e-4)
    made.save(here / "out.npz")
    assert (load_npz(here / "out.npz") != made.output).nnz == 0
    alive = 1 + np.flatnonzero(expected.any(axis=1))
    (here / "truth").write_text("\n".join(map(str, alive)))
    assert made.check("truth") == made.check(alive) == {"expected": len(alive), "matched": len(alive), "missing": 0, "extra": 0}
    assert made.bill().total_usd == 0 < made.bill("aws-us-east-1").total_usd


def call_compare(here: Path, result: Result) -> None:
    ways = {"channels": ["object"], "workers": [2], "repeat": 1, "partition": "block", "batch_size": np.int64(20)}
    steps: list[fsd_core.Progress] = []
    found = fsd_core.compare(fsd_core.open_model(NET), INPUT, ["local"], **ways, progress=steps.append)
    assert found.failures() == []
    assert (found.about["model"], found.about["input"], found.about["batch_size"]) == ("radixnet-1024x6", INPUT, 20)
    assert {step.phase for step in steps} == {"compare"}
    fsd_core.write_comparison(found, "c.html", csv=here / "c.csv")
    assert "radixnet-1024x6" in (here / "c.html").read_text()
    assert (here / "c.csv").read_text().startswith("provider,")


def call_report(here: Path, result: Result) -> None:
    made = fsd_core.write_report(result, trace="trace.json")
    assert (made.run, made.page, made.missing_ranks) == (result.run, Path(f"fsd-{result.run}.html"), [])
    assert result.run in made.page.read_text()
    assert json.loads((here / "trace.json").read_text())["traceEvents"]
    assert fsd_core.write_report(result.run, "other.html", tariff="gcp-us-central1").bill.total_usd > 0


def call_runs(here: Path, result: Result) -> None:
    found = {past.run: past for past in fsd_core.past_runs()}[result.run]
    assert (found.state, found.provider, found.model, found.usd) == ("done", "local", NET, 0)
    assert fsd_core.past_runs(here) == []
    assert "seconds" in {each.part for each in fsd_core.prediction_accuracy()}
    assert fsd_core.prediction_accuracy(here) == []


def call_logs(here: Path, result: Result) -> None:
    found = fsd_core.read_log(result.run)
    assert found == fsd_core.read_log(result.run[:10])
    assert (found.state, found.workers, found.failure) == ("done", 2, None)
    assert {rank: len(lines) > 0 for rank, lines in found.lines.items()} == {0: True, 1: True}


def call_audit_log(here: Path, result: Result) -> None:
    log = fsd_core.read_audit_log()
    log.verify()
    assert result.run in [entry.what["run"] for entry in log.entries]
    assert fsd_core.read_audit_log(last=1).entries == log.entries[-1:]


def call_plan(here: Path, result: Result) -> None:
    steps: list[tuple[int, int]] = []
    made = fsd_core.make_plan(NET, INPUT, providers=["local"], progress=lambda done, total: steps.append((done, total)))
    assert made.choice.prediction is not None
    assert made.choice.prediction.meter["invocations"] == made.choice.parallel.workers
    assert steps
    fsd_core.write_plan(made, "plan.html")
    assert NET in (here / "plan.html").read_text()


def call_measure(here: Path, result: Result) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FSD_HOME", str(here / "home"))  # other tests have no measured table
        found = fsd_core.measure("local", quick=True)
    assert {row["verb"] for row in found.rows} >= {"publish", "deliver", "put", "get", "start_cold"}
    fsd_core.write_measurement(found, "measured.html")
    assert "publish" in (here / "measured.html").read_text()


def call_partition(here: Path, result: Result) -> None:
    model = fsd_core.open_model(NET)
    made = fsd_core.make_partition(model, 2, "random", seed=3)
    made.save("p.npz")
    assert fsd_core.Partition.load("p.npz", model).digest == made.digest
    assert fsd_core.ExchangePlan(model, made).figures()["rows_moved"] > 0
    assert fsd_core.estimate_partition(model, 2, seed=3).rows_moved > 0


def call_provider_new(here: Path, result: Result) -> None:
    assert Path("made", "pyproject.toml") in fsd_core.new_provider("mine", "made")


def call_model_import(here: Path, result: Result) -> None:
    np.savez(here / "weights.npz", weights_1=np.eye(3, dtype=np.float32))
    model = fsd_core.import_model("weights.npz", bias=-0.5, activation="tanh")
    fsd_core.save_model(model, "made")
    assert fsd_core.describe_model(fsd_core.open_model("made"))["groups"][0]["bias"] == [-0.5, -0.5]
    pytest.importorskip("onnx", reason="needs the extra onnx")
    from onnx_models import layers, saved

    fsd_core.save_graph(fsd_core.open_graph(saved(layers([4, 3, 2]), here / "m.onnx")), "imported")
    assert fsd_core.describe_model(fsd_core.open_model("imported"))["layers"] == 2


def call_model_radixnet(here: Path, result: Result) -> None:
    fsd_core.save_model(fsd_core.radixnet(1024, 3, 5, "normal"), "made")
    assert len(fsd_core.open_model(Path("made")).layers) == 3


def call_model_show(here: Path, result: Result) -> None:
    assert fsd_core.describe_model(fsd_core.open_model(NET))["layers"] == 6
    pytest.importorskip("onnx", reason="needs the extra onnx")
    from onnx_models import residual, saved

    graph = fsd_core.open_graph(saved(residual(), here / "m.onnx"), {"x": (1, 3, 8, 8)})
    assert fsd_core.describe_graph(graph)["largest"]["name"] == "conv2"
    assert [stage.inputs for stage in fsd_core.graph_stages(graph, 2)] == [["x"], []]


def call_bill(here: Path, result: Result) -> None:
    counts = {"object_puts": 1000, "function_seconds": [1.0, 2.0], "function_memory_mb": 1024}
    made = fsd_core.bill(counts, "aws-us-east-1")
    assert made.total_usd > fsd_core.bill(counts, fsd_core.load_tariff("aws-us-east-1"), free=True).total_usd > 0


def call_tariff_list(here: Path, result: Result) -> None:
    assert {fsd_core.load_tariff(name).provider for name in fsd_core.tariff_names()} >= {"local", "aws", "gcp", "azure"}


def call_tariff_show(here: Path, result: Result) -> None:
    tariff = fsd_core.load_tariff("aws-us-east-1")
    assert fsd_core.load_tariff(Path(tariff.path)).prices == tariff.prices


def call_demo(here: Path, result: Result) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fsd_core.demo.training.EPOCHS", 1)  # a test of the demo trains it to the end
        made = fsd_core.run_demo(workers=2, partition="block", home=here / "home", seed=1)
    assert made.same
    assert made.accuracy is not None
    assert 0 < made.accuracy < 1
    assert (made.model.outputs, made.result.workers, made.inputs.shape[1]) == (10, 2, 64)
    with pytest.raises(fsd_core.CheckFailed, match="accuracy"):
        attrs.evolve(made, accuracy=0.5).check()
    with pytest.raises(fsd_core.CheckFailed, match="differs"):
        attrs.evolve(made, same=False).check()
    with pytest.raises(fsd_core.InputError, match="seed -1"):  # test_demo_onnx.py runs it
        fsd_core.run_onnx_demo(seed=-1)


def call_deploy(here: Path, result: Result) -> None:
    settings = {"root": here / "root"}
    made = fsd_core.deploy("local", "mine", settings, workers=2, slots=1)
    assert (made.app, made.ranks, made.slots) == ("mine", 2, 1)
    assert fsd_core.destroy("local", "mine", settings)


def call_audit(here: Path, result: Result) -> None:
    settings = {"root": here / "audited"}
    fsd_core.deploy("local", "mine", settings, workers=1, slots=1)
    promises = fsd_core.audit("local", "mine", settings)
    assert all(isinstance(each, fsd_core.Promise) and each.holds for each in promises)
    (here / "audited" / "mine").chmod(0o755)
    (broken,) = (each for each in fsd_core.audit("local", "mine", settings) if not each.holds)
    assert (broken.found, broken.advice) == (f"{here / 'audited' / 'mine'}: mode 755", f"chmod 700 {here / 'audited' / 'mine'}")
    with pytest.raises(fsd_core.InputError, match="app nothing on local: is not deployed"):
        fsd_core.audit("local", "nothing", settings)


def call_destroy(here: Path, result: Result) -> None:
    assert fsd_core.destroy(app="nothing", settings={"root": here / "root"}) == []


def call_gc(here: Path, result: Result) -> None:
    assert fsd_core.collect_garbage() == 0


def call_clean(here: Path, result: Result) -> None:
    options: dict[str, Any] = {"settings": {"root": here / "root"}, "home": here / "home"}
    again = fsd_core.run(NET, INPUT, workers=1, partition="block", **options)
    assert fsd_core.clean(**options, keep_records=True) > 0
    assert (here / "home" / "runs" / f"{again.run}.json").exists()
    assert fsd_core.clean(**options) == 0
    assert [each.name for each in (here / "home" / "runs").iterdir()] == ["audit"]


def call_emulators_up(here: Path, result: Result) -> None:
    (up,) = fsd_core.start_emulators("aws").values()
    assert up.alive()
    assert fsd_core.start_emulators("aws", "moto") == {"aws": up}
    before = dict(os.environ)
    with fsd_core.emulator("aws", settings={"memory_mb": 512}, start=False) as settings:
        assert settings["memory_mb"] == 512
        assert fsd_core.destroy("aws", "nothing", settings) == []
    assert dict(os.environ) == before
    assert up.alive()


def call_emulators_status(here: Path, result: Result) -> None:
    fsd_core.start_emulators("aws")
    states = fsd_core.emulator_states()
    assert states.keys() >= {"aws", "gcp", "azure"}
    assert states["aws"] is not None
    assert states["aws"].alive()
    assert states["gcp"] is None


def call_emulators_down(here: Path, result: Result) -> None:
    (up,) = fsd_core.start_emulators("aws").values()
    assert fsd_core.stop_emulators("aws") == {"aws": up}
    assert not up.alive()
    assert fsd_core.stop_emulators("aws") == {"aws": None}


def call_conformance(here: Path, result: Result) -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as process:  # pytest cannot run within pytest
        assert process.submit(fsd_core.conformance, "local", only="TestObject and test_ranges").result()
        with pytest.raises(InputError, match="nosuch"):
            process.submit(fsd_core.conformance, "local", only="nosuch").result()


def call_doctor(here: Path, result: Result) -> None:
    found = {check.name: check for check in fsd_core.doctor()}
    assert found["numpy"].found == np.__version__


CALLS: dict[str, Callable[[Path, Result], None]] = {
    name.removeprefix("call_"): call for name, call in list(globals().items()) if name.startswith("call_")
}


def names_in(code: CodeType) -> set[str]:
    """The names that a function uses, also within its comprehensions."""
    return set(code.co_names).union(*(names_in(each) for each in code.co_consts if isinstance(each, CodeType)))


@pytest.fixture(scope="module")
def api() -> ModuleType:
    """docs/api.py as a module."""
    spec = importlib.util.spec_from_file_location("docs_api", DOCS / "api.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize(
    "command", [pytest.param(each, marks=[pytest.mark.emulator] if each.startswith("emulators") else []) for each in COMMANDS]
)
def test_every_command_can_be_done_from_python(command: str, here: Path, result: Result, api: ModuleType, emulated: None) -> None:
    if command.startswith("emulators"):
        pytest.importorskip("moto")
    call = CALLS.get(command.replace(" ", "_"))
    assert call, f"fsd {command}: expected a function call_{command.replace(' ', '_')} here, and what it calls in docs/api.py"
    assert command in api.COMMANDS, f"fsd {command}: expected the names that do the same in docs/api.py"
    assert set(api.COMMANDS[command].split(", ")) <= names_in(call.__code__)
    call(here, result)


def test_every_call_is_of_a_command_and_every_function_is_called(api: ModuleType) -> None:
    assert CALLS.keys() == {command.replace(" ", "_") for command in COMMANDS}
    assert api.COMMANDS.keys() == set(COMMANDS)
    functions = {name for name in fsd_core.__all__ if name[0].islower()}
    assert functions <= {name for call in CALLS.values() for name in names_in(call.__code__)}


# the names


def test_all_names_are_found_and_typed() -> None:
    tree = ast.parse((CORE / "__init__.py").read_text())
    checking = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {}
    for node in checking.body:
        assert isinstance(node, ast.ImportFrom)
        typed |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
    places = {name: place.partition(":") for name, place in fsd_core._PLACES.items()}
    assert typed == {name: (f"fsd_core.{module}", inside or name) for name, (module, _, inside) in places.items()}
    assert sorted(fsd_core.__all__) == sorted(typed)
    assert set(fsd_core.__all__) <= set(dir(fsd_core))
    assert [name for name in fsd_core.__all__ if not getattr(fsd_core, name).__doc__] == []


def test_no_name_is_that_of_a_room() -> None:
    """The import of a room sets its name in the package."""
    rooms = {path.stem for path in CORE.iterdir()}
    assert set(fsd_core.__all__) & rooms == set()


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys, fsd_core; print(*({'fsd_core', 'fsd_core.errors', 'numpy', 'attr', 'attrs', 'scipy'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["fsd_core"]


@pytest.mark.parametrize(
    ("name", "said"),
    [("rum", "did you mean run?"), ("Modle", "did you mean Model?"), ("deply", "did you mean deploy?"), ("qqqq", "known are Accuracy, ")],
)
def test_an_unknown_name_suggests_the_nearest(name: str, said: str) -> None:
    with pytest.raises(AttributeError, match=f"module 'fsd_core' has no attribute '{name}'; {re.escape(said)}"):
        getattr(fsd_core, name)
    done = subprocess.run([sys.executable, "-P", "-c", f"import fsd_core; fsd_core.{name}"], capture_output=True, text=True, check=False)
    assert done.stderr.lower().count("did you mean") == ("did you mean" in said)
    assert not hasattr(fsd_core, "__wrapped__")


# what a notebook shows


def test_a_result_shows_itself(result: Result) -> None:
    shown = result._repr_html_()
    for words in (f"Run {result.run}", "2 on local", "exchange", "queue requests", "peak", "Bill by local", "total"):
        assert words in shown
    assert f"{result.seconds['total']:.3f} s" in shown
    assert not re.search(r"<(?!/?(table|caption|tbody|tr|th|td)\b)|(?i:href|src|url|on\w+=)", shown)


def test_a_result_escapes_its_text_and_shows_itself_without_a_tariff(result: Result) -> None:
    text = "<script>alert('a & b')</script>\udc80"
    shown = attrs.evolve(result, partition=text, stand_in=text, provider="mine<b>")._repr_html_()
    assert "<script" not in shown
    assert "<b>" not in shown
    assert "&lt;script&gt;alert(&#x27;a &amp; b&#x27;)&lt;/script&gt;?" in shown
    assert "Bill" not in shown
    shown.encode()


def test_a_comparison_shows_itself(here: Path) -> None:
    ways = {"channels": ["object"], "workers": [2], "repeat": 1, "partition": "block"}
    found = fsd_core.compare(NET, INPUT, ["local"], **ways)
    found.cells[0].error = "<b>no & more"
    shown = found._repr_html_()
    assert "<td>2</td><td>object</td><td>local</td><td>" in shown
    assert "local, object, 2 workers: &lt;b&gt;no &amp; more" in shown
    assert not re.search(r"<(?!/?(table|caption|thead|tbody|tr|th|td|p)\b)|(?i:href|src|url|on\w+=)", shown)


def test_results_are_equal_only_to_themselves(result: Result) -> None:
    other = attrs.evolve(result)
    assert result == result
    assert result != other
    assert {result, other, result} == {other, result}


# arguments


def test_a_comparison_leaves_its_arguments_alone(here: Path) -> None:
    samples = csr_matrix(np.eye(3, 1024))
    arguments: dict[str, Any] = {"settings": {"local": {"root": str(here / "root")}}, "note": {"why": "because"}, "workers": [2]}
    before, kept = json.dumps(arguments), samples.toarray()
    found = fsd_core.compare(NET, samples, ("local",), channels=("object",), repeat=1, partition="block", home=here, **arguments)
    assert (json.dumps(arguments), found.about["why"], found.about["model"]) == (before, "because", NET)
    np.testing.assert_array_equal(samples.toarray(), kept)


class Unshown:
    """A value that cannot show itself."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")


WRONG: list[tuple[Callable[[], object], str]] = [
    (lambda: fsd_core.compare(NET, INPUT, "local"), r"providers 'local': expected a list"),
    (lambda: fsd_core.compare(NET, INPUT, []), r"providers \[\]: expected at least one"),
    (lambda: fsd_core.compare(NET, INPUT, ["mars"]), "providers 'mars': expected one of aws, azure, gcp, local"),
    (lambda: fsd_core.compare(NET, INPUT, ["local", "local"]), "providers: 'local' is given twice"),
    (lambda: fsd_core.compare(NET, INPUT, ["local"], channels=["auto"]), f"channels 'auto': expected one of {', '.join(CHANNELS)}"),
    (lambda: fsd_core.compare(NET, INPUT, ["local"], workers=[2.0]), "workers 2.0: expected a whole number"),
    (lambda: fsd_core.compare(NET, INPUT, ["local"], workers=4), "workers 4: expected a list"),
    (lambda: fsd_core.compare(NET, INPUT, ["local"], workers=[2, np.int8(2)]), "workers: 2 is given twice"),
    (lambda: fsd_core.compare(NET, INPUT, ["local"], repeat=0), "repeat 0"),
    (lambda: fsd_core.compare(NET, INPUT, ["local"], emulator="moto"), "emulator 'moto': expected True or False"),
    (lambda: fsd_core.compare(NET, INPUT, ["local"], settings={"local": 3}), "settings.'local'. 3: expected a mapping"),
    (lambda: fsd_core.compare(NET, INPUT, ["local"], settings=3), "settings 3: expected a mapping"),
    (lambda: fsd_core.compare(NET, INPUT, ["local"], partition="p.npz"), "partition p.npz: expected one number in workers"),
    (lambda: fsd_core.compare(NET, INPUT, ["local"], partition=3, workers=[2]), "partition 3: expected a Partition, one of hypergraph"),
    (lambda: fsd_core.compare(NET, INPUT, ["local"], partition=None), "partition None: expected a Partition, one of hypergraph"),
    (lambda: fsd_core.compare(NET, INPUT, ["local"], seed=Unshown()), r"seed \(a Unshown\): expected a whole number"),
    (lambda: fsd_core.compare(NET, INPUT, ["local"], bath_size=3), "bath_size: unknown argument; did you mean batch_size"),
    (lambda: fsd_core.compare(NET, INPUT, ["local"], batch_size=0), "batch_size 0: expected a whole number of at least 1"),
    (lambda: fsd_core.compare(NET, INPUT, ["local"], channel="queue"), "channel: unknown argument; known are .*batch_size"),
    (lambda: fsd_core.compare(NET, INPUT, ["local"], faults="gremlins=1"), "gremlins"),
    (lambda: fsd_core.compare(NET, np.ones((2, 3)), ["local"]), "inputs have 3 columns: expected 1024"),
    (lambda: fsd_core.compare(None, INPUT, ["local"]), "model None"),
    (lambda: fsd_core.write_comparison(None), "comparison None: expected a Comparison"),
    (lambda: fsd_core.write_report(3), "run 3"),
    (lambda: fsd_core.write_report("f" * 16), "no record of this run"),
    (lambda: fsd_core.read_log(3), "run 3"),
    (lambda: fsd_core.read_log("nosuch"), "run 'nosuch': expected the id of a run"),
    (lambda: fsd_core.past_runs(3), "home 3: expected a path"),
    (lambda: fsd_core.bill([], "local"), "usage: .*expected an object"),
    (lambda: fsd_core.bill({"puts": 1}, "local"), "puts: unknown key"),
    (lambda: fsd_core.bill({}, None), "tariff None: expected one of aws-icde2024"),
    (lambda: fsd_core.bill({}, "local", free=1), "free 1: expected True or False"),
    (lambda: fsd_core.load_tariff("aws-us-est-1"), "did you mean aws-us-east-1"),
    (lambda: fsd_core.deploy(workers=0), "workers 0"),
    (lambda: fsd_core.deploy(slots="4"), "slots '4'"),
    (lambda: fsd_core.deploy(app="A"), "app 'A'"),
    (lambda: fsd_core.deploy(repair="yes"), "repair 'yes'"),
    (lambda: fsd_core.audit(app="A"), "app 'A'"),
    (lambda: fsd_core.destroy("mars"), "provider 'mars' is not installed"),
    (lambda: fsd_core.destroy(progress=3), "progress 3: expected a function"),
    (lambda: fsd_core.clean(keep_records=1), "keep_records 1"),
    (lambda: fsd_core.start_emulators("mars"), "'mars': expected one of aws, azure, gcp"),
    (lambda: fsd_core.start_emulators("local"), "needs no emulator"),
    (lambda: fsd_core.start_emulators(name="moto"), "the cloud is missing"),
    (lambda: fsd_core.start_emulators("aws", "nosuch"), "moto, localstack"),
    (lambda: fsd_core.stop_emulators(3), "emulators: 3: expected one of"),
    (lambda: fsd_core.emulator("local").__enter__(), "needs no emulator"),
    (lambda: fsd_core.emulator("gcp", start=False).__enter__(), "expected a running emulator; start one with: fsd emulators up gcp"),
    (lambda: fsd_core.conformance("mars"), "provider 'mars' is not installed"),
    (lambda: fsd_core.conformance("aws", live=True, emulator="moto"), "live and emulator: expected only one of them"),
    (lambda: fsd_core.run_demo(radixnet=1), "radixnet 1: expected True or False"),
    (lambda: fsd_core.read_settings("nosuch.toml"), "nosuch.toml"),
    (lambda: fsd_core.emulator_states(np.arange(2)), "emulators: .ndarray of shape .2,. and dtype int64.: expected one of aws, azure, gcp"),
    (lambda: fsd_core.stop_emulators(np.arange(2)), "emulators: .ndarray"),
    (lambda: fsd_core.start_emulators(np.arange(2)), "emulators: .ndarray"),
    (lambda: fsd_core.open_model("a\nb\x1b\u2028c"), r"^a b\\x1b c: no such folder"),
    (lambda: fsd_core.open_inputs("a\rb", 3), "^a b: no such file"),
    (lambda: fsd_core.read_settings("\udcff.toml"), r"^\\udcff.toml"),  # a byte that is not UTF-8, as Python reads it from the system
    *[
        (call, r"path '\\ud800': surrogates not allowed at character 0: expected a path that utf-8 can hold")
        for call in (
            lambda: fsd_core.open_model("\ud800"),
            lambda: fsd_core.open_inputs("\ud800", 3),
            lambda: fsd_core.read_settings("\ud800"),
            lambda: fsd_core.save_model(fsd_core.open_model(NET), "\ud800"),
            lambda: fsd_core.past_runs("\ud800"),
            lambda: fsd_core.make_partition(fsd_core.open_model(NET), 2, "\ud800"),
        )
    ],
]


@pytest.mark.parametrize(("call", "words"), WRONG, ids=[words for _, words in WRONG])
def test_a_wrong_argument_is_named(here: Path, call: Callable[[], object], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        call()
    assert str(caught.value).isprintable()
    assert os.listdir(here) == []


RIGHT: dict[str, dict[str, Any]] = {  # arguments that have no default
    "run": {"model": NET, "inputs": INPUT},
    "compare": {"model": NET, "inputs": INPUT, "providers": ["local"]},
    "serial": {"model": fsd_core.open_model(NET), "inputs": [[0.0] * 1024]},
    "open_model": {"spec": NET},
    "import_model": {"source": "nosuch.npz"},
    "radixnet": {"neurons": 1024, "layers": 2},
    "save_model": {"model": fsd_core.open_model(NET), "path": "made"},
    "describe_model": {"model": fsd_core.open_model(NET)},
    "open_graph": {"path": "nosuch.onnx"},
    "save_graph": {"graph": None, "path": "made"},
    "graph_stages": {"graph": None, "stages": 2},
    "open_inputs": {"spec": INPUT, "width": 1024},
    "make_partition": {"model": fsd_core.open_model(NET), "workers": 2},
    "estimate_partition": {"model": fsd_core.open_model(NET), "workers": 2},
    "make_plan": {"model": NET, "inputs": INPUT},
    "write_plan": {"plan": None, "out": "plan.html"},
    "write_measurement": {"measurement": None, "out": "measured.html"},
    "new_provider": {"name": "mine", "folder": "made"},
    "write_comparison": {"comparison": None},
    "write_report": {"run": "f" * 16},
    "read_log": {"run": "f" * 16},
    "bill": {"usage": {}, "tariff": "local"},
    "load_tariff": {"name": "local"},
    "emulator": {"provider": "aws"},
    "start_emulators": {"cloud": "aws"},
}


@pytest.mark.parametrize("name", [name for name in fsd_core.__all__ if name[0].islower()])
def test_every_argument_of_every_function_is_checked(here: Path, home: Path, name: str) -> None:
    call, before = getattr(fsd_core, name), sorted(home.iterdir())
    for each in inspect.signature(call).parameters.values():
        if each.kind is each.VAR_KEYWORD:
            wrong: dict[str, Any] = {"colour": "red"}
        else:
            wrong = {each.name: object()}
        with pytest.raises(InputError):  # noqa: PT012  # a context manager checks when it is entered
            made = call(**(RIGHT.get(name, {}) | wrong))
            made.__enter__()
    assert (os.listdir(here), sorted(home.iterdir())) == ([], before)


def test_a_result_names_wrong_arguments(result: Result, here: Path) -> None:
    pipe = here / "pipe"  # to open it would wait for its other end
    os.mkfifo(pipe)
    for call, words in (
        (lambda: result.save(pipe), "output .*pipe: exists and fsd did not make it"),
        (lambda: fsd_core.write_report(result, pipe), "out .*pipe: cannot be written: it is not a regular file"),
        (
            lambda: fsd_core.write_report(result, here / "page.html", trace=pipe),
            "trace .*pipe: cannot be written: it is not a regular file",
        ),
        (lambda: fsd_core.write_report(pipe), "pipe: cannot be read: it is not a regular file"),
        (lambda: result.check([0]), "truth 0: expected a whole number from 1 to 40"),
        (lambda: result.check([1.5]), "truth .*: expected an array of whole numbers"),
        (lambda: result.check("nosuch"), "truth nosuch: cannot be read"),
        (lambda: result.save(""), "output '': expected a path"),
        (lambda: result.save("\ud800"), r"path '\\ud800': surrogates not allowed"),
        (lambda: result.check("\ud800"), r"path '\\ud800': surrogates not allowed"),
        (lambda: result.save(here), "output .*did not make it"),
        (lambda: attrs.evolve(result, provider="mine").bill(), "has no tariff for provider mine"),
        (lambda: attrs.evolve(result, provider="gcp").bill("aws-us-east-1"), "tariff aws-us-east-1: has prices of provider aws"),
    ):
        with pytest.raises(InputError, match=words):
            call()


# the page


def test_the_page_is_of_the_code_as_it_is(api: ModuleType) -> None:
    assert (DOCS / "api.md").read_text() == api.page(), "make api"


def test_links_of_the_page_lead_somewhere() -> None:
    text = (DOCS / "api.md").read_text()
    headings = {heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", text, re.M)}
    links = set(re.findall(r"\]\(#([^)]*)\)", text))
    assert links <= headings
    assert len(links) > 30
