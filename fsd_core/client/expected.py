"""Predicts the seconds, requests and USD of a run from its split. The client computes this prediction once the answer is complete.

A prediction never makes a run fail. It delays the end of the run by at most `FORECAST_S`; if it takes longer, the run has no prediction.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from fsd_core.common.fields import integer, key, listed, nullable, number
from fsd_core.cost import Usage, bill
from fsd_core.latency import Latency
from fsd_core.plan.kept import counts, digest, figures, remembered
from fsd_core.plan.places import outline_of, place
from fsd_core.plan.predict import PARTS, Platform, predict
from fsd_core.plan.pricing import place_words
from fsd_core.storage.meter import FIELDS

if TYPE_CHECKING:
    from fsd_core.client.work import Cut, Work

__all__ = ["Expectation"]

log = logging.getLogger(__name__)

FORECAST_S = 2.0  # for the prediction, if no earlier run of this kind left one to read
STEPS, BATCHES = 40, 12  # of the simulation


@attrs.frozen(kw_only=True)
class _Kept:
    """The keys of a kept prediction of a run."""

    seconds: Mapping[str, float] = key(figures("p50", "p95"))
    parts: Mapping[str, float] = key(figures(*PARTS))
    meter: Mapping[str, int] = key(counts(*FIELDS))
    usd: float | None = key(nullable(number()))
    kept: list[int] = key(listed(integer(0)))
    live: list[float] | None = key(nullable(listed(number())))


@attrs.frozen(kw_only=True, eq=False)
class Expectation:
    """The facts about a run from which `found` predicts its seconds and costs."""

    work: Work
    provider: str
    settings: Mapping[str, object]
    channel: str
    objective: str
    branching: int
    recovery: bool
    latency: Latency | None
    home: Path

    def found(self, cut: Cut, staged: Mapping[str, int], inits_s: Sequence[float]) -> dict[str, Any] | None:
        """The prediction: seconds (p50, p95), parts (mean seconds), meter, usd, live (as in `Split`), and kept (for each rank of a replica,
        the bytes of sent payloads that it keeps for recovery). `None` if it is not ready after `FORECAST_S`.

        ``staged``: the counts of the client's requests while it staged weights and inputs. `predict` leaves them out, so `found` adds them.
        ``inits_s``: the seconds of initialisation of each function of the run, 0 if it was warm. The prediction is that of a cold start if
        at least half of them started cold. On this machine all do; under a table of latencies, its option ``warm`` decides.
        """
        made: list[dict[str, Any] | None] = []

        def make() -> None:
            try:
                made.append(self._predicted(cut, staged, inits_s))
            except Exception:  # of any kind: the answer of the run is complete
                log.debug("the run has no prediction", exc_info=True)
                made.append(None)

        thread = threading.Thread(target=make, name="fsd-forecast", daemon=True)
        thread.start()
        thread.join(FORECAST_S)
        return made[0] if made else None

    def _predicted(self, cut: Cut, staged: Mapping[str, int], inits_s: Sequence[float]) -> dict[str, Any] | None:
        if outline_of(self.provider, self.settings) is None:
            return None
        where = place(self.provider, self.settings, self.latency.scaled() if self.latency else None)
        work, memory = self.work, where.outline.functions.memory_bytes
        seeds = (self.latency.seed,) if self.latency else ()
        mostly = 2 * sum(seconds > 0 for seconds in inits_s) >= len(inits_s)
        cold = self.latency.warm < 0.5 if self.latency else mostly or where.crowded
        platform = Platform(
            provider=self.provider,
            outline=where.outline,
            table=where.table,
            tariff=where.tariff,
            memory_mb=(memory or 2 << 30) >> 20,
            cold=cold,
            crowded=where.crowded,
            seeds=seeds,
        )

        keep = all(rank.keep for rank in cut.ranks)

        def make() -> dict[str, Any]:
            split = work.split(cut.samples).thinned(STEPS)
            options: dict[str, Any] = {"objective": self.objective, "branching": self.branching, "recovery": self.recovery}
            found = predict(split, platform, self.channel, keep=keep, most_batches=BATCHES, **options)
            figures = {"seconds": dict(found.seconds), "parts": dict(found.parts), "meter": dict(found.meter), "usd": found.usd}
            return figures | {"kept": found.kept_by_rank.astype(int).tolist(), "live": split.live}

        about = (
            work.shards().digest,
            work.parallel,
            cut.samples,
            keep,
            self.channel,
            self.objective,
            self.branching,
            self.recovery,
            seeds,
            cold,
        )
        found = remembered(self.home, digest("run", work.workload.digest, place_words(where), about), _Kept, make)
        found["meter"] = {name: count + staged.get(name, 0) for name, count in found["meter"].items()}
        if where.tariff is not None and found["usd"] is not None:
            found["usd"] += bill(Usage({name: float(count) for name, count in staged.items()}), where.tariff).total_usd
        return found
