"""The list of past runs: when each began, what it cost, how it ended."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import attrs

from fsd_core.client import history
from fsd_core.common import arguments
from fsd_core.cost import Usage, bill, tariff_of_run
from fsd_core.errors import InputError
from fsd_core.report.record import read_record

__all__ = ["PastRun", "past_runs"]


@attrs.frozen(kw_only=True)
class PastRun:
    """One past run. A field whose value is not known is `None`.

    - ``run``: its id. ``began``: seconds since 1970. ``model``: as the user named it, else its digest.
    - ``seconds``: on the client's clock. ``usd``: by the tariff of its provider, if the run left a record.
    - ``state``: done, failed or interrupted; damaged if its files cannot be read. ``code``: of the error of a failed run.
    """

    run: str
    began: float | None = None
    model: str | None = None
    provider: str | None = None
    seconds: float | None = None
    usd: float | None = None
    state: str = "damaged"
    code: str | None = None


def past_runs(home: str | os.PathLike[str] | None = None) -> list[PastRun]:
    """All past runs, the latest last. ``home``: as in `fsd_core.run`. Raises `InputError` if ``home`` is wrong."""
    folder = arguments.home(home)
    return [_past(run, folder) for run in history.runs(folder)]


def _past(run: str, home: Path) -> PastRun:
    found, record = PastRun(run=run), home / "runs" / f"{run}.json"
    try:
        if not (home / "runs" / f"{run}.log").exists():  # a version of fsd that kept no logs wrote the record, or the log was removed
            return _of_record(found, record)
        log = history.read_log(run, home)
    except InputError:
        return found
    code = log.failure.code if log.failure else None
    found = PastRun(
        run=run, began=log.began, model=log.model, provider=log.provider, seconds=log.seconds, usd=None, state=log.state, code=code
    )
    try:
        return attrs.evolve(found, usd=_of_record(found, record).usd) if record.exists() else found
    except InputError:
        return found


def _of_record(found: PastRun, file: Path) -> PastRun:
    """The figures from the record of a run. Raises `InputError` if the record cannot be read."""
    record = read_record(file)
    tariff = tariff_of_run(record["provider"])
    try:
        began = datetime.fromisoformat(record["began"]).timestamp()
    except ValueError as error:
        raise InputError(f"{file}: began: {error}") from error
    return attrs.evolve(
        found,
        began=began,
        model=record["note"].get("model", record["model"]),
        provider=record["provider"],
        seconds=record["seconds"]["total"],
        usd=bill(Usage.of_run(record), tariff).total_usd if tariff else None,
        state="done",
    )
