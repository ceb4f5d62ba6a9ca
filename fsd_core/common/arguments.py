"""Checks of the arguments of the Python API, and their conversion to the types that the other modules work with.

Each function takes an argument's name and value and returns the converted value. For a wrong value it raises `InputError` with the
name, the value and what was expected. Scalars of numpy become numbers of Python, paths become `Path`, and matrices are copied: no
function changes the caller's data, and later changes by the caller do not reach our copy. Workers import this module, so that it
imports numpy only, and scipy inside the functions for matrices.
"""

from __future__ import annotations

import math
import numbers
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fsd_core.common.fields import LARGEST
from fsd_core.common.home import expanded, home_folder
from fsd_core.errors import InputError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = [
    "array", "callback", "folder_or_name", "fresh", "home", "instance", "integers", "matrix", "number", "one_of", "own", "path", "seconds",
    "shown", "table", "text", "texts", "whole", "wrong", "yes_or_no",
]  # fmt: skip

T = TypeVar("T")
N = TypeVar("N", bound=np.generic)
MAX_SECONDS = 10**9  # the waiting calls of the system accept only a few times more
REAL = "fiub"  # the kinds of numpy's dtypes that hold real numbers
SHOWN_CHARS = 80  # of a value in an error line


def wrong(name: str, value: object, expected: str) -> InputError:
    """The error for an argument, for instance ``workers '2': expected a whole number of at least 1``."""
    return InputError(f"{name} {shown(value)}: expected {expected}")


def shown(value: object) -> str:
    """A value as a short text of one line. An array or another object that is no number, text or path appears as its type."""
    if isinstance(value, np.generic):
        value = value.item()
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"({type(value).__name__} of shape {value.shape} and dtype {value.dtype})"
    if value is None or isinstance(value, str | bytes | int | float | complex | os.PathLike):
        try:
            line = " ".join(repr(os.fspath(value) if isinstance(value, os.PathLike) else value).split())
        except ValueError:  # Python prints no whole number of more than 4300 digits
            line = "with thousands of digits"
        return line if len(line) <= SHOWN_CHARS else f"{line[:SHOWN_CHARS]}..."
    return f"(a {type(value).__name__})"


def whole(name: str, value: Any, low: int = 0, high: int = LARGEST) -> int:
    """A whole number from ``low`` to ``high``, of Python or numpy. A truth value is wrong, and so is a float, even 2.0."""
    try:
        found = None if isinstance(value, bool | np.ma.MaskedArray) else operator.index(value)
    except TypeError:
        found = None
    if found is None or found < low:
        raise wrong(name, value, f"a whole number of at least {low}")
    if found > high:
        raise wrong(name, value, f"a whole number of at most {high}")
    return found


def number(name: str, value: Any, expected: str = "a finite number", holds: Callable[[float], bool] = lambda value: True) -> float:
    """A finite real number, of Python or numpy, for which ``holds`` returns true. A truth value or a text is wrong.

    ``expected``: the end of the error line, which describes the numbers that ``holds`` accepts.
    """
    given = value[()] if isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray) and value.ndim == 0 else value
    found = math.nan
    if isinstance(given, numbers.Real | Decimal) and not isinstance(given, bool | np.bool_ | np.timedelta64):
        with suppress(ValueError, OverflowError):
            found = float(given)
    if not (math.isfinite(found) and holds(found)):
        raise wrong(name, value, expected)
    return found


def seconds(name: str, value: Any) -> float:
    """A number of seconds above 0."""
    return number(name, value, f"a number of seconds above 0 and at most {MAX_SECONDS}", lambda found: 0 < found <= MAX_SECONDS)


def yes_or_no(name: str, value: Any) -> bool:
    """True or False, of Python or numpy."""
    if not isinstance(value, bool | np.bool_):
        raise wrong(name, value, "True or False")
    return bool(value)


def text(name: str, value: Any) -> str:
    """A text of one character or more."""
    if not isinstance(value, str) or not value:
        raise wrong(name, value, "a text that is not empty")
    return str.__str__(value)  # a text of numpy or a member of an Enum becomes a plain text


def one_of(name: str, value: Any, allowed: Sequence[str]) -> str:
    """One of the words ``allowed``."""
    if not isinstance(value, str) or value not in allowed:
        raise wrong(name, value, f"one of {', '.join(allowed)}")
    return str.__str__(value)


