"""Tables of latencies: dated figures with their sources, one TOML file each in the package of a provider. A user can write a file of the
same form, and ``fsd measure`` writes one.

A file may have the keys ``title``, ``as_of``, ``hour_share`` and ``function_share``, one table for each verb of `VERBS` (see `Row`),
the tables ``[read]`` and ``[write]``: the bandwidth of one function (see `Link`), and the table ``[measured]`` (see `Measured`). A verb
without a table takes only its real time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import attrs

from fsd_core.common.fields import choice, key, listed, nullable, number, read, table, text
from fsd_core.errors import InputError

__all__ = ["LEAST_MS", "VERBS", "Link", "Measured", "Row", "Table", "of_content"]

VERBS = {
    "publish": "the request that sends one message",
    "publish_batch": "the request that sends several messages; without this table it takes as long as publish",
    "deliver": "from the start of the publish until a receive that waits returns the message",
    "publish_direct": "the request that sends messages straight to a queue; without this table it takes as long as publish",
    "deliver_direct": "from the start of that request until a receive that waits returns the message; without this table, as deliver",
    "receive": "the request that returns messages which are there",
    "ack": "the request that acknowledges messages",
    "put": "the request that writes an object, or deletes objects",
    "get": "the request that reads an object",
    "list": "the request that lists keys",
    "connect": "a new connection: the extra time of the first request over it",
    "invoke": "the request that starts a function",
    "start_cold": "from the start of that request until the code of a new instance runs",
    "start_warm": "from the start of that request until the code of an idle instance runs",
}
LONGEST = 10.0  # unless a row has max_ms, the longest draw is this multiple of p99_ms, which one request in a million reaches
LEAST_MS, MOST_MS = 0.001, 1e9  # of a median, and of the longest draw
_MS = number(0, 1e7, "milliseconds", above=True)
_RATE = number(0.01, 1e6, "MB/s")
_SHARE = number(0, 1)


@attrs.frozen(kw_only=True)
class _Sourced:
    """Where a figure comes from. Every row of a table that comes with fsd has ``kind``, ``confidence``, ``as_of`` and ``source``."""

    kind: str = key(choice("measured", "derived", "estimate"), default="measured")
    confidence: str | None = key(nullable(choice("high", "medium", "low")), default=None)
    region: str = key(text(empty=True), default="")
    as_of: str = key(text(empty=True), default="")
    source: str = key(text(empty=True), default="")
    note: str = key(text(empty=True), default="")


@attrs.frozen(kw_only=True)
class Row(_Sourced):
    """How long one verb takes. Times are in milliseconds, without the transfer of a body."""

    p50_ms: float = key(_MS)
    p90_ms: float = key(_MS)
    p99_ms: float = key(_MS)
    max_ms: float | None = key(nullable(_MS), default=None)  # no draw is longer; `None`: `LONGEST` x ``p99_ms``
    mb_per_s: float | None = key(nullable(_RATE), default=None)  # of one request, in 1e6 bytes a second; `None`: only the link's
    # Some requests take one of two times, for instance acks of Service Bus: with the chance `second_share` a draw is longer by the factor
    # `second_ms` / `p50_ms`.
    second_ms: float | None = key(nullable(_MS), default=None)
    second_share: float = key(_SHARE, default=0.0)

    @property
    def second_factor(self) -> float:
        """The factor by which a draw of the second kind is longer than a draw of the first kind; 1 if the row has only one kind."""
        return (self.second_ms or self.p50_ms) / self.p50_ms

    @property
    def longest_ms(self) -> float:
        """The longest draw in milliseconds."""
        return self.max_ms or LONGEST * self.p99_ms * self.second_factor


@attrs.frozen(kw_only=True)
class Link(_Sourced):
    """The bandwidth that all requests of one function share, in one direction."""

    mb_per_s: float = key(_RATE)


_THREE = listed(number(0, above=True))  # MiB, weights times samples a second, cores
_SIZES = attrs.evolve(
    listed(_THREE),
    expected="a list of lists of three positive numbers: MiB of a function (at least 1), weights times samples a second, cores",
    holds=lambda value: listed(_THREE).holds(value) and all(len(each) == 3 and each[0] >= 1 for each in value),
    becomes=lambda value: tuple(sorted(tuple(map(float, each)) for each in value)),
)


@attrs.frozen(kw_only=True)
class Measured:
    """The table ``[measured]`` that ``fsd measure`` writes: where it measured, and figures that no row has. `None`: not measured."""

    provider: str = key(text())
    region: str = key(text())
    emulator: str = key(text(empty=True), default="")  # its host and port; empty: measured on the services themselves
    memory_mb: float | None = key(nullable(number(0, unit="MiB")), default=None)  # of the function
    receive_messages: float | None = key(nullable(number(0)), default=None)  # mean number that one receive of a long queue returns
    clock_offset_ms: float | None = key(nullable(number(-math.inf)), default=None)  # the function's clock minus the client's clock
    clock_error_ms: float | None = key(nullable(number(0)), default=None)  # the largest error of the offset
    weights_per_s: float | None = key(nullable(number(0)), default=None)  # by the kernel: nonzero weights times samples a second
    speed: float | None = key(nullable(number(0, above=True)), default=None)  # of a core, as a multiple of one of the client
    sizes: tuple[tuple[float, float, float], ...] = key(_SIZES, default=())  # MiB of a function, its `weights_per_s`, the cores of that


@attrs.frozen(kw_only=True)
class Table:
    """The figures of one table.

    ``hour_share`` is the part of the variance of a latency that all functions of a run share, ``function_share`` the part that all requests
    of one function share; the rest is new with each request. ``measured``: `None` if ``fsd measure`` did not write the table. ``scale``: by
    what the times of the file were multiplied.
    """

    name: str
    title: str
    as_of: str
    hour_share: float
    function_share: float
    rows: Mapping[str, Row]
    links: Mapping[str, Link]  # read, write
    measured: Measured | None = None
    scale: float = 1.0

    @property
    def times(self) -> str:
        """``scale`` in words, for instance " (times 5)"; empty if it is 1."""
        return f" (times {self.scale:g})" if self.scale != 1.0 else ""

    @property
    def where(self) -> str:
        """When and where ``fsd measure`` measured the table, in words, for instance: on 2026-01-31 in eu-west-1."""
        if self.measured is None:
            return "nowhere"
        region = f" in {self.measured.region}" * (self.measured.region != "here")
        return f"on {self.as_of}" + (f" on an emulator at {self.measured.emulator}" if self.measured.emulator else region)


_ROW = table("a table with p50_ms, p90_ms and p99_ms")
_LINK = table("a table with mb_per_s")
_FILE = {
    "title": key(text(empty=True), default=""),
    "as_of": key(text(empty=True), default=""),
    "hour_share": key(_SHARE, default=0.0),
    "function_share": key(_SHARE, default=0.0),
    "read": key(_LINK, default=None),
    "write": key(_LINK, default=None),
    "measured": key(table("a table, [measured]"), default=None),
}
_File: Any = attrs.make_class("_File", _FILE | {verb: key(_ROW, default=None) for verb in VERBS}, frozen=True, kw_only=True)


def of_content(name: str, content: Mapping[str, Any]) -> Table:
    """The table that the decoded file ``content`` holds.

    Raises `InputError` on an unknown verb or key, and a missing or wrong figure.
    """
    where = f"latency {name}: "
    file = read(_File, content, where)
    rows = {verb: _row(getattr(file, verb), f"{where}[{verb}] ") for verb in VERBS if getattr(file, verb) is not None}
    links = {side: read(Link, getattr(file, side), f"{where}[{side}] ") for side in ("read", "write") if getattr(file, side) is not None}
    if not rows:
        raise InputError(f"{where}has no figures: expected at least one of the tables {', '.join(f'[{verb}]' for verb in VERBS)}")
    if file.hour_share + file.function_share > 1:
        raise InputError(f"{where}hour_share + function_share = {file.hour_share + file.function_share:g}: expected at most 1")
    return Table(
        name=name,
        title=file.title or name,
        as_of=file.as_of,
        hour_share=file.hour_share,
        function_share=file.function_share,
        rows=rows,
        links=links,
        measured=None if file.measured is None else read(Measured, file.measured, f"{where}[measured] "),
    )


def _row(found: Mapping[str, Any], where: str) -> Row:
    row = read(Row, found, where)
    if row.p50_ms < LEAST_MS:
        raise InputError(f"{where}p50_ms = {row.p50_ms:g}: expected at least {LEAST_MS:g}")
    if not row.p50_ms <= row.p90_ms <= row.p99_ms:
        shown = f"{row.p50_ms:g}, {row.p90_ms:g}, {row.p99_ms:g}"
        raise InputError(f"{where}p50_ms, p90_ms, p99_ms = {shown}: expected each at least as large as the one before")
    if row.max_ms is not None and row.max_ms < row.p99_ms:
        raise InputError(f"{where}max_ms = {row.max_ms:g}: expected at least p99_ms, {row.p99_ms:g}")
    if row.second_share and row.second_ms is None:
        raise InputError(f"{where}second_ms: is missing: expected {_MS.expected}, because second_share = {row.second_share:g}")
    if row.second_ms is not None and row.second_ms < row.p50_ms:
        raise InputError(f"{where}second_ms = {row.second_ms:g}: expected at least p50_ms, {row.p50_ms:g}")
    if row.longest_ms > MOST_MS:
        raise InputError(f"{where}the longest draw is {row.longest_ms:g} ms: expected at most {MOST_MS:g}: give max_ms, or smaller figures")
    return row
