"""Runs on the local provider that lose workers: the answer has the bits of the undisturbed run, or the run ends soon with the reason."""

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
import fsd_core.client.cleanup
import fsd_core.client.job
from dying_functions import TRAP, DyingProvider
from fsd_core import Result, run
from fsd_core.channel import News, NewsList
from fsd_core.driver import Code, ObjectDriver, Refused, Resources
from fsd_core.errors import RunFailed
from fsd_core.model import Model, radixnet
from fsd_core.model.inputs import open_inputs
from fsd_core.storage import slots
from fsd_core.storage.keys import RunKeys, is_run
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store
from fsd_core.wrappers.around import AroundObjects
from fsd_local import PROVIDER
from launcher_functions import LauncherProvider
from waiting import PATIENCE_S, claims, until

Start = Callable[..., Result]
PIPELINE, MIXED = {"pipeline_parallel": 3, "batch_size": 7}, {"pipeline_parallel": 2, "tensor_parallel": 2, "batch_size": 14}
REPLICAS = {"data_parallel": 2, "tensor_parallel": 2, "batch_size": 14}
TENSOR = {"workers": 3}


@pytest.fixture(autouse=True)
def _time_to_clean_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine the end of a run may need longer than a user would wait for it."""
    monkeypatch.setattr(fsd_core.client.cleanup, "FAILED_S", PATIENCE_S)


@pytest.fixture(scope="module")
def model() -> Model:
    return radixnet(1024, 6)


@pytest.fixture(scope="module")
def inputs() -> Any:
    return open_inputs("random:28:0.4:1", 1024)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of the runs and the folder of the app: content is staged once."""
    return tmp_path_factory.mktemp("recovery")


@pytest.fixture(scope="module")
def start(folder: Path, model: Model, inputs: Any) -> Start:
    def start(**options: Any) -> Result:
        defaults: dict[str, Any] = {"partition": "block", "timeout": 100.0, "settings": {"root": str(folder / "root")}}
        return run(model, inputs, home=folder, **(defaults | options))

    return start


@pytest.fixture(scope="module")
def undisturbed(start: Start) -> Callable[..., Result]:
    """The result of a split without any death, computed once: neither the channel nor a death may change a bit of it."""
    known: dict[str, Result] = {}

    def undisturbed(**split: Any) -> Result:
        if (name := repr(split)) not in known:
            known[name] = start(**split)
        return known[name]

    return undisturbed


@pytest.fixture
def store(folder: Path) -> Store:
    resources = PROVIDER.provisioner({"root": str(folder / "root")}).ensure("fsd", 4, 4)
    return Store(PROVIDER.objects(resources), Retry(time.time() + 600, Meter()))


