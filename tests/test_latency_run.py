"""Runs under a table of latencies, with real processes: the same answer, the same counts, and no wait that outlasts the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fsd_core import Result, run
from fsd_core.cli import main
from fsd_core.driver import Code
from fsd_core.errors import RunFailed
from fsd_core.model import radixnet
from fsd_core.model.inputs import open_inputs
from fsd_core.model.serial import serial
from fsd_core.report.record import read_record
from waiting import until

MODEL = radixnet(1024, 6)
INPUTS = open_inputs("random:40:0.4:1", 1024)
# These depend on the model and its partition alone. Requests that poll, and acks, which follow the time, are not among them.
COUNTS = (
    "payload_bytes_sent", "message_bytes_sent", "messages_sent", "messages_received", "publish_requests", "publish_units",
    "message_units_sent", "message_units_received", "duplicates_dropped", "strays_dropped", "frames_dropped",
)  # fmt: skip


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Result]:
    """A function that runs three workers below ``tmp_path``, with leases that do not end while a test runs."""

    def start(**options: Any) -> Result:
        defaults = {"workers": 3, "channel": "queue", "partition": "block", "timeout": 100.0}
        settings = {"root": str(tmp_path / "root"), "lease_s": 600.0}
        return run(MODEL, INPUTS, settings=settings, home=tmp_path / "home", **(defaults | options))

    return start


def rows(folder: Path, **milliseconds: float) -> Path:
    """A table in which every verb always takes the same time."""
    file = folder / "table.toml"
    file.write_text("".join(f"[{verb}]\np50_ms = {ms}\np90_ms = {ms}\np99_ms = {ms}\nmax_ms = {ms}\n" for verb, ms in milliseconds.items()))
    return file


@pytest.mark.parametrize("channel", ["queue", "object", "hybrid"])
@pytest.mark.parametrize("table", ["aws", "gcp", "azure"])
def test_the_same_answer_and_a_record_of_the_table(start: Callable[..., Result], tmp_path: Path, channel: str, table: str) -> None:
    result = start(channel=channel, latency=f"{table},seed=1,scale=0.02")
    np.testing.assert_allclose(result.output.toarray(), serial(MODEL, INPUTS).toarray(), rtol=1e-4, atol=1e-4)
    about = {"table": table, "seed": 1, "scale": 0.02}
    assert result.latency == about
    assert read_record(tmp_path / "home" / "runs" / f"{result.run}.json")["latency"] == about


def test_latency_changes_no_count(start: Callable[..., Result]) -> None:
    plain, delayed = start(), start(latency="aws,seed=1,scale=0.02")
    assert {name: delayed.meter[name] for name in COUNTS} == {name: plain.meter[name] for name in COUNTS}
    assert delayed.meter["messages_sent"] > 0


def test_faults_and_latency_together(start: Callable[..., Result]) -> None:
    faults = "duplicate=.1,reorder=.2,delay=10ms,reject=.05,throttle=.05,seed=1"
    result = start(channel="hybrid", latency="aws,seed=1,scale=0.02", faults=faults)
    np.testing.assert_allclose(result.output.toarray(), serial(MODEL, INPUTS).toarray(), rtol=1e-4, atol=1e-4)
    assert result.meter["retries"] > 0


def test_every_worker_starts_as_late_as_its_draw(start: Callable[..., Result], tmp_path: Path) -> None:
    result = start(latency=str(rows(tmp_path, start_cold=1500)))
    assert [record["rank"] for record in result.ranks if record["seconds"]["launch"] >= 1.5] == [0, 1, 2]


def test_a_worker_pays_for_its_first_requests_and_each_step_for_its_messages(start: Callable[..., Result], tmp_path: Path) -> None:
    result = start(latency=str(rows(tmp_path, deliver=100, get=50, put=50, connect=200)))
    for record in result.ranks:
        seconds = record["seconds"]
        assert seconds["function"] >= 0.35 + 5 * 0.1  # a get, a put, a get over a new connection; five exchanges between six layers
    assert result.seconds["exchange"] > 0


def test_the_deadline_ends_a_run_that_waits(start: Callable[..., Result], tmp_path: Path) -> None:
    file = rows(tmp_path, deliver=3_000_000)
    with pytest.raises(RunFailed) as raised:
        start(latency=str(file), timeout=8.0)
    assert raised.value.code is Code.DEADLINE


def test_a_dead_worker_is_heard_of_by_those_that_wait(start: Callable[..., Result], tmp_path: Path) -> None:
    """The memory limit kills the workers; without the report of their host the run would last until its deadline."""
    file = rows(tmp_path, deliver=3_000_000)
    with pytest.raises(RunFailed) as raised:
        run(
            MODEL, INPUTS, workers=3, channel="queue", partition="block", timeout=3000.0, latency=str(file), home=tmp_path / "home",
            settings={"root": str(tmp_path / "root"), "timeout_s": 3.0},
        )  # fmt: skip
    assert raised.value.code is Code.UNAVAILABLE
    assert "time limit" in str(raised.value)


def test_an_interrupt_ends_a_run_that_waits(tmp_path: Path) -> None:
    file = rows(tmp_path, deliver=3_000_000, put=50)
    words = ["run", "radixnet:1024:6", "random:40", "--workers", "3", "--partition", "block", "--channel", "queue", "--latency", str(file)]
    environment = os.environ | {"FSD_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "fsd_core.cli", *words, "--timeout", "3000", "--json"]
    with subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            store = tmp_path / "home" / "local" / "fsd" / "objects"
            until(lambda: any("claim,/0=" in str(path) for path in store.rglob("*")) or process.poll() is not None)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=100)
        finally:
            process.kill()
    assert process.returncode == 130, err
    assert json.loads(out)["latency"] == {"table": str(file), "seed": 0}


# The command


@pytest.mark.parametrize(
    ("latency", "words"),
    [
        ("awz", "latency 'awz': unknown; did you mean aws?"),
        ("none.toml", "latency none.toml: no such file"),
        ("bad.toml", "latency bad.toml: [put] p50_ms = -1: expected a number of milliseconds above 0"),
        ("verb.toml", "latency verb.toml: fetch: unknown key"),
        ("aws,seed=x", "latency: seed = 'x': expected a whole number"),
        ("aws,scale=-1", "latency: scale = '-1': expected a number above 0"),
    ],
)
@pytest.mark.parametrize("command", ["run", "compare"])
def test_a_wrong_table_is_2(
    command: str, latency: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FSD_HOME", str(tmp_path / "home"))
    Path("bad.toml").write_text("[put]\np50_ms = -1\np90_ms = 1\np99_ms = 1\n")
    Path("verb.toml").write_text("[fetch]\np50_ms = 1\np90_ms = 1\np99_ms = 1\n")
    more = ["--providers", "local"] if command == "compare" else []
    assert main([command, "radixnet:1024:6", "random:40", *more, "--latency", latency]) == 2
    assert words in capfd.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "home").exists()


def test_the_command_says_under_which_table_it_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FSD_HOME", str(tmp_path / "home"))
    Path("fsd.toml").write_text('latency = "gcp,seed=4,scale=0.02"\n')
    words = ["run", "radixnet:1024:6", "random:40", "--workers", "2", "--partition", "block"]
    assert main(words) == 0
    assert "table gcp, seed 4, scale 0.02" in capfd.readouterr().out
    assert main([*words, "--latency", "azure,seed=2,scale=0.02", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["latency"] == {"table": "azure", "seed": 2, "scale": 0.02}
    Path("fsd.toml").unlink()
    assert main([*words, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["latency"] is None


def test_pages_say_that_times_are_simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FSD_HOME", str(tmp_path / "home"))
    more = ["--partition", "block", "--latency", "aws,seed=5,scale=0.02", "--json"]
    assert main(["run", "radixnet:1024:6", "random:40", "--tensor-parallel", "2", *more]) == 0
    assert main(["report", json.loads(capfd.readouterr().out)["run"], "--out", "run.html"]) == 0
    assert "table aws, seed 5, scale 0.02" in Path("run.html").read_text()
    words = ["compare", "radixnet:1024:6", "random:40", "--providers", "local", "--channels", "object", "--workers", "1", "--repeat", "1"]
    capfd.readouterr()
    assert main([*words, *more, "--report", "compared.html"]) == 0
    assert json.loads(capfd.readouterr().out)["about"]["latency"] == "aws,seed=5,scale=0.02"
    for page in ("run.html", "compared.html"):
        assert "Every request was delayed as a table of latencies says" in Path(page).read_text()
