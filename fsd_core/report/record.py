"""Records of past runs, as `fsd_core.client` leaves them in ``$FSD_HOME/runs``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fsd_core.cost.usage import MOST
from fsd_core.errors import InputError
from fsd_core.home import expanded
from fsd_core.result import RECORD_VERSION, plain
from fsd_core.stopwatch import CELLS, PHASES
from fsd_core.wrappers.meter import FIELDS

__all__ = ["find_record", "read_record"]

RUN = re.compile(r"[0-9a-f]{16}")
MOST_BYTES = 64 << 20  # a thousand ranks leave about 1 MB
TEXTS = ("provider", "channel", "partition", "began", "model", "objective")
COUNTS = ("samples", "neurons", "layers", "workers", "branching")  # of which there is at least one
SECONDS = ("total", "stage", "launch", "load", "compute", "exchange")
RANK_SECONDS = ("launch", *PHASES, "init", "function")


def find_record(run: str, home: Path) -> Path:
    """The file of a run's id, or the path of one. Raises `InputError` where there is none."""
    if "/" in run or run.endswith(".json"):
        return expanded(run)
    if not RUN.fullmatch(run):
        raise InputError(f"run {run!r}: must be the id of a run, 16 hexadecimal digits, or the path of its record")
    file = home / "runs" / f"{run}.json"
    if not file.exists():
        raise InputError(f"run {run}: its record is gone: {file} does not exist")
    return file


def read_record(path: Path) -> dict[str, Any]:
    """A run's record, checked. Raises `InputError` on one that is no record, or of another version of fsd."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file: records of runs are in $FSD_HOME/runs") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > MOST_BYTES:
        raise InputError(f"{path}: is no record of a run: it is larger than {MOST_BYTES >> 20} MiB")
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        raise InputError(f"{path}: is no record of a run, or is damaged: it is no JSON") from None
    if not isinstance(record, dict) or "run" not in record:
        raise InputError(f"{path}: is no record of a run: it must be an object with `run`")
    if (found := record.get("version")) != RECORD_VERSION:
        raise InputError(f"{path}: the record is of another version of fsd: of form {found!r}, this one reads {RECORD_VERSION}; run again")
    if wrong := _wrong(record):
        raise InputError(f"{path}: the record is damaged: {wrong} is missing or wrong; run again")
    return record


def _wrong(record: Mapping[str, Any]) -> str | None:
    """The first key that is not what this version writes."""
    if not isinstance(record["run"], str) or not RUN.fullmatch(record["run"]):
        return "run"
    for name in TEXTS:
        if not _is_text(record.get(name)):
            return name
    for name in COUNTS:
        if not _is_count(record.get(name)) or record[name] < 1:
            return name
    if not _is_count(record.get("seed")):
        return "seed"
    for name in ("stand_in", "faults"):
        if not (name in record and (record[name] is None or _is_text(record[name]))):
            return name
    for name in ("note", "versions"):
        table = record.get(name)
        if not isinstance(table, dict) or not all(_is_text(text) for text in (*table, *table.values())):
            return name
    batches = record.get("batches")
    if not isinstance(batches, list) or not all(map(_is_count, batches)):
        return "batches"
    ranks = record.get("ranks")
    if not isinstance(ranks, list) or len(ranks) != record["workers"] or not all(isinstance(rank, dict) for rank in ranks):
        return "ranks"
    tables = [("seconds", record.get("seconds"), SECONDS), ("meter", record.get("meter"), FIELDS)]
    tables += [("memory", record.get("memory"), ("peak_bytes_max",))]
    tables += [(f"ranks[{at}].seconds", rank.get("seconds"), RANK_SECONDS) for at, rank in enumerate(ranks)]
    for where, table, names in tables:
        if not isinstance(table, dict):
            return where
        for name in names:
            if not _is_number(table.get(name)):
                return f"{where}.{name}"
    if "limit_bytes" in record["memory"] and not _is_number(record["memory"]["limit_bytes"]):
        return "memory.limit_bytes"
    for at, rank in enumerate(ranks):
        if rank.get("rank") != at:
            return f"ranks[{at}].rank"
        if not _is_timeline(rank.get("timeline")):
            return f"ranks[{at}].timeline"
    return None


def _is_timeline(value: Any) -> bool:
    if not isinstance(value, dict) or not _is_number(value.get("cell_s")):
        return False
    phases = value.get("phases")
    return isinstance(phases, str) and 0 < len(phases) <= CELLS and set(phases) <= {phase[0] for phase in PHASES}


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value == plain(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MOST


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and _is_number(value)
