"""`fsd compare`: what it prints and writes, what it refuses, and that one provider's trouble is not the others'."""

from __future__ import annotations

import csv
import functools
import io
import json
import os

import attrs
import numpy as np
import pytest
from scipy.sparse import csr_matrix

import fsd_core
from fsd_core import cost
from fsd_core.cli import main
from fsd_core.client import expected
from fsd_core.cost import Usage
from fsd_core.driver import Code
from fsd_core.errors import CheckFailed, InputError, RunFailed
from fsd_core.report import comparing
from fsd_core.report.compare import Case, Cell, Comparison, Where, median, spread, take_turns
from fsd_core.report.figures import FIGURES, Measured

NET, INPUT = "radixnet:1024:12", "random:40"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def fsd(tmp_path, monkeypatch, home, capfd):
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("FSD_", "AZURE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FSD_HOME", str(home))

    def call(*words):
        capfd.readouterr()
        code = main([str(word) for word in words])
        return code, *capfd.readouterr()

    return call


def words(*more):
    return ["compare", NET, INPUT, "--partition", "block", *more]


def bill(record):
    return cost.bill(Usage.of_run(record), cost.load("aws-us-east-1"))


# the command


def test_one_that_cannot_start_and_one_that_can(fsd, tmp_path):
    made = ("--report", "r.html", "--csv", "r.csv", "--json")
    code, out, err = fsd(*words("--providers", "local,azure", "--channels", "queue,object", "--workers", "2,3", "--repeat", "2"), *made)
    assert code == 3
    assert err.splitlines()[-1].startswith("fsd: UNAVAILABLE: azure: ")
    answer = json.loads(out)
    assert answer["providers"]["local"] == {"emulator": None, "tariff": "local", "error": None}
    assert "subscription" in answer["providers"]["azure"]["error"]
    found = [(cell["workers"], cell["channel"], cell["provider"], len(cell["runs"])) for cell in answer["cells"]]
    runs = {"local": 2, "azure": 0}
    assert found == [(workers, channel, name, runs[name]) for workers in (2, 3) for channel in ("queue", "object") for name in runs]
    for cell in answer["cells"]:
        if cell["provider"] == "local":
            total = cell["seconds"]["total"]
            assert 0 < total["low"] <= total["median"] <= total["high"]
            assert cell["meter"]["invocations"]["median"] == cell["workers"]
            assert (cell["meter"]["publish_requests"]["median"] > 0) == (cell["channel"] == "queue")
            assert cell["usd"]["high"] == 0
        else:
            assert "subscription" in cell["error"]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "r.csv").read_text())))
    assert [row["provider"] for row in rows] == ["local", "azure"] * 4
    assert float(rows[0]["seconds_total_median"]) == answer["cells"][0]["seconds"]["total"]["median"]
    assert rows[1]["seconds_total_median"] == ""
    assert "subscription" in rows[1]["error"]
    page = (tmp_path / "r.html").read_text()
    assert "cannot start" in page
    assert answer["about"]["command"] in page.replace("&#x27;", "'")
    assert {"fsd", "python", "numpy", "model digest"} <= answer["about"].keys()


def test_a_table_for_people(fsd):
    code, out, err = fsd(*words("--providers", "local", "--channels", "hybrid", "--workers", "2", "--repeat", "1"))
    assert code == 0, err
    headline, empty, _, head = out.splitlines()[:4]
    assert headline.startswith("Fastest: local (hybrid, 2 workers) with ")
    assert ". Medians of 1 run; times: this machine; prices: local (undated)." in headline
    assert (empty, head.split()[:5]) == ("", ["workers", "channel", "provider", "time", "predicted"])
    assert "hybrid" in out


