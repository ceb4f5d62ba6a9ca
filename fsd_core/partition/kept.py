"""Finds the partition of a run: a `Partition` of the caller, a file, or a new partition, which is stored for later runs."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import attrs

from fsd_core.common import arguments
from fsd_core.errors import InputError
from fsd_core.model import Model
from fsd_core.partition.methods import METHODS, partition
from fsd_core.partition.owners import Partition

__all__ = ["find_partition"]

_log = logging.getLogger(__name__)


def find_partition(
    wanted: str | os.PathLike[str] | Partition,
    model: Model,
    workers: int,
    seed: int,
    home: Path,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Partition, str]:
    """Find the partition that a run uses. Returns the partition and its name for people.

    ``wanted`` is a `Partition`, the name of a method, or a path. A hypergraph partition takes long to compute, so this function stores it
    in a file in ``home`` and reads it in later runs. It replaces a damaged file, and logs a warning if it cannot write the file.
    `partition` describes ``progress``. Raises `InputError` for a missing or wrong file, for a partition for another number of workers, and
    for more workers than the largest layer has rows.
    """
    workers, seed = arguments.whole("workers", workers, 1), arguments.whole("seed", seed)
    if not isinstance(wanted, Partition):
        wanted = arguments.folder_or_name("partition", wanted, f"a Partition, one of {', '.join(METHODS)}, or the path of a partition")
    if isinstance(wanted, Partition):
        parts, label = wanted.check(model), "given"
    elif wanted in METHODS:
        parts = _hypergraph(model, workers, seed, home, progress) if wanted == "hypergraph" else partition(model, workers, wanted, seed)
        label = parts.label
    else:
        parts, label = Partition.load(wanted, model), str(wanted)
    if parts.workers != workers:
        raise InputError(f"partition {label}: made for {parts.workers} workers: expected {workers}, the number of workers of the run")
    return parts, label


def _hypergraph(model: Model, workers: int, seed: int, home: Path, progress: Callable[[int, int], None] | None) -> Partition:
    """Read the hypergraph partition that an earlier run stored, or make and store a new one. Stores only what the solver completed."""
    file = home / "partitions" / f"{model.digest[:32]}-{workers}-hypergraph-{seed}.npz"
    if os.path.isfile(file):
        try:
            kept = Partition.load(file, model)
            if kept.workers == workers:
                return attrs.evolve(kept, label="hypergraph")
            raise InputError(f"{file}: is a partition for {kept.workers} workers: expected {workers}")
        except InputError as error:
            _log.warning("%s; an earlier run kept this file, and this run replaces it", error)
            with suppress(OSError):  # if the file cannot be removed, saving fails below and logs a warning
                file.unlink()
    parts = partition(model, workers, "hypergraph", seed, progress)
    if parts.label == "hypergraph":
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            parts.save(file)
        except (OSError, InputError) as error:
            _log.warning("the partition is not kept for later runs: %s", error)
    return parts
