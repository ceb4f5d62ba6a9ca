"""Writes and reads ``$FSD_HOME/runs/RUN.log``: how a run ended, and its log lines. Each run leaves this file, also a run that failed.

A run that was done also leaves its record beside this file (``RUN.json``, see `fsd_core.client.result.keep`).
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

from fsd_core.client.result import plain, warn
from fsd_core.common import arguments
from fsd_core.common.fields import Kind, choice, integer, key, matching, nearest, nullable, number, read, table, text
from fsd_core.common.files import read_regular
from fsd_core.common.logs import Line, masked
from fsd_core.common.sealed import Damaged, seal, unseal
from fsd_core.driver import Code
from fsd_core.errors import InputError, RunFailed

__all__ = ["Failure", "RunLog", "failure", "find", "keep", "made", "read_log", "runs", "take_lines"]

VERSION = 1
MAX_BYTES = 256 << 20  # a thousand workers keep 64 MB at most
STATES = ("done", "failed", "interrupted")
HOW = "fsd runs lists the past runs"


def _is_line(value: Any) -> bool:
    kinds = (int | float, str, str, str)
    if not isinstance(value, list) or len(value) != len(kinds) or isinstance(value[0], bool):
        return False
    return all(map(isinstance, value, kinds)) and 0 <= value[0] < 1e11


_LINES = Kind(
    "a table of lists of lines, by rank",
    lambda value: (
        table().holds(value)
        and all(re.fullmatch(r"\d{1,6}", rank) and isinstance(lines, list) and all(map(_is_line, lines)) for rank, lines in value.items())
    ),
    lambda value: {int(rank): [Line(*line) for line in lines] for rank, lines in value.items()},
)


@attrs.frozen(kw_only=True)
class Failure:
    """Why a run failed: the fields of ``error`` in ``fsd run --json``."""

    code: str = key(choice(*Code.__members__))
    message: str = key(text(empty=True))
    rank: int | None = key(nullable(integer(-1)))
    layer: int | None = key(nullable(integer(0)))


@attrs.frozen(kw_only=True)
class RunLog:
    """How a past run ended, and its log lines. ``lines``: the log lines of each rank, by rank, without ranks that left none."""

    version: int = key(integer(VERSION, VERSION))
    run: str = key(matching(r"[0-9a-f]{16}", "the id of a run, 16 hexadecimal digits"))
    began: float = key(number(0, 1e11))  # seconds since 1970
    seconds: float = key(number())  # from its beginning to its end, on the client's clock
    model: str = key(text())
    provider: str = key(text())
    stand_in: str | None = key(nullable(text()))
    workers: int = key(integer(1))
    state: str = key(choice(*STATES))
    error: Mapping[str, Any] | None = key(nullable(table()))
    lines: Mapping[int, Sequence[Line]] = key(_LINES)
    audit: Mapping[str, Any] | None = key(nullable(table()), default=None)  # as `fsd_core.Result.audit`

    @property
    def failure(self) -> Failure | None:
        """Why the run failed; `None` if it did not fail."""
        return None if self.error is None else read(Failure, self.error, "error: ")

    @property
    def ended(self) -> float:
        """When the run ended, in seconds since 1970."""
        return self.began + self.seconds


def take_lines(records: Sequence[dict[str, Any]]) -> dict[int, list[Any]]:
    """Remove the log lines from the workers' records and return them by rank. A record on disk has no log lines."""
    return {record["rank"]: record.pop("log", []) for record in records if isinstance(record.get("rank"), int)}


def made(
    run: str,
    began: float,
    error: BaseException | None,
    lines: Mapping[int, Sequence[Any]],
    *,
    model: str,
    provider: str,
    stand_in: str | None,
    workers: int,
    audit: Mapping[str, Any] | None = None,
) -> RunLog:
    """The log of a run that ends now. ``error``: the error that ended the run, or `None`. ``lines``: the log lines of its workers, by rank.

    Leaves out lines that have a wrong form. ``audit``: as `Result.audit`.
    """
    why = failure(error)
    return RunLog(
        version=VERSION,
        run=run,
        began=began,
        seconds=max(0.0, time.time() - began),
        model=plain(model) or "?",
        provider=provider,
        stand_in=stand_in,
        workers=workers,
        state="done" if error is None else "failed" if why else "interrupted",
        error=why,
        lines={rank: [Line(*line) for line in said if _is_line(line)] for rank, said in lines.items() if isinstance(said, list)},
        audit=audit,
    )


