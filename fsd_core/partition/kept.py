"""The partition of a run: given, read, made, or made before."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from fsd_core import arguments
from fsd_core.errors import InputError
from fsd_core.model import Model
from fsd_core.partition.methods import METHODS, partition
from fsd_core.partition.owners import Partition

__all__ = ["find_partition"]


def find_partition(
    wanted: str | os.PathLike[str] | Partition,
    model: Model,
    workers: int,
    seed: int,
    home: Path,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Partition, str]:
    """The partition that a run uses, and its name for people. What took long to compute is kept below ``home`` for the next run.

    ``wanted``: a `Partition`, a method, or a path. ``progress``: see `partition`. Raises `InputError` where it cannot be: no such file,
    another number of workers, more workers than rows.
    """
    workers, seed = arguments.whole("workers", workers, 1), arguments.whole("seed", seed)
    if not isinstance(wanted, Partition):
        wanted = arguments.folder_or_name("partition", wanted, f"a Partition, one of {', '.join(METHODS)}, or the path of a partition")
    if isinstance(wanted, Partition):
        parts, label = wanted.check(model), "given"
    elif wanted in METHODS:
        label = "block" if wanted == "hypergraph" and find_spec("mtkahypar") is None else wanted  # the partitioner warns of it
        file = home / "partitions" / f"{model.digest[:32]}-{workers}-{label}-{seed}.npz"
        if label == "hypergraph" and file.exists():
            try:
                return Partition.load(file, model), label
            except InputError:  # damaged: it is only a copy
                file.unlink()
        parts = partition(model, workers, wanted, seed, progress=progress)
        if label == "hypergraph":
            file.parent.mkdir(parents=True, exist_ok=True)
            parts.save(file)
        return parts, label
    else:
        parts, label = Partition.load(wanted, model), str(wanted)
    if parts.workers != workers:
        raise InputError(f"partition {label}: made for {parts.workers} workers, the run has {workers}")
    return parts, label
