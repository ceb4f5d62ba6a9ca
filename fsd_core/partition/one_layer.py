"""Partitions the rows of one layer: builds the hypergraph, asks the solver, and corrects the balance of its answer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fsd_core.model import Layer
from fsd_core.partition.balance import contiguous, deal, limit, repair, spread
from fsd_core.partition.rows import needs, work
from fsd_core.partition.solver import Hypergraph, Solver

__all__ = ["crossing", "one_layer"]

_WEIGHT = 100_000_000  # total weight of the vertices: far above the terminals' weight of 1, and within the library's 32 bits


def one_layer(
    layer: Layer, sources: NDArray[np.int32] | None, targets: NDArray[np.bool_] | None, workers: int, seed: int, solver: Solver
) -> NDArray[np.int32]:
    """Choose the owner of each output row of ``layer``, int32 (outputs,), so that few rows travel to it and from it.

    ``sources`` is the owner of each input row, int32 (inputs,). ``targets`` says which ranks need each output row, bool (outputs,
    workers). Either is `None` if it is not known, or if those rows do not travel. Raises `Stopped` if the solver gives no answer.
    """
    weights = work(layer)
    if isinstance(layer.weights, np.ndarray):
        return contiguous(weights, workers)  # dense: with any partition, every rank needs every row
    indptr, indices = layer.weights.indptr, layer.weights.indices
    rows = np.flatnonzero(weights)  # a row without a weight reads no input, so any rank may own it
    if not len(rows):
        return contiguous(weights, workers)
    max_work = limit(weights, workers)
    vertex, vertex_weights = _merge(weights[rows], _sums(_labels(layer.inputs)[indices], indptr[rows]), workers, max_work)
    nets = [_nets_of_inputs(indices, np.repeat(vertex, weights[rows]), len(vertex_weights), sources, workers)]
    if targets is not None:
        nets.append(_nets_of_outputs(vertex, len(vertex_weights), targets[rows], workers))
    lengths = np.concatenate([np.diff(starts) for starts, _, _ in nets])
    graph = Hypergraph(
        np.maximum(np.rint(vertex_weights * (_WEIGHT / vertex_weights.sum())), 1).astype(np.int64),
        np.concatenate([[0], np.cumsum(lengths)]),
        np.concatenate([pins for _, pins, _ in nets]),
        np.concatenate([counts for _, _, counts in nets]),
    )
    owner = np.empty(layer.outputs, np.int32)
    owner[weights == 0] = spread(layer.outputs - len(rows), workers)
    owner[rows] = solver.blocks(graph, workers, max_work * workers / weights.sum() - 1 + 1e-4, seed % 2**31)[vertex]
    return repair(owner, layer.weights, sources, max_work, workers)


def crossing(layer: Layer, sources: NDArray[np.int32], owner: NDArray[np.int32], workers: int) -> int:
    """The number of rows that travel before ``layer``: ``sources`` owns its input rows, ``owner`` its output rows."""
    need = needs(layer, owner, workers)
    need[np.arange(len(sources)), sources] = False
    return int(np.count_nonzero(need))


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


_Nets = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]  # starts (nets + 1,), pins, weights (nets,), as in `Hypergraph`


def _nets_of_inputs(
    indices: NDArray[np.int32], reads: NDArray[np.int64], vertices: int, sources: NDArray[np.int32] | None, workers: int
) -> _Nets:
    """The nets of the source rows, where vertex ``reads[i]`` reads source row ``indices[i]``.

    Source rows with equal pins and equal owner become one net.
    """
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
    return np.concatenate([[0], ends]), pins[take], counts


def _nets_of_outputs(vertex: NDArray[np.int64], vertices: int, targets: NDArray[np.bool_], workers: int) -> _Nets:
    """For each vertex and each rank that needs rows of it: a net of the vertex and the rank's terminal, as heavy as these rows are many.

    A row travels to all ranks that need it, except to its owner. So the rows that travel are a constant minus the weight of the nets that
    stay in one block.
    """
    row, rank = np.nonzero(targets)
    pairs, counts = np.unique(vertex[row] * workers + rank, return_counts=True)
    pins = np.stack([pairs // workers, vertices + pairs % workers], axis=1).reshape(-1)
    return np.arange(0, len(pins) + 1, 2), pins, counts


def _labels(count: int) -> NDArray[np.uint64]:
    """Random labels, uint64 (count,). Sets with equal sums count as equal. An error has probability 2^-64 and only lowers the quality."""
    return np.random.default_rng(0).integers(2**64, size=count, dtype=np.uint64)


def _sums(labels: NDArray[np.uint64], starts: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The sum of each segment of ``labels``, which begins at ``starts``; no segment is empty."""
    return np.asarray(np.add.reduceat(labels, starts), np.uint64)
