"""What callers of the Python API give, checked as the command checks its flags, in the one form that all the rest works with.

Each function takes an argument's name and value. What is wrong raises `InputError` that names the argument, its value and what was
expected. Numpy's scalars become Python's numbers, paths become `Path`, and matrices become copies: a caller's data is never changed,
and nothing of ours changes when the caller changes it later. Numpy only, since workers import this; scipy is imported for matrices.
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
MOST = 10**18  # of any whole number: records and reports refuse more
MOST_SECONDS = 10**9  # the system's calls that wait take no more than a few times as many
REAL = "fiub"  # kinds of numpy's dtypes that hold real numbers
SHOWN = 80  # characters of a value in an error


def wrong(name: str, value: object, expected: str) -> InputError:
    """The error of an argument: ``workers '2': expected a whole number of at least 1``."""
    return InputError(f"{name} {shown(value)}: expected {expected}")


def shown(value: object) -> str:
    """A value in a few words, on one line: what is larger than a line is described by its type."""
    if isinstance(value, np.generic):
        value = value.item()
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"({type(value).__name__} of shape {value.shape} and dtype {value.dtype})"
    if value is None or isinstance(value, str | bytes | int | float | complex | os.PathLike):
        try:
            line = " ".join(repr(os.fspath(value) if isinstance(value, os.PathLike) else value).split())
        except ValueError:  # a number of more digits than Python prints
            line = "with thousands of digits"
        return line if len(line) <= SHOWN else f"{line[:SHOWN]}..."
    return f"(a {type(value).__name__})"


def whole(name: str, value: Any, least: int = 0, most: int = MOST) -> int:
    """A whole number from ``least`` to ``most``: Python's or numpy's, no truth value, and no float even where it has no fraction."""
    try:
        found = None if isinstance(value, bool | np.ma.MaskedArray) else operator.index(value)
    except TypeError:
        found = None
    if found is None or found < least:
        raise wrong(name, value, f"a whole number of at least {least}")
    if found > most:
        raise wrong(name, value, f"a whole number of at most {most}")
    return found


def number(name: str, value: Any, expected: str = "a finite number", holds: Callable[[float], bool] = lambda value: True) -> float:
    """A finite real number of which ``holds`` is true: Python's or numpy's, no truth value and no text."""
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
    return number(name, value, f"a number of seconds above 0 and at most {MOST_SECONDS}", lambda found: 0 < found <= MOST_SECONDS)


def yes_or_no(name: str, value: Any) -> bool:
    """True or false, Python's or numpy's."""
    if not isinstance(value, bool | np.bool_):
        raise wrong(name, value, "True or False")
    return bool(value)


def text(name: str, value: Any) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value:
        raise wrong(name, value, "a text that is not empty")
    return str.__str__(value)  # of numpy's texts and of members of an Enum too, which may print otherwise


def one_of(name: str, value: Any, allowed: Sequence[str]) -> str:
    """One of some words."""
    if not isinstance(value, str) or value not in allowed:
        raise wrong(name, value, f"one of {', '.join(allowed)}")
    return str.__str__(value)


def path(name: str, value: Any) -> Path:
    """A path, from a text or anything that has one (`os.PathLike`)."""
    found = os.fsdecode(value) if isinstance(value, str | os.PathLike) else ""
    if not found or "\0" in found:
        raise wrong(name, value, "a path: a text that is not empty, or a Path")
    return expanded(found)


def home(value: Any) -> Path:
    """The folder of records and caches, see `fsd_core.common.home.home_folder`, from an argument ``home`` that may be `None`."""
    return home_folder(None if value is None else path("home", value))


def folder_or_name(name: str, value: Any, expected: str) -> str | Path:
    """A text as it is, since it may name something that is no file, or a `Path`, which means a file or folder whatever it is called."""
    if isinstance(value, str) and value:
        return text(name, value)
    if not isinstance(value, os.PathLike):
        raise wrong(name, value, expected)
    return path(name, value)


def instance(name: str, value: Any, kind: type[T]) -> T:
    """An object of this class."""
    if not isinstance(value, kind):
        raise wrong(name, value, f"a {kind.__name__}")
    return value


def callback(name: str, value: T) -> T:
    """A function, or None."""
    if value is not None and not callable(value):
        raise wrong(name, value, "a function or None")
    return value


def table(name: str, value: Any) -> dict[str, object]:
    """A mapping from texts, or None, which is an empty one. Numpy's scalars and paths in it become Python's numbers and texts."""
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
    """A mapping from texts to texts, or None, which is an empty one."""
    made = table(name, value)
    for key, each in made.items():
        if not isinstance(each, str):
            raise wrong(f"{name}[{key!r}]", each, "a text")
    return {key: str.__str__(each) for key, each in made.items() if isinstance(each, str)}


def array(name: str, value: Any, kinds: str = REAL, dims: int | None = None) -> NDArray[Any]:
    """What numpy makes an array of real numbers of: not masked, not objects, text or complex; of ``dims`` dimensions.

    ``kinds``: letters of `numpy.dtype.kind` that are right. What is returned may be the caller's own array.
    """
    masked = np.ma.MaskedArray
    if isinstance(value, masked) or (isinstance(value, list | tuple) and any(isinstance(each, masked) for each in value)):
        raise wrong(name, value, "numbers without a mask (its filled() has none)")
    try:
        found = np.asarray(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:  # rows of unequal lengths, a tensor of another device, ...
        raise InputError(f"{name} {shown(value)}: numpy makes no array of it: {' '.join(str(error).split())}") from error
    wanted = "whole numbers" if set(kinds) <= set("iu") else "real numbers"
    if found.dtype.kind not in kinds:
        raise wrong(name, found if found.ndim else value, f"an array of {wanted}")
    if dims is not None and found.ndim != dims:
        raise wrong(name, found if found.ndim else value, f"an array of {dims} dimension{'s' * (dims > 1)}")
    return found


def integers(name: str, value: Any, dtype: type[np.int32 | np.int64], low: int, high: int) -> NDArray[Any]:
    """Whole numbers of any dtype and one dimension, from ``low`` to ``high``, as ``dtype``; it may be the caller's own array."""
    found = array(name, value, "iu", 1)
    if found.size and not (low <= found.min() and found.max() <= high):
        worst = found.min() if found.min() < low else found.max()
        raise InputError(f"{name} {int(worst)} is outside {low} to {high}")  # found before they are narrowed
    return found.astype(dtype, copy=False)


