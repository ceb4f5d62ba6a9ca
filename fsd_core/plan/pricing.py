"""`priced`: the candidates of a workload at some providers, computed once and then read from ``$FSD_HOME/plans``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from fsd_core.common.fields import boolean, choice, integer, key, listed, nullable, number, text
from fsd_core.partition import Parallel
from fsd_core.plan.choose import Candidate, Wishes, compare
from fsd_core.plan.kept import SPLIT, counts, digest, entry, figures, remembered
from fsd_core.plan.predict import PARTS, Prediction
from fsd_core.plan.ways import Given, Place
from fsd_core.plan.workload import Workload
from fsd_core.protocol.runconfig import CHANNELS
from fsd_core.storage.meter import FIELDS

__all__ = ["Priced", "place_words", "prediction_of", "priced"]


@attrs.frozen(kw_only=True)
class _Predicted:
    """The keys of `Prediction.to_json`."""

    provider: str = key(text())
    channel: str = key(choice(*CHANNELS))
    workers: int = key(integer(1))
    parallel: Mapping[str, int] = key(SPLIT)
    micro_batches: int = key(integer(1))
    memory_mb: int = key(integer(0))
    cold: bool = key(boolean())
    seconds: Mapping[str, float] = key(figures("p50", "p95"))
    parts: Mapping[str, float] = key(figures(*PARTS))
    meter: Mapping[str, int] = key(counts(*FIELDS))
    usd: float | None = key(nullable(number()))
    usd_by_service: Mapping[str, float] = key(figures())
    bytes_by_rank_max: int = key(integer(0))
    memory_bytes_max: int = key(integer(0))
    kept_bytes_max: int = key(integer(0))
    error: float = key(number())
    notes: list[str] = key(listed(text()))


@attrs.frozen(kw_only=True)
class _Way:
    """The keys of a kept `Candidate`."""

    provider: str = key(text())
    channel: str = key(choice(*CHANNELS))
    parallel: Mapping[str, int] = key(SPLIT)
    memory_mb: int = key(integer(0))
    cold: bool = key(boolean())
    why: str = key(text(empty=True))
    needs_bytes: int = key(integer(0))
    beaten: str = key(text(empty=True))
    prediction: Mapping[str, Any] | None = key(nullable(entry(_Predicted)))


@attrs.frozen(kw_only=True)
class _Kept:
    """The keys of a kept plan."""

    candidates: list[Mapping[str, Any]] = key(listed(entry(_Way), filled=True))
    stored_bytes: float = key(number())
    work_s: float = key(number())


@attrs.frozen(eq=False)
class Priced:
    """The ``candidates``, the bytes of all weights as stored, and the seconds for which a run computes on one core of this machine."""

    candidates: tuple[Candidate, ...]
    stored_bytes: float
    work_s: float


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
        work_s = float(workload.shaped(Parallel(), None).split.work_s.sum())
        return {"candidates": [_packed(each) for each in found], "stored_bytes": workload.stored_bytes, "work_s": work_s}

    where = [place_words(place) for place in places]
    content = remembered(home, digest(workload.digest, where, wishes, given, tuple(colds)), _Kept, make)
    return Priced(tuple(_candidate(each) for each in content["candidates"]), content["stored_bytes"], content["work_s"])


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
