"""A run whose split and channel the planner chooses, the plans that are kept, and predictions beside what a run did."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

import fsd_core
import fsd_core.client.expected
import fsd_core.plan.row_workload
from fsd_core import InputError, Result
from fsd_core.cli.main import main
from fsd_core.client.against import BYTES, compared
from fsd_core.client.expected import Expectation
from fsd_core.common.fields import Kind, key
from fsd_core.common.sealed import seal, unseal
from fsd_core.latency import Latency
from fsd_core.model.inputs import open_inputs
from fsd_core.partition import Parallel
from fsd_core.plan import kept, pricing
from fsd_core.plan.choose import Candidate, Wishes, compare
from fsd_core.plan.deciding import decide
from fsd_core.plan.places import place
from fsd_core.plan.predict import Platform, Prediction, predict
from fsd_core.plan.row_workload import RowWorkload
from fsd_core.plan.split import Split
from fsd_core.plan.ways import Given

MODEL, INPUT = "radixnet:1024:4", "random:60:0.3:1"
COUNTS = ("publishes", "acks", "object puts")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def start(home: Path) -> Iterator[Callable[..., Result]]:
    """A function that runs below ``home``. Predictions may take long, as where other tests run at the same time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fsd_core.client.expected, "FORECAST_S", 300.0)
        yield lambda **options: fsd_core.run(MODEL, INPUT, home=home, settings={"root": str(home / "local"), "lease_s": 600.0}, **options)


@pytest.fixture(scope="module")
def result(start: Callable[..., Result]) -> Result:
    """A run of two workers that share layers, over a channel that the planner chose."""
    return start(tensor_parallel=2, partition="block")


def test_one_function_is_best_for_a_small_model(start: Callable[..., Result]) -> None:
    found = start()
    assert found.workers == 1
    assert found.reason.startswith("One function is best here: it takes ")


def test_two_workers_are_split_as_the_planner_chooses(start: Callable[..., Result]) -> None:
    found = start(workers=2, channel="object")
    assert (found.workers, found.channel) == (2, "object")
    assert sorted(found.parallel.values()) == [1, 1, 2]
    assert "is the fastest of the possible ways, with " in found.reason


def test_what_is_given_is_kept(result: Result, start: Callable[..., Result]) -> None:
    assert result.parallel == {"data": 1, "pipeline": 1, "tensor": 2}
    assert result.channel in ("queue", "object")
    assert result.reason.startswith("Tensor parallel 2 is the fastest")
    assert start(pipeline_parallel=2, channel="queue").reason == ""
    with pytest.raises(InputError, match="workers 3: pipeline_parallel 2, which does not divide 3"):
        start(workers=3, pipeline_parallel=2)


@pytest.mark.parametrize(("partition", "parallel"), [("block", (1, 1, 2)), (None, (1, 2, 1))], ids=["workers that share layers", "given"])
def test_a_partition_decides_the_split(start: Callable[..., Result], partition: str | None, parallel: tuple[int, ...]) -> None:
    if partition is None:
        made = fsd_core.make_partition(fsd_core.radixnet(1024, 4), 2, "block", stages=2)
        found = start(partition=made, channel="queue")
    else:
        found = start(partition=partition, workers=2, channel="queue")
    assert tuple(found.parallel.values()) == parallel


def test_a_split_is_chosen_for_the_latencies_of_the_run(home: Path) -> None:
    model = fsd_core.radixnet(1024, 12)
    samples = open_inputs(INPUT, model.inputs)
    workload = RowWorkload(model, samples)
    latencies = (None, Latency.parse("aws,scale=3"))
    choices = [decide(workload, "local", {}, Given(split=2), latency=latency, home=home) for latency in latencies]
    assert all(choice.parallel.tensor == 1 for choice in choices)  # twelve exchanges of a tensor split wait for each other
    assert choices[0].reason != choices[1].reason
    assert decide(workload, "aws", {}, Given(), latency=None, home=home).parallel == Parallel()


