"""The cases of benchmarks/truth.py on a RadiX-Net of N = 1024 and 12 layers: every case gives the serial answer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fsd_core import run
from fsd_core.model import Model, radixnet
from fsd_core.model.inputs import open_inputs
from fsd_core.model.serial import serial
from fsd_core.partition import ExchangePlan, partition

FAULTS = "duplicate=.1,reorder=.2,delay=5ms,reject=.05,throttle=.05,lost_reply=.01,late=.1,seed=1"
CHANNELS = ("queue", "object", "hybrid")


@cache
def problem() -> tuple[Model, Any, Any]:
    """The model, 400 samples of which some end all zero and some do not, and the serial answer."""
    model, inputs = radixnet(1024, 12), open_inputs("random:400:0.30:5", 1024)
    answer = serial(model, inputs)
    alive = np.count_nonzero(np.diff(answer.indptr))
    assert 40 < alive < 360
    return model, inputs, answer


def check(tmp_path: Path, **options: Any) -> None:
    model, inputs, answer = problem()
    table = {"root": str(tmp_path / "root"), "lease_s": 0.5}
    result = run(model, inputs, settings=table, home=tmp_path / "home", timeout=100, **options)
    assert np.array_equal(np.diff(result.output.indptr) > 0, np.diff(answer.indptr) > 0)
    np.testing.assert_allclose(result.output.toarray(), answer.toarray(), rtol=1e-4, atol=1e-4)


def published(tmp_path: Path) -> str:
    """A folder in the published format: a file for each layer, a line for each row that travels."""
    model = problem()[0]
    parts = partition(model, 8, "random", 2)
    plan = ExchangePlan(model, parts)
    folder = tmp_path / "published"
    folder.mkdir()
    for number in range(1, 13):
        lines: dict[int, list[int]] = {}
        for source in range(8):
            if number > 1:
                for target, rows in plan.sends(number, source).items():
                    for row in rows.tolist():
                        lines.setdefault(row, [source]).append(target)
        if number == 1:
            for target in range(8):
                for row in plan.inputs(target).tolist():
                    owner = int(parts.owners[0][row])
                    lines.setdefault(row, [owner])
                    if target != owner:
                        lines[row].append(target)
        text = "".join(f"{row} {' '.join(map(str, ranks))} \n" for row, ranks in sorted(lines.items()) if len(ranks) > 1)
        (folder / f"conn.{number - 1}").write_text(text)
    return str(folder)


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize("method", ["hypergraph", "random", "published"])
def test_eight_workers(tmp_path: Path, channel: str, method: str) -> None:
    check(tmp_path, workers=8, channel=channel, partition=published(tmp_path) if method == "published" else method)


SPLITS = {"1x8x1": (1, 8, 1), "2x4x1": (2, 4, 1), "2x2x2": (2, 2, 2), "1x2x4": (1, 2, 4)}


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize("split", SPLITS.values(), ids=list(SPLITS))
@pytest.mark.parametrize("batch_size", [None, 50])
def test_replicas_stages_and_ranks_of_a_stage(tmp_path: Path, channel: str, split: tuple[int, int, int], batch_size: int | None) -> None:
    data, pipeline, tensor = split
    faults = FAULTS if batch_size else None
    check(
        tmp_path,
        data_parallel=data,
        pipeline_parallel=pipeline,
        tensor_parallel=tensor,
        channel=channel,
        batch_size=batch_size,
        faults=faults,
    )


@pytest.mark.parametrize("workers", [1, 3, 20])
def test_other_numbers_of_workers(tmp_path: Path, workers: int) -> None:
    check(tmp_path, tensor_parallel=workers)


@pytest.mark.parametrize("channel", CHANNELS)
def test_eight_workers_under_faults(tmp_path: Path, channel: str) -> None:
    check(tmp_path, tensor_parallel=8, channel=channel, faults=FAULTS)


@pytest.mark.parametrize("channel", ["queue", "hybrid"])
def test_copies_under_faults(tmp_path: Path, channel: str) -> None:
    check(tmp_path, tensor_parallel=8, channel=channel, objective="latency", faults=FAULTS)


def test_two_at_once_on_one_app_by_two_clients_in_one_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        for one in [pool.submit(check, tmp_path, workers=8, channel=channel) for channel in ("queue", "hybrid")]:
            one.result()
