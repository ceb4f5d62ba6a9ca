"""The partition of a run: the caller's own, one from a file, or a new one, which is kept for later runs."""

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
    """The partition that a run uses, and its name for people.

    ``wanted`` is a `Partition`, the name of a method, or a path. ``progress`` is that of `partition`. A hypergraph partition takes long to
    compute, so its file is kept in ``home`` for later runs; a damaged file is replaced, and a file that cannot be written gives a warning.
    Raises `InputError` for a missing or wrong file, for another number of workers, and for more workers than rows.
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
        raise InputError(f"partition {label}: made for {parts.workers} workers: expected {workers}, as the run has")
    return parts, label


def _hypergraph(model: Model, workers: int, seed: int, home: Path, progress: Callable[[int, int], None] | None) -> Partition:
    """The hypergraph partition that an earlier run kept, or a new one. A partition that the solver did not complete is not kept."""
    file = home / "partitions" / f"{model.digest[:32]}-{workers}-hypergraph-{seed}.npz"
    if os.path.isfile(file):
        try:
            kept = Partition.load(file, model)
            if kept.workers == workers:
                return attrs.evolve(kept, label="hypergraph")
            raise InputError(f"{file}: is for {kept.workers} workers: expected {workers}")
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
