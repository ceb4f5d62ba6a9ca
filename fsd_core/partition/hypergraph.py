"""The hypergraph partitioner: it assigns rows that read the same inputs to the rank that owns these inputs, so that few rows travel.

It partitions each layer as a hypergraph. A vertex is an output row; its weight is its number of nonzeros. A net is a source row. The pins
of the net are the output rows that read the source row, and a terminal: an extra vertex that is fixed in the block of the rank that owns
the source row. The solver minimises the connectivity: for each net, the number of blocks that have a pin of the net, minus one, summed
over all nets. This sum is the number of rows that travel. Catalyurek and Aykanat describe this hypergraph ("Hypergraph-partitioning-based
decomposition for parallel sparse-matrix vector multiplication", 1999), and FSD-Inference (ICDE 2024) uses it. The solver is Mt-KaHyPar
(Gottesbueren, Heuer, Maas, Sanders and Schlag, "Scalable High-Quality Hypergraph Partitioning", 2024).

Before the solver runs, output rows that read the same inputs are merged into a few vertices, and equal nets into one net. The hypergraph
becomes smaller, the solver becomes faster, and these rows stay together.

Two processes solve at the same time. The first solves the layer in the middle of the model, and then each layer behind it, whose source
rows have owners by then. The second solves the layers before the middle, from the last to the first: there it is known which ranks need
the output rows of a layer, so the terminals stand for these ranks. At the end every second layer is solved again, between its two
neighbours, and gets the new owners if fewer rows travel. Which process solves which layers depends on the model alone, never on the
number of cores or on timing, because the solver's answer depends on the requests before.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Callable

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.model import Layer, Model
from fsd_core.partition import _mtkahypar
from fsd_core.partition.chains import Chains
from fsd_core.partition.one_layer import crossing
from fsd_core.partition.owners import Partition
from fsd_core.partition.plain import block
from fsd_core.partition.rows import needs
from fsd_core.partition.solver import Solver

__all__ = ["default_solver", "hypergraph"]

_log = logging.getLogger(__name__)


def hypergraph(
    model: Model,
    workers: int,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    solver: Callable[[], Solver] | None = None,
) -> Partition:
    """Partition ``model`` with the solver. Returns the partition of `block` instead if that one moves fewer rows or equally many.

    Equal arguments give equal partitions. The work of each rank stays within `fsd_core.partition.balance.limit`. This function calls
    ``progress(done, layers)`` as the work goes on, with each number of layers once. ``solver`` makes a solver; it is called twice. The
    default is Mt-KaHyPar on one thread. If the solver is not installed, dies or takes too long, the other layers get the partition of
    `block`, a warning is logged, and the label becomes "block" or "hypergraph, completed by block"; or "hypergraph, unfinished" if that
    happens while layers are solved again.
    """
    blocks = block(model, workers)
    if workers == 1:
        return attrs.evolve(blocks, label="hypergraph")
    solver = solver or default_solver()
    if solver is None:
        _log.warning("mtkahypar is not installed (extra: partition): all layers are partitioned in blocks, so more rows travel")
        return blocks
    solve, label = Chains(model.layers, workers, seed), "hypergraph"
    solve.run(solver, progress)
    if missing := [k for k, owner in enumerate(solve.owners, 1) if owner is None]:
        rest = f"layers {missing[0]} to {missing[-1]}" if missing[-1] - missing[0] + 1 == len(missing) else f"{len(missing)} layers"
        _log.warning("mtkahypar: %s: %s are partitioned in blocks, so more rows travel", solve.stopped, rest)
        label = "hypergraph, completed by block"
    elif solve.stopped is not None:
        _log.warning("mtkahypar: %s: the last improvements are left out, so more rows may travel", solve.stopped)
        label = "hypergraph, unfinished"
    owners = [blocks.owners[k] if owner is None else owner for k, owner in enumerate(solve.owners, 1)]
    made = Partition(workers, (_input_owners(model.layers[0], owners[0], workers), *owners), label)
    return made if _moved(model, made) < _moved(model, blocks) else attrs.evolve(blocks, label=label)


def default_solver() -> Callable[[], Solver] | None:
    """A function that makes a solver: Mt-KaHyPar in a child process. `None` if Mt-KaHyPar is not installed."""
    if importlib.util.find_spec("mtkahypar") is None:
        return None
    return lambda: Solver([sys.executable, "-P", _mtkahypar.__file__])


def _moved(model: Model, made: Partition) -> int:
    """The number of rows that travel, counted layer by layer without the lists of an `ExchangePlan`."""
    owners = made.owners
    return sum(crossing(layer, owners[k], owners[k + 1], made.workers) for k, layer in enumerate(model.layers) if k)


def _input_owners(layer: Layer, owner: NDArray[np.int32], workers: int) -> NDArray[np.int32]:
    """Choose the owner of each input of the model, int32 (inputs,).

    The owner is the rank that owns the fewest inputs so far, among the ranks that need the input, or among all ranks if no rank needs it.
    The choice starts with the inputs that the fewest ranks need.
    """
    need = needs(layer, owner, workers)
    need[~need.any(axis=1)] = True
    inputs, load = np.empty(layer.inputs, np.int32), np.zeros(workers, np.int64)
    for row in np.argsort(need.sum(axis=1), kind="stable"):
        able = np.flatnonzero(need[row])
        inputs[row] = able[load[able].argmin()]
        load[inputs[row]] += 1
    return inputs
