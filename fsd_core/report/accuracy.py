"""How far predictions of past runs were off, part by part."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from statistics import median
from typing import Any

import attrs

from fsd_core.client import history
from fsd_core.client.against import PHASES, REQUESTS, compared
from fsd_core.common import arguments
from fsd_core.cost import Usage, bill, tariff_of_run
from fsd_core.errors import InputError
from fsd_core.report.record import read_record

__all__ = ["Accuracy", "prediction_accuracy"]

SMALL = 2.0  # requests by which a prediction may be off without an error: a few more or fewer say nothing
TIMED = ("seconds", *PHASES, "USD")  # on an emulator, these are not those of the cloud


@attrs.frozen
class Accuracy:
    """The errors of one part of predictions: predicted less actual, as shares of the actual figure.

    ``part``: as in the table that ends a run. ``runs``: how many had the part. ``median``: of the errors; ``median_size``: of their sizes;
    ``largest``: the error of the largest size.
    """

    part: str
    runs: int
    median: float
    median_size: float
    largest: float


def prediction_accuracy(home: str | os.PathLike[str] | None = None) -> list[Accuracy]:
    """The errors of the predictions of all past runs that have one, by part. ``home``: as in `fsd_core.run`.

    Times and money of runs on an emulator do not count: they are those of this machine. Raises `InputError` if ``home`` is wrong.
    """
    folder = arguments.home(home)
    errors: dict[str, list[float]] = {}
    for run in history.runs(folder):
        with suppress(InputError):  # damaged, or of another version: `fsd runs` shows it
            for part, error in _errors(read_record(folder / "runs" / f"{run}.json")).items():
                errors.setdefault(part, []).append(error)
    return [Accuracy(part, len(all_), median(all_), median(map(abs, all_)), max(all_, key=abs)) for part, all_ in errors.items()]


def _errors(record: Mapping[str, Any]) -> dict[str, float]:
    """The error of each part of a run in which no rank was lost: predictions know no failures."""
    if record.get("recovered") or record.get("missing_ranks"):
        return {}
    tariff = tariff_of_run(record["provider"])
    found = {}
    for part, (mine, real) in compared(record, bill(Usage.of_run(record), tariff).total_usd if tariff else None).items():
        if record["stand_in"] and part in TIMED:
            continue
        off = 0.0 if part in REQUESTS and abs(mine - real) <= SMALL else mine - real
        if real:
            found[part] = off / real
    return found
