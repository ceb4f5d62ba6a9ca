"""The one strict reader of tables that people and other programs write: TOML, JSON, payloads, flags, environment variables.

An attrs class declares the keys of a table and their kinds of values. `read` turns a table into an object of the class, or raises an
error of one line that names the wrong key::

    @attrs.frozen(kw_only=True)
    class Settings:
        region: str = key(text(), default="")
        memory_mb: int = key(integer(128, 10240), default=2048)

    read(Settings, {"memory_mb": 64}, "[aws] ")  # InputError: [aws] memory_mb = 64: expected a whole number from 128 to 10240

The reader does not guess: `True` is not a number, 2.9 is not a whole number, "abc" is not a list. It reads 3.0 as 3, because some programs
write whole numbers in this way.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import attrs

from fsd_core.errors import InputError

__all__ = [
    "LARGEST",
    "Kind",
    "boolean",
    "choice",
    "integer",
    "key",
    "keys",
    "listed",
    "matching",
    "nearest",
    "nullable",
    "number",
    "plain_digits",
    "plain_number",
    "read",
    "suggestion",
    "table",
    "text",
]

T = TypeVar("T")
_KIND = "fsd_kind"
LARGEST = 10**18  # the largest number accepted: a larger one is a mistake, and products of such numbers overflow
_SHOWN_CHARS = 80


@attrs.frozen
class Kind:
    """A kind of value: it defines which values a key accepts and how they are converted.

    ``expected`` completes the error line "expected ...". ``holds`` returns true if it accepts a value; it takes any object and never
    raises. ``becomes`` converts an accepted value to the stored value, for instance 3.0 to 3. ``parse`` converts the text of a flag or
    variable to a value, and raises `ValueError` if it cannot. ``metavar`` is the placeholder of the value in ``--help``. ``secret``: a
    wrong value may hold a secret, so no error line shows it.
    """

    expected: str
    holds: Callable[[Any], bool]
    becomes: Callable[[Any], Any] = lambda value: value
    parse: Callable[[str], Any] = str
    metavar: str = "TEXT"
    secret: bool = False

    def check(self, value: Any, where: str) -> Any:
        """Check a value and return it converted. Raises `InputError` if the value is not of this kind.

        ``where`` is the part of the error line before the value, for instance "--workers " or "[aws] lease_s = ".
        """
        if not self.holds(value):
            shown = "(not shown, it may hold a secret)" if self.secret else _shown(value)
            raise InputError(f"{where}{shown}: expected {self.expected}")
        return self.becomes(value)

    def read_text(self, text: str, where: str) -> Any:
        """Convert the text of a flag or variable to a value and `check` it. Raises `InputError` if the value is not of this kind."""
        try:
            value = self.parse(text)
        except ValueError:
            raise InputError(f"{where}{_shown(text)}: expected {self.expected}") from None
        return self.check(value, where)


def integer(low: int, high: int | None = None, unit: str = "") -> Kind:
    """A whole number from ``low`` to ``high``, both included. The error line names ``unit``, for instance "seconds"."""
    of = f" of {unit}" if unit else ""
    expected = f"a whole number{of} of at least {low}" if high is None else f"a whole number{of} from {low} to {high}"

    def holds(value: Any) -> bool:
        return _is_number(value) and value == int(value) and value >= low and (high is None or value <= high)

    return Kind(expected, holds, int, int, "N")


def number(low: float = 0.0, high: float = math.inf, unit: str = "", *, above: bool = False, huge: bool = False) -> Kind:
    """A finite number from ``low`` to ``high``, both included. With ``above``, the number has to be larger than ``low``.

    Numbers above `LARGEST` are accepted only with ``huge``.
    """
    of = f" of {unit}" if unit else ""
    first, last = f"{low:.15g}", f"{high:.15g}"
    if above:
        expected = f"a number{of} above {first}" + ("" if math.isinf(high) else f" and of at most {last}")
    else:
        expected = f"a number{of} of at least {first}" if math.isinf(high) else f"a number{of} from {first} to {last}"
    if math.isinf(low) and math.isinf(high):
        expected = f"a finite number{of}"

    def holds(value: Any) -> bool:
        sized = _is_finite(value) if huge else _is_number(value)
        return sized and low <= value <= high and not (above and value == low)

    return Kind(expected, holds, float, float, unit.upper() or "NUMBER")


def plain_number(text: str) -> float:
    """Convert digits with at most one point and an exponent, such as ".5" or "1e-3". Raises `ValueError` for what only `float` takes."""
    if not re.fullmatch(r"(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?", text, re.ASCII):
        raise ValueError(text)
    return float(text)


def plain_digits(text: str) -> int:
    """Convert up to 18 digits. Raises `ValueError` for what only `int` takes, such as "1_000"."""
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise ValueError(text)
    return int(text)


def text(expected: str = "a text that is not empty", *, empty: bool = False, metavar: str = "TEXT") -> Kind:
    """A text of at least one character. With ``empty``, the empty text is accepted too."""
    return Kind("a text" if empty else expected, lambda value: isinstance(value, str) and (empty or value != ""), metavar=metavar)


def matching(pattern: str, expected: str, metavar: str = "TEXT", *, secret: bool = False) -> Kind:
    """A text that matches the regular expression ``pattern`` from its start to its end. ``secret``: see `Kind`."""
    return Kind(expected, lambda value: isinstance(value, str) and bool(re.fullmatch(pattern, value)), metavar=metavar, secret=secret)


def choice(*values: str | int) -> Kind:
    """One of ``values``, which are texts or whole numbers."""
    words = [str(value) for value in values]
    whole = {value for value in values if isinstance(value, int)}

    def holds(value: Any) -> bool:
        return (isinstance(value, str) and value in values) or (_is_number(value) and value in whole)

    return Kind(f"one of {', '.join(words)}", holds, lambda value: value if isinstance(value, str) else int(value), metavar="|".join(words))


def boolean() -> Kind:
    """True or false. In a flag or variable, 1, yes and on mean true; 0, no and off mean false."""
    return Kind("true or false", lambda value: isinstance(value, bool), parse=_truth, metavar="")


def nullable(kind: Kind) -> Kind:
    """A value of ``kind``, or `None` (JSON's null)."""
    return attrs.evolve(
        kind,
        expected=f"{kind.expected}, or null",
        holds=lambda value: value is None or kind.holds(value),
        becomes=lambda value: None if value is None else kind.becomes(value),
    )


def listed(kind: Kind, *, filled: bool = False) -> Kind:
    """A list of values of ``kind``. With ``filled``, the list has to have at least one value."""
    return Kind(
        f"a list{' that is not empty' if filled else ''}, each item {kind.expected}",
        lambda value: isinstance(value, list) and (not filled or bool(value)) and all(map(kind.holds, value)),
        lambda value: [kind.becomes(item) for item in value],
    )


def table(expected: str = "a table") -> Kind:
    """A mapping from texts to any values. Another call of `read` can check these values."""
    return Kind(expected, lambda value: isinstance(value, Mapping) and all(isinstance(name, str) for name in value))


def key(kind: Kind, *, default: Any = attrs.NOTHING, help: str = "", alias: str | None = None) -> Any:
    """A field of an attrs class for `read`. Without a ``default``, a table has to have this key. ``help`` is the text for ``--help``.

    The ``repr`` of an object does not show a field of a secret kind.
    """
    return attrs.field(default=default, metadata={_KIND: kind, "help": help}, alias=alias, repr=not kind.secret)


def keys(cls: type) -> dict[str, Kind]:
    """The `Kind` of each key of a class, by name, in the order of the class."""
    return {field.name: field.metadata[_KIND] for field in attrs.fields(cls) if _KIND in field.metadata}


def read(cls: type[T], found: Mapping[str, Any], where: str, *, known: Collection[str] = ()) -> T:
    """Convert the table ``found`` to an object of ``cls``, an attrs class with `key` fields.

    ``where`` is the start of each error line. ``known`` are names that the table may also have; `read` ignores them. Raises `InputError`
    for the first key that is unknown, is missing or has a wrong value. The line names the key and what was expected.
    """
    kinds, fields = keys(cls), attrs.fields(cls)  # type: ignore[arg-type]  # mypy has no type for "an attrs class"
    for name in found:
        if name not in kinds and name not in known:
            raise InputError(f"{where}{name}: unknown key; {suggestion(name, (*kinds, *known))}")
    values = {}
    for field in fields:
        if field.name in kinds and field.name in found:
            values[field.alias or field.name] = kinds[field.name].check(found[field.name], f"{where}{field.name} = ")
        elif field.name in kinds and field.default is attrs.NOTHING:
            raise InputError(f"{where}{field.name}: is missing: expected {kinds[field.name].expected}")
    return cls(**values)


def nearest(name: str, known: Collection[str], likeness: float = 0.6) -> str | None:
    """The known name most similar to ``name``, or `None` if no similarity reaches ``likeness``, from 0 (any name) to 1 (the same name)."""
    import difflib  # imported here, because only errors need it and workers start faster without it

    return next(iter(difflib.get_close_matches(name, known, 1, likeness)), None)


def suggestion(name: str, known: Collection[str], likeness: float = 0.6) -> str:
    """The end of an error line about an unknown name. It suggests the nearest known name, or lists all known names if none is similar."""
    close = nearest(name, known, likeness)
    return f"did you mean {close}?" if close else f"known are {', '.join(known)}"


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value < math.inf


def _is_number(value: Any) -> bool:
    return _is_finite(value) and -LARGEST <= value <= LARGEST


def _truth(text: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if text.lower() not in words:
        raise ValueError(text)
    return words[text.lower()]


def _shown(value: Any) -> str:
    if _is_finite(value) and not _is_number(value):
        return f"a number above {LARGEST:.0e}" if value > 0 else f"a number below {-LARGEST:.0e}"
    try:
        return repr(value)[:_SHOWN_CHARS]
    except ValueError:  # Python prints no whole number of more than 4300 digits
        return "a number that is too large"
    except Exception:  # of the value's own code
        return f"(a {type(value).__name__})"
