"""Draws of a table of latencies as arrays: the same distribution as `fsd_core.latency.Draws`, for many runs at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fsd_core.latency import Draws, Latency
from fsd_core.latency.draws import TAIL_INDEX, function, hour, request
from fsd_core.latency.table import Row, Table

__all__ = ["Sampler"]

Array = NDArray[np.float64]
_RANKS = 1 << 20  # more than there are
_Z90, _Z99 = 1.2815515655446004, 2.3263478740408398
_FAR = np.linspace(_Z99, 8.0, 280)  # standard deviations beyond p99
_NORMALS = np.linspace(-7.0, 7.0, 3501)
_CHANCES = np.array([math.erfc(-z / math.sqrt(2)) / 2 for z in _NORMALS])  # that a normal draw is less


class Sampler:
    """Draws for ``runs`` simulated runs. Each run has one common factor, the hour. The runs of each of several ``variants``, one variant
    behind the other, have the same hours. With ``like``, each hour of that sampler holds for ``copies`` runs, one after another.

    With ``seeds``, each run has one of them, and with it all that ``--latency TABLE,seed=N`` knows before the run: the hour, the factor of
    each function, how long each function takes to start, and the draws of requests whose place in the order of a function is certain
    (`numbered`). ``first``: (runs,) the ranks from which `functions`, `starts` and `numbered` count.

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
        first: NDArray[np.int64] | None = None,
    ) -> None:
        self.table = table
        self.runs = runs
        self._seeds: tuple[int, ...] = like._seeds if like else tuple(seeds)
        which = np.tile(np.resize(np.arange(max(1, len(self._seeds))), runs // variants), variants)
        self._which: NDArray[np.int64] = np.repeat(like._which, copies) if like else which
        self._first = np.zeros(runs, np.int64) if first is None else first
        self._bits = np.random.PCG64(seed)
        self._random = np.random.Generator(self._bits)
        hours = np.tile(self._random.standard_normal(runs // variants), variants)
        if seeds:
            hours = np.array([hour(each) for each in seeds])[which]
        self._hour: Array = np.repeat(like._hour, copies) if like else hours
        self._shares = (table.hour_share, table.function_share) if table else (0.0, 0.0)
        self._own = float(np.sqrt(max(0.0, 1 - sum(self._shares))))
        self._curves: dict[str, tuple[Row, Array, Array] | None] = {}
        self._rates: dict[tuple[str, str], float | None] = {}  # bytes a second, by verb and direction; `None`: no limit

    @property
    def seeded(self) -> bool:
        """Whether each run has a seed."""
        return bool(self._seeds)

    def client(self) -> Array:
        """What all requests of the client share, as standard deviations: (runs,)."""
        return self._shared(np.full(self.runs, -1), self._random.standard_normal(self.runs))

    def functions(self, ranks: NDArray[np.int64]) -> Array:
        """What all requests of the function of each of these ``ranks`` share, as standard deviations: (runs, ranks)."""
        numbers = np.broadcast_to(ranks, (self.runs, len(ranks)))
        return self._shared(numbers, self._random.standard_normal(numbers.shape))

    def _shared(self, ranks: NDArray[np.int64], own: Array) -> Array:
        if self._seeds:
            own = self._of_seeds(ranks, lambda seed, rank, _: function(seed, rank))
        common = float(np.sqrt(self._shares[0])) * self._hour.reshape(-1, *[1] * (own.ndim - 1))
        found: Array = common + float(np.sqrt(self._shares[1])) * own
        return found

    def starts(self, cold: NDArray[np.bool_], ranks: NDArray[np.int64], shared: Array) -> Array:
        """(runs, ranks) the seconds until the code of each function runs. ``cold``: (runs,), whether no function waits for it."""
        table = self.table
        if table is not None and self._seeds:
            found = [self._of_seeds(np.broadcast_to(ranks, shared.shape), _start(table, warm)) for warm in (1.0, 0.0)]
        else:
            found = [self.draw(verb, shared) for verb in ("start_warm", "start_cold")]
        return np.where(cold[:, None], found[1], found[0])

    def numbered(self, verb: str, number: NDArray[np.int64] | int, ranks: NDArray[np.int64] | int, shared: Array) -> Array:
        """As `draw`, of requests of ``verb`` before which each function made so many others of that verb.

        ``number``: of each function, as the last dimensions of ``shared`` (runs, ...), as ``ranks``; -1 is the client. With seeds, these
        requests take as long as in a run.
        """
        known = self._known(verb)
        if known is None or not self._seeds:
            return self.draw(verb, shared)
        row, deviations, logs = known
        of_ranks, numbers = np.broadcast_to(ranks, shared.shape), np.broadcast_to(number, shared.shape)
        normal = self._of_seeds(of_ranks, lambda seed, rank, at: request(seed, rank, verb, at)[0], numbers)
        found: Array = np.exp(np.interp(self._own * normal + shared, deviations, logs))
        if row.second_share:
            uniform = self._of_seeds(of_ranks, lambda seed, rank, at: request(seed, rank, verb, at)[1], numbers)
            found = np.minimum(np.where(uniform < row.second_share, found * row.second_factor, found), row.longest_ms / 1000)
        return found

    def _of_seeds(self, ranks: NDArray[np.int64], number: Callable[[int, int, int], float], detail: NDArray[np.int64] | int = 0) -> Array:
        """A number of a seed, a rank and a ``detail``, for the seed of each run: as ``ranks``, (runs, ...)."""
        keys = ranks + self._first.reshape(-1, *[1] * (ranks.ndim - 1)) + _RANKS * np.asarray(detail)
        numbers, at = np.unique(keys + 1, return_inverse=True)  # from the client's on, which is -1
        table = np.array([[number(seed, key % _RANKS - 1, key // _RANKS) for key in numbers.tolist()] for seed in self._seeds])
        found: Array = table[self._which.reshape(-1, *[1] * (ranks.ndim - 1)), at.reshape(ranks.shape)]
        return found

    def draw(self, verb: str, shared: Array, shape: tuple[int, ...] | None = None, worst_of: Array | float = 1.0) -> Array:
        """The seconds of requests of ``verb`` by functions with `functions` ``shared``; of ``shape`` if that is more than one for each.

        ``worst_of``: the largest of so many draws of the same function, 1 or more.
        """
        shape = shared.shape if shape is None else shape
        known = self._known(verb)
        if known is None:
            return np.zeros(shape)
        row, deviations, logs = known
        if isinstance(worst_of, float) and worst_of == 1.0:
            normal = self._random.standard_normal(shape)
        else:
            normal = np.interp(self._random.random(shape) ** (1 / np.maximum(worst_of, 1.0)), _CHANCES, _NORMALS)
        normal *= self._own
        normal += shared
        found: Array = np.interp(normal, deviations, logs)
        np.exp(found, out=found)
        if row.second_share:
            found = np.where(self._random.random(shape) < row.second_share, found * row.second_factor, found)
            found = np.minimum(found, row.longest_ms / 1000)
        return found

    def ahead(self, verb: str, shared: Array, count: int) -> Array:
        """What so many calls of `draw` with the ``worst_of`` 1 give, (count, ...). `give_back` takes the last ones back."""
        known = self._known(verb)
        if known is None or known[0].second_share:
            return np.stack([self.draw(verb, shared, worst_of=1) for _ in range(count)])
        normal = np.interp(self._random.random((count, *shared.shape)), _CHANCES, _NORMALS)
        normal *= self._own
        normal += shared
        found: Array = np.interp(normal, *known[1:])
        return np.exp(found, out=found)

    def give_back(self, verb: str, shared: Array, count: int) -> None:
        """The last ``count`` draws of `ahead` were not used: the next ones are the same as without them."""
        known = self._known(verb)
        if known is not None:
            self._bits.advance(-count * shared.size * (2 if known[0].second_share else 1))

    def _known(self, verb: str) -> tuple[Row, Array, Array] | None:
        """The row of a verb with its curve; `None` if the table has none."""
        if verb not in self._curves:
            row = self.table.rows.get(verb) if self.table else None
            self._curves[verb] = None if row is None else (row, *_curve(row))
        return self._curves[verb]

    def unused(self, verb: str, shape: tuple[int, ...]) -> None:
        """What `draw` does, apart from the result, which nobody needs: the draws that follow are the same ones."""
        known = self._known(verb)
        if known is not None:
            self._random.standard_normal(shape)
            if known[0].second_share:
                self._random.random(shape)

    def transfer(self, verb: str, direction: str, size: Array | float) -> Array:
        """The seconds that one function takes to transfer so many bytes. ``direction``: read or write."""
        if (verb, direction) not in self._rates:
            row = self.table.rows.get(verb) if self.table else None
            link = self.table.links.get(direction) if self.table else None
            rates = [each for each in (row and row.mb_per_s, link and link.mb_per_s) if each]
            self._rates[verb, direction] = 1e6 * min(rates) if rates else None
        rate = self._rates[verb, direction]
        return np.asarray(size, np.float64) / rate if rate is not None else np.zeros(np.shape(size))

    def own_rate(self, verb: str) -> float:
        """The seconds of a byte of one request of ``verb``, without the link that requests share."""
        row = self.table.rows.get(verb) if self.table else None
        return 1 / (1e6 * row.mb_per_s) if row and row.mb_per_s else 0.0

    def link_rate(self, direction: str) -> float:
        """The seconds of a byte over the link of one function."""
        link = self.table.links.get(direction) if self.table else None
        return 1 / (1e6 * link.mb_per_s) if link else 0.0


def _start(table: Table, warm: float) -> Callable[[int, int, int], float]:
    """The seconds that the first function of a rank takes to start in a run with a seed."""
    return lambda seed, rank, _: Draws(Latency(table, seed, warm=warm), rank, 0).start()


@lru_cache(1024)
def _curve(row: Row) -> tuple[Array, Array]:
    """The logarithm of the seconds of a request over standard deviations, at points between which it is about linear.

    As `fsd_core.latency.draws.quantile_ms`: a straight line up to p90, another one up to p99, and a curve beyond.
    """
    low, middle, high = math.log(row.p50_ms), math.log(row.p90_ms), math.log(row.p99_ms)
    least = -40.0  # far below any draw
    beyond = np.array([math.log(0.01 / (math.erfc(z / math.sqrt(2)) / 2)) for z in _FAR])
    logs = np.concatenate([[low + least * (middle - low) / _Z90, middle], high + beyond / TAIL_INDEX])
    return np.concatenate([[least, _Z90], _FAR]), np.minimum(logs, math.log(row.longest_ms)) - math.log(1000)
