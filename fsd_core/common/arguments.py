"""Checks the arguments of the Python API, and converts them to the types that the other modules work with.

Each function takes an argument's name and value and returns the converted value. It raises `InputError` for a wrong value; the error line
has the name, the value and what was expected. Numpy scalars become Python numbers, paths become `Path`, and matrices are copied: no
function changes the caller's data, and later changes by the caller do not change the copy. Workers import this module and have no scipy.
So the module imports only numpy, and the functions for matrices import scipy when they are called.
"""

from __future__ import annotations

import math
import numbers
import operator
import os
import sys
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
MAX_SECONDS = 10**9  # the system's functions that wait accept only a few times this number
REAL = "fiub"  # the kinds of numpy's dtypes that hold real numbers
SHOWN_CHARS = 80  # of a value in an error line


def wrong(name: str, value: object, expected: str) -> InputError:
    """The error for an argument, for instance ``workers '2': expected a whole number of at least 1``."""
    return InputError(f"{name} {shown(value)}: expected {expected}")


def shown(value: object) -> str:
    """Format a value as a short text of one line. An array or any other object than a number, text or path is shown as its type."""
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


def _masked(value: object) -> bool:
    """Whether it is a masked array of numpy. No such array exists before numpy.ma is imported, which takes 13 ms."""
    found = sys.modules.get("numpy.ma")
    return found is not None and isinstance(value, found.MaskedArray)


def whole(name: str, value: Any, low: int = 0, high: int = LARGEST) -> int:
    """Check a whole number from ``low`` to ``high``, of Python or numpy. Refuses True, False and floats, even 2.0."""
    try:
        found = None if isinstance(value, bool) or _masked(value) else operator.index(value)
    except TypeError:
        found = None
    if found is None or found < low:
        raise wrong(name, value, f"a whole number of at least {low}")
    if found > high:
        raise wrong(name, value, f"a whole number of at most {high}")
    return found


def number(name: str, value: Any, expected: str = "a finite number", holds: Callable[[float], bool] = lambda value: True) -> float:
    """Check a finite real number, of Python or numpy, that the function ``holds`` accepts. Refuses True, False and texts.

    ``expected`` is the end of the error line. It describes the numbers that ``holds`` accepts.
    """
    given = value[()] if isinstance(value, np.ndarray) and not _masked(value) and value.ndim == 0 else value
    found = math.nan
    if isinstance(given, numbers.Real | Decimal) and not isinstance(given, bool | np.bool_ | np.timedelta64):
        with suppress(ValueError, OverflowError):
            found = float(given)
    if not (math.isfinite(found) and holds(found)):
        raise wrong(name, value, expected)
    return found


def seconds(name: str, value: Any) -> float:
    """Check a number of seconds above 0 and at most `MAX_SECONDS`."""
    return number(name, value, f"a number of seconds above 0 and at most {MAX_SECONDS}", lambda found: 0 < found <= MAX_SECONDS)


def yes_or_no(name: str, value: Any) -> bool:
    """Check a bool of Python or numpy."""
    if not isinstance(value, bool | np.bool_):
        raise wrong(name, value, "True or False")
    return bool(value)


def text(name: str, value: Any) -> str:
    """Check a text of at least one character."""
    if not isinstance(value, str) or not value:
        raise wrong(name, value, "a text that is not empty")
    return str.__str__(value)  # a text of numpy or a member of an Enum becomes a plain text


def one_of(name: str, value: Any, allowed: Sequence[str]) -> str:
    """Check that a text is one of ``allowed``."""
    if not isinstance(value, str) or value not in allowed:
        raise wrong(name, value, f"one of {', '.join(allowed)}")
    return str.__str__(value)


def path(name: str, value: Any) -> Path:
    """Convert a text or an `os.PathLike` to a path. A ``~`` at its start becomes the user's home folder."""
    found = os.fsdecode(value) if isinstance(value, str | os.PathLike) else ""
    if not found or "\0" in found:
        raise wrong(name, value, "a path: a text that is not empty, or a Path")
    return expanded(found)


def home(value: Any) -> Path:
    """The folder for records and caches. ``value`` is a path, or `None` for the default of `fsd_core.common.home.home_folder`."""
    return home_folder(None if value is None else path("home", value))


def folder_or_name(name: str, value: Any, expected: str) -> str | Path:
    """Return a text unchanged, because it may be a name or a path, and any other path as a `Path`, which is always a file or folder."""
    if isinstance(value, str) and value:
        return text(name, value)
    if not isinstance(value, os.PathLike):
        raise wrong(name, value, expected)
    return path(name, value)


def instance(name: str, value: Any, kind: type[T]) -> T:
    """Check that a value is an object of class ``kind``."""
    if not isinstance(value, kind):
        raise wrong(name, value, f"a {kind.__name__}")
    return value


