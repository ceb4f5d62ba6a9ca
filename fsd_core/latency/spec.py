"""`Latency`: what ``--latency`` asks for, with the figures of its table, so that a worker needs no file of the client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from fsd_core.common.fields import Kind, integer, key, keys, number, plain_digits, plain_number, read, text
from fsd_core.common.fields import table as any_table
from fsd_core.errors import InputError
from fsd_core.latency.named import load
from fsd_core.latency.table import Link, Row, Table, of_content

__all__ = ["Latency", "words"]


_SEED = attrs.evolve(integer(0, 10**18 - 1), parse=plain_digits)
_SCALE: Kind = attrs.evolve(number(0, 1000, above=True), parse=plain_number)
_WARM = attrs.evolve(number(0, 1), parse=plain_number)


@attrs.frozen(kw_only=True)
class _Options:
    """The options after the table's name."""

    seed: int = key(_SEED, default=0)
    scale: float = key(_SCALE, default=1.0)  # multiplies every draw, and divides every bandwidth
    warm: float = key(_WARM, default=0.0)  # the share of the launches that find an idle instance


@attrs.frozen(kw_only=True)
class _Stored(_Options):
    """The keys of the form that a run's configuration holds."""

    table: str = key(text())
    figures: Mapping[str, Any] = key(any_table())


@attrs.frozen
class Latency:
    """A table of latencies, and the options of draws from it: see `_Options`."""

    table: Table
    seed: int = 0
    scale: float = 1.0
    warm: float = 0.0

    @staticmethod
    def parse(text: str) -> Latency:
        """Read a text such as ``aws``, ``aws,seed=1`` or ``mine.toml,seed=1,scale=0.5``.

        Raises `InputError` if the table or file is unknown or wrong, an option is unknown or given twice, or a value is wrong.
        """
        name, *parts = text.split(",")
        return Latency(load(name.strip()), **Latency.options(parts))

    @staticmethod
    def options(parts: Sequence[str]) -> dict[str, Any]:
        """Read options such as ``seed=1``. Raises `InputError` like `parse`."""
        kinds, found = keys(_Options), dict[str, Any]()
        for part in map(str.strip, parts):
            option, _, value = (piece.strip() for piece in part.partition("="))
            if option not in kinds:
                raise InputError(f"latency: {part!r}: expected NAME=VALUE, NAME one of {', '.join(kinds)}")
            if option in found:
                raise InputError(f"latency: {option} is given twice: expected each name once")
            found[option] = kinds[option].read_text(value, f"latency: {option} = ")
        return found

    def pack(self) -> dict[str, Any]:
        """The options and figures, without their sources, as values that JSON can hold."""
        figures: dict[str, Any] = {"hour_share": self.table.hour_share, "function_share": self.table.function_share}
        figures |= {verb: _figures(row) for verb, row in self.table.rows.items()}
        figures |= {side: _figures(link) for side, link in self.table.links.items()}
        return {"table": self.table.name, "seed": self.seed, "scale": self.scale, "warm": self.warm, "figures": figures}

    @staticmethod
    def unpack(found: Mapping[str, Any]) -> Latency:
        """Convert what `pack` made. Raises `InputError` if a key is missing or has a wrong value."""
        stored = read(_Stored, found, "latency: ")
        return Latency(of_content(stored.table, stored.figures), stored.seed, stored.scale, stored.warm)

    def about(self) -> dict[str, Any]:
        """For the user: ``table``, ``seed``, ``measured`` (the day, if the table was measured), and other options that are not default."""
        default = _Options()
        more = {name: value for name in ("scale", "warm") if (value := getattr(self, name)) != getattr(default, name)}
        measured = {"measured": self.table.as_of} if self.table.measured else {}
        return {"table": self.table.name, "seed": self.seed} | measured | more

    def scaled(self) -> Table:
        """The table with every time multiplied by ``scale``, and every bandwidth divided."""
        if self.scale == 1.0:
            return self.table

        def times(row: Row) -> Row:
            names = ("p50_ms", "p90_ms", "p99_ms", "max_ms", "second_ms")
            found: dict[str, Any] = {name: None if (value := getattr(row, name)) is None else value * self.scale for name in names}
            return attrs.evolve(row, **found, mb_per_s=None if row.mb_per_s is None else row.mb_per_s / self.scale)

        links = {side: attrs.evolve(link, mb_per_s=link.mb_per_s / self.scale) for side, link in self.table.links.items()}
        rows = {verb: times(row) for verb, row in self.table.rows.items()}
        return attrs.evolve(self.table, scale=self.scale, rows=rows, links=links)

    def longest_s(self, *verbs: str) -> float:
        """The sum of the longest draws of these verbs, in seconds."""
        return self.scale * sum(self.table.rows[verb].longest_ms for verb in verbs if verb in self.table.rows) / 1000

    @property
    def message_s(self) -> float:
        """The longest time in seconds for which a receiver holds a message."""
        return max(self.longest_s("deliver"), self.longest_s("deliver_direct"))

    @property
    def start_s(self) -> float:
        """The longest time in seconds from the request for a function until its code runs."""
        return max(self.longest_s("start_cold"), self.longest_s("start_warm"))

    @property
    def step_s(self) -> float:
        """The longest time in seconds that the draws alone can add to one payload's way from a rank to another, over any channel."""
        publishes = self.longest_s("connect", "publish", "publish_batch", "publish_direct")
        return publishes + self.message_s + self.longest_s("receive", "connect", "put", "connect", "get", "get")


def words(about: Mapping[str, Any]) -> str:
    """A text for people: the table and options of a run, as `Latency.about` gives them."""
    return ", ".join(f"{name} {value}" for name, value in about.items())


def _figures(row: Row | Link) -> dict[str, float]:
    """The figures of a row that are not the default."""
    found = {field.name: getattr(row, field.name) for field in attrs.fields(type(row)) if isinstance(getattr(row, field.name), float)}
    return {name: value for name, value in found.items() if value}
