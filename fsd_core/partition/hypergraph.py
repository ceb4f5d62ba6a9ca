"""The hypergraph partitioner: few rows travel because rows that read the same inputs meet where these inputs are.

Each layer in turn is a hypergraph. A vertex is an output row that weighs its nonzeros; a net is a source row: the output rows that read it
and a terminal, fixed at the owner that the layer before gave it. The connectivity objective (over the nets, the blocks that each touches
less one) then is the number of rows that travel. The model is that of Catalyurek and Aykanat ("Hypergraph-partitioning-based decomposition
for parallel sparse-matrix vector multiplication", 1999), as in FSD-Inference (ICDE 2024); the solver is Mt-KaHyPar (Gottesbueren, Heuer,
Maas, Sanders and Schlag, "Scalable High-Quality Hypergraph Partitioning", 2024). Output rows of one pattern are merged to few vertices and
equal nets to one: smaller, faster, and better, since what belongs together moves together.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fsd_core.model import Layer, Model
from fsd_core.partition import _mtkahypar
from fsd_core.partition.balance import contiguous, deal, limit, repair, spread
from fsd_core.partition.owners import Partition
from fsd_core.partition.plain import block
from fsd_core.partition.plan import ExchangePlan, needs, work
from fsd_core.partition.solver import Hypergraph, Solver, Stopped

__all__ = ["hypergraph"]

_log = logging.getLogger(__name__)
_WEIGHT = 100_000_000  # the vertices together: large beside the terminals' weight of 1, small enough for the library's 32 bits


def hypergraph(
    model: Model,
    workers: int,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    solver: Solver | None = None,
) -> Partition:
    """The partition that this module describes, or that of `block` where it moves no more rows. Equal arguments give equal partitions.

    Each layer is as even as `fsd_core.partition.balance.limit` says. Where the ``solver`` (default: Mt-KaHyPar on one thread) is missing,
    dies or takes too long, a warning is logged, the layers that are left are shared out in blocks, and the partition's label says so.
    """
    blocks = block(model, workers)
    label = "hypergraph"
    if workers == 1:
        return replace(blocks, label=label)
    if solver is None:
        if importlib.util.find_spec("mtkahypar") is None:
            _log.warning("mtkahypar is not installed (extra: partition): the layers are shared out in blocks, more rows will travel")
            return blocks
        solver = Solver([sys.executable, "-P", _mtkahypar.__file__])
    owners: list[NDArray[np.int32]] = []
    with solver:
        for k, layer in enumerate(model.layers):
            try:
                owners.append(_share(layer, owners[-1] if owners else None, workers, seed, solver))
            except Stopped as stopped:
                left = f"layers {k + 1} to {len(model.layers)}"
                _log.warning("mtkahypar: %s: %s are shared out in blocks, more rows will travel", stopped, left)
                owners.extend(blocks.owners[k + 1 :])
                label = "hypergraph, completed by block"
                break
            finally:
                if progress is not None:
                    progress(len(owners), len(model.layers))
    made = Partition(workers, (_inputs(model.layers[0], owners[0], workers), *owners))
    moved, moved_by_blocks = (ExchangePlan(model, each).figures()["rows_moved"] for each in (made, blocks))
    return replace(made if moved < moved_by_blocks else blocks, label=label)


def _share(layer: Layer, sources: NDArray[np.int32] | None, workers: int, seed: int, solver: Solver) -> NDArray[np.int32]:
    """Owner of each output row, given the owners of the input rows (`None`: the model's inputs, which cost nothing wherever they are)."""
    weights = work(layer)
    if isinstance(layer.weights, np.ndarray):
        return contiguous(weights, workers)  # every rank needs every row, whoever owns what
    indptr, indices = layer.weights.indptr, layer.weights.indices
    rows = np.flatnonzero(weights)  # a row without a weight needs nothing, so it may be anywhere
    if not len(rows):
        return contiguous(weights, workers)
    most = limit(weights, workers)
    vertex, heights = _merge(weights[rows], _sums(_labels(layer.inputs)[indices], indptr[rows]), workers, most)
    graph = _build(indices, np.repeat(vertex, weights[rows]), heights, sources, workers)
    owner = np.empty(layer.outputs, np.int32)
    owner[weights == 0] = spread(layer.outputs - len(rows), workers)
    owner[rows] = solver.blocks(graph, workers, most * workers / weights.sum() - 1 + 1e-4, seed % 2**31)[vertex]
    return repair(owner, layer.weights, sources, most, workers)


def _merge(weights: NDArray[np.int64], pattern: NDArray[np.uint64], workers: int, most: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The vertex of each row, and the weight of each vertex: rows of one pattern (so of one weight) make as few equal vertices as may be.

    A vertex has at most a quarter of a rank's mean work; half of that, and so on, while the vertices do not fit loads of ``most``.
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
        if len(together) == len(order) or np.bincount(deal(together, workers), together).max() <= most:
            return vertex, together
        piece /= 2


def _build(
    indices: NDArray[np.int32], reads: NDArray[np.int64], weights: NDArray[np.int64], sources: NDArray[np.int32] | None, workers: int
) -> Hypergraph:
    """The hypergraph in which vertex ``reads[i]`` reads source row ``indices[i]``; sources of equal pins and owner become one net."""
    vertices = len(weights)
    source, pins = np.divmod(np.unique(indices * np.int64(vertices) + reads), vertices)
    starts = np.flatnonzero(np.diff(source, prepend=-1))
    rows, sizes = source[starts], np.diff(starts, append=len(source))
    if sources is not None:  # the terminal becomes each net's last pin
        pins = np.insert(pins, starts + sizes, vertices + sources[rows])
        starts, sizes = starts + np.arange(len(starts)), sizes + 1
    _, first, counts = np.unique(_sums(_labels(vertices + workers)[pins], starts), return_index=True, return_counts=True)
    first, counts = first[sizes[first] > 1], counts[sizes[first] > 1]  # a net of one pin never travels
    lengths = sizes[first]
    ends = np.cumsum(lengths)
    take = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts[first] - (ends - lengths), lengths)
    scaled = np.maximum(np.rint(weights * (_WEIGHT / weights.sum())), 1).astype(np.int64)
    return Hypergraph(scaled, np.concatenate([[0], ends]), pins[take], counts)


def _labels(count: int) -> NDArray[np.uint64]:
    """Random numbers whose sums tell sets apart (sets taken for equal by chance would cost quality, nothing else)."""
    return np.random.default_rng(0).integers(2**64, size=count, dtype=np.uint64)


def _sums(labels: NDArray[np.uint64], starts: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Sum of each segment of ``labels``; segments are not empty."""
    return np.asarray(np.add.reduceat(labels, starts), np.uint64)


def _inputs(layer: Layer, owner: NDArray[np.int32], workers: int) -> NDArray[np.int32]:
    """Owner of each of the model's inputs: a rank that needs it (any where none does), fewest choices first, the least loaded."""
    need = needs(layer, owner, workers)
    need[~need.any(axis=1)] = True
    inputs, load = np.empty(layer.inputs, np.int32), np.zeros(workers, np.int64)
    for row in np.argsort(need.sum(axis=1), kind="stable"):
        able = np.flatnonzero(need[row])
        inputs[row] = able[load[able].argmin()]
        load[inputs[row]] += 1
    return inputs
