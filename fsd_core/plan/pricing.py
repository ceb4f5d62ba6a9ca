"""`priced`: the candidates of a workload at some providers, computed once and then read from ``$FSD_HOME/plans``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from fsd_core.partition import Parallel
from fsd_core.plan.choose import Candidate, Wishes, compare
from fsd_core.plan.kept import digest, remembered
from fsd_core.plan.predict import Prediction
from fsd_core.plan.ways import Given, Place
from fsd_core.plan.workload import Workload

__all__ = ["Priced", "place_words", "prediction_of", "priced"]


@attrs.frozen(eq=False)
class Priced:
    """The ``candidates``, and the bytes of all weights as stored."""

    candidates: tuple[Candidate, ...]
    stored_bytes: float


def priced(
    workload: Workload,
    places: Sequence[Place],
    wishes: Wishes,
    *,
    given: Given | None = None,
    colds: Sequence[bool] = (True, False),
    home: Path,
    progress: Callable[[int, int], None] | None = None,
) -> Priced:
    """What `compare` finds for a workload; kept below ``home``."""

    def make() -> dict[str, Any]:
        found = compare(workload, places, wishes, given=given, colds=colds, progress=progress)
        return {"candidates": [_packed(each) for each in found], "stored_bytes": workload.stored_bytes}

    where = [place_words(place) for place in places]
    content = remembered(home, digest(workload.digest, where, wishes, given, tuple(colds)), make)
    return Priced(tuple(_candidate(each) for each in content["candidates"]), content["stored_bytes"])


def place_words(place: Place) -> tuple[Any, ...]:
    """All that a prediction knows of a place, for a digest."""
    outline = place.outline
    limits = outline.messages, outline.objects, outline.functions, outline.route_ranks, outline.direct
    return place.provider, limits, [(size, outline.cores(size)) for size in outline.memory_mb], place.table, place.tariff


def _packed(each: Candidate) -> dict[str, Any]:
    """A candidate as values that JSON can hold, from which `_candidate` makes it again."""
    own = {name: getattr(each, name) for name in ("provider", "channel", "memory_mb", "cold", "why", "needs_bytes", "beaten")}
    made = each.prediction
    return own | {"parallel": each.parallel.to_json(), "prediction": None if made is None else made.to_json()}


def _candidate(found: Mapping[str, Any]) -> Candidate:
    made = found["prediction"]
    return Candidate(**{**found, "parallel": Parallel(**found["parallel"]), "prediction": None if made is None else prediction_of(made)})


def prediction_of(found: Mapping[str, Any]) -> Prediction:
    """The prediction that `Prediction.to_json` gave, with one number for all ranks: the largest."""
    largest = {"bytes_by_rank": "bytes_by_rank_max", "memory_by_rank": "memory_bytes_max", "kept_by_rank": "kept_bytes_max"}
    values = {name: value for name, value in found.items() if name not in ("workers", *largest.values())}
    values |= {name: np.array([found[most]], np.float64) for name, most in largest.items()}
    return Prediction(**values | {"parallel": Parallel(**found["parallel"])})
