"""The exchange over a queue service for small payloads and an object store for large ones.

The sender puts large payloads into an object, and sends each target a notice: the place of its payload. So receivers never poll the store.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from fsd_core.channel.channel import ChannelConfig
from fsd_core.channel.frames import TAG_BYTES, Frame, Kind
from fsd_core.channel.kept import Sent
from fsd_core.channel.objects import bundle, fetch, payload_tag, repeated
from fsd_core.channel.queue import QueueChannel
from fsd_core.driver import Code, Message, MessageDriver
from fsd_core.errors import RunFailed
from fsd_core.storage.keys import RunKeys
from fsd_core.storage.store import Store

__all__ = ["NOTICE_BYTES", "HybridChannel"]

_NOTICE = struct.Struct(f"<QQ{TAG_BYTES}s")  # offset, length, tag of the payload
NOTICE_BYTES = _NOTICE.size


class HybridChannel(QueueChannel):
    """A `QueueChannel` for small payloads. It puts the payloads of a step that are larger than one message together into one object."""

    def __init__(self, driver: MessageDriver, store: Store, config: ChannelConfig) -> None:
        self.store = store
        self.keys = RunKeys(config.me.run)
        super().__init__(driver, config)

    def send(self, step: int, payloads: Iterable[tuple[int, bytes]]) -> None:
        """Start to send ``payloads``, pairs of (target rank, payload). Returns before they are sent."""
        large: list[tuple[int, bytes]] = []

        def small() -> Iterable[tuple[int, bytes]]:
            for target, payload in payloads:
                if len(payload) > self.piece_bytes:
                    large.append((target, payload))
                else:
                    yield target, payload

        super().send(step, small())
        if large:
            self.submit(lambda: self._send_large(step, large))

    def _send_large(self, step: int, payloads: list[tuple[int, bytes]]) -> None:
        """Put the payloads into one object, then send each target a notice."""
        body = bundle(self.me, step, payloads)
        self.store.put_once(self.keys.exchange(step, self.me.rank), body)
        offset = len(body) - sum(len(payload) for _, payload in payloads)
        notices: list[Message] = []
        for target, payload in payloads:
            notice = _NOTICE.pack(offset, len(payload), payload_tag(self.me, payload))
            notices += self.outgoing(Sent(target, step, Kind.NOTICE, notice))
            offset += len(payload)
        if not self.eager:
            self.publish_soon(notices)
        for each in notices if self.eager else ():
            self.publish_soon([each])

    def arrived(self, frame: Frame, body: bytes) -> None:
        """Process ``body``, a complete payload or notice. ``frame`` is the piece that arrived last."""
        if frame.kind is Kind.NOTICE:
            self.pool.submit(self._fetch, frame.step, frame.source, body)
        else:
            super().arrived(frame, body)

    def _fetch(self, step: int, source: int, notice: bytes) -> None:
        """Get the payload that a notice names."""
        what = f"the payload of rank {source} in step {step}"
        try:
            if len(notice) != _NOTICE.size:
                why = f"the notice of {what} is damaged: it has {len(notice)} bytes, expected {_NOTICE.size}"
                raise RunFailed(Code.INVALID, why, rank=self.me.rank)
            where, key = _NOTICE.unpack(notice), self.keys.exchange(step, source)
            self.mailbox.deliver(step, source, repeated(self, lambda: fetch(self.store, key, b"", where, self.me, what)))
        except Exception as error:  # of any class: otherwise the main thread would wait for this thread
            self.receiving_failed(error)
