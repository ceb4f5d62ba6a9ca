"""Runs on the local provider, with real processes: every way to run gives the serial answer, and every way to fail is reported."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import attrs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fsd_core.client.cleanup
import fsd_core.client.job
import fsd_core.client.stage
from fsd_core import Result, run
from fsd_core.client.job import ROOTS
from fsd_core.driver import Code
from fsd_core.errors import DamagedContent, InputError, RunFailed
from fsd_core.model import Layer, Model, radixnet
from fsd_core.model.inputs import open_inputs
from fsd_core.model.serial import serial
from fsd_core.partition import Parallel
from fsd_core.storage.keys import is_content, is_run, slot
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.slots import lease
from fsd_core.storage.store import Store
from fsd_local import PROVIDER
from networks import networks, some_inputs
from waiting import PATIENCE_S, claims, until

SLOW = "delay=150ms,seed=1"  # makes a run long enough for a test to disturb it


@pytest.fixture(autouse=True)
def _time_to_clean_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine the end of a run may need longer than a user would wait for it."""
    monkeypatch.setattr(fsd_core.client.cleanup, "FAILED_S", PATIENCE_S)


@pytest.fixture(scope="module")
def model() -> Model:
    return radixnet(1024, 12)


@pytest.fixture(scope="module")
def inputs() -> Any:
    return open_inputs("random:60:0.4:1", 1024)


@pytest.fixture
def start(tmp_path: Path, model: Model, inputs: Any) -> Callable[..., Result]:
    """A function that runs below ``tmp_path``: by default 12 layers on 60 samples."""

    def start(a_model: Model = model, some: Any = inputs, **options: Any) -> Result:
        table = {"root": str(tmp_path / "root")} | options.pop("settings", {})
        defaults = {"workers": 3, "channel": "queue", "partition": "block", "timeout": 60.0}
        return run(a_model, some, settings=table, home=tmp_path / "home", **(defaults | options))

    return start


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """The object store of the runs of `start`."""
    resources = PROVIDER.provisioner({"root": str(tmp_path / "root")}).ensure("fsd", 1, 1)
    return Store(PROVIDER.objects(resources), Retry(time.time() + 600, Meter()))


def model_rows(model: Model) -> int:
    return max(layer.outputs for layer in model.layers)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def nothing_left(store: Store, pids: list[int]) -> None:
    """Fail unless no process and no object of a run is left and the slot was given back."""
    assert not [pid for pid in pids if alive(pid)]
    assert [key for key in store.keys("") if is_run(key)] == []
    for number in range(4):
        leases = list(store.keys(slot(number)))
        assert not leases or leases[-1].endswith(".free")


