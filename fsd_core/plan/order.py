"""`Order`: the places of a rank's requests among those of the same verb: so a simulated run with a seed draws what a real one draws."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fsd_core.plan.counts import Exchange, Fixed
from fsd_core.plan.split import Split

__all__ = ["Order"]

Counts = NDArray[np.int64]  # (ranks of a replica,)
CLAIM_GETS, CLAIM_PUTS = 2, 1  # of a rank, until it has read the configuration


class Order:
    """That of one replica over one ``channel``. Methods return how many requests of the verb each rank makes before, (ranks,).

    ``certain``: whether that is known; not if a step of the split stands for several.
    """

    def __init__(self, split: Split, exchanges: Mapping[int, Exchange], fixed: Fixed, channel: str) -> None:
        self.certain = all(each.step.weight == 1 for each in exchanges.values())
        ranks = split.parallel.parts
        self._reads = (fixed.input_bytes > 0).astype(np.int64)
        self._outputs = (fixed.output_bytes > 0).astype(np.int64)
        self._puts, self._messages = np.zeros(ranks, np.int64), np.zeros(ranks, np.int64)  # of all exchanges of a micro-batch
        self._puts_before, self._messages_before = dict[int, Counts](), dict[int, Counts]()  # by layer, of each rank and of each pair
        for layer, each in sorted(exchanges.items()):
            self._puts_before[layer] = self._puts.copy()
            self._puts[np.unique(each.step.sources[each.stored])] += 1  # a bundle has what all targets get
            if channel != "object":
                messages = np.where(each.stored, 1, each.pieces).astype(np.int64)  # a notice, or the pieces of a payload
                self._messages_before[layer] = self._messages[each.step.sources] + _before(each, messages)
                self._messages += np.bincount(each.step.sources, messages, ranks).astype(np.int64)

    def first_read(self) -> Counts:
        """Gets before that of the head of the shard. A rank with an input gets this input just before."""
        return CLAIM_GETS + self._reads

    def put(self, layer: int, batch: int) -> Counts:
        """Puts before that of the exchange before a layer."""
        return CLAIM_PUTS + batch * (self._puts + self._outputs) + self._puts_before[layer]

    def delivery(self, each: Exchange, batch: int) -> Counts:
        """(pairs,): messages of the source before those of each payload of an exchange."""
        found: Counts = batch * self._messages[each.step.sources] + self._messages_before[each.step.layer]
        return found

    def output(self) -> Counts:
        """Puts before that of the output of the first micro-batch."""
        return CLAIM_PUTS + self._puts

    def ended(self, batches: int) -> tuple[Counts, Counts]:
        """Puts and messages of all micro-batches."""
        return CLAIM_PUTS + batches * (self._puts + self._outputs), batches * self._messages


def _before(each: Exchange, messages: Counts) -> Counts:
    """(pairs,): the ``messages`` of an exchange that its source sends before those of each pair. Notices follow once payloads are put."""
    order = np.lexsort((each.stored, each.step.sources))
    before = np.cumsum(messages[order]) - messages[order]
    sources = each.step.sources[order]
    found = np.empty_like(messages)
    found[order] = before - before[np.searchsorted(sources, sources)]
    return found
