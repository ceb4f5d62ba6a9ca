"""Plans: the ways to run that are compared, the one that is chosen, and what the user hears."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import fsd_core
import fsd_core.plan.batches
import fsd_core.plan.places
from fsd_core import InputError, Model
from fsd_core.cli.main import main
from fsd_core.cost.tariff import Server
from fsd_core.latency import load as load_table
from fsd_core.model.challenge import radixnet
from fsd_core.model.inputs import open_inputs
from fsd_core.partition import Parallel
from fsd_core.plan import making
from fsd_core.plan.choose import OBJECTIVES, Candidate, Wishes, choose, compare, front
from fsd_core.plan.facts import described, learn
from fsd_core.plan.keeping import kept_objects
from fsd_core.plan.making import Plan, _above, nothing
from fsd_core.plan.predict import Prediction
from fsd_core.plan.pricing import Priced, priced
from fsd_core.plan.row_workload import RowWorkload
from fsd_core.plan.servers import Servers, servers
from fsd_core.plan.ways import Given
from fsd_core.plan.writing import write_settings
from fsd_core.report.planned import write_plan
from networks import dense
from places import place

SAMPLES = 120


@pytest.fixture(scope="module", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No plan of earlier code is read, and no table that somebody measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FSD_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def model() -> Model:
    return radixnet(1024, 6)


@pytest.fixture(scope="module")
def plan(model: Model) -> Plan:
    return fsd_core.make_plan(model, f"random:{SAMPLES}:0.2", providers=["aws"], per_day=1000)


def test_one_function_is_best_for_a_small_model(plan: Plan) -> None:
    assert plan.choice.parallel.workers == 1
    assert plan.reason.startswith("One function is best here")
    assert plan.choice in plan.candidates
    assert plan.choice in plan.front
    assert len({each.channel for each in plan.candidates}) > 1
    content = plan.to_json()
    wanted = {
        "provider",
        "channel",
        "workers",
        "parallel",
        "micro_batches",
        "memory_mb",
        "seconds",
        "usd",
        "meter",
        "bytes_by_rank_max",
        "feasible",
        "why",
    }
    assert all(wanted <= each.keys() for each in content["candidates"])
    assert content["choice"] in content["candidates"]


def test_a_plan_has_servers_beside_the_functions(plan: Plan, model: Model) -> None:
    (few,) = plan.per_day
    assert few["servers"] == 1
    assert few["from_runs"] == math.ceil(few["server_usd_a_day"] / few["run_usd"])
    assert not few["server_wins"]
    (many,) = fsd_core.make_plan(model, f"random:{SAMPLES}:0.2", providers=["aws"], per_day=1e12).per_day
    assert many["servers"] > 100
    assert many["server_usd_a_day"] == pytest.approx(many["servers"] * few["server_usd_a_day"])


def test_servers_hold_the_weights_and_compute_the_runs_of_a_day() -> None:
    server = Server(name="mine", usd_hour=1.0, memory_mb=8192, vcpus=2, source="s", as_of="2026-01-01", confidence="low")
    assert servers(server, 20e9, 0.5) == Servers(3, 2 * 86_400 / 0.5, 24.0)
    assert servers(server, 0.0, 0.5, speed=0.5) == Servers(1, 86_400 / 0.5, 24.0)
    assert Servers(2, 100.0, 24.0).count(201.0) == 3


@given(st.integers(1, 5), st.floats(0.001, 1e6), st.floats(0.01, 100.0), st.floats(1e-6, 10.0))
@example(1, 1000.0, 24.0, 0.0264)  # one server pays from 910 runs on, two servers do not yet pay with 1,001
@example(1, 0.5, 24.0, 60.0)
def test_servers_are_cheaper_at_every_larger_number(holding: int, runs_each: float, usd: float, run_usd: float) -> None:
    some = Servers(holding, runs_each, usd)
    least = some.cheaper_from(run_usd)
    if least is None:
        assert run_usd * runs_each <= usd
        return
    stairs = [math.floor(count * runs_each) + 1 for count in range(1, 60)]
    for runs in (least + 1, 2 * least + 1, *(stair for stair in stairs if stair > least)):
        assert run_usd * runs > some.count(runs) * usd * (1 - 1e-9)


def test_where_one_provider_is_free_it_is_balanced_too(tmp_path: Path) -> None:
    plan = fsd_core.make_plan("radixnet:1024:2", "random:20", providers=["local", "aws"], objective="balanced", home=tmp_path)
    assert plan.choice.provider == "local"
    assert plan.choice in plan.front
    write_plan(plan, tmp_path / "plan.html")
    page = (tmp_path / "plan.html").read_text()
    assert 'data-label="why not"></td>' not in page
    assert "The choice has no point, because nobody bills it." in page
    assert "The ring is the choice" not in page


def test_a_plan_is_for_runs_of_its_objective(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose objective is latency sends some messages twice, and straight to their queues."""
    seen: list[str] = []

    def spied(*arguments: Any, given: Given, **options: Any) -> Priced:
        seen.append(given.objective)
        return priced(*arguments, given=given, **options)

    monkeypatch.setattr(making, "priced", spied)
    for objective in OBJECTIVES:
        fsd_core.make_plan(model, "random:10", providers=["aws"], objective=objective)
    assert dict(zip(OBJECTIVES, seen, strict=True)) == {"cost": "cost", "latency": "latency", "balanced": "cost"}


