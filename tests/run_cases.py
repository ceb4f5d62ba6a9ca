"""Runs in a cloud that are disturbed: who is named, how soon, and what is left."""

from __future__ import annotations

import logging
import os
import re
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from fsd_core import Result, providers, run
from fsd_core.client import cleanup, history
from fsd_core.driver import Code, Resources
from fsd_core.errors import InputError, RunFailed
from fsd_core.model import radixnet
from fsd_core.model.inputs import open_inputs
from fsd_core.storage import slots
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store
from waiting import claims, left_by_runs, until

__all__ = ["APP", "INPUTS", "MODEL", "RunCases", "Runs", "running"]

APP = "disturbed"
MODEL, INPUTS = radixnet(1024, 24), "random:40:0.4:1"


class Runs:
    """Runs of three workers in an app of four slots, which is there from `renew` on."""

    resources: Resources
    store: Store

    def __init__(self, cloud: str, settings: Mapping[str, object]) -> None:
        self.cloud = cloud
        self.settings = dict(settings)
        self.provider = providers.find(cloud)

    def renew(self) -> None:
        """Make the app, or what is missing of it."""
        self.resources = self.provider.provisioner(self.settings).ensure(APP, 3, 4)
        self.store = Store(self.provider.objects(self.resources), Retry(time.time() + 3600, Meter()))

    def destroy(self, app: str) -> None:
        assert self.provider.provisioner(self.settings).destroy(app)

    def start(self, home: Path, settings: Mapping[str, object] | None = None, **options: Any) -> Result:
        """One run, slow enough that something can happen to it. ``settings`` come on top of the app's."""
        defaults = {
            "workers": 3,
            "partition": "block",
            "timeout": 90.0,
            "app": APP,
            "recovery": "off",
            "faults": "delay=400ms,throttle=.3,seed=1",
        }
        told = {**self.settings, **(settings or {})}
        return run(MODEL, open_inputs(INPUTS, 1024), provider=self.cloud, settings=told, home=home, **(defaults | options))

    @contextmanager
    def once_claimed(self, do: Callable[[dict[int, dict[str, Any]]], object], ranks: int = 3) -> Iterator[None]:
        """Within the block, ``do`` happens beside it as soon as so many ranks of a run are at work. It gets their claims."""
        with ThreadPoolExecutor(1) as beside:
            done = beside.submit(lambda: do(claims(self.store, ranks)))
            yield
            done.result()


@contextmanager
def running(cloud: str, settings: Mapping[str, object]) -> Iterator[Runs]:
    """For a fixture, within its emulator's block."""
    runs = Runs(cloud, settings)
    runs.renew()
    yield runs
    runs.store.driver.close()


def left_of(store: Store, home: Path) -> list[str]:
    """What the runs of ``home`` left. A worker of another case's run may still write its last lines."""
    return [key for key in left_by_runs(store) if key.partition("/")[0] in history.runs(home)]


def emulators_secrets() -> list[str]:
    """The secrets of the emulator's environment: keys, tokens, whole connection strings and the keys in them."""
    found = []
    for name, value in os.environ.items():
        if re.search("SECRET|KEY|TOKEN|CONNECTION|PASSWORD", name) and not os.path.exists(value):
            found += [value, *re.findall(r"(?:AccountKey|SharedAccessKey)=([^;\s]+)", value)]
    return [each for each in found if len(each) > 7]  # a shorter one, such as "none", may be a word of any line


@cache
def undisturbed() -> Result:
    """A run of three workers on this machine."""
    with tempfile.TemporaryDirectory() as folder:
        return run(MODEL, open_inputs(INPUTS, 1024), workers=3, partition="block", home=folder, settings={"root": f"{folder}/root"})


