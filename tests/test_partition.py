"""The partitioning methods that need no solver, and the file of a partition."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsd_core.errors import InputError
from fsd_core.model import Model
from fsd_core.partition import Partition, partition
from partition_models import layer, models, sparse

MODEL = sparse([20, 30, 10, 25], 0.3)


@given(models(), st.integers(1, 9), st.sampled_from(["random", "block"]), st.integers(0, 3))
def test_every_neuron_has_an_owner_and_rows_are_shared_evenly(model: Model, workers: int, method: str, seed: int) -> None:
    largest = max(layer.outputs for layer in model.layers)
    if workers > largest:
        with pytest.raises(InputError, match=f"workers {workers}: expected at most {largest}, the number of rows"):
            partition(model, workers, method, seed)
        return
    made = partition(model, workers, method, seed).check(model)
    again = partition(model, workers, method, seed)
    assert made.digest == again.digest
    if method == "random":
        counts = [np.bincount(owner, minlength=workers) for owner in made.owners]
        assert all(count.max() - count.min() <= 1 for count in counts)
    else:
        assert all((np.diff(owner) >= 0).all() for owner in made.owners)


def test_block_shares_work_not_rows() -> None:
    mask = np.zeros((8, 8), np.bool_)
    mask[0] = mask[1:, 0] = True  # one row of 8, seven of 1
    made = partition(Model((layer(mask),)), 2, "block")
    assert made.owners[1].tolist() == [0, 1, 1, 1, 1, 1, 1, 1]
    assert made.owners[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_random_depends_on_the_seed() -> None:
    assert partition(MODEL, 4, "random", 1).digest != partition(MODEL, 4, "random", 2).digest


@pytest.mark.parametrize("workers", [0, -3])
def test_workers_under_one_are_refused(workers: int) -> None:
    with pytest.raises(InputError, match="at least 1"):
        partition(MODEL, workers, "block")


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(InputError, match="seed -1: expected a whole number of at least 0"):
        partition(MODEL, 2, "random", -1)


def test_an_unknown_method_names_the_known_ones() -> None:
    with pytest.raises(InputError, match="partition nonsense: expected hypergraph, random, block, or"):
        partition(MODEL, 2, "nonsense")


def test_a_saved_partition_is_a_method(tmp_path: Path) -> None:
    made = partition(MODEL, 4, "random", 7)
    path = tmp_path / "p.npz"
    made.save(path)
    loaded = partition(MODEL, 4, str(path))
    assert loaded.workers == 4
    assert loaded.digest == made.digest
    assert all(owner.dtype == np.int32 for owner in loaded.owners)
    with pytest.raises(InputError, match="for 4 workers: expected 5"):
        partition(MODEL, 5, path)


def test_save_replaces_a_partition_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    for seed in (1, 2):
        partition(MODEL, 4, "random", seed).save(path)
    assert Partition.load(path, MODEL).digest == partition(MODEL, 4, "random", 2).digest
    assert [entry.name for entry in tmp_path.iterdir()] == ["p.npz"]
    other = tmp_path / "notes.txt"
    other.write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt: exists and is not a partition"):
        partition(MODEL, 4, "random").save(other)
    assert other.read_text() == "mine"
    with pytest.raises(InputError, match="cannot be written"):
        partition(MODEL, 4, "random").save(tmp_path / "absent" / "p.npz")


def _spoil(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    arrays: dict[str, Any] = {"workers": np.int32(4)}
    arrays |= {f"owner_{k}": owner for k, owner in enumerate(partition(MODEL, 4, "block").owners)}
    change(arrays)
    return arrays


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("workers"), "key workers is missing"),
        (lambda a: a.pop("owner_3"), "key owner_3 is missing"),
        (lambda a: a.update(owner_4=a["owner_3"]), "key owner_4 is unknown"),
        (lambda a: a.update(workers=np.float32(4)), "expected one whole number"),
        (lambda a: a.update(workers=np.array([4])), "expected one whole number"),
        (lambda a: a.update(workers=0), "at least 1"),
        (lambda a: a.update(workers=2), "owner_0 names rank 3: expected ranks 0 to 1 of 2 workers"),
        (lambda a: a.update(owner_1=a["owner_1"].astype(np.int64)), "owner_1 is int64: expected int32"),
        (lambda a: a.update(owner_1=a["owner_1"][1:]), r"owner_1 has shape \(29,\)"),
        (lambda a: a.update(owner_1=a["owner_1"][None]), r"owner_1 has shape \(1, 30\)"),
        (lambda a: a.update(owner_2=a["owner_2"] - 1), "owner_2 names rank -1"),
        (lambda a: a.update(owner_2=a["owner_2"].astype(object)), "array 'owner_2': an array of Python objects"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    path = tmp_path / "p.npz"
    np.savez(path, **_spoil(change))
    with pytest.raises(InputError, match=message) as caught:
        Partition.load(path, MODEL)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        Partition.load(tmp_path / "absent.npz", MODEL)
    for name, content in {"text": b"hello", "empty": b"", "zip": b"PK\x03\x04 broken"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=r"cannot be read as \.npz"):
            Partition.load(tmp_path / name, MODEL)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(InputError, match=r"expected an \.npz file"):
        Partition.load(tmp_path / "one.npy", MODEL)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("workers.npy", b"no array")
    with pytest.raises(InputError, match=r"other\.zip"):
        Partition.load(tmp_path / "other.zip", MODEL)
