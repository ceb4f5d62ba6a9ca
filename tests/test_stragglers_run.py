"""Whole runs with slow and hanging workers, and who is replaced in them."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fsd_core.client.apps
import fsd_core.client.follow
import fsd_core.client.job
from dying_functions import TRAP, DyingProvider
from fsd_core import Result, run
from fsd_core.channel import NewsList
from fsd_core.client import stragglers
from fsd_core.client.job import Job
from fsd_core.driver import Code
from fsd_core.errors import RunFailed
from fsd_core.model import radixnet
from fsd_core.model.inputs import open_inputs
from fsd_core.storage.keys import RunKeys
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store
from fsd_local import PROVIDER
from waiting import claims, until

Start = Callable[..., Result]
PIPELINE, TENSOR = {"pipeline_parallel": 3, "batch_size": 7}, {"workers": 3}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    folder, model, inputs = tmp_path_factory.mktemp("runs"), radixnet(1024, 6), open_inputs("random:28:0.4:1", 1024)

    def start(**options: Any) -> Result:
        same: dict[str, Any] = {"partition": "block", "timeout": 100.0, "settings": {"root": str(folder / "root")}}
        return run(model, inputs, home=folder, **(same | options))

    return start


@pytest.fixture(scope="module")
def undisturbed(start: Start) -> Callable[..., Any]:
    """The output of a split without faults, computed once."""
    known: dict[str, Any] = {}

    def undisturbed(**split: Any) -> Any:
        if (name := repr(split)) not in known:
            known[name] = start(**split).output
        return known[name]

    return undisturbed


@pytest.mark.timeout(600)  # on a busy machine, ranks that wait for the processor are called slow too, and then a wait has to double
@pytest.mark.parametrize(
    ("faults", "split", "channel", "more"),
    [
        ("hang=1@3", TENSOR, "queue", {"objective": "latency"}),
        ("slow=0:200000", PIPELINE, "object", {"objective": "latency"}),  # whose successors wait too
        ("slow=1:200000", TENSOR, "hybrid", {"recovery": "stragglers"}),
        ("hang=0@4+2@4", TENSOR, "object", {"recovery": "stragglers"}),
        ("hang=0@99", TENSOR, "queue", {"recovery": "stragglers"}),  # once all other ranks have ended
    ],
)
def test_a_slow_or_hanging_rank_changes_no_bit(
    start: Start,
    undisturbed: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    faults: str,
    split: dict[str, Any],
    channel: str,
    more: dict[str, str],
) -> None:
    expected = undisturbed(**split)
    monkeypatch.setattr(fsd_core.client.job, "SLOW_S", 0.5)
    monkeypatch.setattr(fsd_core.client.follow, "STORE_CHECKS", 2)
    for name in ("GATHER_S", "GATHER_LIST_S"):
        monkeypatch.setattr(stragglers, name, 0.5)
    result = start(faults=faults, channel=channel, timeout=500.0, **split, **more)
    for name in ("indptr", "indices", "data"):
        assert np.array_equal(getattr(result.output, name), getattr(expected, name)), name
    slow_ranks = [int(each[0]) for each in faults.partition("=")[2].split("+")]
    assert {each["reason"] for each in result.recovered} == {"slow"}
    assert {each["rank"] for each in result.recovered} >= set(slow_ranks)  # and a rank without a processor, on a busy machine
    assert result.missing_ranks == []
    if "hang" in faults:
        assert {result.ranks[rank]["incarnation"] for rank in slow_ranks} == {1}


@pytest.mark.parametrize(
    ("faults", "line"),
    [("hang=1@3", "longer than the stall limit"), ("hang=0@99", "rank 0 still works .* after all other ranks have ended, longer than the")],
)
def test_where_money_counts_a_rank_that_hangs_ends_the_run(start: Start, monkeypatch: pytest.MonkeyPatch, faults: str, line: str) -> None:
    monkeypatch.setattr(fsd_core.client.job, "SLOW_S", 0.5)
    monkeypatch.setattr(fsd_core.client.job, "start_limit_s", lambda limits: 0.0)  # the stall limit of 65 s becomes one of 5 s
    monkeypatch.setattr(fsd_core.client.job, "START_MARGIN_S", 4.0)
    monkeypatch.setattr(fsd_core.client.follow, "STORE_CHECKS", 2)
    with pytest.raises(RunFailed, match=line):
        start(faults=faults, channel="object", objective="cost", **TENSOR)


@pytest.mark.parametrize(
    ("recovery", "objective", "replaces"),
    [
        ("on", "latency", (True, True)),
        ("on", "cost", (True, False)),
        ("stragglers", "cost", (True, True)),
        ("deaths", "latency", (True, False)),
        ("off", "latency", (False, False)),
    ],
)
def test_the_setting_and_the_objective_say_who_is_replaced(
    start: Start, monkeypatch: pytest.MonkeyPatch, recovery: str, objective: str, replaces: tuple[bool, bool]
) -> None:
    found: list[tuple[bool, bool]] = []

    def execute(job: Job, *_: Any, **__: Any) -> Result:
        found.append((job.recovery, job.stragglers))
        raise RunFailed(Code.UNAVAILABLE, "enough")

    monkeypatch.setattr(Job, "execute", execute)
    with pytest.raises(RunFailed, match="enough"):
        start(recovery=recovery, objective=objective, **TENSOR)
    assert found == [replaces]


@pytest.mark.parametrize(
    ("workers", "line"),
    [
        (1, "the run has one worker, so no other one notices that it is slow; expected at least 2"),
        (3, "the platform may run 3 functions at once, and the run has 3 workers, so none is left: expected at least 4; use fewer workers"),
    ],
)
def test_who_asks_for_replacements_hears_that_none_can_be_made(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch, workers: int, line: str
) -> None:
    def execute(*_: Any, **__: Any) -> Result:
        raise RunFailed(Code.UNAVAILABLE, "enough")

    monkeypatch.setattr(Job, "execute", execute)
    table = {"root": str(tmp_path), "concurrency": 3}
    with (
        pytest.warns(UserWarning, match=f"^recovery stragglers: no slow worker of this run can be replaced: {line}"),
        pytest.raises(RunFailed),
    ):
        start(recovery="stragglers", workers=workers, settings=table)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for fine in (
            {"workers": workers, "objective": "latency"},
            {"workers": 2, "recovery": "stragglers"},
        ):  # nobody asks for it; one is left
            with pytest.raises(RunFailed, match="enough"):
                start(settings=table, **fine)


def test_a_slow_rank_goes_on_alone_if_both_later_functions_die_at_their_start(
    start: Start, undisturbed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The first function of rank 1 is stopped until both are dead."""
    expected = undisturbed(**TENSOR)
    monkeypatch.setattr(fsd_core.client.job, "SLOW_S", 0.5)
    monkeypatch.setattr(stragglers, "GATHER_S", 0.5)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setattr(fsd_core.client.apps, "find", lambda name: DyingProvider())
    monkeypatch.setenv(TRAP, json.dumps({"rank": 1, "at": "load", "later": True}))
    settings = {"root": str(tmp_path)}
    resources = PROVIDER.provisioner(settings).ensure("fsd", 3, 1)
    store = Store(PROVIDER.objects(resources), Retry(time.time() + 600, Meter()))

    def pause() -> None:
        pid = claims(store)[1]["pid"]
        os.kill(pid, signal.SIGSTOP)
        (configuration,) = (key for key in store.keys("") if key.endswith("/config"))
        listed, dead = NewsList(store, RunKeys(configuration.split("/")[0])), list[int]()

        def both_died() -> bool:
            dead.extend(each.incarnation for each in listed.read() if each.kind == "lost" and each.rank == 1)
            return len(dead) >= 2

        until(both_died)
        os.kill(pid, signal.SIGCONT)

    pauser = threading.Thread(target=pause, daemon=True)  # if the run fails, the deaths do not come
    pauser.start()
    faults = {"faults": "delay=150ms,seed=1"}
    result = start(channel="queue", objective="latency", settings=settings, timeout=500.0, **TENSOR, **faults)
    pauser.join()
    for name in ("indptr", "indices", "data"):
        assert np.array_equal(getattr(result.output, name), getattr(expected, name)), name
    assert result.ranks[1]["incarnation"] == 0
    assert 1 not in [each["rank"] for each in result.recovered]
