"""The payloads of one rank in one micro-batch: encodes them in the pool while the rank multiplies, and decodes those that arrive.

Both ranks of a pair know which samples were live in their last step of this micro-batch, and only the difference travels. So the payloads
of a pair have to be decoded in the order of their steps. The layer loop receives the steps in this order, even if payloads arrive in
another order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.channel import Channel
from fsd_core.codec import CodecError, Decoder, Encoder, Packed, pack
from fsd_core.driver import Code
from fsd_core.errors import RunFailed
from fsd_core.kernel import Block

__all__ = ["Payloads"]


@attrs.frozen(eq=False)
class Payloads:
    """The payloads of one micro-batch. ``base`` is the first rank of this replica: layers count ranks from there."""

    channel: Channel
    base: int
    pool: Executor
    _encoder: Encoder = attrs.field(factory=Encoder, init=False)
    _decoder: Decoder = attrs.field(factory=Decoder, init=False)

    def send(self, step: int, block: Block, targets: Sequence[tuple[int, NDArray[np.int32]]]) -> Future[None]:
        """Start to encode and send rows of ``block``. ``targets``: pairs of a rank and the indices of its rows, int32 (rows,).

        Wait for the result before the next call.
        """
        return self.pool.submit(self._send, step, block, targets)

    def _send(self, step: int, block: Block, targets: Sequence[tuple[int, NDArray[np.int32]]]) -> None:
        self.channel.send(step, self._encoded(block, targets))

    def _encoded(self, block: Block, targets: Sequence[tuple[int, NDArray[np.int32]]]) -> Iterator[tuple[int, bytes]]:
        """Rank and payload of each target. Targets that need the same rows share their encoded activations."""
        done: dict[bytes, Packed] = {}
        for target, rows in targets:
            key = rows.tobytes()
            if key not in done:
                done[key] = pack(block.take(rows))
            data = self._encoder.encode(target, done[key])
            self.channel.meter.add("payload_bytes_sent", len(data))
            yield self.base + target, data

    def receive(self, step: int, sources: Sequence[tuple[int, int]], samples: int) -> list[Block]:
        """The rows of every source: decoded as they arrive, returned in the order of ``sources``, pairs of (source, number of rows).

        Raises `RunFailed` if a payload is damaged or belongs to another step.
        """
        rows = {self.base + source: count for source, count in sources}
        blocks: dict[int, Block] = {}
        for source, payload in self.channel.receive(step):
            try:
                blocks[source] = self._decoder.decode(source, payload, rows[source], samples)
            except CodecError as error:
                raise RunFailed(Code.INVALID, f"the payload of rank {source} is damaged: {error}") from error
        return [blocks[source] for source in rows]
