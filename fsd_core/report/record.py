"""Records of past runs, as `fsd_core.client` leaves them in ``$FSD_HOME/runs``."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fsd_core.client.result import RECORD_VERSION, is_number, plain, wrong_rank
from fsd_core.common import arguments
from fsd_core.common.sealed import Damaged, unseal
from fsd_core.errors import InputError
from fsd_core.storage.meter import FIELDS

__all__ = ["find_record", "read_record"]

RUN = re.compile(r"[0-9a-f]{16}")
MOST_BYTES = 64 << 20  # a thousand ranks leave about 1 MB
TEXTS = ("provider", "channel", "partition", "began", "model", "objective")
COUNTS = ("samples", "neurons", "layers", "workers", "branching")  # of which there is at least one
SECONDS = ("total", "stage", "launch", "load", "compute", "exchange")


def find_record(run: str | os.PathLike[str], home: str | os.PathLike[str]) -> Path:
    """The file of a run's id, or the path of one. Raises `InputError` where there is none."""
    run = arguments.folder_or_name("run", run, "the id of a run, or the path of its record")
    if isinstance(run, Path) or "/" in run or run.endswith(".json"):
        return arguments.path("run", run)
    if not RUN.fullmatch(run):
        raise InputError(f"run {run!r}: must be the id of a run, 16 hexadecimal digits, or the path of its record")
    file = arguments.path("home", home) / "runs" / f"{run}.json"
    if not file.exists():
        raise InputError(f"run {run}: its record is gone: {file} does not exist")
    return file


def read_record(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A run's record, checked. Raises `InputError` on one that is no record, or of another version of fsd."""
    path = arguments.path("path", path)
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
    try:
        record = unseal(data, f"{path}: the record")
    except Damaged as error:
        raise InputError(f"{error}; run again") from error
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
    ranks, missing = record.get("ranks"), record.get("missing_ranks", [])
    if not isinstance(missing, list) or not all(map(_is_count, missing)):
        return "missing_ranks"
    if not isinstance(ranks, list) or len(ranks) + len(missing) != record["workers"] or not all(isinstance(rank, dict) for rank in ranks):
        return "ranks"
    there = [rank for rank in range(record["workers"]) if rank not in missing]
    if len(there) != len(ranks):
        return "missing_ranks"
    tables = [("seconds", record.get("seconds"), SECONDS), ("meter", record.get("meter"), FIELDS)]
    tables += [("memory", record.get("memory"), ("peak_bytes_max",))]
    for where, table, names in tables:
        if not isinstance(table, dict):
            return where
        for name in names:
            if not is_number(table.get(name)):
                return f"{where}.{name}"
    if "limit_bytes" in record["memory"] and not is_number(record["memory"]["limit_bytes"]):
        return "memory.limit_bytes"
    for at, (number, rank) in enumerate(zip(there, ranks, strict=True)):
        if wrong := "rank" if rank.get("rank") != number else wrong_rank(rank):
            return f"ranks[{at}].{wrong}"
    return None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value == plain(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and is_number(value)
