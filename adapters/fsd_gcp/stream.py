"""A StreamingPull of one subscription: what Pub/Sub sends waits here until a receive takes it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

import grpc
from google.pubsub_v1 import types

from fsd_core.driver import Delivery, MessageLimits
from fsd_gcp.errors import Answered
from fsd_gcp.pubsub import Pubsub

__all__ = ["Stream"]

CLOSE_S = 2.0  # until Pub/Sub ends a stream that was closed
_BEAT_S = 30.0  # Pub/Sub ends a stream on which it hears nothing


class Stream:
    """Thread-safe. ``limits``: the lease of its messages, and how many may be outstanding. Raises google-auth's errors."""

    def __init__(self, pubsub: Pubsub, subscription: str, limits: MessageLimits) -> None:
        self._pubsub, self._subscription, self._limits = pubsub, subscription, limits
        self._arrived: SimpleQueue[Delivery | Answered] = SimpleQueue()  # in the end, why there is no more
        self._closing = threading.Event()
        self.over = False  # nothing more comes of it
        method: Any = pubsub.subscriber.streaming_pull
        self._call = method(self._requests(), metadata=pubsub.metadata("subscription", subscription))
        self._reader = threading.Thread(target=self._read, name="stream", daemon=True)
        self._reader.start()

    def _requests(self) -> Iterator[Any]:
        lease_s, messages, size = int(self._limits.lease_s), self._limits.outstanding_messages, self._limits.outstanding_bytes
        most = {"max_outstanding_messages": messages, "max_outstanding_bytes": size}
        yield types.StreamingPullRequest.pb()(subscription=self._subscription, stream_ack_deadline_seconds=lease_s, **most)
        while not self._closing.wait(_BEAT_S):
            yield types.StreamingPullRequest.pb()()

    def _read(self) -> None:
        end = Answered("UNAVAILABLE", "the stream ended")  # as Pub/Sub does now and then
        try:
            for answer in self._call:
                for each in types.StreamingPullResponse.pb(answer).received_messages:
                    self._arrived.put(Delivery(each.ack_id, each.message.data))
        except grpc.RpcError as error:
            end = Answered.grpc(error)
        finally:
            self._arrived.put(end)

    def take(self, limit: int, wait_s: float) -> Sequence[Delivery]:
        """Up to ``limit`` messages, none after ``wait_s``. Raises `Answered` where the stream ended without."""
        taken: list[Delivery] = []
        with suppress(Empty):
            while len(taken) < limit and not self.over:
                found = self._arrived.get(timeout=0.0 if taken else wait_s)
                if isinstance(found, Delivery):
                    taken.append(found)
                    continue
                self.over = True
                if not taken:
                    raise found
        return taken

    def close(self) -> None:
        """Tell Pub/Sub that this is the end, and give back what nobody took: it is delivered again at once."""
        self._closing.set()
        self._reader.join(CLOSE_S)  # one that is cancelled may take messages for a while, and nobody has them until their leases end
        self._call.cancel()
        self._reader.join(CLOSE_S)
        with suppress(Answered):  # else their leases end
            if tokens := [each.token for each in self.take(sys.maxsize, 0.0)]:
                request = types.ModifyAckDeadlineRequest.pb()(subscription=self._subscription, ack_ids=tokens, ack_deadline_seconds=0)
                self._pubsub.ask(self._pubsub.subscriber.modify_ack_deadline, request, "subscription", CLOSE_S)
