"""The errors of the predictions of past runs, by part: seconds, requests, bytes and USD."""

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

SMALL = 2.0  # a prediction that is wrong by at most this many requests counts as exact
TIMED = ("seconds", *PHASES, "USD")  # on an emulator, these are not those of the cloud


@attrs.frozen
class Accuracy:
    """The errors of one part of the predictions. An error is (predicted - actual) / actual.

    ``part``: its name, as in the table at the end of a run. ``runs``: the number of runs that have this part. ``median``: the median error.
    ``median_size``: the median absolute error. ``largest``: the error with the largest absolute value.
    """

    part: str
    runs: int
    median: float
    median_size: float
    largest: float


def prediction_accuracy(home: str | os.PathLike[str] | None = None) -> list[Accuracy]:
    """The errors of the predictions of all past runs that have a prediction, by part. ``home``: as in `fsd_core.run`.

    Leaves out the times and the money of runs on an emulator, because this machine sets them and not the cloud. Raises `InputError` if
    ``home`` is wrong.
    """
    folder = arguments.home(home)
    errors: dict[str, list[float]] = {}
    for run in history.runs(folder):
        with suppress(InputError):  # damaged, or of another version: `fsd runs` shows it
            for part, error in _errors(read_record(folder / "runs" / f"{run}.json")).items():
                errors.setdefault(part, []).append(error)
    return [Accuracy(part, len(all_), median(all_), median(map(abs, all_)), max(all_, key=abs)) for part, all_ in errors.items()]


def _errors(record: Mapping[str, Any]) -> dict[str, float]:
    """The error of each part of a run. Empty if a rank was lost, because predictions do not include failures."""
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
