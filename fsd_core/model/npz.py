"""Reads arrays from ``.npz`` files, without unpickling, and converts them to matrices."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from fsd_core.common.files import open_regular
from fsd_core.errors import InputError
from fsd_core.model.layer import Csr

__all__ = [
    "SCIPY_KEYS", "check_is_file", "compressed", "dense", "from_dense", "members", "read_matrix", "read_npy", "read_npz", "scipy_csr",
    "write_npz",
]  # fmt: skip

SCIPY_KEYS = {"format", "shape", "data", "indices", "indptr"}  # the arrays that scipy.sparse.save_npz writes for a CSR matrix
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Read all arrays of a file, by name. Raises InputError, which names the file and the array, if one cannot be read.

    This function compares each array's header with the number of bytes in the file before it reads the array. So a wrong header cannot
    cause a large allocation.
    """
    arrays: dict[str, NDArray[Any]] = {}
    where = f"{path}: cannot be read as .npz"
    try:
        with open_regular(path) as file:
            if file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
                raise InputError("the file is a single .npy array: expected an .npz file, as numpy.savez writes it")
            with zipfile.ZipFile(file) as archive:
                for info in archive.infolist():
                    name = info.filename.removesuffix(".npy")
                    where = f"{path}: cannot be read as .npz: array {name!r}"
                    if name in arrays:
                        raise InputError("the name occurs twice: expected different names")
                    arrays[name] = _member(archive, info)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    except Exception as error:  # zipfile, its decompressors and numpy's parser raise errors of any kind on damaged bytes
        raise InputError(f"{where}: {' '.join(str(error).split()) or type(error).__name__}") from error
    return arrays


def read_matrix(path: Path, width: int | None = None) -> Csr:
    """Read one matrix: a scipy CSR matrix or a dense array from an ``.npz``, or the array of an ``.npy``.

    In an ``.npz``, the dense array has the name ``x``, or it is the only one. An array of more than two axes is taken as rows of samples if
    each sample has ``width`` values. Raises InputError, which names the file.
    """
    check_is_file(path)
    arrays = {"x": read_npy(path)} if path.suffix == ".npy" else read_npz(path)
    try:
        if arrays.keys() >= SCIPY_KEYS:
            return scipy_csr(arrays)
        if "x" not in arrays and len(arrays) != 1:
            names = ", ".join(sorted(arrays)) or "none"
            raise InputError(f"{len(arrays)} arrays ({names}): expected a scipy CSR matrix, one array, or an array called x")
        array = arrays["x"] if "x" in arrays else next(iter(arrays.values()))
        if array.ndim > 2 and math.prod(array.shape[1:]) == width:
            array = array.reshape(array.shape[0], width)
        return from_dense(dense(array))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def check_is_file(path: Path) -> None:
    """Raise InputError unless ``path`` is a regular file: to open a pipe would wait for its other end."""
    if not os.path.isfile(path):
        state = "is not a file" if os.path.lexists(path) else "no such file"
        raise InputError(f"{path}: {state}: expected an .npz or .npy file")