def test_the_file_of_a_plan_has_what_the_plan_rests_on(model: Model, tmp_path: Path) -> None:
    tables = {"aws": {"region": "eu-west-1", "concurrency": 10}, "gcp": {"concurrency": 2}}
    plan = fsd_core.make_plan(model, "random:10", providers=["aws"], objective="latency", settings=tables)
    write_settings(plan, tmp_path / "fsd.toml")
    found = fsd_core.read_settings(tmp_path / "fsd.toml")
    assert found.table() == {"region": "eu-west-1", "concurrency": 10, "memory_mb": plan.choice.memory_mb}
    assert (found.provider, found.objective) == ("aws", "latency")
    assert "objective" not in fsd_core.make_plan(model, "random:10", providers=["aws"], objective="balanced").settings()[""]


def test_a_plan_says_whose_latencies_it_takes(plan: Plan, model: Model) -> None:
    note = "latencies of aws are those that come with fsd, as of .*; they were not measured in your account: fsd measure --provider aws"
    assert any(re.match(note, each) for each in plan.notes)
    slow = fsd_core.make_plan(model, "random:10", providers=["aws"], latency="aws,scale=5,seed=1")
    fast = fsd_core.make_plan(model, "random:10", providers=["aws"], latency="aws")
    assert slow.choice.prediction is not None
    assert fast.choice.prediction is not None
    assert slow.choice.prediction.seconds["p50"] > 3 * fast.choice.prediction.seconds["p50"]
    assert "some latencies of table aws (times 5) are estimates of low confidence" in slow.notes
    assert any(each.startswith("latencies of aws (times 5) are those that come with fsd") for each in slow.notes)


def test_a_page_names_a_model_whose_path_is_no_text(plan: Plan, tmp_path: Path) -> None:
    write_plan(attrs.evolve(plan, about={**plan.about, "model": os.fsdecode(b"m\xff<b>")}), tmp_path / "plan.html")
    assert "m?&lt;b&gt; on " in (tmp_path / "plan.html").read_text()


@pytest.mark.parametrize("usd", [7.634e-5, 2.0, 1.0001, 999.9, 1e-9])
def test_an_amount_that_is_advised_is_enough(usd: float) -> None:
    assert usd <= _above(usd) <= 1.02 * usd


def test_the_front_has_no_candidate_that_another_one_beats(plan: Plan) -> None:
    points = [(each.prediction.seconds["p50"], each.prediction.usd) for each in plan.front if each.prediction]
    assert points == sorted(points)
    assert [usd for _, usd in points] == sorted((usd for _, usd in points), reverse=True)