@pytest.fixture
def trapped(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that sets the trap of `dying_functions`: only first incarnations die in it."""

    def trapped(rank: int, place: str, **more: Any) -> None:
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
        monkeypatch.setattr(fsd_core.client.apps, "find", lambda name: DyingProvider())
        monkeypatch.setenv(TRAP, json.dumps({"rank": rank, "at": place, "first": True} | more))

    return trapped


def same_bits(found: Result, expected: Result) -> None:
    assert found.output.shape == expected.output.shape
    for name in ("indptr", "indices", "data"):
        assert np.array_equal(getattr(found.output, name), getattr(expected.output, name)), name


def lost(result: Result) -> list[int]:
    return [each["rank"] for each in result.recovered]


def nothing_left(store: Store) -> None:
    """No slot is held, and what late workers of recovered runs may have written goes with the next run on their slots."""
    assert slots.holders(store) == set()
    assert [key for key in store.keys("") if is_run(key) and key.endswith("/config")] == []


@pytest.mark.parametrize(
    ("faults", "split", "channel", "objective"),
    [
        ("kill=1@3", TENSOR, "queue", "cost"),
        ("kill=0@1", TENSOR, "hybrid", "latency"),
        ("kill=2@6", TENSOR, "object", "cost"),
        ("kill=1@4+2@4", TENSOR, "hybrid", "cost"),  # each is a source of the other
        ("kill=0@2+1@5,duplicate=.2,reorder=.2,delay=5ms,seed=1", TENSOR, "queue", "latency"),
        ("kill=1@1", PIPELINE, "queue", "cost"),  # its source may have ended
        ("kill=0@1", PIPELINE, "object", "cost"),
        ("kill=2@99", PIPELINE, "hybrid", "latency"),  # after its last layer
        ("kill=3@6+0@2", MIXED, "queue", "cost"),
        ("kill=3@2", REPLICAS, "hybrid", "cost"),
        ("kill=0@4", {"workers": 1}, "queue", "cost"),
    ],
)
def test_a_killed_rank_changes_no_bit(
    start: Start, undisturbed: Callable[..., Result], faults: str, split: dict[str, Any], channel: str, objective: str, store: Store
) -> None:
    result = start(faults=faults, channel=channel, objective=objective, **split)
    same_bits(result, undisturbed(**split))
    killed = [tuple(map(int, each.split("@"))) for each in faults.partition("=")[2].partition(",")[0].split("+")]
    assert sorted(lost(result)) == sorted(rank for rank, _ in killed)
    for each in result.recovered:
        assert each["reason"] == "killed by signal 9"
        assert each["seconds"] > 0
    assert result.missing_ranks == []
    assert result.to_json()["recovered"] == result.recovered
    nothing_left(store)


@pytest.mark.parametrize(("place", "rank", "channel"), [("load", 1, "queue"), ("load", 0, "object"), ("output", 2, "queue")])
def test_a_death_before_the_channel_opens_or_before_the_output(
    start: Start, trapped: Callable[..., None], undisturbed: Callable[..., Result], place: str, rank: int, channel: str
) -> None:
    trapped(rank, place)
    result = start(channel=channel, **TENSOR)
    same_bits(result, undisturbed(**TENSOR))
    assert lost(result) == [rank]


@pytest.mark.parametrize(("rank", "place"), [(2, "done"), (0, "done"), (1, "record")])
def test_a_death_once_all_outputs_are_written_costs_no_answer(
    start: Start, trapped: Callable[..., None], undisturbed: Callable[..., Result], rank: int, place: str, store: Store
) -> None:
    """During the gather, or after "done": no function is started for it, it is stopped again, or it counts as recovered."""
    trapped(rank, place)
    began = time.monotonic()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        result = start(channel="queue", **TENSOR)
    assert lost(result) == [rank] or any(f"rank {rank}" in str(each.message) for each in said)
    same_bits(result, undisturbed(**TENSOR))
    assert time.monotonic() - began < 60
    nothing_left(store)


def test_a_rank_that_dies_three_times_ends_the_run(start: Start, trapped: Callable[..., None], store: Store) -> None:
    trapped(1, "layers", first=False)
    with pytest.raises(RunFailed, match=r"killed by signal 9 \(3 functions of this rank were lost\)") as caught:
        start(channel="queue", **TENSOR)
    assert (caught.value.rank, caught.value.layer) == (1, 1)
    nothing_left(store)


def test_a_source_over_its_budget_ends_the_run(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fsd_core.client.job, "kept_budget", lambda *_: 10)
    with pytest.raises(RunFailed, match="rank 1 was lost, and this rank no longer keeps what it sent to rank 1: the budget is exceeded"):
        start(channel="queue", faults="kill=1@5", **TENSOR)


def test_a_parent_in_the_launch_tree_is_replaced(
    start: Start, trapped: Callable[..., None], undisturbed: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies before it has launched its child: the next incarnation launches it."""
    monkeypatch.setattr(fsd_core.client.job, "ROOTS", 1)
    trapped(1, "children")
    result = start(channel="queue", branching=1, **TENSOR)
    same_bits(result, undisturbed(**TENSOR))
    assert lost(result) == [1]


def test_a_launcher_that_hears_of_a_death_reports_it(
    start: Start, undisturbed: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A platform whose hosts report nothing. The client launches all ranks there, so that it hears of each."""
    monkeypatch.setattr(fsd_core.client.job, "ROOTS", 1)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setattr(fsd_core.client.apps, "find", lambda name: LauncherProvider())
    result = start(channel="hybrid", faults="kill=2@3", **TENSOR)
    same_bits(result, undisturbed(**TENSOR))
    assert [(each["rank"], each["reason"]) for each in result.recovered] == [(2, "its connection closed")]


def test_a_function_that_only_paused_is_replaced_and_then_stops(start: Start, undisturbed: Callable[..., Result], store: Store) -> None:
    """Rank 1 is stopped and reported as dead. It wakes up while its successor works: it changes nothing, and ends."""
    woken: list[int] = []

    def pause() -> None:
        pid = claims(store)[1]["pid"]
        os.kill(pid, signal.SIGSTOP)
        (config,) = (key for key in store.keys("") if key.endswith("/config"))
        keys = RunKeys(config.split("/")[0])
        NewsList(store, keys).add(News(kind="lost", rank=1, incarnation=0, layer=1, reason="paused"))
        until(lambda: store.find(keys.claim(1, 1)))
        os.kill(pid, signal.SIGCONT)
        woken.append(pid)

    pauser = threading.Thread(target=pause)
    pauser.start()
    result = start(channel="queue", faults="delay=150ms,seed=1", **TENSOR)
    pauser.join()
    same_bits(result, undisturbed(**TENSOR))
    assert [(each["rank"], each["reason"]) for each in result.recovered] == [(1, "paused")]
    assert result.ranks[1]["incarnation"] in (0, 1)
    until(lambda: not os.path.exists(f"/proc/{woken[0]}"))
    nothing_left(store)


def test_the_clients_store_may_fail_meanwhile(
    start: Start, undisturbed: Callable[..., Result], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's store does not answer from the death of a rank on, for a few seconds: it starts the next incarnation after that."""
    down_until = [0.0]

    class Down(AroundObjects):
        def get(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
            if time.monotonic() < down_until[0]:
                raise Refused(Code.UNAVAILABLE, "down")
            return super().get(key, start, end)

    class Client(type(PROVIDER)):  # type: ignore[misc]  # a class that is only known by its object
        def objects(self, resources: Resources) -> ObjectDriver:
            return Down(super().objects(resources))

    def kill() -> None:
        pid = claims(store)[1]["pid"]
        down_until[0] = time.monotonic() + 4
        os.kill(pid, signal.SIGKILL)

    monkeypatch.setattr(fsd_core.client.apps, "find", lambda name: Client())
    killer = threading.Thread(target=kill)
    killer.start()
    result = start(channel="object", faults="throttle=.5,seed=1", **TENSOR)
    killer.join()
    same_bits(result, undisturbed(**TENSOR))
    assert lost(result) == [1]


def test_without_recovery_a_death_ends_the_run(start: Start) -> None:
    with pytest.raises(RunFailed, match="killed by signal 9") as caught:
        start(channel="queue", faults="kill=1@3", recovery="off", **TENSOR)
    assert (caught.value.rank, caught.value.layer) == (1, 3)


def test_a_run_without_deaths_makes_no_more_requests(start: Start, undisturbed: Callable[..., Result]) -> None:
    """At most one request for each worker. Receives and gets of what is not there depend on time, so they are left out."""
    undisturbed(**PIPELINE)  # it stages the model, if no other test has
    names = ("publish_requests", "object_puts", "object_lists", "ack_requests", "invocations")
    counts = [start(channel="queue", recovery=word, **PIPELINE).meter for word in ("off", "on", "stragglers")]
    for name in names:
        assert all(abs(more[name] - counts[0][name]) <= 3 for more in counts[1:]), (name, counts)


def test_a_rank_that_does_not_exist_is_refused(start: Start) -> None:
    with pytest.raises(fsd_core.InputError, match="faults: kill=3@1: expected a rank from 0 to 2"):
        start(faults="kill=3@1", **TENSOR)
