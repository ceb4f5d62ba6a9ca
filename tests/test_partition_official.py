"""The published network with N = 1024: the figures of the published partition are right, and ours moves a quarter of its rows.

The tests look for the files in the folder `$FSD_DATA` or data/graphchallenge of the project: neuron1024 and partition-1024-p8, as folders
or as neuron1024.tar.xz and paper-partition-1024-p8.tar.xz.
"""

from __future__ import annotations

import importlib.util
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from fsd_core.model import Model, open_model
from fsd_core.partition import ExchangePlan, partition

needs_solver = pytest.mark.skipif(
    importlib.util.find_spec("mtkahypar") is None and os.environ.get("CI") != "true", reason="mtkahypar is not installed (extra: partition)"
)


def _find(name: str, archive: str, temporary: Path) -> Path:
    for folder in (os.environ.get("FSD_DATA"), Path(__file__).parents[1] / "data" / "graphchallenge"):
        if folder and (Path(folder) / name).is_dir():
            return Path(folder) / name
        if folder and (Path(folder) / archive).is_file():
            with tarfile.open(Path(folder) / archive) as tar:
                tar.extractall(temporary, filter="data")
            return next(found for found in (temporary, *temporary.iterdir()) if next(found.glob("conn.0"), None) or found.name == name)
    pytest.skip(f"FSD_DATA names no folder with {name} or {archive}")


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return open_model(str(_find("neuron1024", "neuron1024.tar.xz", tmp_path_factory.mktemp("model"))))


def _figures(model: Model, workers: int, method: str) -> dict[str, Any]:
    return ExchangePlan(model, partition(model, workers, method)).figures()


def test_the_papers_partition(official: Model, tmp_path: Path) -> None:
    folder = _find("partition-1024-p8", "paper-partition-1024-p8.tar.xz", tmp_path)
    figures = _figures(official, 8, str(folder))
    assert figures["rows_moved"] == 430_130
    assert figures["rows_moved_by_layer"][-1] == 2_895 == sum(len(line.split()) - 2 for line in (folder / "conn.119").open())
    assert figures["imbalance"] <= 1.02


def test_random_moves_nearly_all(official: Model) -> None:
    assert _figures(official, 8, "random")["rows_moved"] == pytest.approx(842_000, rel=0.002)


@needs_solver
def test_eight_ranks(official: Model) -> None:
    figures = _figures(official, 8, "hypergraph")
    assert figures["rows_moved"] <= 106_400
    assert figures["imbalance"] <= 1.03


@needs_solver
@pytest.mark.slow
def test_forty_two_ranks(official: Model) -> None:
    figures = _figures(official, 42, "hypergraph")
    assert figures["rows_moved"] <= 234_547
    assert figures["imbalance"] <= 1.12
