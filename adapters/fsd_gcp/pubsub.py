"""Pub/Sub over gRPC by the transports of google-cloud-pubsub: each call is one attempt within its deadline.

Above the transports Google's clients retry, and their messages (proto-plus) cost CPU time per field: requests here are the protobufs below
them, which ``Type.pb()`` gives.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from operator import attrgetter
from typing import Any
from urllib.parse import urlsplit

import grpc
from google.api_core.gapic_v1.routing_header import to_grpc_metadata
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from fsd_core.providers.addresses import address
from fsd_core.providers.proxies import proxy_for
from fsd_gcp.clients import signer
from fsd_gcp.errors import Answered

__all__ = ["HOST", "Pubsub"]

HOST = "pubsub.googleapis.com"
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


_NO_PROXY = ("grpc.enable_http_proxy", 0)


def _by_proxy() -> tuple[tuple[str, Any], ...]:
    """How the service is reached: gRPC itself reads variables in small letters only, and no ALL_PROXY."""
    if os.environ.get("grpc_proxy"):  # noqa: SIM112  # which only gRPC knows, so written
        return ()
    proxy = proxy_for(f"https://{HOST}")
    return (("grpc.http_proxy", proxy.secret_url),) if proxy else (_NO_PROXY,)


class Pubsub:
    """A connection. PUBSUB_EMULATOR_HOST leads to an emulator, without TLS and credentials. Safe to use from several threads."""

    def __init__(self) -> None:
        at = urlsplit(address("PUBSUB_EMULATOR_HOST", bare=True)).netloc
        self._sign: Callable[[str], dict[str, str]] = (lambda _: {}) if at else signer()
        options = (*_OPTIONS, *((_NO_PROXY,) if at else _by_proxy()))
        tls = (HOST, grpc.ssl_channel_credentials(), options)
        self.channel = grpc.insecure_channel(at, options) if at else grpc.secure_channel(*tls)
        self.publisher = PublisherGrpcTransport(channel=self.channel)
        self.subscriber = SubscriberGrpcTransport(channel=self.channel)

    def ask(self, method: Any, request: Any, to: str, timeout_s: float = 15.0) -> Any:
        """The answer to a protobuf, of a transport's ``method``. ``to``: the field that names what is asked. Raises `Answered`."""
        try:
            return method(request, timeout=timeout_s, metadata=self.metadata(to, attrgetter(to)(request)))
        except grpc.RpcError as error:
            raise Answered.grpc(error) from error

    def metadata(self, to: str, name: str) -> list[tuple[str, str]]:
        """What goes with a call: where Google routes it, and who asks."""
        return [to_grpc_metadata({to: name}), *((key.lower(), value) for key, value in self._sign(f"https://{HOST}/").items())]

    def close(self) -> None:
        """Close the connection."""
        self.channel.close()
