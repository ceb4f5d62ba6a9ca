"""The usage of a run: its counts of requests and bytes, and the time and memory of its functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from fsd_core.common.fields import Kind, integer, key, listed, number, read, table
from fsd_core.errors import InputError
from fsd_core.storage.meter import FIELDS

__all__ = ["FIGURES", "Usage"]

_OTHERS = {
    "stored_byte_seconds": number(),  # bytes in the object store times the seconds that they were stored
    "function_seconds": Kind(  # a list, one number a function; or one number, the sum over functions whose own times are not known
        "a number of at least 0, or a list of them", lambda value: number().holds(value) or listed(number()).holds(value)
    ),
    "function_memory_mb": number(0, above=True),  # MiB of one function, as configured
}
_KINDS = dict.fromkeys(FIELDS, integer(0)) | _OTHERS
FIGURES = tuple(_KINDS)
_Figures = attrs.make_class("_Figures", {name: key(kind, default=None) for name, kind in _KINDS.items()}, frozen=True)


@attrs.frozen
class Usage:
    """What a bill is computed from: counts by the names in `FIGURES`, function time in seconds and memory in MiB.

    ``functions`` has a pair for each function of known time: seconds from its start to its end, and seconds of initialisation before the
    start. ``more_seconds`` is the time of all other functions together.
    """

    counts: Mapping[str, float] = attrs.field(factory=dict)
    functions: tuple[tuple[float, float], ...] = ()
    more_seconds: float = 0.0
    memory_mb: float | None = None

    def __getitem__(self, name: str) -> float:
        """A count; 0 if it is not known."""
        return self.counts.get(name, 0)

    @staticmethod
    def parse(figures: object, where: str = "usage") -> Usage:
        """The usage from a JSON object whose keys are in `FIGURES`. Raises `InputError`, which names an unknown, wrong or missing key."""
        found = table(f"an object with any of {', '.join(FIGURES)}").check(figures, f"{where}: ")
        if "meter" in found:
            raise InputError(
                f"{where}: meter: unknown key; this is the answer of fsd run --json: expected only the object under its key `meter`"
            )
        values: Any = read(_Figures, found, f"{where}: ")
        counts = {name: getattr(values, name) for name in FIGURES if name in found}
        times, memory = counts.pop("function_seconds", 0.0), counts.pop("function_memory_mb", None)
        if memory is None and times:
            raise InputError(
                f"{where}: function_memory_mb: is missing: expected it with function_seconds, because platforms bill time by memory"
            )
        if memory is not None and "function_seconds" not in found:
            raise InputError(f"{where}: function_seconds: is missing: expected it with function_memory_mb")
        if isinstance(times, list):
            return Usage(counts, tuple((float(time), 0.0) for time in times), 0.0, memory)
        return Usage(counts, (), times, memory)

    @staticmethod
    def of_run(record: Mapping[str, Any]) -> Usage:
        """The usage of a run from its record: `fsd_core.Result.to_json` with its ``ranks``.

        The memory of a function is its limit or, if it has no limit, the largest peak memory of all functions. All bytes that the run
        stored count for its whole duration, which is an upper bound. Raises `InputError` on a record of another version.
        """
        try:
            stored = record["meter"]["object_bytes_written"] * record["seconds"]["total"]
            times = tuple((float(rank["seconds"]["function"]), float(rank["seconds"]["init"])) for rank in record["ranks"])
            memory = record["memory"]
            return Usage(
                {**record["meter"], "stored_byte_seconds": stored}, times, 0.0, memory.get("limit_bytes", memory["peak_bytes_max"]) / 2**20
            )
        except (KeyError, TypeError) as error:
            raise InputError(
                f"run {record.get('run')}: {error} is missing in its record: expected a record of this version of fsd; run again"
            ) from None