def callback(name: str, value: T) -> T:
    """Check that a value is a callable or None."""
    if value is not None and not callable(value):
        raise wrong(name, value, "a function or None")
    return value


def table(name: str, value: Any) -> dict[str, object]:
    """Convert a mapping with texts as keys to a dictionary. None gives an empty one.

    Numpy scalars in its values become Python numbers, and paths become texts.
    """
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
    """Convert a mapping from texts to texts to a dictionary. None gives an empty one."""
    made = table(name, value)
    for key, each in made.items():
        if not isinstance(each, str):
            raise wrong(f"{name}[{key!r}]", each, "a text")
    return {key: str.__str__(each) for key, each in made.items() if isinstance(each, str)}


def array(name: str, value: Any, kinds: str = REAL, dims: int | None = None) -> NDArray[Any]:
    """Convert a value to a numpy array of real numbers with ``dims`` dimensions (`None`: any number of dimensions).

    ``kinds`` are the accepted letters of `numpy.dtype.kind`. The result may be the caller's own array. Refuses masked arrays, and arrays
    of objects, texts or complex numbers.
    """
    masked = np.ma.MaskedArray
    if isinstance(value, masked) or (isinstance(value, list | tuple) and any(isinstance(each, masked) for each in value)):
        raise wrong(name, value, "an array without a mask; call filled() on it")
    try:
        found = np.asarray(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:  # unequal rows, a tensor on another device, ...
        reason = " ".join(str(error).split())
        raise InputError(f"{name} {shown(value)}: expected an array of numbers; numpy cannot convert it: {reason}") from error
    wanted = "whole numbers" if set(kinds) <= set("iu") else "real numbers"
    if found.dtype.kind not in kinds:
        raise wrong(name, found if found.ndim else value, f"an array of {wanted}")
    if dims is not None and found.ndim != dims:
        raise wrong(name, found if found.ndim else value, f"an array of {dims} dimension{'s' * (dims > 1)}")
    return found


def integers(name: str, value: Any, dtype: type[np.int32 | np.int64], low: int, high: int) -> NDArray[Any]:
    """Convert a value to an array (n,) of ``dtype`` with whole numbers from ``low`` to ``high``. It may be the caller's own array."""
    found = array(name, value, "iu", 1)
    if found.size and not (low <= found.min() and found.max() <= high):
        worst = found.min() if found.min() < low else found.max()
        raise wrong(name, int(worst), f"a whole number from {low} to {high}")  # checked before the conversion, which may wrap
    return found.astype(dtype, copy=False)


def own(array: NDArray[Any]) -> NDArray[Any]:
    """A contiguous, read-only array of the same shape, dtype and values, whose memory no other code can change later.

    It is a copy, except where the memory of ``array`` is already protected: the memory itself is read-only (bytes, a file mapped for
    reading), or ``array`` owns it and is read-only.
    """
    made = np.ascontiguousarray(array).reshape(array.shape)
    if made is array or np.may_share_memory(made, array):
        made = made.view() if _frozen(array) else made.copy()
    made = made.view(np.ndarray)
    made.flags.writeable = False
    return made


def fresh(array: NDArray[N]) -> NDArray[N]:
    """Make ``array`` read-only and return it, so that `own` does not copy it. Only for a new array that no other code refers to."""
    array.flags.writeable = False
    return array


def _frozen(array: NDArray[Any]) -> bool:
    """True if the array is read-only, and every array or buffer of which it is a view is read-only too."""
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
    """Copy samples to a ``scipy.sparse.csr_matrix`` of shape (samples, ``width``), float32, sorted, finite, without stored zeros.

    ``value`` is either real numbers in two dimensions that numpy can convert to an array, or a sparse matrix or array of scipy. A sparse
    one may have any format, any dtype of indices, and entries in any order. Entries with the same row and column are added, as scipy's
    ``toarray`` does.
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
    """Copy a sparse matrix of any format to format CSR. Checks the indices, because scipy does not check them."""
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
        raise InputError(f"{name}: indptr of {starts.size} entries: expected {outer + 1} ascending from 0 to the number of values")
    indices = _index(name, value.indices[: starts[-1]], inner - 1)
    make = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "bsr": sparse.bsr_matrix}[value.format]
    made = make((_native(value.data[: starts[-1]]), indices, starts), shape=value.shape, copy=True)
    return sparse.csr_matrix(made)


def _index(name: str, found: Any, last: int) -> NDArray[np.int64]:
    return integers(f"{name}: index", found, np.int64, 0, last)


def _native(data: NDArray[Any]) -> NDArray[Any]:
    """A copy in this machine's byte order and of a dtype that scipy can compute with."""
    return data.astype(np.float32 if data.dtype == np.float16 else data.dtype.newbyteorder("="))