def write_npz(file: IO[bytes], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays by name, compressed. `numpy.savez_compressed` refuses some names, such as file, because its arguments have them."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy.write_array(member, array, allow_pickle=False)


def from_dense(array: NDArray[np.float32]) -> Csr:
    """The nonzero values of a dense matrix. Raises InputError if it has no entries."""
    if not array.size:
        raise InputError(f"an array of shape {array.shape} is empty: expected at least one sample")
    rows, columns = np.nonzero(array)
    return Csr.build(rows, columns, array[rows, columns], (array.shape[0], array.shape[1]))


def read_npy(path: Path) -> NDArray[Any]:
    """Read the array of an ``.npy`` file, which has the size that its header describes. Raises InputError, which names the file."""
    try:
        with open_regular(path) as file:
            _check_header(file, os.fstat(file.fileno()).st_size)
            file.seek(0)
            array: NDArray[Any] = npy.read_array(file, allow_pickle=False)
            return array
    except InputError as error:
        raise InputError(f"{path}: cannot be read as .npy: {error}") from error
    except Exception as error:  # numpy's parser raises errors of any kind on damaged bytes
        raise InputError(f"{path}: cannot be read as .npy: {' '.join(str(error).split()) or type(error).__name__}") from error


def members(path: Path) -> set[str]:
    """The names of the arrays in a file. The set is empty if the file is not an ``.npz`` file or cannot be read."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except Exception:  # zipfile raises errors of any kind on damaged bytes
        return set()


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(info) as member:
        _check_header(member, info.file_size)
    with archive.open(info) as member:
        array: NDArray[Any] = npy.read_array(member, allow_pickle=False)
    return array


def _check_header(member: IO[bytes], size: int) -> None:
    """Raise InputError unless a member of ``size`` bytes is an array of numbers or texts of exactly that size."""
    if member.read(len(npy.MAGIC_PREFIX)) != npy.MAGIC_PREFIX:
        raise InputError("not an array: expected an array in the .npy format, as numpy.savez writes it")
    version = tuple(member.read(2))
    if version not in _HEADERS:
        raise InputError(f".npy format {'.'.join(map(str, version))}: expected 1.0 or 2.0")
    shape, _, dtype = _HEADERS[version](member)
    if dtype.hasobject:
        raise InputError("an array of Python objects: expected numbers")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size - member.tell():
        raise InputError(f"{size - member.tell()} bytes do not fit its shape {shape} of {dtype}: expected as many as its header describes")


def dense(array: NDArray[Any]) -> NDArray[np.float32]:
    """Convert a matrix to contiguous float32. Raises InputError unless ``array`` has two dimensions of real numbers."""
    if array.ndim != 2 or array.dtype.kind not in "fiub":
        raise InputError(f"{array.ndim} dimensions of {array.dtype}: expected a matrix of real numbers")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, np.float32)


def scipy_csr(arrays: dict[str, NDArray[Any]]) -> Csr:
    """Build the matrix from the ``arrays`` of a file that ``scipy.sparse.save_npz`` wrote. Raises InputError if it is not a CSR matrix."""
    form = arrays["format"]
    if form.shape != () or form.dtype.kind not in "SU":
        raise InputError(f"format is {form.dtype} of shape {form.shape}: expected the name of a format, as scipy.sparse.save_npz writes it")
    if form.item() not in (b"csr", "csr"):
        raise InputError(f"a scipy matrix of format {form.item()!r}: expected csr (convert it with .tocsr())")
    return compressed(arrays["data"], arrays["indices"], arrays["indptr"], arrays["shape"])


def compressed(data: NDArray[Any], indices: NDArray[Any], indptr: NDArray[Any], shape: NDArray[Any]) -> Csr:
    """Build a `Csr` from the arrays of a compressed sparse row matrix. The columns of a row may be in any order.

    ``data`` are real numbers (entries,), ``indices`` integers (entries,), ``indptr`` integers (rows + 1,) and ``shape`` integers (2,), of
    any dtype. Leaves out zeros. Raises InputError if the sizes of the arrays contradict each other, or if an entry occurs twice.
    """
    for name, array, kinds in (("data", data, "fiub"), ("indices", indices, "iu"), ("indptr", indptr, "iu"), ("shape", shape, "iu")):
        if array.ndim != 1 or array.dtype.kind not in kinds:
            wanted = "integers" if kinds == "iu" else "real numbers"
            raise InputError(f"csr {name}: {array.ndim} dimensions of {array.dtype}: expected 1 dimension of {wanted}")
    if shape.size != 2 or indptr.size != int(shape[0]) + 1 or indices.size != data.size:
        sizes = f"shape {shape.tolist()}, {indptr.size} indptr, {indices.size} indices, {data.size} data"
        raise InputError(f"csr {sizes}: expected rows + 1 entries of indptr, and as many indices as data")
    if indptr[0] != 0 or indptr[-1] != indices.size or (indptr[1:] < indptr[:-1]).any():
        raise InputError(f"csr indptr: expected numbers that ascend from 0 to {indices.size}, the number of entries")
    rows = np.repeat(np.arange(indptr.size - 1), indptr[1:].astype(np.int64) - indptr[:-1].astype(np.int64))
    return Csr.build(rows, indices, data, (int(shape[0]), int(shape[1])))