def test_a_plan_is_kept_by_digest(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def plan(**options: Any) -> fsd_core.Plan:
        return fsd_core.make_plan(MODEL, INPUT, providers=["aws"], home=home, **options)

    first = plan()
    monkeypatch.setattr(fsd_core.plan.row_workload, "learn", lambda *_: pytest.fail("computed again"))
    again = plan()
    assert json.dumps(first.to_json()) == json.dumps(again.to_json())
    assert again.choice in again.candidates
    monkeypatch.setattr(fsd_core.plan.row_workload, "learn", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        plan(deadline=100.0)  # another question


@attrs.frozen
class Found:
    """What the next test keeps."""

    found: int | str = key(Kind("a number or a text", lambda value: isinstance(value, int | str)))


def test_kept_plans_are_bounded_and_damage_costs_only_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def remembered(home: Path, name: str, found: int | str) -> dict[str, Any]:
        return kept.remembered(home, name, Found, lambda: {"found": found})

    monkeypatch.setattr(kept, "MOST_FILES", 3)
    for number in range(6):
        assert remembered(tmp_path, f"key{number}", number) == {"found": number}
    files = list((tmp_path / "plans").iterdir())
    assert len(files) == 3
    files[0].write_bytes(b"damaged")
    assert remembered(tmp_path, files[0].stem, "again") == {"found": "again"}
    monkeypatch.setattr(kept, "MOST_BYTES", 50)
    assert remembered(tmp_path, "large", "x" * 100) == {"found": "x" * 100}
    assert not list((tmp_path / "plans").iterdir())
    (tmp_path / "file").write_text("")
    assert remembered(tmp_path / "file", "key", 1) == {"found": 1}  # it cannot be kept there


def test_a_kept_plan_with_a_wrong_content_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def compared(*arguments: Any, **options: Any) -> list[Candidate]:
        made.append(1)
        return found

    def priced_again() -> None:
        pricing.priced(workload, [place("aws", {})], Wishes(), home=tmp_path)

    model = fsd_core.open_model(MODEL)
    workload = RowWorkload(model, open_inputs(INPUT, model.inputs))
    found = compare(workload, [place("aws", {})], Wishes(), given=Given(split=1))
    monkeypatch.setattr(pricing, "compare", compared)
    priced_again()
    (file,) = (tmp_path / "plans").iterdir()
    good = unseal(file.read_bytes(), "")
    assert len(made) == 1
    way = next(number for number, each in enumerate(good["candidates"]) if each["prediction"])

    def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        for name, below in value.items() if isinstance(value, dict) else ():
            yield (*path, name)
            yield from places(below, (*path, name))

    def damaged(path: tuple[Any, ...], change: Callable[[dict[str, Any], str], Any]) -> None:
        content = copy.deepcopy(good)
        table: Any = content
        for name in path[:-1]:
            table = table[name]
        change(table, path[-1])
        file.write_bytes(seal(content))
        before = len(made)
        priced_again()
        assert len(made) == before + 1, path
        assert unseal(file.read_bytes(), "") == good

    every = [("candidates",), ("stored_bytes",), *places(good["candidates"][way], ("candidates", way))]
    assert len(every) > 40
    for path in every:
        damaged(path, lambda table, name: table.update({name: [{}]}))
        if path[-2:-1] != ("usd_by_service",):
            damaged(path, lambda table, name: table.pop(name))
    damaged(("candidates", way, "newer"), lambda table, name: table.update({name: 1}))
    damaged(("candidates",), lambda table, name: table.update({name: []}))


def test_a_run_ends_with_what_was_predicted(result: Result, home: Path) -> None:
    predicted = result.predicted
    assert predicted is not None
    assert predicted["meter"].keys() == result.meter.keys()
    assert 0 < predicted["seconds"]["p50"] <= predicted["seconds"]["p95"]
    assert 0 < predicted["lasted"] < result.seconds["total"]
    found = compared(result.to_json(), 0.0)
    for part in (*COUNTS, *BYTES):
        mine, real = found[part]
        assert mine == pytest.approx(real, rel=0.1, abs=2), part
    record = json.loads((home / "runs" / f"{result.run}.json").read_text())
    assert (record["predicted"], record["reason"]) == (predicted, result.reason)
    assert "Predicted and actual" in result._repr_html_()


def test_a_prediction_of_a_run_is_read_by_the_next_run_of_its_kind(
    result: Result, start: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fsd_core.client.expected, "predict", lambda *_, **__: 1 // 0)
    again = start(tensor_parallel=2, partition="block")
    assert result.predicted is not None
    assert again.predicted is not None
    assert again.predicted["parts"] == result.predicted["parts"]
    assert again.memory["predicted_bytes_max"] == result.memory["predicted_bytes_max"]


def test_errors_of_past_runs_are_shown_by_part(
    result: Result, home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FSD_HOME", str(home))
    assert main(["runs", "--accuracy", "--json"]) == 0
    rows = {row["part"]: row for row in json.loads(capfd.readouterr().out)["accuracy"]}
    assert rows["bytes between workers"]["median_size"] < 0.1
    assert rows["object puts"]["runs"] >= 1
    assert main(["runs", "--accuracy"]) == 0
    assert "Predicted less actual" in capfd.readouterr().out
    monkeypatch.setenv("FSD_HOME", str(home / "none"))
    assert main(["runs", "--accuracy"]) == 0
    assert "no past run has a prediction" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("inits_s", "cold"), [([1.0, 1.0], True), ([0.0, 1.0], True), ([0.0, 0.0, 1.0], False), ([0.0], False), ([], True)]
)
def test_a_run_of_warm_functions_is_compared_with_a_warm_prediction(
    start: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, inits_s: list[float], cold: bool
) -> None:
    """On a cloud. Here every run starts its own processes."""
    module, found, seen = fsd_core.client.expected, Expectation.found, list[bool]()

    def predicted(split: Split, platform: Platform, *arguments: Any, **options: Any) -> Prediction:
        seen.append(platform.cold)
        return predict(split, platform, *arguments, **options)

    monkeypatch.setattr(module, "predict", predicted)
    monkeypatch.setattr(module, "remembered", lambda home, name, kind, make: make())
    monkeypatch.setattr(Expectation, "found", lambda self, cut, staged, _: found(self, cut, staged, inits_s))
    for crowded in (True, False):
        monkeypatch.setattr(module, "place", lambda *arguments, here=crowded: attrs.evolve(place(*arguments), crowded=here))
        assert start(workers=1).predicted is not None
    assert seen == [True, cold]


@pytest.mark.parametrize("trouble", ["fails", "takes too long"])
def test_a_prediction_never_fails_or_delays_a_run(start: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, trouble: str) -> None:
    import threading

    over = threading.Event()
    if trouble == "fails":
        monkeypatch.setattr(fsd_core.client.expected, "remembered", lambda *_: 1 // 0)
    else:
        monkeypatch.setattr(fsd_core.client.expected, "FORECAST_S", 0.01)
        monkeypatch.setattr(fsd_core.client.expected, "remembered", lambda *_: over.wait(60))
    found = start(workers=1)
    over.set()
    assert found.predicted is None
    assert found.to_json()["predicted"] is None
    assert "Predicted and actual" not in found._repr_html_()


def test_sizes_of_a_function_are_predicted_together() -> None:
    from fsd_core.latency import load
    from fsd_core.plan.facts import learn
    from fsd_core.plan.places import place
    from fsd_core.plan.predict import predict_each
    from fsd_core.plan.traffic import Estimator

    model = fsd_core.radixnet(1024, 4)
    facts, where = learn(model, open_inputs(INPUT, model.inputs), 0.1), place("aws", {})
    one = Platform(provider="aws", outline=where.outline, table=load("aws"), tariff=where.tariff, memory_mb=1769)
    small, warm = attrs.evolve(one, memory_mb=885), attrs.evolve(one, cold=False)
    split = Estimator(facts).split(Parallel(pipeline=2), [0, 2], [60])
    found = predict_each(split, [one, small, warm], "queue")
    assert [(each.memory_mb, each.cold) for each in found] == [(1769, True), (885, True), (1769, False)]
    assert found[1].parts["compute"] == pytest.approx(2 * found[0].parts["compute"], rel=0.05)
    assert found[0].seconds["p50"] - found[2].seconds["p50"] == pytest.approx(0.65, abs=0.2)
    assert found[0].meter["publish_requests"] == found[1].meter["publish_requests"] == found[2].meter["publish_requests"]
