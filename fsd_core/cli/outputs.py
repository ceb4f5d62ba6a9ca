"""The files of ``--output`` and ``--truth``."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fsd_core.cli.files import check_folder, replacing
from fsd_core.errors import InputError
from fsd_core.model.npz import members

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["check_output", "compare", "read_truth", "write_output"]

MARK = "made_by"  # an extra array that marks our .npz files; scipy.sparse.load_npz ignores it


def check_output(path: Path) -> None:
    """Raise `InputError` unless `write_output` can write ``path``, and no file exists there that fsd did not make."""
    if os.path.lexists(path) and MARK not in members(path):
        raise InputError(f"--output {path}: exists and fsd did not make it: expected a new path")
    check_folder("--output", path)


def write_output(path: Path, output: csr_matrix) -> None:
    """Write a matrix (samples, neurons), float32, as `scipy.sparse.save_npz` does, with our mark. Raises `InputError`."""
    check_output(path)
    arrays: dict[str, Any] = {"data": output.data, "indices": output.indices, "indptr": output.indptr, "shape": np.array(output.shape)}
    arrays |= {"format": np.array(b"csr"), MARK: np.array(f"fsd {version('fsd-inference')}")}
    with replacing(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_truth(path: Path, samples: int) -> NDArray[np.int64]:
    """The numbers in the file, 1-based and ascending, each once, int64 (numbers,). Raises `InputError` naming the line that is wrong."""
    numbers = set()
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line, text in enumerate(file, 1):
                word = text.strip()
                if not word:
                    continue
                if not (word.isascii() and word.isdigit() and len(word) < 19 and 1 <= int(word) <= samples):
                    raise InputError(f"--truth {path}: line {line} is {word[:40]!r}: expected a sample number from 1 to {samples}")
                numbers.add(int(word))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--truth {path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return np.array(sorted(numbers), np.int64)


def compare(expected: NDArray[np.int64], output: csr_matrix) -> dict[str, int]:
    """Numbers of samples: ``expected`` to end nonzero; of these ``matched`` and ``missing``; and ``extra``, which were not expected.

    ``expected``: 1-based numbers (int64). ``output``: (samples, neurons).
    """
    found = 1 + np.unique(output.nonzero()[0])
    matched = len(np.intersect1d(expected, found, assume_unique=True))
    return {"expected": len(expected), "matched": matched, "missing": len(expected) - matched, "extra": len(found) - matched}
