"""Tariffs: dated prices with their sources, one TOML file each. A user's own file has the same form.

A file has ``provider``, ``region``, ``as_of``, optionally ``title``; a table ``[function]``, see `FunctionRule`, with ``source``,
``as_of`` and ``confidence``; and tables ``[[price]]``, see `Price`. Every price says where it comes from.
"""

from __future__ import annotations

import datetime
import difflib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from fsd_core.common.home import expanded
from fsd_core.common.textfile import read_text
from fsd_core.cost.quantities import NEEDED, QUANTITIES, FunctionRule
from fsd_core.cost.usage import MOST
from fsd_core.errors import InputError

__all__ = ["Price", "Tariff", "default_tariff", "load", "names"]

LEAST = 1e-9  # of what is divided by
CONFIDENCES = ("high", "medium", "low")
DEFAULTS = {"local": "local", "aws": "aws-us-east-1", "gcp": "gcp-us-central1", "azure": "azure-eastus2"}


@dataclass(frozen=True, slots=True)
class Price:
    """What one SKU costs."""

    service: str
    sku: str
    unit: str  # for people, in the plural: GB-s, requests, ...
    usd: float  # of one unit
    source: str
    as_of: str  # a date, a year or a span of years; "undated" where the source has none
    confidence: str
    counts: tuple[str, ...] = ()  # of `QUANTITIES`, summed
    per: float = 1.0  # how much of what is counted makes one unit
    least: float = 0.0  # bytes that a request counts at least
    free: float = 0.0  # units a month that cost nothing: only where a bill is asked for with free tiers
    otherwise: float = 0.0  # of low confidence: what it costs if that figure is wrong
    apart: bool = False  # a charge by the month that no run causes: shown beside the bill of whoever uses the service
    region: str = ""  # where the figure is from, if not from the tariff's
    note: str = ""


@dataclass(frozen=True, slots=True)
class Tariff:
    """The prices of one provider in one region."""

    name: str
    title: str
    provider: str
    region: str
    as_of: str
    function: FunctionRule
    prices: tuple[Price, ...]
    path: str


@dataclass(frozen=True, slots=True)
class _Key:
    wanted: str
    holds: Callable[[Any], bool]
    required: bool = True


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MOST


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and len(set(map(str, value))) == len(value) and set(map(str, value)) <= set(QUANTITIES)


def _ascending(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_number, value)) and value == sorted(value)


def _are_pairs(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(p, list) and len(p) == 2 and _ascending([p[0]]) and _is_number(p[1]) for p in value)


_TEXT = _Key("a text that is not empty", lambda value: isinstance(value, str) and value != "")
_WORDS = _Key("a text", lambda value: isinstance(value, str), required=False)
_AMOUNT = _Key(f"a number of at least 0 and at most {MOST:g}", _is_number)
_ABOVE = _Key(f"a number above 0, from {LEAST:g} to {MOST:g}", lambda value: _is_number(value) and value >= LEAST)
_FLAG = _Key("true or false", lambda value: isinstance(value, bool))
_CONFIDENCE = _Key(f"one of {', '.join(CONFIDENCES)}", lambda value: value in CONFIDENCES)
_ORIGIN = {"source": _TEXT, "as_of": _TEXT, "confidence": _CONFIDENCE}


def _optional(key: _Key) -> _Key:
    return _Key(key.wanted, key.holds, required=False)


_TARIFF = {
    "title": _WORDS,
    "provider": _TEXT,
    "region": _TEXT,
    "as_of": _TEXT,
    "function": _Key("a table, [function]", lambda value: isinstance(value, dict)),
    "price": _Key("tables, [[price]]", lambda value: isinstance(value, list) and all(isinstance(each, dict) for each in value)),
}
_FUNCTION = _ORIGIN | {
    "step_ms": _ABOVE,
    "least_ms": _AMOUNT,
    "init": _FLAG,
    "sizes_mb": _Key("ascending numbers above 0", lambda value: _ascending(value) and 0 not in value, required=False),
    "vcpus": _Key("pairs of numbers, [MB, vCPUs], by ascending MB",
                  lambda value: _are_pairs(value) and value == sorted(value), required=False),
}  # fmt: skip
_PRICE = _ORIGIN | {
    "service": _TEXT,
    "sku": _TEXT,
    "unit": _TEXT,
    "usd": _AMOUNT,
    "counts": _Key(f"some of {', '.join(QUANTITIES)}, each once", _are_counts, required=False),
    "per": _optional(_ABOVE),
    "least": _optional(_AMOUNT),
    "free": _optional(_AMOUNT),
    "otherwise": _optional(_AMOUNT),
    "apart": _optional(_FLAG),
    "region": _WORDS,
    "note": _WORDS,
}