class RunCases:
    """What every cloud's runs do. The last case takes the app's queues away, so the cases of a file come before these.

    A subclass says how a function's death is reported, and deletes the queue of rank 1 in every slot.
    """

    died: ClassVar[str]

    def delete_queues(self, resources: Resources) -> None:
        raise NotImplementedError

    def test_an_onnx_model_gives_the_answer_of_onnx_runtime(self, runs: Runs, tmp_path: Path) -> None:
        models = pytest.importorskip("onnx_models", reason="needs the extra onnx")
        path, images = models.saved(models.residual(), tmp_path / "m.onnx"), np.random.default_rng(1).random((2, 3, 8, 8), np.float32)
        way = {"pipeline_parallel": 3, "batch_size": 1, "channel": "hybrid"}
        found = run(path, {"x": images}, provider=runs.cloud, settings=runs.settings, app=APP, home=tmp_path, **way)
        assert found.check_values({"y": models.answer(path, {"x": images})[0]})["differing"] == 0
        assert left_of(runs.store, tmp_path) == []

    @pytest.mark.parametrize(("channel", "victim"), [("queue", 0), ("object", 1), ("hybrid", 2)])
    def test_a_killed_function_ends_the_run_with_its_name(self, runs: Runs, tmp_path: Path, channel: str, victim: int) -> None:
        killed_at: list[float] = []

        def kill(claimed: dict[int, dict[str, Any]]) -> None:
            killed_at.append(time.monotonic())
            os.kill(claimed[victim]["pid"], signal.SIGKILL)

        with runs.once_claimed(kill), pytest.raises(RunFailed, match=self.died) as caught:
            runs.start(tmp_path, channel=channel)
        assert caught.value.rank == victim, caught.value
        assert caught.value.code is Code.UNAVAILABLE
        assert time.monotonic() - killed_at[0] < 60  # before any stall limit ends
        assert left_of(runs.store, tmp_path) == []

    @pytest.mark.parametrize(("channel", "victims"), [("queue", (0, 2)), ("object", (1,)), ("hybrid", (2,))])
    def test_a_killed_function_is_replaced(self, runs: Runs, tmp_path: Path, channel: str, victims: tuple[int, ...]) -> None:
        """The bits are those of an undisturbed run on this machine."""
        faults = "kill=" + "+".join(f"{rank}@9" for rank in victims)
        result = runs.start(tmp_path, channel=channel, recovery="on", faults=faults)
        assert sorted(each["rank"] for each in result.recovered) == list(victims)
        assert re.search(self.died, result.recovered[0]["reason"]), result.recovered
        assert (result.output != undisturbed().output).nnz == 0
        assert slots.holders(runs.store) == set()

    def test_what_workers_said_is_kept_also_of_a_killed_one(
        self, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """At the level debug a worker writes its lines every second: rank 1 is killed once it has written that it begins its work."""
        caplog.set_level(logging.DEBUG, "fsd_core")
        monkeypatch.setattr(cleanup, "GRACE_S", 5.0)  # for a worker that is slow to write its last lines

        def kill(claimed: dict[int, dict[str, Any]]) -> None:
            until(lambda: [key for key in runs.store.keys("") if key.endswith("/log/1") and b"begins layer 1" in runs.store.get(key)])
            os.kill(claimed[1]["pid"], signal.SIGKILL)

        with runs.once_claimed(kill), pytest.raises(RunFailed, match=self.died):
            runs.start(tmp_path, channel="queue")
        (killed,) = history.runs(tmp_path)
        healthy = runs.start(tmp_path, channel="queue", faults=None).run
        secrets = emulators_secrets()
        for past_run, words in ((killed, {1: "begins layer 1"}), (healthy, dict.fromkeys(range(3), "writes the record"))):
            past = history.read_log(past_run, tmp_path)
            said = {rank: "\n".join(line.text for line in lines) for rank, lines in past.lines.items()}
            assert {rank: word for rank, word in words.items() if word not in said[rank]} == {}
            assert past_run == killed or all("publishes " in said[rank] for rank in range(3)), said
            assert [secret for secret in secrets if secret in "\n".join((*said.values(), caplog.text))] == []
        assert history.read_log(killed, tmp_path).state == "failed"

    def test_a_quota_below_the_workers_is_refused_before_anything_starts(self, runs: Runs, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=f"workers 3: {runs.cloud} may run 2 functions at once"):
            runs.start(tmp_path, {"concurrency": 2}, app="small")
        assert runs.provider.provisioner(runs.settings).find("small") is None

    def test_a_queue_deleted_mid_run_ends_it(self, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cleanup, "GRACE_S", 5.0)
        with runs.once_claimed(lambda _: self.delete_queues(runs.resources)), pytest.raises(RunFailed, match="fsd deploy") as caught:
            runs.start(tmp_path, channel="queue")
        failed = caught.value
        assert failed.code is Code.NOT_FOUND, failed
        # Rank 1 receives from its queue, or another rank sends to it first.
        assert failed.rank == 1 if "receive" in str(failed) else "publish to rank 1" in str(failed), failed
        assert failed.rank is not None
        said = history.read_log(history.runs(tmp_path)[0], tmp_path).lines[failed.rank]
        assert any(line.level == "error" and f"fails: NOT_FOUND: rank {failed.rank}" in line.text for line in said), said
