"""A provider's table of the configuration file: a dataclass that says of each key its default, what it must be, and in which words.

::

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Settings:
        region: str = key("", "a region's name, for instance eu-west-1", matches(r"[a-z-]+-[0-9]"))
        memory_mb: int = key(2048, "a whole number from 128 to 10240", whole(128, 10240))

    parse(Settings, "aws", {"memory_mb": 512})
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import field, fields
from typing import Any, TypeVar

from fsd_core.errors import InputError

__all__ = ["flag", "key", "matches", "number", "parse", "whole"]

T = TypeVar("T")


def key(default: Any, wanted: str, holds: Callable[[Any], bool]) -> Any:
    """A key of a settings class: ``wanted`` finishes the sentence "must be ..."; ``holds`` is asked of each value that is given."""
    return field(default=default, metadata={"wanted": wanted, "holds": holds})


def whole(low: int, high: int) -> Callable[[Any], bool]:
    """A whole number from ``low`` to ``high``."""
    return lambda value: type(value) is int and low <= value <= high


def number(low: float, high: float) -> Callable[[Any], bool]:
    """A number from ``low`` to ``high``."""
    return lambda value: type(value) in (int, float) and low <= value <= high


def matches(pattern: str) -> Callable[[Any], bool]:
    """A text of which the whole matches a regular expression."""
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def flag(value: Any) -> bool:
    """True or false."""
    return isinstance(value, bool)


def parse(settings: type[T], provider: str, table: Mapping[str, object]) -> T:
    """``table`` as ``settings``, which is a dataclass of `key` fields. `InputError` names key, value and what would be right."""
    known = {each.name: each.metadata for each in fields(settings)}  # type: ignore[arg-type]  # a dataclass, as said
    values: dict[str, Any] = {}
    for name, value in table.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            meant = f"did you mean {close[0]}?" if close else f"the keys are {', '.join(known)}"
            raise InputError(f"[{provider}] {name}: unknown; {meant}")
        values[name] = int(value) if isinstance(value, float) and value.is_integer() else value  # 3.0 s is 3 s
        if not known[name]["holds"](values[name]):
            raise InputError(f"[{provider}] {name} = {value!r}: must be {known[name]['wanted']}")
    return settings(**values)
