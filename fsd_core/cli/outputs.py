"""The files that ``fsd run`` reads and writes beside model and input: ``--output`` and ``--truth``."""

from __future__ import annotations

import os
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fsd_core.errors import InputError
from fsd_core.model.npz import members

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["check_output", "compare", "read_truth", "write_output"]

MARK = "made_by"  # an extra array of our .npz: scipy.sparse.load_npz passes over it, and it tells our files from others


def check_output(path: Path) -> None:
    """Raise `InputError` unless `write_output` may and can write ``path``: nothing is there, or a file that it made."""
    if os.path.lexists(path) and MARK not in members(path):
        raise InputError(f"--output {path}: exists and fsd did not make it; it is not replaced")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"--output {path}: cannot be written: {error.strerror or error}") from error


def write_output(path: Path, output: csr_matrix) -> None:
    """Write (samples, neurons) as `scipy.sparse.save_npz` does, and our mark, in one step. Raises `InputError`."""
    check_output(path)
    arrays: dict[str, Any] = {"data": output.data, "indices": output.indices, "indptr": output.indptr, "shape": np.array(output.shape)}
    arrays |= {"format": np.array(b"csr"), MARK: np.array(f"fsd {version('fsd-inference')}")}
    descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(aside, 0o666 & ~mask)
        os.replace(aside, path)
    except BaseException as error:
        os.unlink(aside)
        if isinstance(error, OSError):
            error.filename = str(path)  # a full disk names none
        raise


def read_truth(path: Path, samples: int) -> NDArray[np.int64]:
    """The numbers in the file, 1-based, ascending, each once. Raises `InputError` naming the line that is wrong."""
    numbers = set()
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line, text in enumerate(file, 1):
                word = text.strip()
                if not word:
                    continue
                if not (word.isascii() and word.isdigit() and len(word) < 19 and 1 <= int(word) <= samples):
                    raise InputError(f"--truth {path}: line {line} is {word[:40]!r}: must be a sample number from 1 to {samples}")
                numbers.add(int(word))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--truth {path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return np.array(sorted(numbers), np.int64)


def compare(expected: NDArray[np.int64], output: csr_matrix) -> dict[str, int]:
    """How many samples were expected to end nonzero, did as expected (matched), did not (missing), and should not have (extra)."""
    found = 1 + np.unique(output.nonzero()[0])
    matched = len(np.intersect1d(expected, found, assume_unique=True))
    return {"expected": len(expected), "matched": matched, "missing": len(expected) - matched, "extra": len(found) - matched}
