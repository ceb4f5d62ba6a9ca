"""What is left of a run: its result, and the record of it on disk."""

from __future__ import annotations

import time
import unicodedata
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fsd_core.sealed import seal
from fsd_core.versions import versions

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["RECORD_VERSION", "Result", "keep", "plain"]

RECORD_VERSION = 3  # of the form of what `keep` writes


@dataclass(frozen=True, slots=True)
class Result:
    """What a run computed and what it took. The fields' names and meanings are those of ``fsd run --json``."""

    run: str
    output: csr_matrix  # float32 (samples, outputs)
    samples: int
    neurons: int
    layers: int
    workers: int
    branching: int
    provider: str
    stand_in: str | None  # where an emulator was, host and port
    channel: str
    partition: str
    seconds: dict[str, float]
    meter: dict[str, int]
    meter_layers: dict[str, int]
    memory: dict[str, int]
    ranks: list[dict[str, Any]] = field(repr=False)  # each worker's own record

    @property
    def output_nonzero_samples(self) -> int:
        """Samples whose final activations are not all zero."""
        return int(np.count_nonzero(np.diff(self.output.indptr)))

    def to_json(self) -> dict[str, Any]:
        """Everything but the output and the ranks' records, ready for JSON."""
        names = ("samples", "neurons", "layers", "workers", "branching", "provider", "channel", "partition", "output_nonzero_samples")
        more = ("seconds", "meter", "meter_layers", "memory", "run", "stand_in")
        return {name: getattr(self, name) for name in (*names, *more)}


def keep(result: Result, home: Path, about: Mapping[str, Any]) -> None:
    """Write the record of a run below ``home``: the result but its output, and what makes it repeatable. Warns where it cannot.

    ``about``: objective, seed, faults, batches, model (its digest), note, and began in seconds since 1970.
    """
    began = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(about["began"]))
    note = {plain(name): plain(text) for name, text in about["note"].items()}
    record = {"version": RECORD_VERSION, **about, "note": note, "began": began, "versions": versions(result.provider)}
    record |= result.to_json() | {"partition": plain(result.partition), "ranks": result.ranks}
    file = home / "runs" / f"{result.run}.json"
    aside = file.with_suffix(".new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(seal(record))
        aside.replace(file)
    except OSError as error:  # the run was paid for, and its result is there
        warnings.warn(f"the run's record cannot be kept in {file.parent}: {error.strerror or error}", stacklevel=2)


def plain(text: str) -> str:
    """The text, fit for a line on a screen: what controls it, or is half a character, is a question mark."""
    return "".join("?" if unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp") else each for each in text)
