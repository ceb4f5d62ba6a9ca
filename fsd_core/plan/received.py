"""`Tables`: what the ranks of a stage receive in each step, as tables for the simulation, made once for all simulations of a split.

Tables have a row for each target, a rank of the stage, and a column for each rank of the stages that send.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.plan.counts import Exchange
from fsd_core.plan.split import Split, Step

__all__ = ["Received", "Tables"]

Array = NDArray[np.float64]
PAYLOAD_S = 0.6e-3  # processor seconds beside multiplying, as `simulate.STEP_S`, for each payload that a worker sends or receives
GROUPS = 8  # the messages of a payload arrive one by one, in so many groups at most


@attrs.frozen(eq=False)
class Received:
    """A step at one stage. ``stages``: those that send. Tables are 0 where a pair has no payload."""

    stages: slice
    present: NDArray[np.bool_]
    wire: Array  # as in `Exchange`, and so are these:
    stored: NDArray[np.bool_]
    payloads: Array
    second_get: NDArray[np.bool_]
    some_stored: bool
    # Of the messages of a payload: which payloads have the first group, the second one, and so on. None in an object channel.
    groups: Sequence[NDArray[np.bool_]]
    group_messages: Array  # of each group
    messages: Array  # (targets, senders of each group, one group behind the other): the messages in a group of each payload
    mean_bytes: float  # of a message
    decoding: Array  # (targets,) processor seconds to decode


class Tables:
    """Those of a split over one ``channel``."""

    def __init__(self, split: Split, channel: str) -> None:
        self._tensor, self._share, self._channel = split.parallel.tensor, split.share, channel
        self._payload_s = PAYLOAD_S * split.python
        self._received: dict[tuple[int, int], Received] = {}
        self._encoding: dict[tuple[int, int], Array] = {}

    def encoding(self, each: Exchange, stage: int) -> Array:
        """(ranks of the stage,): the processor seconds to encode what a stage sends in a step."""
        step, key = each.step, (each.step.layer, stage)
        if key not in self._encoding:
            mine = step.sources // self._tensor == stage
            work = step.encoding_s(self._share)[mine] + self._payload_s
            self._encoding[key] = self._summed(step.sources[mine] - stage * self._tensor, work)
        return self._encoding[key]

    def received(self, each: Exchange, stage: int) -> Received:
        """What a stage receives in a step."""
        key = each.step.layer, stage
        if key not in self._received:
            self._received[key] = self._made(each, stage)
        return self._received[key]

    def table(self, step: Step, stage: int, values: NDArray[np.generic] | float) -> Array:
        """A table of the pairs of ranks of a step at a stage, with a value for each pair, or one for all."""
        stages = _senders(step, self._tensor)
        found = np.zeros((self._tensor, self._tensor * (stages.stop - stages.start)))
        found[step.targets - stage * self._tensor, step.sources - stages.start * self._tensor] = values
        return found

    def _made(self, each: Exchange, stage: int) -> Received:
        step, tensor = each.step, self._tensor
        stages, rows = _senders(step, tensor), step.targets - stage * tensor

        def table(values: NDArray[np.generic] | float) -> Array:
            return self.table(step, stage, values)

        present, none, some_stored = table(1.0) > 0, table(0.0), bool(each.stored.any())
        pieces, groups, some = none, none, list[NDArray[np.bool_]]()
        if self._channel != "object":
            pieces = table(each.pieces)
            groups = np.clip(pieces, 1.0, GROUPS)
            some = [present & (number < groups) for number in range(int(groups[present].max(initial=1.0)))]
        return Received(
            stages=stages,
            present=present,
            wire=table(each.wire),
            stored=table(each.stored) > 0 if some_stored else none > 0,
            payloads=table(each.payloads) if some_stored else none,
            second_get=table(each.second_get) > 0 if some_stored else none > 0,
            some_stored=some_stored,
            groups=some,
            group_messages=np.maximum(pieces, 1.0) / groups if some else none,
            messages=np.concatenate([np.where(which, pieces / groups, 0.0) for which in some], axis=1) if some else none,
            mean_bytes=float(each.payloads[~each.stored].sum() / max(1.0, each.pieces[~each.stored].sum())) if some else 0.0,
            decoding=self._summed(rows, step.coding.decodes(step.values(self._share)) + self._payload_s),
        )

    def _summed(self, ranks: NDArray[np.int64], values: Array) -> Array:
        """(ranks of a stage,): the sum of the values of each rank."""
        return np.asarray(np.bincount(ranks, values, self._tensor), np.float64)


def _senders(step: Step, tensor: int) -> slice:
    """The stages that send in a step."""
    return slice(int(step.sources.min()) // tensor, int(step.sources.max()) // tensor + 1)