def names() -> list[str]:
    """The tariffs that come with fsd, ascending."""
    return sorted(Path(file.name).stem for file in _folder().iterdir() if file.name.endswith(".toml"))


def default_tariff(provider: str) -> str | None:
    """The tariff that bills a provider's runs unless another is named; `None` where we have none."""
    return DEFAULTS.get(provider)


def load(name: str) -> Tariff:
    """The tariff ``name`` of ours; or, where it holds a ``/`` or ends in ``.toml``, of a user's file.

    Raises `InputError` on an unknown name, with the closest of those that are known, and on a file with an unknown key or a
    missing, negative or otherwise wrong figure.
    """
    if "/" in name or name.endswith(".toml"):
        file: Any = expanded(name)
    elif name in names():
        file = _folder() / f"{name}.toml"
    else:
        close = difflib.get_close_matches(name, names(), 1, cutoff=0.5)
        meant = f"did you mean {close[0]}? " if close else ""
        raise InputError(f"tariff {name!r} is not known: {meant}there is {', '.join(names())}, or the path of a .toml file of your own")
    try:
        content = tomllib.loads(read_text(file, f"tariff {name}") if isinstance(file, Path) else file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"tariff {name}: is no TOML: {' '.join(str(error).split())}") from error
    return _read(name, str(file), content)


def _folder() -> Any:
    return resources.files("fsd_core.cost") / "tariffs"


def _read(name: str, path: str, content: Mapping[str, Any]) -> Tariff:
    where = f"tariff {name}: "
    values = _checked(content, _TARIFF, where)
    rule = _checked(values["function"], _FUNCTION, f"{where}[function] ")
    rule |= {key: tuple(map(tuple, rule[key]) if key == "vcpus" else rule[key]) for key in ("sizes_mb", "vcpus") if key in rule}
    prices = tuple(_price(table, f"{where}[[price]] {number} ") for number, table in enumerate(values["price"], 1))
    skus = [(price.service, price.sku) for price in prices]
    if twice := next((sku for sku in skus if skus.count(sku) > 1), None):
        raise InputError(f"{where}{' '.join(twice)} is there twice: a price has one [[price]]")
    counted = {each for price in prices for each in price.counts}
    for row in NEEDED:
        if not counted & set(row):
            raise InputError(f"{where}no price counts {' or '.join(row)}: what is free has a price with usd = 0")
    if "function_vcpu_seconds" in counted and not rule.get("vcpus"):
        raise InputError(f"{where}[function] vcpus: is missing, and a price counts function_vcpu_seconds")
    return Tariff(
        name=name,
        title=values.get("title") or name,
        provider=values["provider"],
        region=values["region"],
        as_of=values["as_of"],
        function=FunctionRule(**rule),
        prices=prices,
        path=path,
    )


def _price(table: Mapping[str, Any], where: str) -> Price:
    where += f"({table.get('service')} {table.get('sku')}) "
    values = _checked(table, _PRICE, where)
    if values["confidence"] == "low" and "otherwise" not in values:
        raise InputError(f"{where}otherwise: is missing: a price of low confidence says what it costs if it is wrong")
    if bool(values.get("counts")) == values.get("apart", False):
        raise InputError(f"{where}counts: is missing; or, of a charge by the month, apart = true, and then it counts nothing")
    if "otherwise" in values and values["confidence"] != "low":
        raise InputError(f"{where}otherwise: is of a price whose confidence is low; this one's is {values['confidence']}")
    return Price(**values | {"counts": tuple(values.get("counts", ()))})


def _checked(table: Mapping[str, Any], keys: Mapping[str, _Key], where: str) -> dict[str, Any]:
    """The table, if its keys and values are right. A date of TOML is as good as its text."""
    table = {name: value.isoformat() if isinstance(value, datetime.date) else value for name, value in table.items()}
    for name in table:
        if name not in keys:
            close = difflib.get_close_matches(name, keys, 1)
            raise InputError(f"{where}{name}: unknown key; " + (f"did you mean {close[0]}?" if close else f"known are {', '.join(keys)}"))
    for name, key in keys.items():
        if name not in table:
            if key.required:
                raise InputError(f"{where}{name}: is missing: must be {key.wanted}")
        elif not key.holds(table[name]):
            raise InputError(f"{where}{name} = {_shown(table[name])}: must be {key.wanted}")
    return dict(table)


def _shown(value: Any) -> str:
    try:
        return repr(value)[:80]
    except ValueError:  # thousands of digits
        return "a number that is too large"