@pytest.mark.timeout(600)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    model=networks(),
    data=st.integers(1, 3),
    pipeline=st.integers(1, 3),
    tensor=st.integers(1, 4),
    samples=st.integers(1, 12),
    channel=st.sampled_from(["queue", "object", "hybrid"]),
    method=st.sampled_from(["random", "block", "hypergraph"]),
    branching=st.integers(1, 4),
    roots=st.sampled_from([1, 2, ROOTS]),
    batch=st.sampled_from([None, 1, 4]),
    objective=st.sampled_from(["cost", "latency"]),
    faults=st.sampled_from(
        [None, None, "duplicate=.3,reorder=.3,delay=3ms,reject=.1,throttle=.1,seed=4", "lost_reply=.02,duplicate=.2,late=.3,seed=5"]
    ),
    victims=st.sampled_from([(), (), (0,), (1,), (2,), (3, 1)]),
    layer=st.integers(1, 4),
)
def test_distributed_equals_serial(
    start: Callable[..., Result],
    model: Model,
    data: int,
    pipeline: int,
    tensor: int,
    samples: int,
    channel: str,
    method: str,
    branching: int,
    roots: int,
    batch: int | None,
    objective: str,
    faults: str | None,
    victims: tuple[int, ...],
    layer: int,
) -> None:
    x = some_inputs(model, samples)
    split = Parallel(
        min(data, -(-samples // (batch or 1))),
        min(pipeline, len(model.layers)),
        min(tensor, *(layer.outputs for layer in model.layers)) if pipeline > 1 else min(3 * tensor, model_rows(model)),
    )
    killed = sorted({victim % split.workers for victim in victims})
    kill = [f"kill={'+'.join(f'{rank}@{layer}' for rank in killed)}"] if killed else []
    with patch.object(fsd_core.client.job, "ROOTS", roots):
        result = start(
            model,
            x,
            workers=split.workers,
            data_parallel=split.data,
            pipeline_parallel=split.pipeline,
            channel=channel,
            partition=method,
            branching=branching,
            batch_size=batch,
            objective=objective,
            faults=",".join(kill + [faults] * (faults is not None)) or None,
            settings={"lease_s": 0.3},
        )
    np.testing.assert_allclose(result.output.toarray(), serial(model, x).toarray(), rtol=1e-3, atol=1e-4)
    assert (result.parallel, result.workers) == (split.to_json(), split.workers)
    assert result.micro_batches >= split.data
    assert {each["rank"] for each in result.recovered} <= set(killed)  # nobody is started for a rank that had nothing left to do


def test_a_parent_that_has_nothing_to_wait_for_stays_until_its_children_started(
    start: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fsd_core.client.job, "ROOTS", 1)
    model = Model((Layer(np.eye(3, dtype=np.float32), np.float32(1), "identity", None, False),))
    result = start(model, np.ones((2, 3)), branching=1, faults="late=1,seed=1", timeout=30.0)
    assert result.output.toarray().tolist() == [[2, 2, 2], [2, 2, 2]]


@pytest.mark.parametrize("channel", ["queue", "object", "hybrid"])
@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_worker_that_is_killed_from_outside_is_replaced(
    start: Callable[..., Result], store: Store, undisturbed: Result, channel: str, victim: int
) -> None:
    pids: list[int] = []
    killed_at: list[float] = []

    def kill() -> None:
        pids.extend(int(claim["pid"]) for _, claim in sorted(claims(store).items()))
        killed_at.append(time.monotonic())
        os.kill(pids[victim], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    # The object channel has no deliveries to delay: instead, half of its requests are throttled.
    slow = "throttle=.6,seed=1" if channel == "object" else SLOW
    result = start(channel=channel, faults=slow)
    killer.join()
    assert time.monotonic() - killed_at[0] < 60  # before any stall limit ends
    assert [(each["rank"], each["reason"]) for each in result.recovered] == [(victim, "killed by signal 9")]
    assert (result.output != undisturbed.output).nnz == 0
    assert not [pid for pid in pids if alive(pid)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, model: Model, inputs: Any) -> Result:
    """A run of three workers whose partition is block."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return run(model, inputs, settings={"root": str(folder)}, home=folder, workers=3, channel="queue", partition="block", timeout=60.0)


def test_a_stage_does_not_wait_for_the_next_one(start: Callable[..., Result], store: Store, model: Model, inputs: Any) -> None:
    """The second stage is stopped until the first one has sent all of its micro-batches."""

    def hold() -> None:
        pid = claims(store, 2)[1]["pid"]
        os.kill(pid, signal.SIGSTOP)
        until(lambda: len([key for key in store.keys("") if "/run/x/" in key and key.endswith("/0")]) == 4)
        os.kill(pid, signal.SIGCONT)

    holder = threading.Thread(target=hold)
    holder.start()
    result = start(workers=2, pipeline_parallel=2, batch_size=15, channel="object", faults="throttle=.3,seed=1")
    holder.join()
    assert result.micro_batches == 4
    np.testing.assert_allclose(result.output.toarray(), serial(model, inputs).toarray(), rtol=1e-4, atol=1e-4)


def test_the_layer_of_a_death_is_named(start: Callable[..., Result], store: Store) -> None:
    def kill() -> None:
        pid = claims(store)[1]["pid"]
        until(lambda: any("/run/x/" in key and key.endswith("/1") for key in store.keys("")))  # it has sent
        os.kill(pid, signal.SIGKILL)

    threading.Thread(target=kill).start()
    with pytest.raises(RunFailed) as caught:
        start(channel="object", faults="throttle=.6,seed=1", recovery="off")
    assert caught.value.layer is not None
    assert re.match(r"UNAVAILABLE: rank 1, layer \d+: killed by signal 9", str(caught.value))


def test_the_run_ends_at_its_deadline(start: Callable[..., Result], store: Store) -> None:
    with pytest.raises(RunFailed) as caught:
        start(faults="delay=600ms,seed=1", timeout=2.0)
    assert caught.value.code is Code.DEADLINE
    nothing_left(store, [])


def test_a_function_over_its_time_is_named(start: Callable[..., Result], store: Store) -> None:
    with pytest.raises(RunFailed, match=r"rank \d, layer \d+: exceeded its time limit of 4 s"):
        start(faults="delay=600ms,seed=1", settings={"timeout_s": 4})
    nothing_left(store, [])


@pytest.mark.parametrize("damage", ["gone", "flipped"])
@pytest.mark.parametrize("kind", ["shard", "input"])
def test_damaged_content_is_named_and_staged_again(start: Callable[..., Result], store: Store, kind: str, damage: str) -> None:
    first = start()
    found = {key: store.get(key) for key in store.keys("") if is_content(key) and not key.endswith("manifest")}
    whole = {key: data for key, data in found.items() if data.startswith(b"FSDshrd3") == (kind == "shard")}
    for key, data in whole.items():
        if damage == "gone":
            store.delete([key])
        else:
            store.put(key, data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :])
    with pytest.warns(UserWarning, match=r"rank \d.*(is damaged|no longer exists).*stages .* again"):
        second = start()
    assert (first.output != second.output).nnz == 0
    assert {key: store.get(key) for key in found} == found
    nothing_left(store, [])


def test_content_that_is_damaged_again_ends_the_run(start: Callable[..., Result], store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    start()
    (key, data) = next((key, data) for key in store.keys("") if (data := store.get(key)).startswith(b"FSDshrd3"))
    store.put(key, data[:-1] + bytes([data[-1] ^ 1]))
    monkeypatch.setattr(fsd_core.client.stage, "forget", lambda store, key: None)  # the damaged shard stays, as if it were damaged again
    with (
        pytest.warns(UserWarning, match="stages .* again"),
        pytest.raises(DamagedContent, match=r"rank \d, layer 12: the shard is damaged") as caught,
    ):
        start()
    assert caught.value.code is Code.INVALID
    nothing_left(store, [])


def test_a_second_run_uploads_nothing(start: Callable[..., Result], store: Store) -> None:
    first = start(recovery="off")  # or workers would leave what they sent in their records
    content = [key for key in store.keys("") if is_content(key)]
    second = start(recovery="off")
    assert [key for key in store.keys("") if is_content(key)] == content
    assert second.meter["object_bytes_written"] < 0.05 * first.meter["object_bytes_written"]
    assert (first.output != second.output).nnz == 0


def test_no_free_slot_is_refused_before_anything_starts(start: Callable[..., Result], store: Store) -> None:
    for _ in range(4):
        lease(store, 4, "another")
    with pytest.raises(RunFailed, match="no free slot") as caught:
        start()
    assert caught.value.code is Code.THROTTLED
    assert [key for key in store.keys("") if is_content(key)] == []


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"provider": "nowhere"}, r"provider 'nowhere' is not installed: expected one of .*local"),
        ({"channel": "pigeon"}, r"channel 'pigeon': expected one of auto, queue, object, hybrid"),
        ({"objective": "fame"}, "objective 'fame'"),
        ({"workers": 0}, "workers 0"),
        ({"workers": 2000}, "workers 2000: local may run 128 functions at once"),
        ({"branching": 0}, "branching 0"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"timeout": 0}, "timeout 0"),
        ({"faults": "gremlins=1"}, "gremlins"),
        ({"partition": "nowhere.npz"}, "nowhere.npz"),
        ({"settings": {"concurrency": 2}}, "workers 3: local may run 2 functions at once"),
        ({"settings": {"colour": "red"}}, "colour"),
        ({"some": np.ones((4, 5), np.float32)}, "5 columns: expected 1024"),
        ({"some": np.full((1, 1024), np.nan)}, "not finite"),
        ({"some": np.ones((0, 1024))}, "no samples"),
    ],
)
def test_bad_input_is_one_clear_line(start: Callable[..., Result], options: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word) as caught:
        start(**options)
    assert "\n" not in str(caught.value)


def test_a_late_launch_and_one_of_a_finished_run_stop_silently(store: Store, tmp_path: Path) -> None:
    from fsd_core.protocol.spawn import LaunchPayload

    resources = PROVIDER.provisioner({"root": str(tmp_path / "root")}).ensure("fsd", 2, 1)
    invoker = PROVIDER.invoker(resources)
    late = LaunchPayload("fsd", 0, 1, "ab" * 8, 0, 0, time.time() - 1)
    for payload in (late, attrs.evolve(late, deadline=time.time() + 60)):
        invoker.invoke("worker", payload.pack())
    functions = ["pgrep", "-P", str(invoker.native().pid)]
    until(lambda: subprocess.run(functions, stdout=subprocess.DEVNULL, check=False).returncode)
    invoker.close()
    assert [key for key in store.keys("") if is_run(key)] == []