def test_a_model_that_loads_for_too_long_becomes_a_pipeline() -> None:
    large = dense(24, 1024, 1024)  # 100 MB, over links that are a hundred times slower than real ones: as if it had 10 GB
    table = load_table("aws")
    slow = attrs.evolve(table, links={"read": attrs.evolve(table.links["read"], mb_per_s=1.0), "write": table.links["write"]})
    where = attrs.evolve(place("aws"), table=slow)
    facts = learn(large, open_inputs("random:32", 1024), 0.2)
    found = compare(RowWorkload.of(facts), [where], Wishes(deadline=30.0), colds=[True])
    one = [each for each in found if each.parallel.workers == 1]
    assert all("longer than the deadline of 30 s" in each.why for each in one)
    assert all(choose(objective, found).parallel.pipeline > 1 for objective in OBJECTIVES)
    assert choose("cost", found).parallel.tensor == 1
    free = [attrs.evolve(each, why="") for each in found if "deadline" in each.why or each.feasible]
    assert choose("cost", free).parallel.workers > 1  # hardly dearer than one function, and much faster


def test_a_layer_larger_than_a_function_is_split_into_ranks() -> None:
    wide = dense(2, 3000, 3000)  # 36 MB a layer
    found = compare(RowWorkload.of(learn(wide, open_inputs("random:8", 3000), 0.2)), [place("local", memory_mb=80)], Wishes(), colds=[True])
    assert all(each.parallel.tensor > 1 for each in found if each.feasible)
    assert front(found)


def test_what_cannot_be_is_shown_with_its_reason(model: Model) -> None:
    facts = learn(model, open_inputs(f"random:{SAMPLES}:0.2", model.inputs), 60.0)
    found = compare(RowWorkload.of(facts), [place("aws", concurrency=10)], Wishes(deadline=2.0), colds=[True])
    reasons = {each.why for each in found}
    assert "quota 10 functions at once" in reasons
    assert any("longer than the deadline of 2 s" in why for why in reasons)


def test_nothing_possible_is_an_error_with_the_nearest(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        InputError, match=r"deadline 0\.1: the fastest way, .* takes .* s \(p95\), most of it to start functions: expected at least"
    ):
        fsd_core.make_plan(model, "random:10", providers=["aws"], deadline=0.1)
    with pytest.raises(InputError, match=r"budget 1e-09: the cheapest way, .* costs .* USD: expected"):
        fsd_core.make_plan(model, "random:10", providers=["aws"], budget=1e-9)
    monkeypatch.setattr(fsd_core.plan.batches, "MARGIN", 2.0)  # so that not even an idle worker fits
    with pytest.raises(
        InputError, match=r"fits no function however it is split: .* needs .* GB, a function of local has .* GB.* workers or more"
    ):
        fsd_core.make_plan(dense(2, 3000, 3000), "random:8", providers=["local"], settings={"local": {"memory_mb": 64}})
    with pytest.raises(InputError, match="providers: 'amazon' is not installed"):
        fsd_core.make_plan(model, "random:10", providers=["amazon"])


def test_what_fits_nowhere_is_told_of_one_provider() -> None:
    candidates = [
        Candidate(provider=name, channel="queue", parallel=Parallel(tensor=workers), memory_mb=memory, cold=True, prediction=None, why=why,
                  needs_bytes=needs)
        for name, memory, needs, workers, why in (
            ("small", 10_000, 20 << 30, 2, "needs"), ("small", 10_000, 0, 4, "quota 2 functions at once"),
            ("large", 30_000, 40 << 30, 1, "needs"), ("large", 30_000, 0, 2, "quota 1 function at once"),
        )
    ]  # fmt: skip
    line = nothing("mine", candidates, Wishes())
    assert "with one function, needs 42.9 GB, a function of large has 31.5 GB (quota 1 function at once): expected about 2 workers" in line


