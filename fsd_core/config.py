"""Settings of the command: flags over ``FSD_*`` variables over ``fsd.toml``, each value checked once, in one place.

A field of `Settings` is a key of the file, a variable (``FSD_BATCH_SIZE``) and a flag (``--batch-size``) at once; its
`Kind` says what is right. The file's tables ``[local] [aws] [gcp] [azure]`` go to the provider as they are. Paths are
relative to the current folder, wherever they were written. ``FSD_HOME``, ``FSD_DEBUG`` and ``FSD_CONFIG`` are variables only.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fsd_core.common.home import expanded
from fsd_core.common.textfile import read_text
from fsd_core.errors import InputError
from fsd_core.protocol.runconfig import CHANNELS, OBJECTIVES

__all__ = ["ANY", "FILE", "KINDS", "Kind", "Settings", "choice", "integer", "load", "number"]

FILE = "fsd.toml"
ANY = "auto"  # the emulator where none is named
TABLES = ("local", "aws", "gcp", "azure")


@dataclass(frozen=True, slots=True)
class Kind:
    """What a key may hold: ``parse`` reads text (ValueError if it cannot), ``types`` are TOML's for it, ``holds`` judges the value,
    ``becomes`` turns it into what is used."""

    wanted: str
    metavar: str
    parse: Callable[[str], Any]
    types: tuple[type, ...]
    holds: Callable[[Any], bool] = lambda value: True
    becomes: Callable[[Any], Any] = lambda value: value

    def check(self, value: object, where: str) -> Any:
        """The value if it is right. ``where`` ends in what precedes it in the message: ``--workers ``, ``fsd.toml: workers = ``."""
        if type(value) not in self.types or value == "" or not self.holds(value):
            raise InputError(f"{where}{value!r}: must be {self.wanted}")
        return self.becomes(float(value) if isinstance(value, int) and float in self.types else value)

    def read(self, text: str, where: str) -> Any:
        """The value of a flag's or variable's text, checked."""
        try:
            return self.check(self.parse(text), where)
        except ValueError:
            raise InputError(f"{where}{text!r}: must be {self.wanted}") from None


def integer(least: int) -> Kind:
    """A whole number from ``least`` on."""
    return Kind(f"a whole number of at least {least}", "N", int, (int,), lambda value: bool(value >= least))


def number(wanted: str, holds: Callable[[float], bool] = lambda value: True) -> Kind:
    """A finite number, of which ``holds`` is true."""
    return Kind(wanted, "NUMBER", float, (float, int), lambda value: math.isfinite(value) and holds(value))


def choice(*names: str) -> Kind:
    """One of some words."""
    return Kind(f"one of {', '.join(names)}", "|".join(names), str, (str,), lambda value: value in names)


def truth(text: str) -> bool:
    """What a variable says: 1 or 0, true or false, yes or no, on or off."""
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if text.lower() not in words:
        raise ValueError(text)
    return words[text.lower()]


def _truth_or_name(text: str) -> bool | str:
    try:
        return truth(text)
    except ValueError:
        return text


SECONDS = replace(number("a number of seconds above 0", lambda value: value > 0), metavar="SECONDS")
TEXT = Kind("a text that is not empty", "TEXT", str, (str,))
PATH = Kind("a path", "PATH", str, (str,), lambda value: "\0" not in value, lambda value: str(expanded(value)))
NAMED = replace(PATH, metavar="NAME", becomes=lambda value: value)  # a name, or a path that `cost.load` reads
BOOLEAN = Kind("true or false", "", truth, (bool,))
NAME = Kind(
    "a lower-case letter, then up to 39 lower-case letters, digits or hyphens, not ending in a hyphen",
    "NAME",
    str,
    (str,),
    lambda value: re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", value) is not None,
)
EMULATOR = Kind("true, false, or an emulator's name", "NAME", _truth_or_name, (str, bool))
METHOD = Kind("hypergraph, random, block, or the path of a partition", "hypergraph|random|block|PATH", str, (str,))


def _key(default: Any, kind: Kind, text: str) -> Any:
    return field(default=default, metadata={"kind": kind, "help": text})


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """All keys with their defaults. ``batch_size`` `None`: all samples at once; ``emulator`` `None`: the real service."""

    provider: str = _key("local", TEXT, "Where it runs: local, or a cloud whose provider is installed (fsd doctor lists them).")
    channel: str = _key("auto", choice("auto", *CHANNELS), "What activations travel through.")
    workers: int = _key(8, integer(1), "Ranks that share out the rows of every layer.")
    branching: int = _key(4, integer(1), "Children that each function of the launch tree starts.")
    partition: str = _key("hypergraph", METHOD, "Which rank gets which rows.")
    objective: str = _key("cost", choice(*OBJECTIVES), "What to make small.")
    batch_size: int | None = _key(None, integer(1), "Samples at a time (default: all; smaller where the memory limit needs it).")
    timeout: float = _key(900.0, SECONDS, "The run's deadline, counted from its launch.")
    outage: float = _key(60.0, SECONDS, "How long a service may be unreachable before the run ends.")
    seed: int = _key(0, integer(0), "Of everything that is drawn.")
    app: str = _key("fsd", NAME, "The name that all resources carry.")
    emulator: str | None = _key(None, EMULATOR, "Use an emulator of the provider's cloud on this machine.")
    faults: str | None = _key(None, TEXT, "Faults to inject, for instance duplicate=.1,delay=50ms,seed=1.")
    output: str | None = _key(None, PATH, "Write the final activations as a scipy CSR, samples by neurons.")
    truth: str | None = _key(None, PATH, "Compare with a file of 1-based numbers of the samples whose final row is not all zero.")
    tariff: str | None = _key(
        None, NAMED, "What bills are made by: a name of `fsd tariff list`, or your own .toml (default: the provider's)."
    )
    json: bool = _key(False, BOOLEAN, "Print one JSON object on standard output.")
    tables: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    def table(self) -> Mapping[str, object]:
        """The file's table for the chosen provider."""
        return self.tables.get(self.provider, {})


