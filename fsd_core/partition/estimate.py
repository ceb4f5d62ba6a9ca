"""Estimates how many rows a hypergraph partition would move, from a few layers, for a user who only wants this number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs
import numpy as np

from fsd_core.common import arguments
from fsd_core.errors import InputError
from fsd_core.model import Model
from fsd_core.partition.chains import Chains, side_by_side
from fsd_core.partition.hypergraph import default_solver
from fsd_core.partition.one_layer import crossing
from fsd_core.partition.solver import Solver, Stopped

__all__ = ["Estimate", "estimate"]

COUNTED = 12  # layers before which rows are counted
RUN_UP = 2  # layers that are solved before each of them


@attrs.frozen
class Estimate:
    """An estimate of `ExchangePlan.figures` of a hypergraph partition for ``workers`` ranks.

    ``counted`` has the layers (from 1) before which rows were counted. ``rows_moved_by_layer`` is a list for layers 2 to L: the
    numbers of the other layers are interpolated. ``rows_moved`` is its sum.
    """

    workers: int
    counted: tuple[int, ...]
    rows_moved_by_layer: tuple[int, ...]

    @property
    def rows_moved(self) -> int:
        """The estimated number of rows that the ranks send each other, a row once for each rank that receives it."""
        return sum(self.rows_moved_by_layer)

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return {
            "estimated": True,
            "workers": self.workers,
            "rows_moved": self.rows_moved,
            "rows_moved_by_layer": list(self.rows_moved_by_layer),
            "counted_layers": list(self.counted),
        }


def estimate(
    model: Model,
    workers: int,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    *,
    solver: Callable[[], Solver] | None = None,
) -> Estimate:
    """Estimate how many rows the hypergraph partition of ``model`` for ``workers`` ranks moves, without making it.

    Partitions some short chains of layers, and counts the rows that travel before the last layer of each chain. Calls
    ``progress(done, total)`` after each partitioned layer. Equal arguments give equal estimates. Raises `InputError` for a wrong argument,
    if the solver is not installed, and if the solver gives no answer.
    """
    layers = arguments.instance("model", model, Model).layers
    workers, seed = arguments.whole("workers", workers, 1), arguments.whole("seed", seed)
    arguments.callback("progress", progress)
    arguments.callback("solver", solver)
    if workers > (largest := max(layer.outputs for layer in layers)):
        raise InputError(f"workers {workers}: expected at most {largest}, the number of rows of the largest layer of {model.name}")
    if workers == 1 or len(layers) == 1:
        return Estimate(workers, (), (0,) * (len(layers) - 1))
    solver = solver or default_solver()
    if solver is None:
        raise InputError("mtkahypar is not installed: expected it for an estimate: pip install 'fsd-inference[partition]'")
    last = np.unique(np.rint(np.linspace(1, len(layers) - 1, COUNTED)).astype(int)).tolist()  # 0-based
    chains = [Chains(layers[max(0, k - RUN_UP) : k + 1], workers, seed) for k in last]
    total, done = sum(len(chain.layers) for chain in chains), 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    def lane(some: list[Chains], one: Solver) -> Iterator[bool]:
        for chain in some:
            yield from chain.chain(range(len(chain.layers)), one)

    half = len(chains) // 2
    with ThreadPoolExecutor(2) as pool, solver() as first, solver() as second:
        side_by_side(pool, [lane(chains[:half], first), lane(chains[half:], second)], step)
    counts = [_before_last(chain) for chain in chains]
    by_layer = np.interp(np.arange(1, len(layers)), last, counts)
    return Estimate(workers, tuple(k + 1 for k in last), tuple(np.rint(by_layer).astype(int).tolist()))


def _before_last(chain: Chains) -> int:
    *_, before, owner = chain.owners
    if before is None or owner is None:
        raise InputError(f"mtkahypar: {chain.stopped or Stopped('no answer')}: expected an answer; make the partition instead")
    return crossing(chain.layers[-1], before, owner, chain.workers)
