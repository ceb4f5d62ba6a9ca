"""A StreamingPull of one subscription: what Pub/Sub sends waits here until a receive takes it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import grpc
from google.pubsub_v1 import types

from fsd_core.driver import Delivery, MessageLimits
from fsd_gcp.errors import Answered
from fsd_gcp.pubsub import Pubsub

__all__ = ["Stream"]

CLOSE_S = 2.0  # until Pub/Sub ends a stream that was closed
_BEAT_S = 30.0  # Pub/Sub ends a stream on which it hears nothing
_Request, _ModifyAckDeadlineRequest = types.StreamingPullRequest.pb(), types.ModifyAckDeadlineRequest.pb()


class Stream:
    """Thread-safe. ``limits``: the lease of its messages, and how many may be outstanding. Raises google-auth's errors."""

    def __init__(self, pubsub: Pubsub, subscription: str, limits: MessageLimits) -> None:
        self._pubsub, self._subscription, self._limits = pubsub, subscription, limits
        self._arrived: deque[Delivery] = deque()
        self._changed, self._closing = threading.Condition(), threading.Event()
        self._error: Exception | None = None
        method: Any = pubsub.subscriber.streaming_pull
        self._call = method(self._requests(), metadata=pubsub.metadata("subscription", subscription))
        self._reader = threading.Thread(target=self._read, name="stream", daemon=True)
        self._reader.start()

    def _requests(self) -> Iterator[Any]:
        yield _Request(
            subscription=self._subscription,
            stream_ack_deadline_seconds=int(self._limits.lease_s),
            max_outstanding_messages=self._limits.outstanding_messages,
            max_outstanding_bytes=self._limits.outstanding_bytes,
        )
        while not self._closing.wait(_BEAT_S):
            yield _Request()

    def _read(self) -> None:
        error: Exception = Answered("UNAVAILABLE", "the stream ended")  # what Pub/Sub does now and then
        try:
            for answer in self._call:
                messages = types.StreamingPullResponse.pb(answer).received_messages
                with self._changed:
                    self._arrived += [Delivery(each.ack_id, each.message.data) for each in messages]
                    self._changed.notify_all()
        except grpc.RpcError as failure:
            error = Answered.grpc(failure)
        except Exception as failure:  # whatever it is, whoever receives must hear of it
            error = failure
        with self._changed:
            self._error = error
            self._changed.notify_all()

    @property
    def over(self) -> bool:
        """Nothing more comes of it."""
        return self._error is not None and not self._arrived

    def take(self, limit: int, wait_s: float) -> Sequence[Delivery]:
        """Up to ``limit`` messages, none after ``wait_s``. Raises `Answered` where the stream ended without."""
        with self._changed:
            self._changed.wait_for(lambda: self._arrived or self._error, wait_s)
            taken = [self._arrived.popleft() for _ in range(min(limit, len(self._arrived)))]
            if self._error and not taken:
                raise self._error
            return taken

    def close(self) -> None:
        """Tell Pub/Sub that this is the end, and give back what nobody took: it is delivered again at once."""
        self._closing.set()
        self._reader.join(CLOSE_S)  # one that is cancelled may take messages for a while, and nobody has them until their leases end
        self._call.cancel()
        self._reader.join(CLOSE_S)
        with self._changed:
            tokens = [each.token for each in self._arrived]
            self._arrived.clear()
        if tokens:
            request = _ModifyAckDeadlineRequest(subscription=self._subscription, ack_ids=tokens, ack_deadline_seconds=0)
            with suppress(Answered):  # else their leases end
                self._pubsub.ask(self._pubsub.subscriber.modify_ack_deadline, request, "subscription", CLOSE_S)
