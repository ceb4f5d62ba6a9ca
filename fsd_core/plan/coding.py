"""`Coding`: how long a core of this machine takes to encode and to decode activations, measured on some of those that `learn` computed.

It depends on the values: equal ones are encoded several times faster than noise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.codec import decode, encode
from fsd_core.codec.values import TRIAL
from fsd_core.kernel import Block
from fsd_core.partition.stages import DECODE_S, ENCODE_S

__all__ = ["Coding", "measured"]

LARGE = 4 * TRIAL  # values of the larger block that is encoded
LEAST = 1024  # values of a block that says how long others take
LAYERS = 8  # that are measured, most of them among the first ones, which differ most; the others take as long as the nearest of these
TIMES = 2  # a block is encoded so often, and the shortest time counts


@attrs.frozen
class Coding:
    """Seconds of a core for one value. ``trial_s``: beyond ``encode_s``, for each of the first `TRIAL` values, in which the codec looks for
    the smallest form.
    """

    encode_s: float = ENCODE_S
    trial_s: float = 0.0
    decode_s: float = DECODE_S

    def encodes(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The seconds to encode payloads with so many values."""
        found: NDArray[np.float64] = values * self.encode_s + np.minimum(values, TRIAL) * self.trial_s
        return found

    def decodes(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The seconds to decode payloads with so many values."""
        found: NDArray[np.float64] = values * self.decode_s
        return found


def measured(blocks: Sequence[Block], until: float) -> list[Coding]:
    """One for each of the ``blocks``: some of them are encoded and decoded, until the monotonic time ``until``, at least the first one."""
    enough = [number for number, block in enumerate(blocks) if _values(block) >= LEAST]
    places = np.unique((np.geomspace(1, max(1, len(enough)), LAYERS) - 1).round().astype(int)).tolist() if enough else []
    found = dict[int, Coding]()
    for number in (enough[place] for place in (*places[:1], *places[:0:-1])):  # the first one, the last one, and those between
        if found and time.monotonic() > until:
            break
        found[number] = _of(blocks[number])
    known = np.array(list(found), int)
    return [found[int(known[np.abs(known - number).argmin()])] if len(known) else Coding() for number in range(len(blocks))]


def _of(block: Block) -> Coding:
    """That of the values of one block."""
    small, small_s, _ = _timed(block, TRIAL)
    large, large_s, decode_s = _timed(block, LARGE)
    if large <= small:
        return Coding(large_s / large, 0.0, decode_s / large)
    each_s = max(0.0, large_s - small_s) / (large - small)
    return Coding(each_s, max(0.0, small_s / small - each_s), decode_s / large)


def _timed(block: Block, values: int) -> tuple[int, float, float]:
    """The number of values in some rows of a block, about ``values``, and the seconds to encode and to decode them.

    A sample that is live in other rows only counts, although it is not encoded: the values of a step (`Step.values`) count it too.
    """
    rows = min(block.rows, max(1, values // len(block.live)))
    some = block.take(np.linspace(0, block.rows - 1, rows).astype(np.int32))
    data, encode_s = _shortest(lambda: encode(some))
    _, decode_s = _shortest(lambda: decode(data, some.rows, some.samples))
    return rows * len(block.live), encode_s, decode_s


def _values(block: Block) -> int:
    return block.rows * len(block.live)


def _shortest(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and its shortest time of a few."""
    took = []
    for _ in range(TIMES):
        began = time.thread_time()
        found = call()
        took.append(time.thread_time() - began)
    return found, min(took)
