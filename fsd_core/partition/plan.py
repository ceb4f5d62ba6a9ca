"""`ExchangePlan`: the rows that the ranks send each other before each layer. It is computed from a model and a partition."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsd_core.common import arguments
from fsd_core.model import Model
from fsd_core.partition.owners import Partition
from fsd_core.partition.rows import needs, work

__all__ = ["ExchangePlan"]


class ExchangePlan:
    """The rows that travel before layers 2 to L. Layer 1 needs no exchange: the client stages the `inputs` that each rank needs.

    A row travels from its owner to each other rank that owns an output row with a weight for it. A stored zero is a weight, and a dense
    layer has a weight for every row. Layers are counted from 1; row numbers are 0-based int32 arrays, ascending. Raises `InputError` if
    the partition does not fit the model, and `IndexError` for a layer or rank that does not exist.
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
        self.loads = np.array(loads)  # (layers, workers): the number of stored weights of each rank in each layer
        self._imbalance = max((float(load.max() * partition.tensor / load.sum()) for load in loads if load.any()), default=1.0)

    def sends(self, layer: int, source: int) -> dict[int, NDArray[np.int32]]:
        """The rows of layer ``layer - 1`` that rank ``source`` sends before ``layer``, by target rank, each int32 (rows,).

        Contains only targets that get at least one row.
        """
        return self._at(layer).sends(self._rank(source))

    def receives(self, layer: int, target: int) -> dict[int, NDArray[np.int32]]:
        """The rows of layer ``layer - 1`` that rank ``target`` receives before ``layer``, by source rank, each int32 (rows,).

        Contains only sources that send at least one row.
        """
        return self._at(layer).receives(self._rank(target))

    def pairs(self, layer: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """What travels before ``layer``: source ranks, target ranks and numbers of rows of each pair of ranks, int64 (pairs,)."""
        found = self._at(layer)
        return found.pairs // self.workers, found.pairs % self.workers, found.counts.astype(np.int64)

    def inputs(self, rank: int) -> NDArray[np.int32]:
        """The input neurons that ``rank`` needs for layer 1, int32 (rows,)."""
        return self._inputs[self._rank(rank)]

    def figures(self) -> dict[str, Any]:
        """The cost of the partition, in rows.

        ``rows_moved`` counts each copy of a row to another rank; ``rows_moved_by_layer`` is a list for layers 2 to L.
        ``rows_per_source_row`` is ``rows_moved`` divided by the number of distinct rows that travel, or 0.0 if no row travels. ``max_sent``
        and ``max_received`` are the largest numbers of rows that one rank sends or receives in all layers together. ``imbalance`` is the
        maximum work of a rank divided by the mean work of a rank of the stage, in the layer with the largest quotient; work is the number
        of nonzeros.
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
            raise IndexError(f"layer {layer}: expected one of layers 2 to {self.layers}, which have an exchange before them")
        return self._transfers[layer - 2]

    def _rank(self, rank: int) -> int:
        if not 0 <= rank < self.workers:
            raise IndexError(f"rank {rank}: expected one of ranks 0 to {self.workers - 1}")
        return rank


class _Transfers:
    """The rows that travel before one layer: ``rows`` is sorted by pair (source * workers + target), then by row number."""

    def __init__(self, need: NDArray[np.bool_], owner: NDArray[np.int32], workers: int) -> None:
        need[np.arange(len(owner)), owner] = False
        rows, targets = np.nonzero(need)
        pair = owner[rows].astype(np.int64) * workers + targets
        order = np.argsort(pair, kind="stable")
        self.rows = rows[order].astype(np.int32)
        self.rows.flags.writeable = False  # the methods return views of it
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
