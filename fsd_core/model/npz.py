"""Arrays from ``.npz`` files, never unpickled, and what makes a matrix of them."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsd_core.errors import InputError
from fsd_core.model.layer import Csr

__all__ = ["SCIPY_KEYS", "compressed", "dense", "read_npz", "scipy_csr"]

SCIPY_KEYS = {"format", "shape", "data", "indices", "indptr"}  # what scipy.sparse.save_npz writes for a CSR matrix


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of the file by name. InputError naming the file where it cannot be read."""
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                raise InputError(f"{path}: is one bare array, an .npz file would be right")
            return {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: cannot be read as .npz: {error}") from error


def dense(array: NDArray[Any]) -> NDArray[np.float32]:
    """``array``, which must be a matrix of real numbers, as float32."""
    if array.ndim != 2 or array.dtype.kind not in "fiub":
        raise InputError(f"{array.ndim} dimensions of {array.dtype}: a matrix of real numbers would be right")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, np.float32)


def scipy_csr(arrays: dict[str, NDArray[Any]]) -> Csr:
    """The matrix that ``scipy.sparse.save_npz`` wrote."""
    form = arrays["format"].item()
    if form not in (b"csr", "csr"):
        raise InputError(f"a scipy matrix of format {form!r}: csr would be right (convert it with .tocsr())")
    return compressed(arrays["data"], arrays["indices"], arrays["indptr"], arrays["shape"])


def compressed(data: NDArray[Any], indices: NDArray[Any], indptr: NDArray[Any], shape: NDArray[Any]) -> Csr:
    """A Csr from the arrays of a compressed sparse row matrix, of any integer and real dtypes, columns in any order; zeros are left out.

    Raises InputError where they do not fit each other, or an entry is given twice.
    """
    for name, array, kinds in (("data", data, "fiub"), ("indices", indices, "iu"), ("indptr", indptr, "iu"), ("shape", shape, "iu")):
        if array.ndim != 1 or array.dtype.kind not in kinds:
            wanted = "integers" if kinds == "iu" else "real numbers"
            raise InputError(f"csr {name}: {array.ndim} dimensions of {array.dtype}, 1 dimension of {wanted} would be right")
    if shape.size != 2 or indptr.size != int(shape[0]) + 1 or indices.size != data.size:
        raise InputError(f"csr shape {shape.tolist()}, {indptr.size} indptr, {indices.size} indices, {data.size} data do not fit")
    if indptr[0] != 0 or indptr[-1] != indices.size or (indptr[1:] < indptr[:-1]).any():
        raise InputError(f"csr indptr must rise from 0 to {indices.size}, the number of entries")
    rows = np.repeat(np.arange(indptr.size - 1), indptr[1:].astype(np.int64) - indptr[:-1].astype(np.int64))
    return Csr.build(rows, indices, data, (int(shape[0]), int(shape[1])))