def path(name: str, value: Any) -> Path:
    """A path from a text or an `os.PathLike`, with ``~`` at its start replaced by the user's home folder."""
    found = os.fsdecode(value) if isinstance(value, str | os.PathLike) else ""
    if not found or "\0" in found:
        raise wrong(name, value, "a path: a text that is not empty, or a Path")
    return expanded(found)


def home(value: Any) -> Path:
    """The folder of records and caches for an argument ``home``, a path or `None`: see `fsd_core.common.home.home_folder`."""
    return home_folder(None if value is None else path("home", value))


def folder_or_name(name: str, value: Any, expected: str) -> str | Path:
    """A text unchanged, since it may name something that is not a file; any other path as a `Path`, which always means a file or folder."""
    if isinstance(value, str) and value:
        return text(name, value)
    if not isinstance(value, os.PathLike):
        raise wrong(name, value, expected)
    return path(name, value)


def instance(name: str, value: Any, kind: type[T]) -> T:
    """An object of class ``kind``."""
    if not isinstance(value, kind):
        raise wrong(name, value, f"a {kind.__name__}")
    return value


def callback(name: str, value: T) -> T:
    """A callable, or None."""
    if value is not None and not callable(value):
        raise wrong(name, value, "a function or None")
    return value


def table(name: str, value: Any) -> dict[str, object]:
    """A dictionary of a mapping with texts as keys; None gives an empty one. Scalars of numpy become numbers of Python, paths texts."""
    if value is not None and not isinstance(value, Mapping):
        raise wrong(name, value, "a mapping of names to values, or None")
    made: dict[str, object] = {}
    for key, each in (value or {}).items():
        if not isinstance(key, str):
            raise wrong(f"{name}: the name", key, "a text")
        made[str.__str__(key)] = (
            each.item() if isinstance(each, np.generic) else os.fsdecode(each) if isinstance(each, os.PathLike) else each
        )
    return made


def texts(name: str, value: Any) -> dict[str, str]:
    """A dictionary of a mapping from texts to texts; None gives an empty one."""
    made = table(name, value)
    for key, each in made.items():
        if not isinstance(each, str):
            raise wrong(f"{name}[{key!r}]", each, "a text")
    return {key: str.__str__(each) for key, each in made.items() if isinstance(each, str)}


