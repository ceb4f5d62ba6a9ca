"""What goes wrong once the output is there costs a warning and not the answer."""

from __future__ import annotations

import json
import sys
import threading
import time
import warnings
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import fsd_core
import fsd_core.client.job
import fsd_core.client.result
import fsd_core.versions
from fsd_core import Progress, Result, cost
from fsd_core.cli import main
from fsd_core.cli.run import result_tables
from fsd_core.client.collect import Records
from fsd_core.client.follow import Follower
from fsd_core.client.result import check_rank, keep, left_out, over_ranks, warn
from fsd_core.cost import Usage
from fsd_core.model import Layer, Model, radixnet, save
from fsd_core.report import comparison_page, find_record, read_record, run_page, stragglers, trace
from fsd_core.report.compare import Case, Cell, Comparison, Where, spread
from fsd_core.report.figures import FIGURES, Measured
from fsd_core.storage import keys
from fsd_core.storage.meter import FIELDS, Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.slots import lease
from fsd_core.storage.store import Store
from fsd_local import PROVIDER

WEIGHTS = np.random.default_rng(1).integers(-3, 4, (5, 6)).astype(np.float32)
MODEL = Model([Layer(WEIGHTS, 0, "identity", None, False)])
X = np.arange(18, dtype=np.float32).reshape(3, 6)


def start(home: Path, workers: int = 3, **options: Any) -> Result:
    return fsd_core.run(
        MODEL, X, workers=workers, home=home, partition="block", channel="object", settings={"root": home / "root"}, **options
    )


def right(result: Result) -> None:
    np.testing.assert_allclose(result.output.toarray(), X @ WEIGHTS.T, rtol=1e-5)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return start(tmp_path_factory.mktemp("home"))


