"""The estimate of a hypergraph partition: near the partition, equal for equal arguments, and a clear error where it cannot be made."""

from __future__ import annotations

import importlib.util
import os
import sys

import pytest

from fsd_core.errors import InputError
from fsd_core.model import radixnet
from fsd_core.partition import ExchangePlan, estimate, partition
from fsd_core.partition.solver import Solver
from partition_models import sparse

needs_solver = pytest.mark.skipif(
    importlib.util.find_spec("mtkahypar") is None and os.environ.get("CI") != "true", reason="mtkahypar is not installed (extra: partition)"
)


@needs_solver
@pytest.mark.parametrize("workers", [4, 16])
def test_it_is_near_the_partition(workers: int) -> None:
    model = radixnet(1024, 40)
    steps: list[tuple[int, int]] = []
    found = estimate(model, workers, progress=lambda *step: steps.append(step))
    moved = ExchangePlan(model, partition(model, workers)).figures()["rows_moved"]
    assert found.rows_moved == pytest.approx(moved, rel=0.1)
    assert len(found.rows_moved_by_layer) == 39
    assert found.counted == (2, 5, 9, 12, 16, 19, 23, 26, 30, 33, 37, 40)
    assert steps == [(done, 35) for done in range(1, 36)]  # 12 chains of 3 layers; layer 2 has one layer before it
    assert found == estimate(model, workers)
    assert found.to_json()["estimated"] is True


@needs_solver
def test_a_few_layers_are_all_counted() -> None:
    found = estimate(sparse([200, 300, 250, 200], 0.01), 4)
    assert found.counted == (2, 3)
    assert found.rows_moved > 0


def test_nothing_travels_in_one_layer_or_to_one_worker() -> None:
    assert estimate(sparse([20, 30], 0.5), 4).rows_moved == 0
    assert estimate(sparse([20, 30, 20], 0.5), 1).rows_moved_by_layer == (0,)


def test_more_workers_than_rows_are_refused() -> None:
    with pytest.raises(InputError, match="workers 31: expected at most 30"):
        estimate(sparse([20, 30, 20], 0.5), 31)


def test_a_solver_that_dies_is_an_error() -> None:
    with pytest.raises(InputError, match=r"mtkahypar: .*: expected an answer; make the partition instead"):
        estimate(sparse([40, 40, 40], 0.1), 4, solver=lambda: Solver([sys.executable, "-c", "import sys; sys.exit(3)"]))


def test_without_the_library_there_is_no_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mtkahypar", None)
    with pytest.raises(InputError, match="mtkahypar is not installed: expected it for an estimate"):
        estimate(sparse([40, 40, 40], 0.1), 4)
