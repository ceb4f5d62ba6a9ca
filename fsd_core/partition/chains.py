"""Solves the layers of a model, each next to a layer that has owners, with two solvers at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import numpy as np
from numpy.typing import NDArray

from fsd_core.model import Layer
from fsd_core.partition.one_layer import crossing, one_layer
from fsd_core.partition.rows import needs
from fsd_core.partition.solver import Solver, Stopped

__all__ = ["Chains", "side_by_side"]


class Chains:
    """The owners of the layers that are solved so far: ``owners`` has int32 (outputs,) or `None` for each layer."""

    def __init__(self, layers: Sequence[Layer], workers: int, seed: int) -> None:
        self.layers, self.workers, self.seed = layers, workers, seed
        self.owners: list[NDArray[np.int32] | None] = [None] * len(layers)
        self.stopped: Stopped | None = None  # why a solver gave up

    def run(self, solver: Callable[[], Solver], progress: Callable[[int, int], None] | None) -> None:
        """Solve all layers, then every second layer again."""
        count = len(self.layers)
        middle, again = count // 2, range(1, count, 2)
        total, done, shown = count + len(again), 0, 0

        def step() -> None:
            nonlocal done, shown
            done += 1
            if progress is not None and done * count // total > shown:
                shown = done * count // total
                progress(shown, count)

        # in this order, because an interrupt has to end the solvers, for which the pool's threads wait
        with ThreadPoolExecutor(2) as pool, solver() as first, solver() as second:
            for lanes in (
                [self.chain([middle], first)],
                [self.chain(range(middle + 1, count), first), self.chain(range(middle - 1, -1, -1), second)],
                [self._improve(again[: len(again) // 2], first), self._improve(again[len(again) // 2 :], second)],
            ):
                if self.stopped is None:
                    side_by_side(pool, lanes, step)
        if shown < count and progress is not None:  # a solver stopped
            progress(count, count)

    def chain(self, numbers: Iterable[int], solver: Solver) -> Iterator[bool]:
        """Solve layers one after the other, each next to a layer that has owners. Ends if the solver stops."""
        for k in numbers:
            try:
                self.owners[k] = self._one(k, solver)
            except Stopped as stopped:
                self.stopped = stopped
                return
            yield True

    def _improve(self, numbers: Iterable[int], solver: Solver) -> Iterator[bool]:
        """Solve some layers again, no two of them neighbours. Of the old and the new owners, keep those with which fewer rows travel."""
        for k in numbers:
            try:
                owner, before = self._one(k, solver), self.owners[k]
            except Stopped as stopped:
                self.stopped = stopped
                return
            if before is not None and self._travel(k, owner) < self._travel(k, before):
                self.owners[k] = owner
            yield True

    def _one(self, k: int, solver: Solver) -> NDArray[np.int32]:
        sources = self.owners[k - 1] if k else None
        behind = self.owners[k + 1] if k + 1 < len(self.layers) else None
        targets = None
        if behind is not None and not isinstance(self.layers[k + 1].weights, np.ndarray):  # every rank needs each row of a dense layer
            targets = needs(self.layers[k + 1], behind, self.workers)
        return one_layer(self.layers[k], sources, targets, self.workers, self.seed, solver)

    def _travel(self, k: int, owner: NDArray[np.int32]) -> int:
        """The rows that travel to layer ``k`` and from it if ``owner`` owns its rows."""
        before = self.owners[k - 1]
        behind = self.owners[k + 1] if k + 1 < len(self.layers) else None
        moved = 0 if before is None else crossing(self.layers[k], before, owner, self.workers)
        return moved if behind is None else moved + crossing(self.layers[k + 1], owner, behind, self.workers)


def side_by_side(pool: ThreadPoolExecutor, lanes: Sequence[Iterator[bool]], step: Callable[[], None]) -> None:
    """Run iterators to their end, each in a thread of ``pool``. Calls ``step`` in this thread, once for each item."""
    running = {pool.submit(next, lane, False): lane for lane in lanes}
    while running:
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            lane = running.pop(future)
            if future.result():
                running[pool.submit(next, lane, False)] = lane
                step()