def losing(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """From here on, ``change`` is applied to the workers' records before a run's result is made from them."""
    made = fsd_core.client.job.over_ranks
    monkeypatch.setattr(fsd_core.client.job, "over_ranks", lambda records, workers: made(change(records), workers))


@pytest.mark.parametrize("fault", ["versions", "not installed", "disk", "form", "time", "folder"])
def test_a_record_that_cannot_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    def refuse(*_: object, **__: object) -> Any:
        raise {"disk": OSError(28, "No space left on device"), "not installed": PackageNotFoundError("x")}.get(fault, ValueError(fault))

    target = {
        "versions": (fsd_core.client.result, "versions"),
        "disk": (Path, "write_bytes"),
        "form": (fsd_core.client.result, "seal"),
        "time": (fsd_core.client.result.time, "strftime"),
    }
    about = {"objective": "cost", "seed": 0, "faults": None, "batches": [3], "model": "x", "note": {"a": "b"}, "began": 0.0}
    if fault == "folder":
        (tmp_path / "runs").write_text("a file")
    elif fault != "not installed":
        monkeypatch.setattr(*target[fault], refuse)
    else:
        monkeypatch.setattr(fsd_core.versions, "needs", lambda provider: {})
        monkeypatch.setattr(fsd_core.versions, "installed", fsd_core.versions.installed.__wrapped__)
        monkeypatch.setattr(fsd_core.versions, "version", refuse)
    result = Result("0" * 16, None, 3, 6, 1, 0, {}, 1, 1, "local", None, "queue", "block", None, {}, {}, {}, {}, {}, [])  # type: ignore[arg-type]
    monkeypatch.setattr(Result, "output_nonzero_samples", 3)
    if fault == "not installed":  # then the record names it as not installed
        keep(result, tmp_path, about)
        assert json.loads((tmp_path / "runs" / f"{'0' * 16}.json").read_text())["versions"]["fsd"] == "not installed"
        return
    with pytest.warns(UserWarning, match=r"the run's record cannot be kept in .*runs: ") as caught:
        keep(result, tmp_path, about)
    assert "\n" not in str(caught[0].message)
    monkeypatch.undo()
    assert not (tmp_path / "runs").is_dir() or not list((tmp_path / "runs").iterdir())


def test_the_answer_comes_back_where_its_record_cannot_be_kept(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.warns(UserWarning, match="record cannot be kept"):
        right(start(tmp_path, workers=1))


def test_the_answer_comes_back_where_warnings_are_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs").write_text("a file")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        right(start(tmp_path, workers=1))
    assert "warning: the run's record cannot be kept" in capsys.readouterr().err


def test_a_warning_needs_no_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn("nobody hears it")


def test_progress_that_fails_while_output_is_collected(tmp_path: Path) -> None:
    def progress(step: Progress) -> None:
        if step.phase == "collect":
            raise ZeroDivisionError("of the caller's")

    with pytest.warns(UserWarning, match="progress failed while the output was collected: ZeroDivisionError: of the caller's"):
        right(start(tmp_path, workers=1, progress=progress))


def test_progress_that_fails_before_ends_the_run(tmp_path: Path) -> None:
    def progress(step: Progress) -> None:
        raise ZeroDivisionError(step.phase)

    with pytest.raises(ZeroDivisionError):
        start(tmp_path, workers=1, progress=progress)


def test_progress_that_fails_after_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread was calling it while the last output came."""
    collected = threading.Event()

    def progress(step: Progress) -> None:
        if step.phase == "collect":
            collected.set()
        if step.phase == "layers":
            raise ZeroDivisionError("of the caller's")

    def watch(self: Follower) -> None:
        collected.wait(60)
        self._progress(1, 1)

    look = Records.look
    monkeypatch.setattr(Follower, "_look_for_failures", watch)
    monkeypatch.setattr(Records, "look", lambda self, until: look(self, until) and False)  # so the client waits until progress failed
    with pytest.warns(UserWarning, match="the answer is complete, but the caller's progress failed: ZeroDivisionError: of the caller's"):
        right(start(tmp_path, workers=1, progress=progress))


def test_the_next_run_removes_records_that_come_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Records._record
    monkeypatch.setattr(fsd_core.client.job, "RECORDS_S", 0.05)
    monkeypatch.setattr(Records, "_record", lambda self, rank: found(self, rank) if rank == 0 else (False, None))
    with pytest.warns(UserWarning, match="ranks 1, 2 left no readable record"):
        result = start(tmp_path)
    right(result)
    resources = PROVIDER.provisioner({"root": str(tmp_path / "root")}).find("fsd")
    assert resources is not None
    store = Store(PROVIDER.objects(resources), Retry(time.time() + 60, Meter()))
    left = [each for slot in range(resources.slots) for each in store.keys(keys.slot(slot)) if each.endswith(".left")]
    assert len(left) == 1
    late = keys.RunKeys(result.run).record(1)
    store.put(late, b"late")
    monkeypatch.undo()
    for _ in range(resources.slots):
        lease(store, resources.slots, "ab" * 8)
    assert store.find(late) is None


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        (lambda records: records[1:], [0]),
        (lambda records: [records[2], records[0]], [1]),
        (lambda records: [], [0, 1, 2]),
        (lambda records: [None, 3, *records[2:]], [0, 1]),
        (lambda records: [records[0], records[0], records[2] | {"rank": 17}], [1, 2]),
        (lambda records: [records[0] | {"seconds": {}}, records[1], records[2] | {"meter": None}], [0, 2]),
    ],
)
def test_a_rank_without_a_record_is_left_out_and_named_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, missing: list[int]
) -> None:
    losing(monkeypatch, change)
    with pytest.warns(UserWarning, match=rf"ranks? {', '.join(map(str, missing))} left no readable record"):
        result = start(tmp_path)
    right(result)
    assert result.missing_ranks == missing
    assert [rank["rank"] for rank in result.ranks] == sorted({0, 1, 2} - set(missing))
    fewer, console = len(result.ranks), Console(width=300)
    assert result.meter_layers == {name: sum(rank["meter_layers"][name] for rank in result.ranks) for name in FIELDS}
    assert (result.seconds["compute"] > 0) == bool(fewer)
    with console.capture() as shown:
        console.print(*result_tables(result))
    assert "left no readable record" in shown.get()

    record = read_record(find_record(result.run, tmp_path))
    assert record["missing_ranks"] == missing == json.loads(json.dumps(result.to_json()))["missing_ranks"]
    measured = Measured(record, cost.bill(Usage.of_run(record), cost.load(cost.default_tariff("local") or "")))
    page = run_page(measured)
    assert "left no readable record" in page
    assert ("Timeline by rank" in page) == bool(fewer)
    assert len(json.loads(trace.trace(record))["traceEvents"]) >= 1 + fewer
    assert {each.rank for each in stragglers(record)} <= {0, 1, 2} - set(missing)
    for figure in FIGURES:
        assert figure.total(measured) >= 0
    cell = Cell(Case("local", "object", 3), [measured])
    found = Comparison({"model": "m", "repeat": 1, "samples": 3, "layers": 1, "neurons": 6}, {"local": Where(None, "local")}, [cell])
    assert [spread(figure, cell)[0] for figure in FIGURES]
    assert "left no readable record" in comparison_page(found)
    assert "left no readable record" in found.left_out()[0]
    assert found.to_csv().count("\n") == 2


def test_the_report_of_a_run_that_lacks_a_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    losing(monkeypatch, lambda records: records[:-1])
    with pytest.warns(UserWarning, match="rank 2 left no readable record"):
        result = start(tmp_path)
    monkeypatch.setenv("FSD_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["report", result.run, "--trace", "t.json"]) == 0
    assert "rank 2 left no readable record" in capfd.readouterr().out


def test_a_worker_writes_what_a_record_must_have(whole: Result) -> None:
    for rank in whole.ranks:
        check_rank(rank)
    assert whole.missing_ranks == []
    assert over_ranks(whole.ranks, 3)[0] == whole.ranks
    assert left_out([]) == ""
    assert left_out(range(9)).startswith("ranks 0, 1, 2, 3, 4, 5, 6, 7 and 1 more left no readable record")


def test_the_command_shows_the_answer_where_its_output_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("FSD_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    save(radixnet(1024, 2), "m")
    monkeypatch.setattr(np, "savez_compressed", refuse)
    arguments = ["run", "m", "random:3", "--workers", "1", "--partition", "block", "--output", "o.npz"]
    assert main(arguments) == 3
    out, err = capfd.readouterr()
    assert "Result" in out
    assert err.splitlines()[-1] == "fsd: o.npz: No space left on device"
    assert main([*arguments, "--json"]) == 3
    shown = json.loads(capfd.readouterr().out)
    assert (shown["samples"], shown["error"]["code"], shown["meter"]["invocations"]) == (3, "UNAVAILABLE", 1)
    assert not Path("o.npz").exists()
