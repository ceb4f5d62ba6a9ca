"""The output of a run as a file, and its comparison with the truth."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fsd_core.common.files import check_folder, replacing
from fsd_core.errors import InputError
from fsd_core.model.npz import members, read_matrix

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["check_output", "compare", "differences", "read_expected", "read_truth", "write_output"]

ROWS = 1024  # samples that `differences` has as dense rows at a time
MARK = "made_by"  # an extra array that marks .npz files of fsd; scipy.sparse.load_npz ignores it


def check_output(path: Path) -> None:
    """Raise `InputError` unless `write_output` can write ``path``, and no file exists there that fsd did not make."""
    if os.path.lexists(path) and (not path.is_file() or MARK not in members(path)):  # `members` would wait for the writer of a pipe
        raise InputError(f"output {path}: exists and fsd did not make it: expected a new path")
    check_folder("output", path)


def write_output(path: Path, output: csr_matrix) -> None:
    """Write a float32 matrix (samples, neurons) in the format of `scipy.sparse.save_npz`, marked as made by fsd.

    Raises `InputError` if `check_output` does.
    """
    check_output(path)
    arrays: dict[str, Any] = {"data": output.data, "indices": output.indices, "indptr": output.indptr, "shape": np.array(output.shape)}
    arrays |= {"format": np.array(b"csr"), MARK: np.array(f"fsd {version('fsd-inference')}")}
    with replacing(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_truth(path: Path, samples: int) -> NDArray[np.int64]:
    """Read sample numbers (1-based) from a file, one in each line. Returns them ascending and without repetition, int64 (numbers,).

    Raises `InputError`, which names the wrong line.
    """
    numbers = set()
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line, text in enumerate(file, 1):
                word = text.strip()
                if not word:
                    continue
                if not (word.isascii() and word.isdigit() and len(word) < 19 and 1 <= int(word) <= samples):
                    raise InputError(f"truth {path}: line {line} is {word[:40]!r}: expected a sample number from 1 to {samples}")
                numbers.add(int(word))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"truth {path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return np.array(sorted(numbers), np.int64)


def compare(expected: NDArray[np.int64], output: csr_matrix) -> dict[str, int]:
    """Compare the samples that end nonzero with the expected samples.

    ``expected``: the numbers of the expected samples, from 1, ascending, int64 (numbers,). ``output``: float32 (samples, neurons).

    Returns four counts: "expected", the expected samples; "matched", the expected samples that end nonzero; "missing", the expected
    samples that end zero; "extra", other samples that end nonzero.
    """
    found = 1 + np.unique(output.nonzero()[0])
    matched = len(np.intersect1d(expected, found, assume_unique=True))
    return {"expected": len(expected), "matched": matched, "missing": len(expected) - matched, "extra": len(found) - matched}


def read_expected(path: Path, shape: tuple[int, int]) -> csr_matrix:
    """Read an expected output of this shape (samples, neurons), float32: a file that `read_matrix` reads. Raises `InputError`."""
    try:
        found = read_matrix(path).scipy()
    except InputError as error:
        raise InputError(f"expect {error}") from error
    if found.shape != shape:
        raise InputError(f"expect {path}: shape {found.shape}: expected {shape}, samples by outputs of the model")
    return found


def differences(expected: csr_matrix, output: csr_matrix, rtol: float, atol: float) -> dict[str, float]:
    """Count the values that differ by more than ``atol`` + ``rtol`` x the size of the expected value.

    Returns ``values``, the number of all values; ``differing``; and ``largest``, the largest absolute difference. Both matrices are float32
    (samples, neurons).
    """
    differing, largest = 0, 0.0
    for start in range(0, output.shape[0], ROWS):
        wanted = expected[start : start + ROWS].toarray().astype(np.float64)
        apart = np.abs(output[start : start + ROWS].toarray() - wanted)
        differing += int(np.count_nonzero(~(apart <= atol + rtol * np.abs(wanted))))  # a NaN differs too
        largest = max(largest, float(np.nan_to_num(apart, nan=np.inf).max(initial=0.0)))
    return {"values": output.shape[0] * output.shape[1], "differing": differing, "largest": min(largest, float(np.finfo(np.float64).max))}