def test_the_nearest_ways_to_both_limits_meet_one_of_them(plan: Plan) -> None:
    made = plan.choice.prediction
    assert made is not None
    fast, cheap = (
        attrs.evolve(plan.choice, prediction=attrs.evolve(made, seconds={"p50": seconds, "p95": seconds}, usd=usd), why="misses a limit")
        for seconds, usd in ((1.0, 2.0), (10.0, 1.0))
    )
    line = nothing("mine", [fast, cheap], Wishes(deadline=5.0, budget=1.5))
    assert re.search(r"^deadline 5: the fastest way within the budget, .*, takes 10 s \(p95\), .*: expected at least 10;", line), line
    assert re.search(r"; budget 1\.5: the cheapest way within the deadline, .*, costs 2 USD: expected at least 2$", line), line
    assert "within" not in nothing("mine", [fast, cheap], Wishes(deadline=0.5, budget=0.5))
    assert nothing("mine", [fast, cheap], Wishes(deadline=0.5, budget=5.0)).count("expected") == 1


def test_the_command_writes_what_a_run_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "radixnet:1024:6", "random:20", "--providers", "aws", "--write", "fsd.toml", "--json"]) == 0
    answer = json.loads(capfd.readouterr().out)
    settings = fsd_core.read_settings(tmp_path / "fsd.toml")
    assert (settings.provider, settings.workers) == ("aws", answer["choice"]["workers"])
    assert settings.table() == {"memory_mb": answer["choice"]["memory_mb"]}
    (tmp_path / "mine.toml").write_text('provider = "aws"\n')
    assert main(["plan", "radixnet:1024:6", "random:20", "--providers", "aws", "--write", "mine.toml"]) == 2
    assert "mine.toml: exists and fsd did not make it" in capfd.readouterr().err


def test_the_command_refuses_one_file_for_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["plan", "radixnet:1024:6", "random:20", "--providers", "aws"]
    assert main([*words, "--write", "page.html", "--report", str(tmp_path / "page.html")]) == 2
    assert "page.html: --write names the same file: expected two files" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_plan_by_pulls_says_that_its_table_is_for_streams() -> None:
    for receive, latency, said in (("pull", None, True), ("pull", "gcp,scale=2", True), ("pull", "aws", False), ("stream", None, False)):
        where = fsd_core.plan.places.place("gcp", {"receive": receive}, latency)
        found = compare(RowWorkload.of(described([64, 64], 8)), [where], Wishes(), given=Given(split=Parallel(tensor=2)), colds=[True])
        notes = {note for each in found if each.prediction for note in each.prediction.notes}
        assert any("open stream" in note for note in notes) == said


def test_a_candidate_without_a_prediction_has_the_same_keys(plan: Plan) -> None:
    blank = Candidate(provider="aws", channel="queue", parallel=Parallel(), memory_mb=128, cold=True, prediction=None, why="too small")
    made: Prediction | None = plan.choice.prediction
    assert made is not None
    assert blank.to_json().keys() <= plan.choice.to_json().keys()


def test_a_model_of_12_gb_becomes_a_pipeline_for_its_deadline() -> None:
    large, deadline = described([4096] * 181, 256), 60.0
    assert large.stored.sum() == pytest.approx(12e9, rel=0.02)
    load_s = large.stored.sum() / (1e6 * load_table("aws").links["read"].mb_per_s)
    found = compare(RowWorkload.of(large), [place("aws")], Wishes(deadline=deadline), colds=[True])
    for objective in OBJECTIVES:
        best = choose(objective, found).parallel
        assert best.pipeline >= load_s / deadline, objective
        assert best.tensor == 1, objective


def test_a_layer_of_14_gb_is_tensor_parallel() -> None:
    found = compare(RowWorkload.of(described([60_000, 60_000], 64)), [place("aws")], Wishes(), colds=[True])
    assert choose("cost", found).parallel.tensor > 1
    assert all(each.why.startswith("needs ") for each in found if each.parallel.tensor == 1)


def test_an_activation_of_which_nothing_is_known_takes_four_bytes() -> None:
    assert described([100, 200], 10).whole == (35 + 4000, 35 + 8000)


def test_what_a_rank_kept_is_in_objects_and_in_its_record() -> None:
    """Each object has 32 MB, a record up to 16 MB."""
    objects, left = kept_objects(np.array([0.0, 15.0, 20.0, 33.0, 100.0, 120.0]) * (1 << 20))
    assert objects.tolist() == [0, 0, 1, 1, 3, 4]
    assert (left / (1 << 20)).tolist() == [0, 15, 0, 1, 4, 0]
