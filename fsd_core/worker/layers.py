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

from fsd_core.channel import Aborted, Channel
from fsd_core.codec import CodecError, decode
from fsd_core.common.stopwatch import Stopwatch
from fsd_core.driver import Code
from fsd_core.errors import DamagedContent, RunFailed
from fsd_core.kernel import Block, Fused, Weights, forward, stacked, union
from fsd_core.protocol.runconfig import RunConfig
from fsd_core.protocol.shard import LayerShard, ShardReader
from fsd_core.storage.keys import RunKeys
from fsd_core.storage.store import Store
from fsd_core.worker.background import Background
from fsd_core.worker.payloads import Payloads
from fsd_core.worker.progress import Progress

__all__ = ["LayerLoop", "read_staged"]

ABORT_CHECK_S = 1.0
STRETCH = 16  # layers that are computed together at most: after them the worker looks whether the run is over


def read_staged(store: Store, key: str, start: int | None = None, end: int | None = None) -> bytes:
    """The staged object at ``key``, or its bytes [start, end). Raises `DamagedContent` if it does not exist: stores expire old objects."""
    data = store.find(key, start, end)
    if data is None:
        raise DamagedContent(Code.NOT_FOUND, f"the staged object {key} no longer exists", key)
    return data


@attrs.define(kw_only=True, eq=False)
class LayerLoop:
    """Computes one rank's rows of every layer. ``channel`` is `None` in a run of one rank, ``progress`` on all ranks except one."""

    rank: int
    config: RunConfig
    deadline: float  # of the run, in seconds since 1970
    shard: ShardReader
    channel: Channel | None
    store: Store
    keys: RunKeys
    pool: Executor  # encodes what is sent, reads the input of the next batch, and looks whether the run is over
    background: Background
    watch: Stopwatch
    progress: Progress | None
    note: Callable[[int], None]  # called with each layer that begins
    layer: int | None = None  # the layer (1-based) that is computed now, or was computed last; the last of those computed together
    _looked_at: float = attrs.field(factory=time.monotonic, init=False)
    _looking: Future[bool] | None = attrs.field(default=None, init=False)
    _ahead: Future[bytes] | None = None  # the staged input of the next batch
    _payloads: Payloads | None = attrs.field(default=None, init=False)  # of the batch that is computed now

    def run(self, batch: int) -> Block:
        """Compute the batch of this number (0-based). Returns the activations of this rank's rows of the last layer that it has rows of.

        Raises `RunFailed` if this rank, a peer or a background task failed, or if the deadline passed.
        """
        began = time.monotonic()
        self.watch.enter("load")
        samples, staged = self.config.batches[batch], self._staged(batch)
        nothing = block = Block(np.zeros((0, 1), np.float32), np.zeros(0, np.int32), samples)
        before, layers = 0, self.config.layers
        self._payloads = None if self.channel is None else Payloads(self.channel, self._base, self.pool)
        for some in _stretches(self.shard.together()):
            first = some[0]
            for layer in some:
                self.layer = layer.number
                self.note(layer.number)
            if first.number == 1 and staged is not None:
                block, staged = _input(*staged, first, samples), None
            self.watch.enter("other")
            self._raise_if_over(first)
            block = self._layers(some, block if first.number == before + 1 else nothing, batch * (layers - 1) + first.number - 2)
            before = some[-1].number
            if self.progress is not None:
                self.progress.report(batch // self.config.data * layers + before)
            self.watch.enter("load")
            del some, first, layer  # the next layers are read now: the memory may not hold these beside them
        if self.channel is not None and self.config.pipeline > 1:  # another stage may take as long from one send to the next
            self.channel.stall_limit.step_ended(time.monotonic() - began)
        return block

    def _staged(self, batch: int) -> tuple[str, bytes] | None:
        """Key and content of the staged input of a batch, `None` if this rank needs no input. Starts to read that of the next batch."""
        ahead, self._ahead = self._ahead, None
        key = self._input_key(batch)
        if key is None:
            return None
        data = read_staged(self.store, key) if ahead is None else ahead.result()
        following = batch + self.config.data
        if following < len(self.config.batches) and (more := self._input_key(following)) is not None:
            self._ahead = self.pool.submit(read_staged, self.store, more)
        return key, data

    def _input_key(self, batch: int) -> str | None:
        return self.config.inputs[batch][self.rank % self.config.parts]

    @property
    def _base(self) -> int:
        """The first rank of this replica: shards count ranks from there."""
        return self.rank - self.rank % self.config.parts

    def _raise_if_over(self, layer: LayerShard) -> None:
        """Raise the failure that ended the run, if any. In a layer that waits for no peer, look for it in the object store too."""
        if time.time() >= self.deadline:
            raise RunFailed(Code.DEADLINE, "the deadline of the run has passed")
        error = self.background.error or (self.channel.mailbox.error if self.channel is not None else None)
        if error is not None:
            raise error
        if not layer.receives and self._looking is None and time.monotonic() - self._looked_at >= ABORT_CHECK_S:
            self._looking = self.pool.submit(self._over)  # beside the next layers, which do not wait for its answer
        if self._looking is not None and self._looking.done():
            looking, self._looking, self._looked_at = self._looking, None, time.monotonic()
            if looking.result():
                raise Aborted(Code.UNAVAILABLE, "the run is over")

    def _over(self) -> bool:
        return self.store.find(self.keys.error) is not None or self.store.find(self.keys.config) is None

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
        """Wait until everything is encoded and on its way. Raises the error if that failed."""
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
    """Whether a stretch ends before the layer at this place, if it began with the first one."""
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
