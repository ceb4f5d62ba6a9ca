"""What a run was expected to take and cost: a prediction for its split. The client computes it once the answer is there.

A prediction never fails a run, and delays it by at most `FORECAST_S`: then there is none.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from fsd_core.cost import Usage, bill
from fsd_core.latency import Latency
from fsd_core.plan.kept import digest, remembered
from fsd_core.plan.places import outline_of, place
from fsd_core.plan.predict import Platform, predict
from fsd_core.plan.pricing import place_words

if TYPE_CHECKING:
    from fsd_core.client.work import Cut, Work

__all__ = ["Expectation"]

log = logging.getLogger(__name__)

FORECAST_S = 2.0  # for the prediction; one that an earlier run made is read in no time
STEPS, BATCHES = 40, 12  # of the simulation


@attrs.frozen(kw_only=True, eq=False)
class Expectation:
    """What a prediction of ``work`` needs to know of its run."""

    work: Work
    provider: str
    settings: Mapping[str, object]
    channel: str
    objective: str
    branching: int
    recovery: bool
    latency: Latency | None
    home: Path

    def found(self, cut: Cut, staged: Mapping[str, int]) -> dict[str, Any] | None:
        """The prediction: seconds (p50, p95), parts (mean seconds), meter, usd, kept (bytes that each rank of a replica keeps of what it
        sent), and live (as in `Split`); `None` if there is none in time.

        ``staged``: what the client requested to stage weights and inputs. It is added, because a prediction takes them as staged.
        """
        made: list[dict[str, Any] | None] = []

        def make() -> None:
            try:
                made.append(self._predicted(cut, staged))
            except Exception:  # of any kind: the answer of the run is there
                log.debug("the run has no prediction", exc_info=True)
                made.append(None)

        thread = threading.Thread(target=make, name="fsd-forecast", daemon=True)
        thread.start()
        thread.join(FORECAST_S)
        return made[0] if made else None

    def _predicted(self, cut: Cut, staged: Mapping[str, int]) -> dict[str, Any] | None:
        if outline_of(self.provider, self.settings) is None:
            return None
        where = place(self.provider, self.settings, self.latency.scaled() if self.latency else None)
        work, memory = self.work, where.outline.functions.memory_bytes
        seeds = (self.latency.seed,) if self.latency else ()
        cold = self.latency is None or self.latency.warm < 0.5
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
        found = remembered(self.home, digest("run", work.workload.digest, place_words(where), about), make)
        found["meter"] = {name: count + staged.get(name, 0) for name, count in found["meter"].items()}
        if where.tariff is not None and found["usd"] is not None:
            found["usd"] += bill(Usage({name: float(count) for name, count in staged.items()}), where.tariff).total_usd
        return found
