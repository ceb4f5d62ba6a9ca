"""The hypergraph partitioner: it assigns rows that read the same inputs to the rank that owns these inputs, so that few rows travel.

It partitions the layers one after the other, each as a hypergraph. A vertex is an output row; its weight is its number of nonzeros. A net
is a source row. The pins of the net are the output rows that read the source row, and a terminal: an extra vertex that is fixed in the
block of the rank that owns the source row. The solver minimises the connectivity: for each net, the number of blocks that have a pin of
the net, minus one, summed over all nets. This sum is the number of rows that travel. Catalyurek and Aykanat describe this hypergraph
("Hypergraph-partitioning-based decomposition for parallel sparse-matrix vector multiplication", 1999), and FSD-Inference (ICDE 2024) uses
it. The solver is Mt-KaHyPar (Gottesbueren, Heuer, Maas, Sanders and Schlag, "Scalable High-Quality Hypergraph Partitioning", 2024).

Before the solver runs, output rows that read the same inputs are merged into a few vertices, and equal nets into one net. The hypergraph
becomes smaller, the solver becomes faster, and these rows stay together.
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
from fsd_core.partition.balance import contiguous, deal, limit, repair, spread
from fsd_core.partition.owners import Partition
from fsd_core.partition.plain import block
from fsd_core.partition.plan import ExchangePlan
from fsd_core.partition.rows import needs, work
from fsd_core.partition.solver import Hypergraph, Solver, Stopped

__all__ = ["hypergraph"]

_log = logging.getLogger(__name__)
_WEIGHT = 100_000_000  # total weight of the vertices: far above the terminals' weight of 1, and within the library's 32 bits


def hypergraph(
    model: Model,
    workers: int,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    solver: Solver | None = None,
) -> Partition:
    """Partition ``model`` with the solver. Returns the partition of `block` instead if that one moves fewer rows or equally many.

    Equal arguments give equal partitions. The work of each rank stays within `fsd_core.partition.balance.limit`. This function calls
    ``progress(done, layers)`` after each layer. The default ``solver`` is Mt-KaHyPar on one thread. If the solver is not installed, dies or
    takes too long, the other layers get the partition of `block`, a warning is logged, and the label becomes "block" or "hypergraph,
    completed by block".
    """
    blocks = block(model, workers)
    label = "hypergraph"
    if workers == 1:
        return attrs.evolve(blocks, label=label)
    if solver is None:
        if importlib.util.find_spec("mtkahypar") is None:
            _log.warning("mtkahypar is not installed (extra: partition): all layers are partitioned in blocks, so more rows travel")
            return blocks
        solver = Solver([sys.executable, "-P", _mtkahypar.__file__])
    owners: list[NDArray[np.int32]] = []
    with solver:
        for k, layer in enumerate(model.layers):
            try:
                owners.append(_partition_layer(layer, owners[-1] if owners else None, workers, seed, solver))
            except Stopped as stopped:
                rest = f"layers {k + 1} to {len(model.layers)}"
                _log.warning("mtkahypar: %s: %s are partitioned in blocks, so more rows travel", stopped, rest)
                owners.extend(blocks.owners[k + 1 :])
                label = "hypergraph, completed by block"
                break
            finally:
                if progress is not None:
                    progress(len(owners), len(model.layers))
    made = Partition(workers, (_input_owners(model.layers[0], owners[0], workers), *owners))
    moved, moved_by_blocks = (ExchangePlan(model, each).figures()["rows_moved"] for each in (made, blocks))
    return attrs.evolve(made if moved < moved_by_blocks else blocks, label=label)


def _partition_layer(layer: Layer, sources: NDArray[np.int32] | None, workers: int, seed: int, solver: Solver) -> NDArray[np.int32]:
    """The owner of each output row, int32 (outputs,). ``sources`` are the owners of the input rows; `None` if input rows do not travel."""
    weights = work(layer)
    if isinstance(layer.weights, np.ndarray):
        return contiguous(weights, workers)  # dense: with any partition, every rank needs every row
    indptr, indices = layer.weights.indptr, layer.weights.indices
    rows = np.flatnonzero(weights)  # a row without a weight reads no input, so any rank may own it
    if not len(rows):
        return contiguous(weights, workers)
    max_work = limit(weights, workers)
    vertex, vertex_weights = _merge(weights[rows], _sums(_labels(layer.inputs)[indices], indptr[rows]), workers, max_work)
    graph = _build(indices, np.repeat(vertex, weights[rows]), vertex_weights, sources, workers)
    owner = np.empty(layer.outputs, np.int32)
    owner[weights == 0] = spread(layer.outputs - len(rows), workers)
    owner[rows] = solver.blocks(graph, workers, max_work * workers / weights.sum() - 1 + 1e-4, seed % 2**31)[vertex]
    return repair(owner, layer.weights, sources, max_work, workers)


def _merge(
    weights: NDArray[np.int64], pattern: NDArray[np.uint64], workers: int, max_work: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Merge rows of equal ``pattern``, which read the same inputs, into a few vertices of about equal size.

    Returns the vertex of each row and the weight of each vertex. A vertex has at most a quarter of the mean work of a rank. This bound is
    halved until `deal` can distribute the vertices within ``max_work``.
    """
    order = np.argsort(pattern, kind="stable")
    first = np.flatnonzero(np.diff(pattern[order], prepend=~pattern[order[:1]]))
    sizes, weight = np.diff(first, append=len(order)), weights[order[first]]
    place = np.arange(len(order)) - np.repeat(first, sizes)
    vertex = np.empty(len(order), np.int64)
    piece = weights.sum() / workers / 4
    while True:
        pieces = np.minimum(np.ceil(sizes * weight / piece).astype(np.int64), sizes)
        vertex[order] = np.repeat(np.cumsum(pieces) - pieces, sizes) + place * np.repeat(pieces, sizes) // np.repeat(sizes, sizes)
        together = np.bincount(vertex, weights).astype(np.int64)
        if len(together) == len(order) or np.bincount(deal(together, workers), together).max() <= max_work:
            return vertex, together
        piece /= 2


