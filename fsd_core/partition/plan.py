"""`ExchangePlan`: which rows travel between which ranks before each layer, derived from a model and a partition."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsd_core.common import arguments
from fsd_core.model import Layer, Model
from fsd_core.partition.owners import Partition

__all__ = ["ExchangePlan", "needs", "work"]


def work(layer: Layer) -> NDArray[np.int64]:
    """Nonzeros of each output row, int64 (outputs,). Stored zeros count, and all of a dense row."""
    if isinstance(layer.weights, np.ndarray):
        return np.full(layer.outputs, layer.inputs, np.int64)
    return np.diff(layer.weights.indptr)


def needs(layer: Layer, owner: NDArray[np.integer[Any]], workers: int) -> NDArray[np.bool_]:
    """Which rank multiplies which input row, given the ``owner`` of each output row: bool (inputs, workers)."""
    if isinstance(layer.weights, np.ndarray):
        present = np.bincount(owner, minlength=workers) > 0
        return np.repeat(present[None, :], layer.inputs, axis=0)
    need = np.zeros(layer.inputs * workers, np.bool_)
    need[layer.weights.indices * np.int64(workers) + np.repeat(owner, work(layer))] = True
    return need.reshape(layer.inputs, workers)


class ExchangePlan:
    """The rows that travel before layers 2 to L. Layer 1 needs no exchange: the client stages for each rank the `inputs` it needs.

    A row travels from its owner to each other rank that owns an output row with a weight on it (a stored zero is a weight; dense: any).
    Layers are counted from 1; row ids are int32, ascending. Raises `InputError` where the partition does not fit the model.
    """

    def __init__(self, model: Model, partition: Partition) -> None:
        arguments.instance("partition", partition, Partition).check(model)
        self.workers = workers = partition.workers
        self.layers = len(model.layers)
        owners = partition.owners
        first = needs(model.layers[0], owners[1], workers)
        self._inputs = [np.flatnonzero(column).astype(np.int32) for column in first.T]
        self._transfers = [
            _Transfers(needs(layer, owners[k + 1], workers), owners[k], workers) for k, layer in enumerate(model.layers) if k
        ]
        loads = [np.bincount(owners[k + 1], work(layer), workers) for k, layer in enumerate(model.layers)]
        self._imbalance = max((float(load.max() / load.mean()) for load in loads if load.any()), default=1.0)

    def sends(self, layer: int, source: int) -> dict[int, NDArray[np.int32]]:
        """Target rank -> ids of the rows of layer ``layer - 1`` that ``source`` sends it; ranks that get nothing are absent."""
        return self._at(layer).sends(self._rank(source))

    def receives(self, layer: int, target: int) -> dict[int, NDArray[np.int32]]:
        """Source rank -> ids of the rows of layer ``layer - 1`` that it sends to ``target``: the mirror of `sends`."""
        return self._at(layer).receives(self._rank(target))

    def inputs(self, rank: int) -> NDArray[np.int32]:
        """Ids of the input neurons that ``rank`` needs for layer 1."""
        return self._inputs[self._rank(rank)]

    def figures(self) -> dict[str, Any]:
        """What the partition costs.

        ``rows_moved`` (each copy of a row to each other rank counts one) and ``rows_moved_by_layer`` (a list for layers 2 to L),
        ``rows_per_source_row`` (rows moved over distinct rows that travel; 0.0 where none does), ``max_sent`` and ``max_received``
        (the largest total of one rank over all layers), ``imbalance`` (the worst layer's maximum over mean work; work = nonzeros).
        """
        by_layer = [len(transfer.rows) for transfer in self._transfers]
        distinct = sum(transfer.distinct for transfer in self._transfers)
        sent, received = np.zeros(self.workers, np.int64), np.zeros(self.workers, np.int64)
        for transfer in self._transfers:
            np.add.at(sent, transfer.pairs // self.workers, transfer.counts)
            np.add.at(received, transfer.pairs % self.workers, transfer.counts)
        return {
            "rows_moved": sum(by_layer),
            "rows_moved_by_layer": by_layer,
            "rows_per_source_row": sum(by_layer) / distinct if distinct else 0.0,
            "max_sent": int(sent.max()),
            "max_received": int(received.max()),
            "imbalance": self._imbalance,
        }

    def _at(self, layer: int) -> _Transfers:
        if not 2 <= layer <= self.layers:
            raise IndexError(f"layer {layer}: exchanges come before layers 2 to {self.layers}")
        return self._transfers[layer - 2]

    def _rank(self, rank: int) -> int:
        if not 0 <= rank < self.workers:
            raise IndexError(f"rank {rank}: {self.workers} workers have ranks 0 to {self.workers - 1}")
        return rank


class _Transfers:
    """One layer's traffic: ``rows`` sorted by pair, a pair being source * workers + target, then by id."""

    def __init__(self, need: NDArray[np.bool_], owner: NDArray[np.int32], workers: int) -> None:
        need[np.arange(len(owner)), owner] = False
        rows, targets = np.nonzero(need)
        pair = owner[rows].astype(np.int64) * workers + targets
        order = np.argsort(pair, kind="stable")
        self.rows = rows[order].astype(np.int32)
        self.rows.flags.writeable = False  # what the methods give out are views of it
        self.pairs, self.counts = np.unique(pair, return_counts=True)
        self.distinct = int(need.any(axis=1).sum())
        self._starts = np.concatenate([[0], np.cumsum(self.counts)])
        self._workers = workers

    def sends(self, source: int) -> dict[int, NDArray[np.int32]]:
        first, last = np.searchsorted(self.pairs, [source * self._workers, (source + 1) * self._workers])
        return {int(self.pairs[i]) % self._workers: self._slice(i) for i in np.arange(first, last)}

    def receives(self, target: int) -> dict[int, NDArray[np.int32]]:
        found = np.flatnonzero(self.pairs % self._workers == target)
        return {int(self.pairs[i]) // self._workers: self._slice(i) for i in found}

    def _slice(self, i: np.intp) -> NDArray[np.int32]:
        return self.rows[self._starts[i] : self._starts[i + 1]]