def test_outputs_that_differ_are_not_compared(fsd, tmp_path, monkeypatch):
    real = comparing.run

    @functools.wraps(real)
    def run(*given, **options):
        result = real(*given, **options)
        output = result.output.copy()
        if options["channel"] == "object":
            output.data[0] = np.nextafter(output.data[0], np.float32(0))
        return attrs.evolve(result, output=output)

    monkeypatch.setattr(comparing, "run", run)
    code, out, err = fsd(
        *words("--providers", "local", "--channels", "queue,object", "--workers", "2", "--report", "r.html", "--csv", "r.csv")
    )
    assert code == 1
    assert out == ""
    assert "outputs differ" in err
    assert "(local, object, 2 workers)" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--providers", "locl"], "--providers 'locl': expected one of aws, azure, gcp, local"),
        (["--providers", "local,local"], "'local' is given twice"),
        (["--providers", ""], "--providers ''"),
        (["--providers", "local", "--channels", "queue,pigeon"], "--channels 'pigeon'"),
        (["--providers", "local", "--workers", "2,02"], "a number is given twice"),
        (["--providers", "local", "--workers", "2,5000"], "5000"),
        (["--providers", "local", "--workers", "2", "--partition", "none.npz"], "none.npz"),
        (["--providers", "local", "--report", ""], "--report ''"),
        (["--providers", "local", "--latency", "auto,seed=x"], "latency: seed = 'x'"),
        (["--providers", "local", "--latency", "auto,tempo=2"], "latency: 'tempo=2': expected NAME=VALUE"),
        (["--providers", "local", "--csv", ""], "--csv ''"),
        (["--providers", "local", "--report", "x", "--csv", "./x"], "--report names the same file"),
        (["--providers", "local", "--workers", "2,0"], "--workers 0: expected a whole number of at least 1"),
        (["--providers", "local", "--workers", "2,x"], "--workers 'x'"),
        (["--providers", "local", "--repeat", "0"], "--repeat 0"),
        (["--providers", "local", "--emulator=moto"], "expected --emulator without a name"),
        (["--providers", "local", "--partition", "some.npz"], "expected one number in --workers"),
        (["--providers", "local", "--report", "no/where.html"], "--report no/where.html: cannot be written"),
        (["--providers", "local", "--csv", "."], "--csv .: cannot be written"),
        ([], "Missing option '--providers'"),
    ],
)
def test_bad_input_is_one_line(fsd, tmp_path, more, said):
    code, out, err = fsd(*words(*more))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_others_is_not_replaced(fsd, tmp_path):
    for flag, name in (("--report", "a.html"), ("--csv", "a.csv")):
        (tmp_path / name).write_text("mine")
        code, _, err = fsd(*words("--providers", "local", flag, name))
        assert code == 2
        assert "did not make it" in err
        assert (tmp_path / name).read_text() == "mine"


@pytest.mark.emulator
@pytest.mark.timeout(240)
def test_this_machine_beside_an_emulated_cloud(fsd, tmp_path):
    pytest.importorskip("moto")
    more = ("--emulator", "--channels", "queue", "--workers", "2", "--repeat", "1", "--report", "r.html", "--json")
    code, out, err = fsd(*words("--providers", "local,aws", *more))
    assert code == 0, err
    answer = json.loads(out)
    local, aws = answer["cells"]
    assert answer["providers"]["aws"]["emulator"] == "moto"
    assert local["meter"]["payload_bytes_sent"] == aws["meter"]["payload_bytes_sent"]
    assert aws["usd"]["median"] > 0
    assert aws["services"].keys() >= {"lambda", "sns", "sqs", "s3"}
    assert "Ran on emulators here: aws (moto)" in (tmp_path / "r.html").read_text()


def test_each_provider_has_its_own_table_of_latencies(fsd, monkeypatch):
    monkeypatch.setattr(expected, "FORECAST_S", 300.0)
    assert [comparing._latency(name, "auto,seed=2") for name in ("local", "aws", "gcp")] == [None, "aws,seed=2", "gcp,seed=2"]
    assert comparing._latency("aws", "gcp,scale=2") == "gcp,scale=2"
    assert fsd(*words("--providers", "local,aws", "--latency", "auto,sead=1"))[0] == 2
    code, out, err = fsd(*words("--providers", "local", "--channels", "object", "--workers", "1", "--repeat", "1", "--json", "--latency"))
    assert code == 0, err
    answer = json.loads(out)
    (cell,) = answer["cells"]
    assert cell["predicted"]["seconds"]["p50"] > 0
    assert answer["headline"].startswith("Fastest: local (object, 1 worker) with ")


def test_a_headline_says_who_is_better_and_by_how_much(result):
    def cell(provider, seconds, usd):
        record = result.to_json() | {"ranks": result.ranks, "provider": provider}
        record |= {"seconds": record["seconds"] | {"total": seconds}, "latency": {"table": provider, "seed": 1}}
        made = fsd_core.bill({"object_puts": usd}, "aws-us-east-1")
        return Cell(Case(provider, "queue", 2), [Measured(record, made)])

    where = {name: Where("moto", "x") for name in ("aws", "gcp")}
    found = Comparison({}, where, [cell("aws", 30.0, 1000), cell("gcp", 40.0, 500)]).headline
    assert found.startswith("Fastest: aws (queue, 2 workers) with 30 s, 25% faster than gcp. Cheapest: gcp (queue, 2 workers) with ")
    assert "50% cheaper than aws. Medians of 1 run; times: an emulator on this machine with the latencies of table aws, " in found
    assert Comparison({}, where, []).headline == ""


