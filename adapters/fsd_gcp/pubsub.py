"""Pub/Sub's data plane over gRPC: publish, pull, acknowledge, each one attempt within its deadline.

The messages are those of google/pubsub/v1/pubsub.proto without the fields that are not used here, built from a table: importing
google.pubsub_v1 takes as long as all else that a worker imports (`fsd_gcp.clients` has the figures), and its messages add to the
CPU time of requests: publish, pull and acknowledge of 1 KB take 1.2 ms against 1.9 ms, of 100 times 10 KB 7 ms against 11 ms
(benchmarks/google_clients.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlsplit

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from fsd_core.providers.addresses import address
from fsd_core.providers.proxies import proxy_for
from fsd_gcp.clients import signer
from fsd_gcp.errors import Answered

__all__ = ["HOST", "MESSAGES", "Pubsub"]

HOST = "pubsub.googleapis.com"
MESSAGES = {  # name -> fields: (number, name, type), repeated ones with a "*"
    "PubsubMessage": ((1, "data", "bytes"),),
    "PublishRequest": ((1, "topic", "string"), (2, "messages", "PubsubMessage*")),
    "PublishResponse": ((1, "message_ids", "string*"),),
    "PullRequest": ((1, "subscription", "string"), (2, "return_immediately", "bool"), (3, "max_messages", "int32")),
    "ReceivedMessage": ((1, "ack_id", "string"), (2, "message", "PubsubMessage")),
    "PullResponse": ((1, "received_messages", "ReceivedMessage*"),),
    "AcknowledgeRequest": ((1, "subscription", "string"), (2, "ack_ids", "string*")),
}
_OPTIONS = (
    ("grpc.max_receive_message_length", -1),  # a pull may be larger than gRPC's 4 MiB
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 30_000),  # a connection that died without a word is found
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # what connecting may take
    ("grpc.max_reconnect_backoff_ms", 2_000),  # as core's retries
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
)


def _types() -> dict[str, Any]:
    """The classes of `MESSAGES`, in a pool of their own: Google's package, if it is there too, has the same names."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="google/pubsub/v1/pubsub.proto", package="google.pubsub.v1", syntax="proto3")
    for message, fields in MESSAGES.items():
        entry = file.message_type.add(name=message)
        for number, name, kind in fields:
            base = kind.rstrip("*")
            added = entry.field.add(name=name, number=number, label=field.LABEL_REPEATED if base != kind else field.LABEL_OPTIONAL)
            if base in MESSAGES:
                added.type, added.type_name = field.TYPE_MESSAGE, f".google.pubsub.v1.{base}"
            else:
                added.type = field.Type.Value(f"TYPE_{base.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"google.pubsub.v1.{name}")) for name in MESSAGES}


_TYPES = _types()


def _by_proxy() -> tuple[tuple[str, Any], ...]:
    """How the service is reached: gRPC itself reads variables in small letters only, and no ALL_PROXY."""
    if os.environ.get("grpc_proxy"):  # noqa: SIM112  # which only gRPC knows, so written
        return ()
    proxy = proxy_for(f"https://{HOST}")
    return (("grpc.http_proxy", proxy.secret_url),) if proxy else (("grpc.enable_http_proxy", 0),)


class Pubsub:
    """A connection. PUBSUB_EMULATOR_HOST leads to an emulator, without TLS and credentials. Safe to use from several threads."""

    def __init__(self) -> None:
        emulator = address("PUBSUB_EMULATOR_HOST", bare=True)
        if emulator:
            host = urlsplit(emulator).netloc
            self._sign: Callable[[str], dict[str, str]] = lambda _: {}
            self.channel = grpc.insecure_channel(host, (*_OPTIONS, ("grpc.enable_http_proxy", 0)))
        else:
            self._sign = signer()
            self.channel = grpc.secure_channel(HOST, grpc.ssl_channel_credentials(), (*_OPTIONS, *_by_proxy()))
        self._publish = self._method("Publisher/Publish", "PublishResponse")
        self._pull = self._method("Subscriber/Pull", "PullResponse")
        self._acknowledge = self._method("Subscriber/Acknowledge", None)

    def _method(self, name: str, answer: str | None) -> Any:
        parse = _TYPES[answer].FromString if answer else None
        return self.channel.unary_unary(
            f"/google.pubsub.v1.{name}", request_serializer=lambda request: request.SerializeToString(), response_deserializer=parse
        )

    def _call(self, method: Any, request: Any, to: str, name: str, timeout_s: float) -> Any:
        signed = {key.lower(): value for key, value in self._sign(f"https://{HOST}/").items()}
        metadata = [("x-goog-request-params", f"{to}={quote(name, safe='')}"), *signed.items()]
        try:
            return method(request, timeout=timeout_s, metadata=metadata)
        except grpc.RpcError as error:
            raise Answered(error.code().name, " ".join((error.details() or "").split())) from error

    def publish(self, topic: str, bodies: list[bytes], timeout_s: float) -> None:
        """All of ``bodies``, or none."""
        request = _TYPES["PublishRequest"](topic=topic, messages=[_TYPES["PubsubMessage"](data=body) for body in bodies])
        self._call(self._publish, request, "topic", topic, timeout_s)

    def pull(self, subscription: str, limit: int, *, now: bool, timeout_s: float) -> list[tuple[str, bytes]]:
        """Tokens and bodies of 1 to ``limit`` messages, or of none: at once if ``now``."""
        request = _TYPES["PullRequest"](subscription=subscription, return_immediately=now, max_messages=limit)
        answer = self._call(self._pull, request, "subscription", subscription, timeout_s)
        return [(each.ack_id, each.message.data) for each in answer.received_messages]

    def acknowledge(self, subscription: str, tokens: list[str], timeout_s: float) -> None:
        """All of ``tokens``; those that are not valid any more are ignored."""
        request = _TYPES["AcknowledgeRequest"](subscription=subscription, ack_ids=tokens)
        self._call(self._acknowledge, request, "subscription", subscription, timeout_s)

    def close(self) -> None:
        """Close the connection."""
        self.channel.close()
