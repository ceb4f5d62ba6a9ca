"""Finds the partition of a run: a `Partition` of the caller, a file, or a new partition, which is stored for later runs."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from fsd_core.common import arguments
from fsd_core.errors import InputError
from fsd_core.model import Model
from fsd_core.partition.methods import METHODS, first_layers, of_size, partition
from fsd_core.partition.owners import Partition
from fsd_core.partition.stages import Profile

__all__ = ["checked", "find_partition"]

_log = logging.getLogger(__name__)


def find_partition(
    wanted: str | os.PathLike[str] | Partition,
    model: Model,
    workers: int,
    seed: int,
    home: Path,
    progress: Callable[[int, int], None] | None = None,
    *,
    stages: int = 1,
    costs: Profile | None = None,
) -> tuple[Partition, str]:
    """Find the partition that a run uses. Returns the partition and its name for people.

    ``wanted`` is a `Partition`, the name of a method, or a path. A hypergraph partition takes long to compute, so this function stores it
    in a file in ``home`` and reads it in later runs. It replaces a damaged file, and logs a warning if it cannot write the file.
    `partition` describes ``workers``, ``stages``, ``costs`` and ``progress``. Raises `InputError` for a missing or wrong file, for a
    partition for another number of workers or stages, and for more workers than the largest layer has rows.
    """
    workers, seed = arguments.whole("workers", workers, 1), arguments.whole("seed", seed)
    wanted = checked(wanted)
    if isinstance(wanted, Partition):
        return of_size(wanted.check(model), workers, stages, "given"), "given"
    if wanted in METHODS:
        solves = wanted == "hypergraph" and workers > stages
        make = partial(partition, model, workers, wanted, seed, progress, stages=stages, costs=costs)
        parts = _kept(model, workers, stages, seed, home, costs, make) if solves else make()
        return parts, parts.label
    return of_size(Partition.load(wanted, model), workers, stages, str(wanted)), str(wanted)


def checked(wanted: Any) -> Partition | str | Path:
    """The argument ``partition`` of a run: a `Partition`, the name of a method, or a path. Raises `InputError` if it is none of them."""
    if isinstance(wanted, Partition):
        return wanted
    return arguments.folder_or_name("partition", wanted, f"a Partition, one of {', '.join(METHODS)}, or the path of a partition")


def _kept(
    model: Model, workers: int, stages: int, seed: int, home: Path, costs: Profile | None, make: Callable[[], Partition]
) -> Partition:
    """Read the hypergraph partition that an earlier run stored, or make and store a new one. Stores only what the solver completed."""
    name = f"{model.digest[:32]}-{workers}-hypergraph-{seed}"
    if stages > 1:  # where the cuts are depends on the input too
        starts = first_layers(model, stages, workers // stages, costs)
        name += f"-{stages}-stages-{hashlib.sha256(repr(starts).encode()).hexdigest()[:16]}"
    file = home / "partitions" / f"{name}.npz"
    if os.path.isfile(file):
        try:
            return attrs.evolve(of_size(Partition.load(file, model), workers, stages, str(file)), label="hypergraph")
        except InputError as error:
            _log.warning("%s; an earlier run kept this file, and this run replaces it", error)
            with suppress(OSError):  # if the file cannot be removed, saving fails below and logs a warning
                file.unlink()
    parts = make()
    if parts.label == "hypergraph":
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            parts.save(file)
        except (OSError, InputError) as error:
            _log.warning("the partition is not kept for later runs: %s", error)
    return parts
