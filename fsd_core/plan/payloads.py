"""How many bytes the payloads of a step have, from what `Facts` kept of the activations.

A payload has a part that is as long for any number of samples, the numbers of its live samples, and its values. A pair of ranks that sent
before in the same micro-batch sends only the difference of its live samples to those of that step (`fsd_core.codec.live`): in the last
layers of a deep network there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.codec import pack
from fsd_core.codec.live import pack_live
from fsd_core.kernel import Block
from fsd_core.plan.facts import DENSE_BYTES, Facts, fewer, order

__all__ = ["StepSizes", "step_sizes"]

HEAD_BYTES, LIVE_BYTES, VALUE_BYTES = 14, 4, 12  # of a payload without live samples: its header, live part and values
HALVED = 8  # fewer live samples do not show which bytes of their values depend on their number
CALL_S, ROW_S, VALUE_S = 80e-6, 2e-6, 20e-9  # of one call of the encoder, for each row, and for each value
Rows = Callable[[int, int], NDArray[np.int32]]  # of a step and of one of its pairs, both by their numbers
Before = Callable[[int, int], "tuple[int, NDArray[np.int32]] | None"]  # the layer and the rows of the step before of the same pair


@attrs.frozen(eq=False)
class StepSizes:
    """The bytes of the payloads of a step, for all samples. ``fixed``: of a payload without samples; ``row``: the values of one row.

    ``live``: all live samples of a payload; ``changes``: those that are not as in the step before of the same pair. ``pairs``: the
    payload of each pair without live samples, as a multiple of what ``fixed`` and ``row`` say; `None`: not all pairs were encoded.
    """

    fixed: float
    live: float
    changes: float
    row: float
    pairs: NDArray[np.float64] | None = None


@attrs.frozen(eq=False)
class _Kept:
    """What enters a layer: a ``block`` of samples whose `order` is below ``until``, which has this ``share`` of the live samples of all."""

    block: Block
    until: float
    share: float

    @classmethod
    def of(cls, facts: Facts, layer: int, most: int | None) -> _Kept | None:
        """That of a layer (from 1), with at most so many live samples; `None` if the layer was not reached."""
        whole = facts.blocks[layer - 1]
        if whole is None:
            return None
        block = whole if most is None else fewer(whole, most)
        cut = len(block.live) < round(float(facts.live[layer - 1]) * facts.sampled / facts.samples)
        share = float(facts.shares[layer - 1]) * (len(block.live) / len(whole.live) if len(whole.live) else 1.0)
        return cls(block, float(order(block.live).max(initial=0.0)) + 1e-9 if cut else 1.0, share)


@attrs.define
class _Found:
    """What some pairs of a step have: numbers of `StepSizes`, the rows, and the bytes of their values."""

    fixed: list[float] = attrs.field(factory=list)
    live: list[float] = attrs.field(factory=list)
    changes: list[float] = attrs.field(factory=list)
    rows: list[int] = attrs.field(factory=list)
    values: list[float] = attrs.field(factory=list)

    @property
    def row(self) -> float:
        """The bytes of the values of one row, over all these pairs."""
        return sum(self.values) / max(1, sum(self.rows))

    def pairs(self, count: int) -> NDArray[np.float64] | None:
        """`StepSizes.pairs` of ``count`` pairs; `None` unless all were encoded."""
        if len(self.rows) < count:
            return None
        found = np.array(self.fixed) + self.values
        return found / (np.mean(self.fixed) + np.array(self.rows) * self.row)


def step_sizes(
    facts: Facts,
    layers: Sequence[int],
    counts: Sequence[NDArray[np.float64]],
    rows_of: Rows,
    before: Before,
    cost: float,
    samples: int | None = None,
) -> list[StepSizes]:
    """The sizes of the steps before these ``layers``. ``counts``: the rows of each pair of a step.

    Encodes pairs of some steps, in about ``cost`` seconds. The others have as many bytes for a live sample as their neighbours.
    ``samples``: encode no more live samples.
    """
    kept = {number: _Kept.of(facts, number, samples) for number in range(1, max(layers, default=0) + 1)}
    found, known = dict[int, _Found](), dict[tuple[int, bytes], int]()
    for done, at in enumerate(_spread_order(len(layers))):
        whole = kept[layers[at]]
        if not len(counts[at]) or whole is None:
            continue
        each_s = 3 * CALL_S + (ROW_S + VALUE_S * len(whole.block.live)) * float(counts[at].max())
        if cost < each_s:
            continue
        fair = max(1, int(cost / each_s / (len(layers) - done)))  # so that neighbours, which may differ, are encoded too
        pairs = np.unique(np.linspace(0, len(counts[at]) - 1, min(fair, len(counts[at]), 64)).astype(int))
        cost -= len(pairs) * each_s
        mine, slope = found.setdefault(at, _Found()), None
        for pair in pairs.tolist():
            rows = rows_of(at, pair)
            sent = whole.block.take(rows)
            size = _packed(sent, known)
            slope = _slope(sent, size) if slope is None else slope
            mine.fixed.append(HEAD_BYTES + LIVE_BYTES + size * (1 - slope))
            mine.rows.append(len(rows))
            mine.values.append(size * slope / whole.share)
            mine.live.append(_live(facts, whole, sent.live))
            earlier = before(at, pair)
            if earlier is not None and (other := kept[earlier[0]]) is not None:
                mine.changes.append(_live(facts, whole, sent.live, other, other.block.take(earlier[1]).live))
    made = _between(found, np.array([max(1.0, float(facts.live[number - 1])) for number in layers]))
    return [attrs.evolve(each, pairs=found[at].pairs(len(counts[at]))) if at in found else each for at, each in enumerate(made)]


def _packed(sent: Block, known: dict[tuple[int, bytes], int]) -> int:
    """The bytes of the encoded values of a block. ``known``: those of blocks without live samples: many are equal in a deep network."""
    if len(sent.live):
        return len(pack(sent).values)
    key = sent.rows, sent.values.tobytes()
    if key not in known:
        known[key] = len(pack(sent).values)
    return known[key]


def _between(found: dict[int, _Found], alive: NDArray[np.float64]) -> list[StepSizes]:
    """The sizes of all steps from those ``found`` by number. ``alive``: the live samples of each step."""
    if not found:
        return [StepSizes(HEAD_BYTES + LIVE_BYTES + VALUE_BYTES, 0.0, 0.0, DENSE_BYTES * each) for each in alive.tolist()]

    def everywhere(known: dict[int, float]) -> NDArray[np.float64]:
        at = sorted(known)
        return np.interp(np.arange(len(alive)), at, [known[each] for each in at]) if at else np.zeros(len(alive))

    fixed = everywhere({at: float(np.mean(each.fixed)) for at, each in found.items()})
    live = everywhere({at: float(np.mean(each.live)) / alive[at] for at, each in found.items()})
    changes = everywhere({at: float(np.mean(each.changes)) / alive[at] for at, each in found.items() if each.changes})
    row = everywhere({at: each.row / alive[at] for at, each in found.items()})
    all_steps = zip(fixed.tolist(), (live * alive).tolist(), (changes * alive).tolist(), (row * alive).tolist(), strict=True)
    return [StepSizes(*each) for each in all_steps]


def _slope(sent: Block, size: int) -> float:
    """The share of the ``size`` bytes of these values that grows with the number of samples."""
    if len(sent.live) < HALVED:
        return max(0.0, 1 - VALUE_BYTES / size) if len(sent.live) else 0.0
    half = fewer(sent, len(sent.live) // 2)
    return float(np.clip((1 - len(pack(half).values) / size) / (1 - len(half.live) / len(sent.live)), 0.0, 1.0))


def _live(
    facts: Facts, whole: _Kept, live: NDArray[np.int32], other: _Kept | None = None, before: NDArray[np.int32] | None = None
) -> float:
    """The bytes by which some rows of ``whole`` name their ``live`` samples, for the whole input; if some rows of ``other``, which the pair
    sent ``before``, are given, as the difference to theirs. Only samples count of which both blocks have all that are live.
    """
    until = min(whole.until, other.until if other else 1.0)
    some = np.flatnonzero(order(np.arange(whole.block.samples)) < until)

    def places(samples: NDArray[np.int32]) -> NDArray[np.int32]:
        return np.searchsorted(some, samples[order(samples) < until]).astype(np.int32)

    size = len(pack_live(places(live), len(some), None if before is None else places(before)))
    return max(0, size - LIVE_BYTES) * facts.samples / max(1, len(some))


def _spread_order(count: int) -> list[int]:
    """The numbers below ``count`` in an order of which each beginning is spread over all: the ends, then middles of ever shorter spans."""
    return sorted(range(count), key=lambda at: (at not in (0, count - 1), at != 1, f"{at:032b}"[::-1]))