def failure(error: BaseException | None) -> dict[str, Any] | None:
    """The fields of `Failure` of an error that ended a run; `None` for an interrupt."""
    if not isinstance(error, Exception):
        return None
    failed = error if isinstance(error, RunFailed) else RunFailed(Code.UNKNOWN, f"{type(error).__name__}: {error}")
    return attrs.asdict(Failure(code=failed.code.name, message=masked(failed.message), rank=failed.rank, layer=failed.layer))


def keep(log: RunLog, home: Path) -> None:
    """Write the file of a run below ``home``. Never raises: if it cannot write the file of a run that was done, it warns."""
    file = home / "runs" / f"{log.run}.log"
    aside = file.with_suffix(".new-log")
    fields = {field.name: getattr(log, field.name) for field in attrs.fields(RunLog)}
    lines = {str(rank): [line.packed() for line in said] for rank, said in sorted(log.lines.items())}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(seal(fields | {"lines": lines}))
        aside.replace(file)
    except Exception as error:  # of any kind: the run has its answer, or another error
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        if log.state == "done":
            warn(f"the run's log cannot be kept in {file.parent}: {getattr(error, 'strerror', None) or error}")


def runs(home: Path) -> list[str]:
    """The ids of all past runs, by the time at which their files were written."""
    files = [file for file in (home / "runs").glob("*") if re.fullmatch(r"[0-9a-f]{16}\.(log|json)", file.name)]
    written: dict[str, float] = {}
    for file in files:
        with suppress(OSError):  # removed by another process
            found = file.stat()
            if stat.S_ISREG(found.st_mode):  # to open a pipe would wait for its writer
                written[file.stem] = max(written.get(file.stem, 0.0), found.st_mtime)
    return sorted(written, key=lambda run: (written[run], run))


def find(run: str, home: Path) -> str:
    """The id of the run whose id starts with ``run``. Raises `InputError` if no run, or more than one, has such an id."""
    known = runs(home)
    matches = [each for each in known if each.startswith(run)] if run else []
    if len(matches) == 1:
        return matches[0]
    if matches:
        shown = ", ".join(matches[-4:]) + (" and others" if len(matches) > 4 else "")
        raise InputError(f"run {run}: {len(matches)} runs start with these characters: {shown}: expected more characters of one id")
    if not re.fullmatch(r"[0-9a-f]{1,16}", run):
        raise InputError(f"run {run!r}: expected the id of a run, or its first characters: hexadecimal digits; {HOW}")
    close = nearest(run, known if len(run) == 16 else {each[: len(run)] for each in known}, 0.7)
    close = next((each for each in reversed(known) if close and each.startswith(close)), None)
    raise InputError(f"run {run}: no past run has this id in {home / 'runs'}; {f'did you mean {close}? ' if close else ''}{HOW}")


def read_log(run: str, home: str | os.PathLike[str] | None = None) -> RunLog:
    """The log of the past run whose id starts with ``run``. ``home``: as in `fsd_core.run`.

    Raises `InputError` if no run, or more than one, has such an id, and if the file is missing, damaged, or from another version of fsd.
    """
    folder = arguments.home(home)
    run = find(arguments.text("run", run), folder)
    file = folder / "runs" / f"{run}.log"
    try:
        data = read_regular(file, MAX_BYTES)
    except FileNotFoundError:
        raise InputError(f"run {run}: its log is missing: expected the file {file}; {HOW}") from None
    try:
        found = unseal(data, f"{file}: the log of the run")
    except Damaged as error:
        raise InputError(f"{error}; remove the file, or run again") from error
    if found.get("version") != VERSION:
        raise InputError(f"{file}: the log is of another version of fsd: its version is {found.get('version')!r}, expected {VERSION}")
    try:
        log = read(RunLog, found, "")
        if log.run != run:
            raise InputError(f"run = {log.run!r}: expected {run!r}, as in the file's name")
        _ = log.failure
    except InputError as error:
        raise InputError(f"{file}: the log of the run is damaged: {error}; remove the file, or run again") from None
    return log
