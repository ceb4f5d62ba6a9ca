"""Draws of a table of latencies as arrays: the same distribution as `fsd_core.latency.Draws`, for many runs at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsd_core.latency.draws import TAIL_INDEX, hour
from fsd_core.latency.table import Row, Table

__all__ = ["Sampler"]

Array = NDArray[np.float64]
_Z90, _Z99 = 1.2815515655446004, 2.3263478740408398


class Sampler:
    """Draws for ``runs`` simulated runs. Each run has one common factor, the hour; with ``seeds`` it is that of ``--latency TABLE,seed=N``.
    With ``like``, each hour of that sampler holds for ``copies`` runs, one after another. The runs of each of several ``variants``, one
    variant behind the other, have the same hours.

    `draw` gives seconds. A table of `None` has no latencies: every draw is 0.
    """

    def __init__(
        self,
        table: Table | None,
        runs: int,
        seed: int,
        seeds: Sequence[int] = (),
        like: Sampler | None = None,
        copies: int = 1,
        variants: int = 1,
    ) -> None:
        self.table = table
        self.runs = runs
        self._random = np.random.default_rng(seed)
        hours = np.array([hour(each) for each in seeds]) if seeds else self._random.standard_normal(runs // variants)
        hours = np.tile(np.resize(hours, runs // variants), variants)
        self._hour: Array = np.repeat(like._hour, copies) if like else hours
        self._shares = (table.hour_share, table.function_share) if table else (0.0, 0.0)
        self._own = float(np.sqrt(max(0.0, 1 - sum(self._shares))))

    def uniform(self, *shape: int) -> Array:
        """Numbers in [0, 1), (runs, *shape)."""
        return self._random.random((self.runs, *shape))

    def functions(self, *shape: int) -> Array:
        """What all requests of a function share, as standard deviations: (runs, *shape), one number for each function."""
        common = float(np.sqrt(self._shares[0])) * self._hour.reshape(-1, *[1] * len(shape))
        found: Array = common + float(np.sqrt(self._shares[1])) * self._random.standard_normal((self.runs, *shape))
        return found

    def draw(self, verb: str, shared: Array, shape: tuple[int, ...] | None = None, worst_of: Array | float = 1.0) -> Array:
        """The seconds of requests of ``verb`` by functions with `functions` ``shared``; of ``shape`` if that is more than one for each.

        ``worst_of``: the largest of so many draws of the same function, 1 or more.
        """
        shape = shared.shape if shape is None else shape
        row = self.table.rows.get(verb) if self.table else None
        if row is None:
            return np.zeros(shape)
        normal: Any
        if np.ndim(worst_of) or worst_of != 1.0:
            from scipy.special import ndtri

            normal = ndtri(np.clip(self._random.random(shape) ** (1 / np.maximum(worst_of, 1.0)), 1e-12, 1 - 1e-12))
        else:
            normal = self._random.standard_normal(shape)
        found = _quantile_ms(row, shared + self._own * normal)
        if row.second_share:
            found = np.where(self._random.random(shape) < row.second_share, found * row.second_factor, found)
        return np.minimum(found, row.longest_ms) / 1000

    def transfer(self, verb: str, direction: str, size: Array | float) -> Array:
        """The seconds that one function takes to transfer so many bytes. ``direction``: read or write."""
        row = self.table.rows.get(verb) if self.table else None
        link = self.table.links.get(direction) if self.table else None
        rates = [each for each in (row and row.mb_per_s, link and link.mb_per_s) if each]
        return np.asarray(size, np.float64) / (1e6 * min(rates)) if rates else np.zeros(np.shape(size))

    def own_rate(self, verb: str) -> float:
        """The seconds of a byte of one request of ``verb``, without the link that requests share."""
        row = self.table.rows.get(verb) if self.table else None
        return 1 / (1e6 * row.mb_per_s) if row and row.mb_per_s else 0.0

    def link_rate(self, direction: str) -> float:
        """The seconds of a byte over the link of one function."""
        link = self.table.links.get(direction) if self.table else None
        return 1 / (1e6 * link.mb_per_s) if link else 0.0


def _quantile_ms(row: Row, z: Array) -> Array:
    """As `fsd_core.latency.draws.quantile_ms`, for an array."""
    low, middle, high = math.log(row.p50_ms), math.log(row.p90_ms), math.log(row.p99_ms)
    least = -40.0  # far below any draw: the logarithm is linear in z from there to p90, and from there to p99
    found: Array = np.exp(np.interp(z, (least, _Z90, _Z99), (low + least * (middle - low) / _Z90, middle, high)))
    far = z > _Z99
    if far.any():
        from scipy.special import ndtr

        found[far] = row.p99_ms * np.power(0.01 / np.maximum(ndtr(-z[far]), 1e-300), 1 / TAIL_INDEX)
    return found
