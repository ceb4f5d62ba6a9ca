"""The loop of the engine onnx: a rank computes its part of an ONNX model, and passes tensors on to the ranks that read them."""

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
from fsd_core.protocol.stage_shard import Section, StageReader, Transfer
from fsd_core.worker.loop import Loop
from fsd_core.worker.session import Session, runtime

__all__ = ["StageLoop"]

Tensors = dict[str, NDArray[Any]]


@attrs.define(kw_only=True, eq=False)
class StageLoop(Loop):
    """Computes the sections of a rank, one micro-batch after another. A section counts as one layer: the layer's number is its step."""

    shard: StageReader
    _sessions: list[Session] | None = attrs.field(default=None, init=False)
    _sending: Future[None] | None = attrs.field(default=None, init=False)

    @staticmethod
    def open(key: str, read: Callable[[str, int, int], bytes], pool: Executor, *, keep: bool, ahead: int) -> StageReader:
        """Read the head of the shard at ``key``. Also starts to import ONNX Runtime, which takes a while."""
        pool.submit(runtime)
        return StageReader(key, read, pool)

    def run(self, batch: int) -> bytes:
        """Compute a micro-batch by its number (0-based). Returns the outputs of the model that this rank makes, encoded."""
        began = time.monotonic()
        head = self.shard.head
        self.layer = head.sections[0].step if head.sections else None
        self.watch.enter("load")
        if self._sessions is None:
            self._sessions = self._load()
        tensors = self._inputs(batch)
        for section, session in zip(head.sections, self._sessions, strict=True):
            tensors = self._compute(batch, section, session, tensors)
        output = encode_tensors({name: tensors[name] for name in head.outputs})
        if batch + self.config.data >= len(self.config.batches):  # the last one: the worker goes on when all is sent
            self._wait()
        if self.progress is not None:
            self.progress.report((batch // self.config.data + 1) * self.config.layers)
        if self.channel is not None:
            self.channel.batch_ended(time.monotonic() - began)
        self.watch.enter("other")
        return output

    def _load(self) -> list[Session]:
        """A session for each section; they share the weights."""
        prepack = self.config.keep[self.rank % self.config.parts]
        return [Session(*each, prepack=prepack) for each in self.shard.load(self._check, lean=not prepack)]

    def _compute(self, batch: int, section: Section, session: Session, tensors: Tensors) -> Tensors:
        """Receive what a section reads, compute it, and begin to send. Returns what of all ``tensors`` the rank still needs."""
        self.layer = section.step
        self.note(section.step)
        self._check()
        self.watch.enter("exchange")
        tensors |= self._received(batch, section)
        self.watch.enter("compute")
        tensors |= session.run({name: tensors[name] for name in section.reads}, section.gives)
        self.watch.enter("send")
        self._wait()
        if section.sends:
            sent = {name: tensors[name] for transfer in section.sends for name in transfer.names}
            self._sending = self.pool.submit(self._send, batch, section.sends, sent)
        return {name: array for name, array in tensors.items() if name in section.keeps}

    def _wait(self) -> None:
        """Wait until the tensors of an earlier section are encoded and the channel has them. Raises the error if this failed."""
        sending, self._sending = self._sending, None
        if sending is not None:
            sending.result()

    def _check(self) -> None:
        self._raise_if_over(waits=False)

    def _inputs(self, batch: int) -> Tensors:
        """The inputs of the model that this rank reads."""
        staged = self._staged(batch)
        if staged is None:
            return {}
        try:
            return decode_tensors(staged[1], self.shard.head.inputs)
        except CodecError as error:
            raise DamagedContent(Code.INVALID, f"the staged input is damaged: {error}", staged[0]) from error

    def _received(self, batch: int, section: Section) -> Tensors:
        """The tensors that other ranks send for a section."""
        found: Tensors = {}
        names = {transfer.rank: transfer.names for transfer in section.receives}
        if not names:
            return found
        assert self.channel is not None
        for source, payload in self.channel.receive(self.config.step(batch, section.step)):
            try:
                found |= decode_tensors(payload, names[source - self._base])
            except CodecError as error:
                raise RunFailed(Code.INVALID, f"the payload of rank {source} is damaged: {error}") from error
        return found

    def _send(self, batch: int, transfers: list[Transfer], tensors: Tensors) -> None:
        """Encode and send to each rank the tensors that it reads. The payloads of one step are sent together."""
        assert self.channel is not None
        done: dict[tuple[str, ...], bytes] = {}
        payloads: dict[int, list[tuple[int, bytes]]] = {}
        for transfer in transfers:
            if (key := tuple(transfer.names)) not in done:
                done[key] = encode_tensors({name: tensors[name] for name in key})
            self.channel.meter.add("payload_bytes_sent", len(done[key]))
            payloads.setdefault(transfer.step, []).append((self._base + transfer.rank, done[key]))
        for step, some in payloads.items():
            self.channel.send(self.config.step(batch, step), some)