KINDS: Mapping[str, Kind] = {f.name: f.metadata["kind"] for f in fields(Settings) if f.metadata}


def load(
    flags: Mapping[str, str | None] | None = None,
    config: str | Path | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    names: Mapping[str, str] | None = None,
    providers: tuple[str, ...] = (),
) -> Settings:
    """Flags over ``FSD_*`` of ``environ`` over the file ``config``, else ``FSD_CONFIG``, else ``fsd.toml`` if it is there.

    ``flags``: key -> text as given, `None` if it was not; ``names`` says how a flag is written. ``providers`` are the
    installed ones, so that a third party's table is known too. Raises `InputError` on a key that does not exist or a value
    that is wrong, naming the file, variable or flag, the value and what was expected.
    """
    config = config or environ.get("FSD_CONFIG") or None
    values, tables = _file(expanded(config or FILE), config is not None, (*TABLES, *providers))
    values |= _variables(environ)
    for key, value in (flags or {}).items():
        if value is not None:
            values[key] = KINDS[key].read(value, f"{(names or {}).get(key) or '--' + key.replace('_', '-')} ")
    if isinstance(values.get("emulator"), bool):
        values["emulator"] = ANY if values["emulator"] else None
    return Settings(**values, tables=MappingProxyType(tables))


def _file(path: Path, required: bool, names: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Mapping[str, object]]]:
    if not required and not os.path.lexists(path):
        return {}, {}
    try:
        content = tomllib.loads(read_text(path, str(path)))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{path}: is no TOML: {error}") from error
    values: dict[str, Any] = {}
    tables: dict[str, Mapping[str, object]] = {}
    for key, value in content.items():
        if key in names:
            if not isinstance(value, dict):
                raise InputError(f"{path}: {key} = {value!r}: must be a table, [{key}]")
            tables[key] = MappingProxyType(value)
        elif key in KINDS:
            values[key] = KINDS[key].check(value, f"{path}: {key} = ")
        else:
            raise InputError(f"{path}: unknown key {key}; {_meant(key, (*KINDS, *names))}")
    return values, tables


def _variables(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, text in environ.items():
        key = name.removeprefix("FSD_").lower()
        if not name.startswith("FSD_") or not text:
            continue
        if key in KINDS:
            values[key] = KINDS[key].read(text, f"{name}=")
        elif close := difflib.get_close_matches(key, KINDS, 1, cutoff=0.85):  # others may have variables of this prefix too
            raise InputError(f"unknown variable {name}; did you mean FSD_{close[0].upper()}?")
    return values


def _meant(word: str, words: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(word, words, 1)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(words)}"