def own(array: NDArray[Any]) -> NDArray[Any]:
    """``array``, contiguous and read-only, such that nobody changes it later: a copy unless nobody can write to its memory.

    A read-only array over read-only memory (bytes, a file mapped for reading) is shared, and so is one that owns its memory and was
    made read-only.
    """
    made = np.ascontiguousarray(array).reshape(array.shape)
    if made is array or np.may_share_memory(made, array):
        made = made.view() if _frozen(array) else made.copy()
    made = made.view(np.ndarray)
    made.flags.writeable = False
    return made


def fresh(array: NDArray[N]) -> NDArray[N]:
    """An array that was just made and that nobody else knows, made read-only, so that `own` does not copy it."""
    array.flags.writeable = False
    return array


def _frozen(array: NDArray[Any]) -> bool:
    """Whether neither the array nor anything that it is a view of can be written to."""
    here: Any = array
    while isinstance(here, np.ndarray):
        if here.flags.writeable:
            return False
        here = here.base
    if here is None:
        return True
    try:
        return memoryview(here).readonly
    except TypeError:  # memory of another library
        return False


def matrix(name: str, value: Any, width: int) -> csr_matrix:
    """Samples as ``scipy.sparse.csr_matrix`` (samples, ``width``) float32: sorted, finite, without stored zeros; a copy.

    ``value``: anything of two dimensions that numpy makes an array of real numbers of, or a sparse matrix or array of scipy in any
    format, with any whole numbers as indices, in any order, entries given twice (they are added up, as scipy's ``toarray`` does).
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
        raise InputError(f"{name} have {made.shape[1]} columns, the model takes {width}")
    finite = np.isfinite(made.data)
    if not finite.all():
        entry = int(finite.argmin())
        row = int(np.searchsorted(made.indptr, entry, "right")) - 1
        raise InputError(
            f"{name}: the value in row {row}, column {made.indices[entry]} (0-based) is not finite as float32: expected finite numbers"
        )
    return made


def _sparse(name: str, value: Any) -> csr_matrix:
    """A sparse matrix of any format as one in compressed rows that shares nothing with it, its indices checked: scipy trusts them."""
    from scipy import sparse

    if len(value.shape) != 2:
        raise wrong(name, value, "2 dimensions: samples, width")
    if value.dtype.kind not in REAL:
        raise wrong(name, value, "a matrix of real numbers")
    rows, columns = value.shape
    if value.format == "coo":
        pair = (_index(name, value.row, rows - 1), _index(name, value.col, columns - 1))
        if not pair[0].size == pair[1].size == value.data.size:
            raise InputError(f"{name}: {pair[0].size} rows, {pair[1].size} columns, {value.data.size} values: expected equal numbers")
        return sparse.csr_matrix(sparse.coo_matrix((_native(value.data), pair), value.shape))
    if value.format not in ("csr", "csc", "bsr"):  # of these only our copy's indices are taken for granted
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
    """A copy in this machine's byte order, of a dtype that scipy computes with."""
    return data.astype(np.float32 if data.dtype == np.float16 else data.dtype.newbyteorder("="))