def _build(
    indices: NDArray[np.int32], reads: NDArray[np.int64], weights: NDArray[np.int64], sources: NDArray[np.int32] | None, workers: int
) -> Hypergraph:
    """Build the hypergraph in which vertex ``reads[i]`` reads source row ``indices[i]``.

    Source rows with equal pins and equal owner become one net.
    """
    vertices = len(weights)
    source, pins = np.divmod(np.unique(indices * np.int64(vertices) + reads), vertices)
    starts = np.flatnonzero(np.diff(source, prepend=-1))
    rows, sizes = source[starts], np.diff(starts, append=len(source))
    if sources is not None:  # the last pin of each net is the terminal of its owner
        pins = np.insert(pins, starts + sizes, vertices + sources[rows])
        starts, sizes = starts + np.arange(len(starts)), sizes + 1
    _, first, counts = np.unique(_sums(_labels(vertices + workers)[pins], starts), return_index=True, return_counts=True)
    first, counts = first[sizes[first] > 1], counts[sizes[first] > 1]  # a net of one pin touches one block: its row never travels
    lengths = sizes[first]
    ends = np.cumsum(lengths)
    take = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts[first] - (ends - lengths), lengths)
    scaled = np.maximum(np.rint(weights * (_WEIGHT / weights.sum())), 1).astype(np.int64)
    return Hypergraph(scaled, np.concatenate([[0], ends]), pins[take], counts)


def _labels(count: int) -> NDArray[np.uint64]:
    """Random labels, uint64 (count,). Sets with equal sums count as equal. An error has probability 2^-64 and only lowers the quality."""
    return np.random.default_rng(0).integers(2**64, size=count, dtype=np.uint64)


def _sums(labels: NDArray[np.uint64], starts: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The sum of each segment of ``labels``, which begins at ``starts``; no segment is empty."""
    return np.asarray(np.add.reduceat(labels, starts), np.uint64)


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