def array(name: str, value: Any, kinds: str = REAL, dims: int | None = None) -> NDArray[Any]:
    """The value as a numpy array of real numbers, with ``dims`` dimensions if that is given.

    ``kinds``: the accepted letters of `numpy.dtype.kind`. The result may be the caller's own array. Masked arrays are wrong, and so
    are arrays of objects, texts or complex numbers.
    """
    masked = np.ma.MaskedArray
    if isinstance(value, masked) or (isinstance(value, list | tuple) and any(isinstance(each, masked) for each in value)):
        raise wrong(name, value, "an array without a mask, for instance its filled()")
    try:
        found = np.asarray(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:  # rows of unequal lengths, a tensor of another device, ...
        reason = " ".join(str(error).split())
        raise InputError(f"{name} {shown(value)}: expected an array of numbers; numpy cannot make one of it: {reason}") from error
    wanted = "whole numbers" if set(kinds) <= set("iu") else "real numbers"
    if found.dtype.kind not in kinds:
        raise wrong(name, found if found.ndim else value, f"an array of {wanted}")
    if dims is not None and found.ndim != dims:
        raise wrong(name, found if found.ndim else value, f"an array of {dims} dimension{'s' * (dims > 1)}")
    return found


def integers(name: str, value: Any, dtype: type[np.int32 | np.int64], low: int, high: int) -> NDArray[Any]:
    """An array of shape (n,) of whole numbers from ``low`` to ``high``, as ``dtype``. The result may be the caller's own array."""
    found = array(name, value, "iu", 1)
    if found.size and not (low <= found.min() and found.max() <= high):
        worst = found.min() if found.min() < low else found.max()
        raise wrong(name, int(worst), f"a whole number from {low} to {high}")  # checked before the conversion, which may wrap
    return found.astype(dtype, copy=False)


def own(array: NDArray[Any]) -> NDArray[Any]:
    """A contiguous, read-only array of the same shape, dtype and values whose memory nobody can change later.

    It is a copy, unless nobody can write to the memory of ``array``: that memory is read-only (bytes, a file mapped for reading), or
    ``array`` owns it and is read-only.
    """
    made = np.ascontiguousarray(array).reshape(array.shape)
    if made is array or np.may_share_memory(made, array):
        made = made.view() if _frozen(array) else made.copy()
    made = made.view(np.ndarray)
    made.flags.writeable = False
    return made


def fresh(array: NDArray[N]) -> NDArray[N]:
    """The same array, set read-only, so that `own` does not copy it. For a new array to which no other code has a reference."""
    array.flags.writeable = False
    return array


def _frozen(array: NDArray[Any]) -> bool:
    """Whether the array is read-only, and so is everything that it is a view of."""
    here: Any = array
    while isinstance(here, np.ndarray):
        if here.flags.writeable:
            return False
        here = here.base
    if here is None:
        return True
    try:
        return memoryview(here).readonly
    except TypeError:  # the memory belongs to another library
        return False


def matrix(name: str, value: Any, width: int) -> csr_matrix:
    """A copy of samples as ``scipy.sparse.csr_matrix`` of shape (samples, ``width``), float32, sorted, finite, without stored zeros.

    ``value``: real numbers in two dimensions that numpy can make an array of, or a sparse matrix or array of scipy. The latter may have
    any format, any dtype of indices, and entries in any order. Entries at the same place are added, as scipy's ``toarray`` does.
    """
    from scipy.sparse import csr_matrix, issparse

    made: csr_matrix
    with np.errstate(over="ignore", under="ignore"):
        if issparse(value):
            made = _sparse(name, value)
            made.sum_duplicates()
            made = made.astype(np.float32, copy=False)
        else:
            made = csr_matrix(array(name, value, dims=2).astype(np.float32, copy=False))
    made.eliminate_zeros()
    if made.shape[1] != width:
        raise InputError(f"{name} have {made.shape[1]} columns: expected {width}, the number of inputs of the model")
    finite = np.isfinite(made.data)
    if not finite.all():
        entry = int(finite.argmin())
        row = int(np.searchsorted(made.indptr, entry, "right")) - 1
        raise InputError(
            f"{name}: the value in row {row}, column {made.indices[entry]} (0-based) is not finite as float32: expected finite numbers"
        )
    return made


def _sparse(name: str, value: Any) -> csr_matrix:
    """A copy of a sparse matrix of any format in format CSR, its indices checked, since scipy does not check them."""
    from scipy import sparse

    if len(value.shape) != 2:
        raise wrong(name, value, "a matrix of 2 dimensions: samples, width")
    if value.dtype.kind not in REAL:
        raise wrong(name, value, "a matrix of real numbers")
    rows, columns = value.shape
    if value.format == "coo":
        pair = (_index(name, value.row, rows - 1), _index(name, value.col, columns - 1))
        if not pair[0].size == pair[1].size == value.data.size:
            raise InputError(f"{name}: {pair[0].size} rows, {pair[1].size} columns, {value.data.size} values: expected equal numbers")
        return sparse.csr_matrix(sparse.coo_matrix((_native(value.data), pair), value.shape))
    if value.format not in ("csr", "csc", "bsr"):  # scipy itself makes the indices of a copy in CSR
        value = sparse.csr_matrix(value.copy())
    height, breadth = value.blocksize if value.format == "bsr" else (1, 1)
    outer, inner = (columns, rows) if value.format == "csc" else (rows // height, columns // breadth)
    starts = integers(f"{name}: indptr", value.indptr, np.int64, 0, len(value.indices))
    if starts.size != outer + 1 or starts[0] != 0 or (starts[1:] < starts[:-1]).any() or starts[-1] > len(value.data):
        raise InputError(f"{name}: indptr of {starts.size} entries: expected {outer + 1} that rise from 0 to the number of values")
    indices = _index(name, value.indices[: starts[-1]], inner - 1)
    make = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "bsr": sparse.bsr_matrix}[value.format]
    made = make((_native(value.data[: starts[-1]]), indices, starts), shape=value.shape, copy=True)
    return sparse.csr_matrix(made)


def _index(name: str, found: Any, last: int) -> NDArray[np.int64]:
    return integers(f"{name}: index", found, np.int64, 0, last)


def _native(data: NDArray[Any]) -> NDArray[Any]:
    """A copy in this machine's byte order and of a dtype that scipy can compute with."""
    return data.astype(np.float32 if data.dtype == np.float16 else data.dtype.newbyteorder("="))
