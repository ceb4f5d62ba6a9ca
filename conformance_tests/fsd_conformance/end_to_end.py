"""End-to-end cases: a run on the provider gives the same output as one machine, and removes its objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from fsd_conformance.base import Cases, Deployed, eventually, new_app, new_retry
from fsd_core import Result, run
from fsd_core.model import Model, radixnet
from fsd_core.model.serial import serial
from fsd_core.storage.keys import is_run
from fsd_core.storage.store import Store

__all__ = ["EndToEndCases"]

FAULTS = "duplicate=.1,reorder=.2,delay=20ms,reject=.05,throttle=.05,lost_reply=.02,late=.1,seed=1"
LATENCY = "aws,seed=1,scale=0.05"
CHANNELS = pytest.mark.parametrize("channel", ["queue", "object", "hybrid"])


class EndToEndCases(Cases):
    """RadiX-Net with 1024 neurons and 6 layers, compared with the serial kernel."""

    @pytest.mark.parametrize("workers", [1, 2, 8])
    @CHANNELS
    def test_same_answer(self, deployed: Deployed, tmp_path: Path, channel: str, workers: int) -> None:
        """Every channel and number of workers gives the serial kernel's output."""
        result = _run(deployed, tmp_path, channel, workers)
        _same(result, seed=0)
        assert (result.workers, result.samples, result.layers) == (workers, 24, 6)

    @CHANNELS
    def test_same_answer_under_faults(self, deployed: Deployed, tmp_path: Path, channel: str) -> None:
        """Duplicates, reordering, refusals, lost replies and late launches do not change the output."""
        result = _run(deployed, tmp_path, channel, 8, faults=FAULTS)
        _same(result, seed=0)
        assert result.meter["retries"] > 0

    def test_a_killed_function_is_replaced(self, deployed: Deployed, tmp_path: Path) -> None:
        """A function that dies is noticed at once and replaced, and the output is the same."""
        result = _run(deployed, tmp_path, "hybrid", 3, faults="kill=1@4")
        _same(result, seed=0)
        assert [(each["rank"], each["layer"]) for each in result.recovered] in ([(1, 4)], [(1, None)])

    @CHANNELS
    def test_same_answer_under_latency(self, deployed: Deployed, tmp_path: Path, channel: str) -> None:
        """Late messages, slow requests and late starts of functions do not change the output."""
        result = _run(deployed, tmp_path, channel, 4, latency=LATENCY)
        _same(result, seed=0)
        assert result.latency is not None

    def test_two_runs_at_once(self, deployed: Deployed, tmp_path: Path) -> None:
        """Two runs on one app at the same time do not disturb each other."""
        with ThreadPoolExecutor(2) as pool:
            both = [pool.submit(_run, deployed, tmp_path / str(seed), "hybrid", 3, seed=seed) for seed in (0, 1)]
            for seed, future in enumerate(both):
                _same(future.result(), seed)

    @CHANNELS
    def test_nothing_is_left(self, deployed: Deployed, tmp_path: Path, channel: str) -> None:
        """After a run its objects are removed; staged shards and the epochs of the slots remain."""
        _run(deployed, tmp_path, channel, 2)
        store = Store(deployed.provider.objects(deployed.resources), new_retry())
        eventually("a run's objects are gone", 60, lambda: not [key for key in store.keys("") if is_run(key)])
        store.driver.close()

    def test_the_meter_is_what_the_services_saw(self, deployed: Deployed, tmp_path: Path) -> None:
        """A run's meter counts every request that reached a service exactly once, from client and workers, also empty receives."""
        with self.harness.counted() as seen:
            if seen is None:
                pytest.skip("the harness cannot count the requests that reach a service (Harness.counted)")
            resources = deployed.provisioner.ensure(new_app(), 4, 1)
            mine = attrs.evolve(deployed, resources=resources)
            try:
                for channel in ("queue", "object", "hybrid"):
                    _metered_run(mine, tmp_path, channel, seen)
            finally:
                deployed.provisioner.destroy(mine.app)


def _metered_run(deployed: Deployed, home: Path, channel: str, seen: Callable[[], Mapping[str, int]]) -> None:
    """Run, and compare the meter with the services' counts.

    Repeats where a function was launched twice: the second copy loses the claim, but makes requests that no meter records.
    """
    late = 0
    for _ in range(5):
        start = seen()
        deployed.provisioner.find(deployed.app)
        deployed.provisioner.ensure(deployed.app, 4, 1)
        before = seen()  # a run also begins with these two, before its meter starts
        result = _run(deployed, home, channel, 4)
        late += result.meter["invocations"] - 4
        expected = {name: count - 2 * before[name] + start[name] for name, count in seen().items()}
        if (metered := {name: result.meter[name] for name in expected}) == expected:
            return
        assert late, f"metered {metered}, seen {expected}"
    pytest.fail("five runs, and in each a function was launched twice")


def _run(deployed: Deployed, home: Path, channel: str, workers: int, *, seed: int = 0, **more: str) -> Result:
    model, inputs, _ = _expected(seed)
    return run(
        model,
        inputs,
        provider=deployed.provider.name,
        channel=channel,
        workers=workers,
        partition="block",
        timeout=300,
        app=deployed.app,
        settings=deployed.settings,
        home=home,
        **more,  # type: ignore[arg-type]  # faults or latency
    )


@cache
def _expected(seed: int) -> tuple[Model, Any, Any]:
    """The model, its inputs (24 samples, CSR, float32), and the serial kernel's output."""
    from scipy.sparse import random_array

    model = radixnet(1024, 6, seed=7)
    inputs = random_array((24, model.inputs), density=0.28, format="csr", dtype=np.float32, rng=np.random.default_rng(seed))
    inputs.data[:] = 1.0
    return model, inputs, serial(model, inputs)


def _same(result: Result, seed: int) -> None:
    """Assert equal categories, and values that differ only by the order of sums."""
    expected = _expected(seed)[2]
    assert result.output.shape == expected.shape
    assert 0 < np.count_nonzero(np.diff(expected.indptr)) < len(expected.indptr) - 1  # some rows are active, some not
    assert np.array_equal(np.diff(result.output.indptr) > 0, np.diff(expected.indptr) > 0)
    np.testing.assert_allclose(result.output.toarray(), expected.toarray(), rtol=1e-4, atol=1e-4)
