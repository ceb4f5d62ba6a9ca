"""The reader of the published folder format: the tests write any partition in this format, read it back, and damage lines of it."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsd_core.errors import InputError
from fsd_core.model import Model
from fsd_core.partition import ExchangePlan, Partition, partition
from fsd_core.partition.rows import needs
from partition_models import models, sparse

MODEL = sparse([12, 14, 10, 9], 0.7, seed=3)  # dense enough that every row travels


def write(folder: Path, model: Model, made: Partition) -> None:
    """Write ``conn.*`` of a partition as FSD-Inference did, including its trailing spaces."""
    for k, layer in enumerate(model.layers):
        need = needs(layer, made.owners[k + 1], made.workers)
        need[np.arange(layer.inputs), made.owners[k]] = False
        lines = [
            f"{row} {made.owners[k][row]} {' '.join(map(str, np.flatnonzero(need[row])))} \n" for row in np.flatnonzero(need.any(axis=1))
        ]
        (folder / f"conn.{k}").write_text("".join(lines))


@given(models(), st.integers(1, 9), st.integers(0, 1000))
def test_what_was_written_comes_back(model: Model, workers: int, seed: int) -> None:
    workers = min(workers, max(layer.outputs for layer in model.layers))
    made = partition(model, workers, "random", seed)
    plan = ExchangePlan(model, made)
    with TemporaryDirectory() as folder:
        write(Path(folder), model, made)
        back = Partition.load(folder, model)
    again = ExchangePlan(model, back)
    assert back.workers <= workers
    # a neuron whose owner no line names may get another owner, but only one that needs no further row
    for k in range(2, len(model.layers) + 1):
        for rank in range(back.workers):
            theirs, ours = plan.receives(k, rank), again.receives(k, rank)
            assert all(set(rows.tolist()) <= set(theirs[source].tolist()) for source, rows in ours.items())
            for source, rows in theirs.items():  # a line names the owner of each row that travels
                assert (back.owners[k - 1][rows] == source).all()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, MODEL, partition(MODEL, 3, "random", 1))
    return tmp_path


def _edit(path: Path, number: int, text: str) -> None:
    lines = path.read_text().splitlines()
    lines[number - 1] = text
    path.write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 1", "'0 1': expected row source-worker target-worker"),
        ("0 1 x", "expected row source-worker"),
        ("0 1 -2", "expected row source-worker"),
        ("0 1 2.0", "expected row source-worker"),
        ("14 1 2", "row 14: expected rows 0 to 13"),
        ("0 1 99", "worker 99: expected 0 to 13: the largest layer has 14 rows"),
        ("13 1 1", "row 13 names a worker twice"),
        ("13 1 2 2", "row 13 names a worker twice"),
        ("99999999999999999999 1 2", "expected row source-worker"),
    ],
)
def test_a_malformed_line_is_named(folder: Path, text: str, message: str) -> None:
    _edit(folder / "conn.1", 2, text)
    with pytest.raises(InputError, match=message) as caught:
        Partition.load(folder, MODEL)
    assert f"{folder / 'conn.1'}:2: " in str(caught.value)


def test_a_row_listed_twice_is_named(folder: Path) -> None:
    path = folder / "conn.1"
    first = path.read_text().splitlines()[0]
    _edit(path, 3, first)
    with pytest.raises(InputError, match=rf"conn\.1:3: row {first.split()[0]} is on line 1 already"):
        Partition.load(folder, MODEL)


def test_a_target_that_is_missing_or_needless_is_named(folder: Path) -> None:
    path = folder / "conn.1"
    lines = [line.split() for line in path.read_text().splitlines()]
    number, words = next((n, words) for n, words in enumerate(lines, 1) if len(words) == 4)  # goes to two others of three
    _edit(path, number, " ".join(words[:3]))
    with pytest.raises(InputError, match=rf"conn\.1:{number}: row {words[0]} does not go to worker {words[3]}"):
        Partition.load(folder, MODEL)
    _edit(path, number, " ".join([*words, "3"]))
    with pytest.raises(InputError, match=rf"conn\.1:{number}: row {words[0]} goes to worker 3: expected only targets that own"):
        Partition.load(folder, MODEL)
    path.write_text("\n".join(" ".join(line) for line in lines if line[0] != words[0]))
    with pytest.raises(InputError, match=rf"conn\.1: row {words[0]} has no line, but workers 0 and 2 read it: expected a line"):
        Partition.load(folder, MODEL)


def test_a_last_layer_that_nobody_can_compute_is_named(folder: Path) -> None:
    path = folder / "conn.2"
    path.write_text("".join(f"{row} {row % 3} {(row + 1) % 3}\n" for row in range(10)))
    with pytest.raises(InputError, match=r"conn\.2: no worker receives all input rows of output row"):
        Partition.load(folder, MODEL)


def test_files_must_be_those_of_the_model(folder: Path) -> None:
    (folder / "conn.3").write_text("")
    with pytest.raises(InputError, match=r"conn\.3 is unknown"):
        Partition.load(folder, MODEL)
    (folder / "conn.3").unlink()
    (folder / "conn.1").unlink()
    with pytest.raises(InputError, match=r"conn\.1 is missing"):
        Partition.load(folder, MODEL)
    (folder / "conn.1").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"conn\.1: cannot be read"):
        Partition.load(folder, MODEL)
