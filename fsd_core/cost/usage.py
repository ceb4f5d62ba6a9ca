"""What was used: the meter's counts, the time of each function, its memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fsd_core.errors import InputError
from fsd_core.storage.meter import FIELDS

__all__ = ["FIGURES", "MOST", "Usage"]

MOST = 10**18  # of any figure: what is larger is a mistake, and its products would soon be no numbers
FIGURES = (
    *FIELDS,
    "stored_byte_seconds",  # bytes in the object store times the seconds they lay there
    "function_seconds",  # a list, one number a function; or one number, the sum over functions whose own times are not known
    "function_memory_mb",  # MiB of one function, as configured
)


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts by the names of `FIGURES`, and function time in seconds.

    ``functions`` has (seconds from its launch to its end, seconds of initialisation before it) of each function whose time
    is known; ``more_seconds`` is the sum over those that are not known one by one.
    """

    counts: Mapping[str, float] = field(default_factory=dict)
    functions: tuple[tuple[float, float], ...] = ()
    more_seconds: float = 0.0
    memory_mb: float | None = None

    def __getitem__(self, name: str) -> float:
        """A count; 0 where nothing is said of it."""
        return self.counts.get(name, 0)

    @staticmethod
    def parse(figures: object, where: str = "usage") -> Usage:
        """From JSON: an object with any of `FIGURES`. Raises `InputError` naming the figure that is unknown, negative or missing."""
        if not isinstance(figures, Mapping):
            raise InputError(f"{where}: must be an object with any of {', '.join(FIGURES)}")
        if unknown := sorted(str(name) for name in figures if name not in FIGURES):
            hint = "this is a whole run's object: give its `meter`; " if "meter" in figures else ""
            raise InputError(f"{where}: unknown figure {unknown[0]!r}: {hint}known are {', '.join(FIGURES)}")
        values = dict(figures)
        times = values.pop("function_seconds", 0.0)
        each = [_number(time, f"{where}: function_seconds[{i}]") for i, time in enumerate(times)] if isinstance(times, list) else []
        more = 0.0 if isinstance(times, list) else _number(times, f"{where}: function_seconds")
        memory = values.pop("function_memory_mb", None)
        if memory is not None and _number(memory, f"{where}: function_memory_mb") == 0:
            raise InputError(f"{where}: function_memory_mb = 0: must be a number above 0")
        if memory is None and (each or more):
            raise InputError(f"{where}: function_memory_mb is missing: function_seconds are billed by memory")
        if memory is not None and "function_seconds" not in figures:
            raise InputError(f"{where}: function_seconds is missing: function_memory_mb alone costs nothing")
        counts = {name: _number(value, f"{where}: {name}", whole=True) for name, value in values.items()}
        return Usage(counts, tuple((time, 0.0) for time in each), more, memory)

    @staticmethod
    def of_run(record: Mapping[str, Any]) -> Usage:
        """Of a run, from its record: `fsd_core.Result.to_json` with its ``ranks``. Raises `InputError` on one of another version.

        Functions without a memory limit are billed at the peak of the largest. What the run stored is counted as if all of it
        had been there from its start to its end: at most that.
        """
        try:
            stored = record["meter"]["object_bytes_written"] * record["seconds"]["total"]
            times = tuple((float(rank["seconds"]["function"]), float(rank["seconds"]["init"])) for rank in record["ranks"])
            memory = record["memory"]
            return Usage(
                {**record["meter"], "stored_byte_seconds": stored}, times, 0.0, memory.get("limit_bytes", memory["peak_bytes_max"]) / 2**20
            )
        except (KeyError, TypeError) as error:
            raise InputError(f"run {record.get('run')}: its record is of another version of fsd: {error} is missing") from None


def _number(value: object, where: str, *, whole: bool = False) -> float:
    wanted = f"a {'whole ' if whole else ''}number of at least 0 and at most {MOST:g}"
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST or (whole and value != int(value)):
        raise InputError(f"{where} = {repr(value)[:40]}: must be {wanted}")
    return value
