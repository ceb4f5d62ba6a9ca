"""The loop of the engine onnx: a rank computes one stage of an ONNX model, and passes tensors on to the stages that read them."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import attrs
from numpy.typing import NDArray

from fsd_core.codec import CodecError, decode_tensors, encode_tensors
from fsd_core.driver import Code
from fsd_core.errors import DamagedContent, RunFailed
from fsd_core.protocol.stage_shard import StageReader
from fsd_core.worker.loop import Loop
from fsd_core.worker.session import Session, runtime

__all__ = ["StageLoop"]


@attrs.define(kw_only=True, eq=False)
class StageLoop(Loop):
    """Computes a stage for one micro-batch after the other. A stage counts as one layer, and its number as that of the layer."""

    shard: StageReader
    _session: Session | None = attrs.field(default=None, init=False)
    _sending: Future[None] | None = attrs.field(default=None, init=False)

    @staticmethod
    def open(key: str, read: Callable[[str, int, int], bytes], pool: Executor, *, keep: bool, ahead: int) -> StageReader:
        """Read the head of the shard at ``key``. The import of ONNX Runtime takes a while: it begins now."""
        pool.submit(runtime)
        return StageReader(key, read, pool)

    def run(self, batch: int) -> bytes:
        """Compute the batch of this number. Returns those outputs of the model that this stage makes."""
        began = time.monotonic()
        stage = self.shard.head
        self.layer = stage.number
        self.watch.enter("load")
        if self._session is None and self.shard.gives:  # else its nodes depend on weights alone: the stages that read them compute them
            self._session = Session(*self.shard.load(self._check), prepack=self.config.keep[self.rank % self.config.parts])
        self.note(stage.number)
        tensors = self._inputs(batch)
        self._check()
        self.watch.enter("exchange")
        tensors |= self._received(batch)
        self.watch.enter("compute")
        made = self._session.run(tensors, self.shard.gives) if self._session is not None else {}
        self.watch.enter("send")
        if self._sending is not None:
            self._sending.result()
        self._sending = self.pool.submit(self._send, batch, made)
        output = encode_tensors({name: made[name] for name in stage.outputs})
        if batch + self.config.data >= len(self.config.batches):  # the last one: all is on its way before the worker goes on
            self._sending.result()
        if self.progress is not None:
            self.progress.report((batch // self.config.data + 1) * self.config.layers)
        if self.channel is not None:
            self.channel.stall_limit.step_ended(time.monotonic() - began)  # another stage may take as long from one send to the next
        self.watch.enter("other")
        return output

    def _check(self) -> None:
        self._raise_if_over(waits=False)

    def _inputs(self, batch: int) -> dict[str, NDArray[Any]]:
        """The inputs of the model that this stage reads."""
        staged = self._staged(batch)
        if staged is None:
            return {}
        try:
            return decode_tensors(staged[1], self.shard.head.inputs)
        except CodecError as error:
            raise DamagedContent(Code.INVALID, f"the staged input is damaged: {error}", staged[0]) from error

    def _received(self, batch: int) -> dict[str, NDArray[Any]]:
        """The tensors of earlier stages."""
        found: dict[str, NDArray[Any]] = {}
        if not self.shard.receives:
            return found
        assert self.channel is not None
        for source, payload in self.channel.receive(self.config.step(batch, self.shard.head.number)):
            try:
                found |= decode_tensors(payload, self.shard.receives[source - self._base])
            except CodecError as error:
                raise RunFailed(Code.INVALID, f"the payload of rank {source} is damaged: {error}") from error
        return found

    def _send(self, batch: int, made: dict[str, NDArray[Any]]) -> None:
        """Encode and send to each later stage what it reads."""
        done: dict[tuple[str, ...], bytes] = {}
        for number, names in self.shard.sends.items():
            if (key := tuple(names)) not in done:
                done[key] = encode_tensors({name: made[name] for name in names})
            assert self.channel is not None
            self.channel.meter.add("payload_bytes_sent", len(done[key]))
            self.channel.send(self.config.step(batch, number), [(self._base + number - 1, done[key])])
