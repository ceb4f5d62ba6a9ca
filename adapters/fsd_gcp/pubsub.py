"""Pub/Sub over gRPC: calls, each with one attempt and a deadline, and streams.

This uses the transports of google-cloud-pubsub, not its clients: the clients retry, and their messages (proto-plus) cost processor time for
each field. So requests are plain protobufs, whose classes ``Type.pb()`` returns.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.metadata import version
from operator import attrgetter
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import urlsplit

import grpc
from google.api_core.gapic_v1.routing_header import to_grpc_metadata
from google.pubsub_v1 import types
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from fsd_core.driver import Delivery, MessageLimits
from fsd_core.errors import InputError
from fsd_core.providers.addresses import address
from fsd_core.providers.proxies import proxy_for
from fsd_gcp.clients import signer
from fsd_gcp.errors import Answered

__all__ = ["HOST", "Pubsub", "Stream", "check_stream"]

HOST = "pubsub.googleapis.com"
CLOSE_S = 2.0  # time limit for Pub/Sub to end a stream that was closed
_BEAT_S = 30.0  # seconds between empty requests on a stream: Pub/Sub ends a silent stream
_OPTIONS = (
    ("grpc.max_receive_message_length", -1),  # a pull may be larger than gRPC's 4 MiB
    ("grpc.max_send_message_length", -1),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # time limit for connecting
    ("grpc.max_reconnect_backoff_ms", 2_000),  # like the retries of fsd_core
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
)
_ALIVE = (  # detects a connection that broke silently; Google's emulator allows a ping in 5 minutes, and ends a connection for the third
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)
_FLOW = {"stream_ack_deadline_seconds", "max_outstanding_messages", "max_outstanding_bytes"}  # what `Stream` sets
_NO_PROXY = ("grpc.enable_http_proxy", 0)


def _by_proxy() -> tuple[tuple[str, Any], ...]:
    """The channel options for a proxy: gRPC itself reads only variables with names in lower case, and not ALL_PROXY."""
    if os.environ.get("grpc_proxy"):  # noqa: SIM112  # the name in lower case: only gRPC reads this variable
        return ()
    proxy = proxy_for(f"https://{HOST}")
    return (("grpc.http_proxy", proxy.secret_url),) if proxy else (_NO_PROXY,)


class Pubsub:
    """A connection to Pub/Sub. Safe to use from several threads.

    If PUBSUB_EMULATOR_HOST is set, it goes to that emulator, without TLS and credentials.
    """

    def __init__(self) -> None:
        at = urlsplit(address("PUBSUB_EMULATOR_HOST", bare=True)).netloc
        self._sign: Callable[[str], dict[str, str]] = (lambda _: {}) if at else signer()
        options = (*_OPTIONS, *((_NO_PROXY,) if at else (*_ALIVE, *_by_proxy())))
        self.channel = grpc.insecure_channel(at, options) if at else grpc.secure_channel(HOST, grpc.ssl_channel_credentials(), options)
        self.publisher = PublisherGrpcTransport(channel=self.channel)
        self.subscriber = SubscriberGrpcTransport(channel=self.channel)

    def connect(self, within_s: float) -> None:
        """Open the connection, which takes no call. Raises `grpc.FutureTimeoutError` after ``within_s`` seconds."""
        grpc.channel_ready_future(self.channel).result(within_s)

    def ask(self, method: Any, request: Any, to: str, timeout_s: float = 15.0) -> Any:
        """Make one call and return its answer. ``method``: of a transport; ``request``: a protobuf; ``timeout_s``: the deadline in seconds.

        ``to``: the request's field that names the topic, subscription or project. Raises `Answered` and google-auth's errors.
        """
        try:
            return method(request, timeout=timeout_s, metadata=self.metadata(to, attrgetter(to)(request)))
        except grpc.RpcError as error:
            raise Answered.grpc(error) from error

    def metadata(self, to: str, name: str) -> list[tuple[str, str]]:
        """The metadata of a call: the name by which Google routes it, and the credentials."""
        return [to_grpc_metadata({to: name}), *((key.lower(), value) for key, value in self._sign(f"https://{HOST}/").items())]

    def close(self) -> None:
        """Close the connection."""
        self.channel.close()


def check_stream() -> None:
    """Raise `InputError` if the installed google-cloud-pubsub cannot open a StreamingPull with flow control."""
    if missing := sorted(_FLOW - set(types.StreamingPullRequest.pb().DESCRIPTOR.fields_by_name)):
        raise InputError(
            f"[gcp] receive = 'stream': google-cloud-pubsub {version('google-cloud-pubsub')} has no {' and no '.join(missing)}: "
            "expected a newer one (pip install -U 'fsd-inference[gcp]'), or receive = 'pull'"
        )


class Stream:
    """A StreamingPull of one subscription: it keeps the messages that Pub/Sub sends until `take` returns them. Thread-safe.

    ``limits``: the lease of the messages, and how many messages and bytes may be outstanding.
    """

    def __init__(self, pubsub: Pubsub, subscription: str, limits: MessageLimits) -> None:
        self._pubsub, self._subscription, self._limits = pubsub, subscription, limits
        self._arrived: SimpleQueue[Delivery | Answered] = SimpleQueue()  # last: the error that ended the stream
        self._closing = threading.Event()
        self.over = False  # True: the stream ended, and `take` returned all its messages
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
        end = Answered("UNAVAILABLE", "the stream ended")  # Pub/Sub ends a stream from time to time
        try:
            for answer in self._call:
                for each in types.StreamingPullResponse.pb(answer).received_messages:
                    self._arrived.put(Delivery(each.ack_id, each.message.data))
        except grpc.RpcError as error:
            end = Answered.grpc(error)
        finally:
            self._arrived.put(end)

    def take(self, limit: int, wait_s: float) -> Sequence[Delivery]:
        """Return up to ``limit`` messages as soon as one has arrived; an empty list if none arrives within ``wait_s`` seconds.

        Where the stream ended and no message is left, raises the `Answered` that ended it.
        """
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
        """End the stream, and give back the messages that were not taken: Pub/Sub delivers them again at once."""
        self._closing.set()
        self._reader.join(CLOSE_S)  # a cancelled stream may still get messages, which are then lost until their leases end
        self._call.cancel()
        self._reader.join(CLOSE_S)
        with suppress(Answered):  # without this call the messages are delivered again after their leases
            if tokens := [each.token for each in self.take(1 << 30, 0.0)]:
                request = types.ModifyAckDeadlineRequest.pb()(subscription=self._subscription, ack_ids=tokens, ack_deadline_seconds=0)
                self._pubsub.ask(self._pubsub.subscriber.modify_ack_deadline, request, "subscription", CLOSE_S)
