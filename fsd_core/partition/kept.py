"""The partition of a run: given, read, made, or made before."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

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
    """The partition that a run uses, and its name for people. What took long to compute is kept below ``home`` for the next run.

    Where it cannot be kept, a warning is logged. What is kept is a copy: one that is damaged or cannot be read is made again.
    ``wanted``: a `Partition`, a method, or a path. ``progress``: see `partition`. Raises `InputError` where it cannot be: no such file,
    another number of workers, more workers than rows.
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
        raise InputError(f"partition {label}: made for {parts.workers} workers, the run has {workers}")
    return parts, label


def _hypergraph(model: Model, workers: int, seed: int, home: Path, progress: Callable[[int, int], None] | None) -> Partition:
    """The hypergraph partition that an earlier run kept, or a new one; what a solver that died left incomplete is not kept."""
    file = home / "partitions" / f"{model.digest[:32]}-{workers}-hypergraph-{seed}.npz"
    if os.path.isfile(file):
        try:
            kept = Partition.load(file, model)
            if kept.workers == workers:
                return replace(kept, label="hypergraph")
            raise InputError(f"{file}: is for {kept.workers} workers, expected {workers}")
        except InputError as error:
            _log.warning("%s; it was kept by an earlier run and is made anew", error)
            with suppress(OSError):  # then it cannot be replaced either, which is told below
                file.unlink()
    parts = partition(model, workers, "hypergraph", seed, progress)
    if parts.label == "hypergraph":
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            parts.save(file)
        except (OSError, InputError) as error:
            _log.warning("the partition is not kept for the next run: %s", error)
    return parts
