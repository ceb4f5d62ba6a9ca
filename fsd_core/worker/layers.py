"""The layer loop of one rank: for each of its layers of a batch it sends, multiplies, receives, multiplies and activates.

A rank has only the layers of its stage. It sends as soon as it has computed, and goes on with the next batch while the next stage computes
this one: no rank waits for all others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future

import attrs
import numpy as np

from fsd_core.codec import CodecError, decode, encode
from fsd_core.driver import Code
from fsd_core.errors import DamagedContent
from fsd_core.kernel import Block, Fused, Weights, forward, stacked, union
from fsd_core.protocol.shard import LayerShard, ShardReader
from fsd_core.worker.loop import Loop
from fsd_core.worker.memory import give_back
from fsd_core.worker.payloads import Payloads

__all__ = ["LayerLoop"]

STRETCH = 16  # the largest number of layers that are computed together: after them the worker checks whether the run is over


@attrs.define(kw_only=True, eq=False)
class LayerLoop(Loop):
    """Computes one rank's rows of every layer."""

    shard: ShardReader
    _payloads: Payloads | None = attrs.field(default=None, init=False)  # of the batch that is computed now

    @staticmethod
    def open(key: str, read: Callable[[str, int, int], bytes], pool: Executor, *, keep: bool, ahead: int) -> ShardReader:
        """Read the head of the shard at ``key``."""
        return ShardReader(key, read, pool, keep=keep, ahead=ahead)

    def run(self, batch: int) -> bytes:
        """Compute the batch of this number. Returns the activations of this rank's rows of the last layer that it has rows of."""
        began = time.monotonic()
        self.watch.enter("load")
        samples, staged = self.config.batches[batch], self._staged(batch)
        nothing = block = Block(np.zeros((0, 1), np.float32), np.zeros(0, np.int32), samples)
        before = 0
        self._payloads = None if self.channel is None else Payloads(self.channel, self._base, self.pool)
        for some in _stretches(self.shard.together()):
            first = some[0]
            for layer in some:
                self.layer = layer.number
                self.note(layer.number)
            if first.number == 1 and staged is not None:
                block, staged = _input(*staged, first, samples), None
            self.watch.enter("other")
            self._raise_if_over(waits=bool(first.receives))
            block = self._layers(some, block if first.number == before + 1 else nothing, self.config.step(batch, first.number))
            before = some[-1].number
            if self.progress is not None:
                self.progress.report(batch // self.config.data * self.config.layers + before)
            self.watch.enter("load")
            del some, first, layer  # the next layers are read now, and the memory may be too small for both
        if self.channel is not None and self.config.pipeline > 1:
            self.channel.batch_ended(time.monotonic() - began)
        if self.rank % self.config.parts not in self.config.last:
            return b""
        give_back()  # what is left of the weights: the codec needs several arrays as large as the output
        return encode(block)

    def _layers(self, some: Sequence[LayerShard], block: Block, step: int) -> Block:
        """Compute a stretch of layers. For the first one: send, multiply the local rows, receive, add the product of the received rows."""
        layer = some[0]
        sending: Future[None] | None = None
        if layer.sends:
            assert self._payloads is not None
            sending = self._payloads.send(step, block, layer.sends)
        computed = 0
        if layer.remote is not None:
            self.watch.enter("compute")
            local = layer.local.forward(block) if layer.local.shape[1] else None  # the first layer of a stage has only received rows
            self._wait(sending)
            block = self._exchanged(layer, layer.remote, local, step, block.samples)
            computed = 1
        else:
            self._wait(sending)
        if not layer.rows:
            return Block(np.zeros((0, 1), np.float32), np.zeros(0, np.int32), block.samples)
        self.watch.enter("compute")
        block = forward([each.local for each in some[computed:]], block)
        self.watch.enter("other")
        return block

    def _wait(self, sending: Future[None] | None) -> None:
        """Wait until the payloads are encoded and the channel has them. Raises the error if this failed."""
        if sending is not None:
            self.watch.enter("send")
            sending.result()

    def _exchanged(self, layer: LayerShard, remote: Weights | Fused, local: Block | None, step: int, samples: int) -> Block:
        """Receive, and add the product of the received rows to ``local``, the sums of the local rows."""
        self.watch.enter("exchange")
        assert self._payloads is not None
        arrived = self._payloads.receive(step, layer.receives, samples)
        self.watch.enter("compute")
        live = union(arrived if local is None else [local, *arrived], samples)
        return remote.forward(stacked(arrived, live), None if local is None else local.over(live))


def _stretches(groups: Iterator[list[LayerShard]]) -> Iterator[list[LayerShard]]:
    """Join layers to stretches that are computed together: only the first layer of a stretch sends or receives."""
    for layers in groups:
        while layers:
            count = next((at for at in range(1, len(layers)) if _begins(layers, at)), len(layers))
            yield layers[:count]
            layers = layers[count:]


def _begins(layers: Sequence[LayerShard], at: int) -> bool:
    """Whether a stretch that began with the first of ``layers`` ends before the layer at index ``at``."""
    layer = layers[at]
    return bool(
        layer.sends or layer.receives or not layer.rows or layer.number != layers[at - 1].number + 1 or not layers[0].rows or at == STRETCH
    )


def _input(key: str, data: bytes, layer: LayerShard, samples: int) -> Block:
    """The staged input rows, one for each column of the first layer's local weights."""
    try:
        return decode(data, layer.local.shape[1], samples)
    except CodecError as error:
        raise DamagedContent(Code.INVALID, f"the staged input is damaged: {error}", key) from error
