"""What a provisioner asks of a cloud's control plane, and what that answers, within a block."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from azure.core import PipelineClient
from botocore.httpsession import URLLib3Session

import fsd_azure.api
import fsd_gcp.api
import fsd_gcp.clients
from schemas import Exchange

__all__ = ["aws", "azure", "gcp"]


def _target(url: str) -> str:
    parts = urlsplit(url)
    return parts.path + (f"?{parts.query}" if parts.query else "")


def _bytes(body: Any) -> bytes:
    return body.encode() if isinstance(body, str) else body or b""


@contextmanager
def azure() -> Iterator[list[Exchange]]:
    """The Resource Manager's. What goes to a site's own address, or says how a long operation goes on, has no published schema."""
    seen: list[Exchange] = []

    class Client(PipelineClient[Any, Any]):
        def send_request(self, request: Any, **settings: Any) -> Any:
            answer = super().send_request(request, **settings)
            target = _target(request.url)
            if target.startswith("/subscriptions/") and "/operationresults/" not in target:
                seen.append(Exchange("", request.method, target, _bytes(request.content), answer.status_code, answer.content))
            return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fsd_azure.api, "PipelineClient", Client)
        yield seen


@contextmanager
def gcp() -> Iterator[list[Exchange]]:
    """Of all services but Pub/Sub, which has no JSON. Downloads of a stream and batches have no published schema."""
    seen: list[Exchange] = []
    service, send = fsd_gcp.api.Api.service, fsd_gcp.clients.Session.send

    def named(self: fsd_gcp.api.Api, name: str) -> Any:
        session: Any = service(self, name)
        session.recorded = name
        return session

    def sent(self: Any, request: Any, **settings: Any) -> Any:
        answer, target = send(self, request, **settings), _target(request.url)
        name = getattr(self, "recorded", "storage" if self.base == os.environ["STORAGE_EMULATOR_HOST"] else "")
        if name and not settings.get("stream") and not target.startswith("/batch/"):
            seen.append(Exchange(name, request.method, target, _bytes(request.body), answer.status_code, answer.content))
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fsd_gcp.api.Api, "service", named)
        patch.setattr(fsd_gcp.clients.Session, "send", sent)
        yield seen


@contextmanager
def aws() -> Iterator[list[Exchange]]:
    """Of Lambda: its stand-in is ours, where the other services' is others'."""
    seen: list[Exchange] = []
    send = URLLib3Session.send

    def sent(self: Any, request: Any) -> Any:
        answer = send(self, request)
        if "/lambda/aws4_request" in str(request.headers.get("Authorization", "")):
            seen.append(Exchange("lambda", request.method, _target(request.url), _bytes(request.body), answer.status_code, answer.content))
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(URLLib3Session, "send", sent)
        yield seen