# turns


@pytest.fixture(scope="module")
def result(home):
    return fsd_core.run(NET, INPUT, workers=2, partition="block", home=home)


def test_turns_are_interleaved(result):
    cases = [Case(name, "queue", 2) for name in ("local", "aws", "gcp")]
    order = []

    def run(case):
        order.append(case.provider)
        return result

    cells = take_turns(cases, 3, {name: Where(None, "local") for name in ("local", "aws", "gcp")}, run, bill)
    assert order == ["local", "aws", "gcp"] * 4  # the first turn is unmeasured
    assert [len(cell.runs) for cell in cells] == [3, 3, 3]


def test_a_case_that_fails_runs_no_more_and_a_provider_that_never_ran_is_left_out(result):
    cases = [Case(name, channel, 2) for channel in ("queue", "object") for name in ("local", "aws")]
    order = []

    def run(case):
        order.append((case.provider, case.channel))
        if case.provider == "aws" or len(order) > 5:
            raise RunFailed(Code.DEADLINE, f"failure {len(order)}")
        return result

    wheres = {name: Where(None, "local") for name in ("local", "aws")}
    cells = take_turns(cases, 3, wheres, run, bill)
    first = [("local", "queue"), ("aws", "queue"), ("aws", "object")]
    assert order == [*first, ("local", "queue"), ("local", "object"), ("local", "queue"), ("local", "object")]
    assert (wheres["aws"].code, wheres["aws"].error) == (Code.DEADLINE, "DEADLINE: failure 2")
    assert [cell.error for cell in cells] == ["DEADLINE: failure 6", None, "DEADLINE: failure 7", None]
    assert [len(cell.runs) for cell in cells] == [1, 0, 1, 0]


def test_what_fails_with_some_workers_runs_with_others(result):
    def run(case):
        if case.workers == 5:
            raise OSError(f"no room\nfor {case.workers}")
        return result

    wheres = {"local": Where(None, "local")}
    cells = take_turns([Case("local", channel, count) for count in (5, 2) for channel in ("queue", "object")], 2, wheres, run, bill)
    assert wheres["local"].error is None
    assert [cell.error for cell in cells] == ["OSError: no room for 5"] * 2 + [None] * 2
    assert [len(cell.runs) for cell in cells] == [0, 0, 2, 2]


def test_the_next_case_warms_a_place_where_the_first_cannot_run(result):
    order = []

    def run(case):
        order.append((case.channel, case.workers))
        if case.channel == "queue" and case.workers == 9:
            raise InputError("too many for queues")
        return result

    wheres = {"local": Where(None, "local")}
    cells = take_turns([Case("local", channel, 9) for channel in ("queue", "object", "hybrid")], 1, wheres, run, bill)
    assert order == [("queue", 9), ("object", 9), ("object", 9), ("hybrid", 9)]
    assert wheres["local"].error is None
    assert [(cell.error, len(cell.runs)) for cell in cells] == [("too many for queues", 0), (None, 1), (None, 1)]


def test_what_is_infinite_in_both_agrees(result):
    infinite = result.output.copy()
    infinite.data[0] = np.inf
    assert len(outputs(attrs.evolve(result, output=infinite), 1.0)) == 2


def outputs(result, change, workers=3):
    def run(case):
        return result if case.workers == 2 else attrs.evolve(result, output=csr_matrix(result.output * change))

    cases = [Case("local", "queue", count) for count in (2, workers)]
    return take_turns(cases, 1, {"local": Where(None, "local")}, run, bill)


def test_another_number_of_workers_may_differ_by_what_floats_do(result):
    assert len(outputs(result, 1 + 1e-6)) == 2
    with pytest.raises(CheckFailed, match="different orders"):
        outputs(result, 1.01)


def test_the_median_is_a_run_and_its_parts_add_up(result):
    totals = iter((50.0, 3.0, 1.0, 2.0, 9.0))

    def run(case):
        return attrs.evolve(result, seconds=result.seconds | {"total": 100 * next(totals)})

    (cell,) = take_turns([Case("local", "queue", 2)], 4, {"local": Where(None, "local")}, run, bill)
    time = FIGURES[0]
    assert spread(time, cell) == pytest.approx((200, 100, 900))
    assert sum(time.of(median(time, cell))) == pytest.approx(200)
