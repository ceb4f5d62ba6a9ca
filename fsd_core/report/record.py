"""Reads the records of past runs, which `fsd_core.client` writes into ``$FSD_HOME/runs``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from fsd_core.client.result import RANK_SECONDS, RECORD_VERSION, check_rank, plain
from fsd_core.common import arguments
from fsd_core.common.fields import Kind, integer, key, listed, matching, nullable, number, read, table, text
from fsd_core.common.files import read_regular
from fsd_core.common.sealed import Damaged, unseal
from fsd_core.errors import InputError
from fsd_core.storage.meter import FIELDS

__all__ = ["find_record", "read_record"]

MAX_BYTES = 64 << 20  # a thousand ranks leave about 1 MB
RUN = matching(r"[0-9a-f]{16}", "the id of a run, 16 hexadecimal digits")


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and value == plain(value)


LINE = Kind("a text of one line", _is_line)
LINES = Kind("a table of texts of one line", lambda value: table().holds(value) and all(map(_is_line, (*value, *value.values()))))


@attrs.frozen(kw_only=True)
class _Record:
    """The keys of a record."""

    version: int = key(integer(RECORD_VERSION, RECORD_VERSION))
    run: str = key(RUN)
    began: str = key(LINE)
    engine: str = key(LINE, default="rows")
    provider: str = key(LINE)
    stand_in: str | None = key(nullable(LINE))
    channel: str = key(LINE)
    partition: str = key(LINE)
    objective: str = key(LINE)
    model: str = key(LINE)
    faults: str | None = key(nullable(LINE))
    seed: int = key(integer(0))
    samples: int = key(integer(1))
    neurons: int = key(integer(1))
    layers: int = key(integer(1))
    workers: int = key(integer(1))
    parallel: Mapping[str, Any] = key(table())
    micro_batches: int = key(integer(1))
    branching: int = key(integer(1))
    output_nonzero_samples: int = key(integer(0))
    batches: list[int] = key(listed(integer(0)))
    note: Mapping[str, str] = key(LINES)
    versions: Mapping[str, str] = key(LINES)
    seconds: Mapping[str, Any] = key(table())
    seconds_sum: Mapping[str, Any] = key(table())
    meter: Mapping[str, Any] = key(table())
    meter_layers: Mapping[str, Any] = key(table())
    memory: Mapping[str, Any] = key(table())
    ranks: list[Mapping[str, Any]] = key(listed(table()))
    latency: Mapping[str, Any] | None = key(nullable(table()), default=None)
    reason: str = key(text(empty=True), default="")
    predicted: Mapping[str, Any] | None = key(nullable(table()), default=None)
    missing_ranks: list[int] = key(listed(integer(0)), default=attrs.Factory(list))
    recovered: list[Mapping[str, Any]] = key(listed(table()), default=attrs.Factory(list))  # as `Result.recovered`
    audit: Mapping[str, Any] | None = key(nullable(table()), default=None)  # as `Result.audit`


_Seconds = attrs.make_class(
    "_Seconds", {name: key(number()) for name in ("total", "stage", "launch", "load", "compute", "exchange", "cleanup")}, frozen=True
)
_SecondsSum = attrs.make_class("_SecondsSum", {name: key(number()) for name in RANK_SECONDS}, frozen=True)
_Parallel = attrs.make_class("_Parallel", {name: key(integer(1)) for name in ("data", "pipeline", "tensor")}, frozen=True)
_Meter = attrs.make_class("_Meter", {name: key(integer(0)) for name in FIELDS}, frozen=True)


@attrs.frozen(kw_only=True)
class _Memory:
    """The keys of a record's ``memory``, in bytes."""

    peak_bytes_max: int = key(integer(0))
    predicted_bytes_max: int = key(integer(0), default=0)
    streamed: int = key(integer(0), default=0)  # workers
    limit_bytes: int | None = key(integer(0), default=None)


def find_record(run: str | os.PathLike[str], home: str | os.PathLike[str]) -> Path:
    """The path of a run's record. ``run``: the id of the run, or the path. Raises `InputError` if no record has this id."""
    run = arguments.folder_or_name("run", run, "the id of a run, or the path of its record")
    if isinstance(run, Path) or "/" in run or run.endswith(".json"):
        return arguments.path("run", run)
    if not RUN.holds(run):
        raise InputError(f"run {run!r}: expected {RUN.expected}, or the path of its record")
    file = arguments.path("home", home) / "runs" / f"{run}.json"
    if not file.exists():
        raise InputError(f"run {run}: no record of this run: expected the file {file}")
    return file


def read_record(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The record of a run. Raises `InputError` if the file is not a record, is damaged, or is from another version of fsd."""
    path = arguments.path("path", path)
    try:
        data = read_regular(path, MAX_BYTES)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file: records of runs are in the folder $FSD_HOME/runs") from None
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        raise InputError(f"{path}: is not a record of a run, or is damaged: expected JSON") from None
    if not isinstance(record, dict) or "run" not in record:
        raise InputError(f"{path}: is not a record of a run: expected an object with the key `run`")
    if (found := record.get("version")) != RECORD_VERSION:
        raise InputError(f"{path}: the record is of another version of fsd: its version is {found!r}, expected {RECORD_VERSION}; run again")
    try:
        record = unseal(data, f"{path}: the record")
    except Damaged as error:
        raise InputError(f"{error}; run again") from error
    try:
        _check(record)
    except InputError as error:
        raise InputError(f"{path}: the record is damaged: {error}; run again") from None
    return record


def _check(found: Mapping[str, Any]) -> None:
    """Raise `InputError` unless a record is one that this version of fsd writes."""
    record = read(_Record, found, "")
    tables: list[tuple[str, type[Any]]] = [("seconds", _Seconds), ("meter", _Meter), ("meter_layers", _Meter), ("memory", _Memory)]
    tables += [("parallel", _Parallel), ("seconds_sum", _SecondsSum)]
    for name, cls in tables:
        read(cls, found[name], f"{name}.")
    ranks, missing, workers = record.ranks, record.missing_ranks, record.workers
    if len(ranks) + len(missing) != workers or len({*missing, *range(workers)}) != workers or len(set(missing)) != len(missing):
        raise InputError(f"{len(ranks)} ranks and {len(missing)} missing_ranks: expected each of the {workers} workers once")
    present = sorted(set(range(workers)) - set(missing))
    for at, (expected, rank) in enumerate(zip(present, ranks, strict=True)):
        check_rank(rank, f"ranks[{at}].")
        if rank["rank"] != expected:
            raise InputError(f"ranks[{at}].rank = {rank['rank']}: expected {expected}")
