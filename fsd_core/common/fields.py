"""Reads what people and other programs wrote (TOML, JSON, flags, variables) into attrs classes, strictly and in one way.

A class says of each key what it may hold, and `read` makes an object of a table, or says in one line which key is wrong::

    @attrs.frozen(kw_only=True)
    class Settings:
        region: str = key(text(), default="")
        memory_mb: int = key(integer(128, 10240), default=2048)

    read(Settings, {"memory_mb": 64}, "[aws] ")  # InputError: [aws] memory_mb = 64: expected a whole number from 128 to 10240

Nothing is converted silently: `True` is no number, 2.9 is no whole number, "abc" is no list. 3.0 is read as 3.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import attrs

from fsd_core.errors import InputError

__all__ = [
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
    "read",
    "suggestion",
    "table",
    "text",
]

T = TypeVar("T")
_KIND = "fsd_kind"
_LARGEST = 10**18  # of any number: what is larger is a mistake, and its products would soon be infinite
_SHOWN_CHARS = 80


@attrs.frozen
class Kind:
    """What a key may hold. ``expected`` ends the sentence "expected ...". ``holds`` judges any value and never raises.

    ``becomes`` makes of a good value what is kept. ``parse`` makes a value of a flag's or variable's text; it raises `ValueError` where it
    cannot. ``metavar`` stands for the value in ``--help``.
    """

    expected: str
    holds: Callable[[Any], bool]
    becomes: Callable[[Any], Any] = lambda value: value
    parse: Callable[[str], Any] = str
    metavar: str = "TEXT"

    def check(self, value: Any, where: str) -> Any:
        """The value to keep. Raises `InputError` where it is wrong.

        ``where`` is what precedes the value in the message: "--workers ", "[aws] lease_s = ".
        """
        if not self.holds(value):
            raise InputError(f"{where}{_shown(value)}: expected {self.expected}")
        return self.becomes(value)

    def read_text(self, text: str, where: str) -> Any:
        """The value to keep of a flag's or variable's text. Raises `InputError` where it is wrong."""
        try:
            value = self.parse(text)
        except ValueError:
            raise InputError(f"{where}{_shown(text)}: expected {self.expected}") from None
        return self.check(value, where)


def integer(low: int, high: int | None = None, unit: str = "") -> Kind:
    """A whole number from ``low`` to ``high``, both included; ``unit`` is "seconds" and the like."""
    of = f" of {unit}" if unit else ""
    expected = f"a whole number{of} of at least {low}" if high is None else f"a whole number{of} from {low} to {high}"

    def holds(value: Any) -> bool:
        return _is_number(value) and value == int(value) and value >= low and (high is None or value <= high)

    return Kind(expected, holds, int, int, "N")


def number(low: float = 0.0, high: float = math.inf, unit: str = "", *, above: bool = False) -> Kind:
    """A finite number from ``low`` to ``high``, both included; ``above``: ``low`` itself is excluded."""
    of = f" of {unit}" if unit else ""
    first, last = f"{low:.15g}", f"{high:.15g}"
    if above:
        expected = f"a number{of} above {first}" + ("" if math.isinf(high) else f" and of at most {last}")
    else:
        expected = f"a number{of} of at least {first}" if math.isinf(high) else f"a number{of} from {first} to {last}"
    if math.isinf(low) and math.isinf(high):
        expected = f"a finite number{of}"

    def holds(value: Any) -> bool:
        return _is_number(value) and low <= value <= high and not (above and value == low)

    return Kind(expected, holds, float, float, unit.upper() or "NUMBER")


def text(expected: str = "a text that is not empty", *, empty: bool = False, metavar: str = "TEXT") -> Kind:
    """A text; ``empty``: one without characters too."""
    return Kind("a text" if empty else expected, lambda value: isinstance(value, str) and (empty or value != ""), metavar=metavar)


def matching(pattern: str, expected: str, metavar: str = "TEXT") -> Kind:
    """A text of which the whole matches a regular expression."""
    return Kind(expected, lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None, metavar=metavar)


def choice(*values: str | int) -> Kind:
    """One of some words or whole numbers."""
    words = [str(value) for value in values]
    kinds = {type(value) for value in values}
    return Kind(f"one of {', '.join(words)}", lambda value: type(value) in kinds and value in values, metavar="|".join(words))


def boolean() -> Kind:
    """True or false; as text also 1 or 0, yes or no, on or off."""
    return Kind("true or false", lambda value: isinstance(value, bool), parse=_truth, metavar="")


def nullable(kind: Kind) -> Kind:
    """A value of ``kind``, or none at all (JSON's null)."""
    return attrs.evolve(
        kind,
        expected=f"{kind.expected}, or null",
        holds=lambda value: value is None or kind.holds(value),
        becomes=lambda value: None if value is None else kind.becomes(value),
    )


def listed(kind: Kind, *, filled: bool = False) -> Kind:
    """A list whose every item is of ``kind``, kept as a list; ``filled``: with at least one item."""
    return Kind(
        f"a list{' that is not empty' if filled else ''}, each item {kind.expected}",
        lambda value: isinstance(value, list) and (not filled or bool(value)) and all(map(kind.holds, value)),
        lambda value: [kind.becomes(item) for item in value],
    )


def table(expected: str = "a table") -> Kind:
    """A table: a mapping from names to anything, for `read` to look into."""
    return Kind(expected, lambda value: isinstance(value, Mapping) and all(isinstance(name, str) for name in value))


def key(kind: Kind, *, default: Any = attrs.NOTHING, help: str = "", alias: str | None = None) -> Any:
    """A key of an attrs class that `read` reads; without ``default`` it must be given. ``help``: a sentence for people."""
    return attrs.field(default=default, metadata={_KIND: kind, "help": help}, alias=alias)


def keys(cls: type) -> dict[str, Kind]:
    """The keys of a class and their kinds, in the order of the class."""
    return {field.name: field.metadata[_KIND] for field in attrs.fields(cls) if _KIND in field.metadata}


def read(cls: type[T], found: Mapping[str, Any], where: str, *, known: Collection[str] = ()) -> T:
    """``found`` as an object of ``cls``, an attrs class of `key` fields; each line of an error starts with ``where``.

    ``known``: names that may be there beside the class's keys and are passed over. Raises `InputError` that names the key that is unknown
    (with the nearest known one), missing, or of a wrong value (with the value and what was expected).
    """
    kinds, fields = keys(cls), attrs.fields(cls)  # type: ignore[arg-type]  # an attrs class, as said
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
    """The known name that is most like ``name``, `None` where none is; ``likeness``: from 0, any name, to 1, the same name."""
    import difflib  # only for an error: a worker's start does without it

    return next(iter(difflib.get_close_matches(name, known, 1, likeness)), None)


def suggestion(name: str, known: Collection[str], likeness: float = 0.6) -> str:
    """The end of an error line about an unknown name: the nearest known name, or all known names where none is near."""
    close = nearest(name, known, likeness)
    return f"did you mean {close}?" if close else f"known are {', '.join(known)}"


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value < math.inf


def _is_number(value: Any) -> bool:
    return _is_finite(value) and -_LARGEST <= value <= _LARGEST


def _truth(text: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if text.lower() not in words:
        raise ValueError(text)
    return words[text.lower()]


def _shown(value: Any) -> str:
    if _is_finite(value) and not _is_number(value):
        return f"a number above {_LARGEST:.0e}" if value > 0 else f"a number below {-_LARGEST:.0e}"
    try:
        return repr(value)[:_SHOWN_CHARS]
    except ValueError:  # Python shows no whole number of thousands of digits
        return "a number that is too large"
