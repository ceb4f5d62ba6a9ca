"""What was asked of Google Cloud within a block: every request of the adapter, with what IAM would ask of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pytest

from fsd_gcp import clients, invoke

# Method and path -> permissions, and the resource on which they are asked for: the path's named part, as `fsd_gcp.policy` writes it.
# Sources: the services' pages on access control, 2025-11.
_B, _F, _A = r"/storage/v1/b/[^/]+", r"/v2/projects/[^/]+/locations/[^/]+/functions/[^/:]+", r"/v1/projects/[^/]+/serviceAccounts/[^/:]+"
_S, _T, _Q = (
    r"/v2/projects/[^/]+/locations/[^/]+/services/[^/:]+",
    r"/v1/projects/[^/]+/topics/[^/:]+",
    r"/v1/projects/[^/]+/subscriptions/[^/:]+",
)
_RULES = [
    ("POST", r"/storage/v1/b", "storage.buckets.create"),
    ("GET", rf"(?P<on>{_B})", "storage.buckets.get"),
    ("PATCH", rf"(?P<on>{_B})", "storage.buckets.update"),
    ("DELETE", rf"(?P<on>{_B})", "storage.buckets.delete"),
    ("GET", rf"(?P<on>{_B})/iam", "storage.buckets.getIamPolicy"),
    ("PUT", rf"(?P<on>{_B})/iam", "storage.buckets.setIamPolicy"),
    ("GET", rf"(?P<on>{_B})/o", "storage.objects.list"),
    ("GET", r"/download(?P<on>/storage/v1/b/[^/]+)/o/.+", "storage.objects.get storage.objects.list"),  # 403 for 404 without list
    ("POST", r"/upload(?P<on>/storage/v1/b/[^/]+)/o", "storage.objects.create storage.objects.delete"),  # replacing is deleting
    ("DELETE", rf"(?P<on>{_B})/o/.+", "storage.objects.delete"),
    ("GET", rf"(?P<on>{_F})", "cloudfunctions.functions.get"),
    ("POST", r"/v2/projects/[^/]+/locations/[^/]+/functions", "cloudfunctions.functions.create iam.serviceAccounts.actAs"),
    ("PATCH", rf"(?P<on>{_F})", "cloudfunctions.functions.update iam.serviceAccounts.actAs"),
    ("DELETE", rf"(?P<on>{_F})", "cloudfunctions.functions.delete"),
    ("GET", r"/v2/projects/[^/]+/locations/[^/]+/operations/.+", "cloudfunctions.operations.get"),
    ("POST", r"/v1/projects/[^/]+/serviceAccounts", "iam.serviceAccounts.create"),
    ("GET", rf"(?P<on>{_A})", "iam.serviceAccounts.get"),
    ("DELETE", rf"(?P<on>{_A})", "iam.serviceAccounts.delete"),
    ("POST", rf"(?P<on>{_A}):getIamPolicy", "iam.serviceAccounts.getIamPolicy"),
    ("POST", rf"(?P<on>{_A}):setIamPolicy", "iam.serviceAccounts.setIamPolicy"),
    ("GET", rf"(?P<on>{_S}):getIamPolicy", "run.services.getIamPolicy"),
    ("POST", rf"(?P<on>{_S}):setIamPolicy", "run.services.setIamPolicy"),
    ("GET", r"/v1/projects/[^/]+/services/.+", "serviceusage.services.get"),
    ("PUT", rf"(?P<on>{_T})", "pubsub.topics.create"),
    ("PUT", rf"(?P<on>{_Q})", "pubsub.subscriptions.create pubsub.topics.attachSubscription"),
    ("PATCH", rf"(?P<on>{_Q})", "pubsub.subscriptions.update"),
    ("DELETE", rf"(?P<on>{_T})", "pubsub.topics.delete"),
    ("DELETE", rf"(?P<on>{_Q})", "pubsub.subscriptions.delete"),
    ("GET", r"/v1/projects/[^/]+/topics", "pubsub.topics.list"),
    ("GET", r"/v1/projects/[^/]+/subscriptions", "pubsub.subscriptions.list"),
    ("GET", rf"(?P<on>{_T}):getIamPolicy", "pubsub.topics.getIamPolicy"),
    ("GET", rf"(?P<on>{_Q}):getIamPolicy", "pubsub.subscriptions.getIamPolicy"),
    ("POST", rf"(?P<on>{_T}):setIamPolicy", "pubsub.topics.setIamPolicy"),
    ("POST", rf"(?P<on>{_Q}):setIamPolicy", "pubsub.subscriptions.setIamPolicy"),
    ("PUBLISH", rf"(?P<on>{_T})", "pubsub.topics.publish"),
    ("PULL", rf"(?P<on>{_Q})", "pubsub.subscriptions.consume"),
    ("ACK", rf"(?P<on>{_Q})", "pubsub.subscriptions.consume"),
    ("LAUNCH", rf"(?P<on>{_S})", "run.routes.invoke"),
]


@dataclass(frozen=True)
class Call:
    """One request."""

    method: str
    path: str
    body: Any = None

    def needs(self) -> set[tuple[str, str]]:
        """Permissions, and the resource on which each must be held ("" for the project)."""
        if self.path == "/batch/storage/v1":
            inner = re.findall(r"^(DELETE) (\S+) HTTP", self.body.decode(), re.M)
            return {need for method, path in inner for need in Call(method, unquote(path)).needs()}
        for method, pattern, permissions in _RULES:
            if method == self.method and (match := re.fullmatch(pattern, self.path)):
                return {(each, (match.groupdict().get("on") or "").lstrip("/")) for each in permissions.split()}
        raise AssertionError(f"{self.method} {self.path}: what it needs is not known")


@contextmanager
def recorded() -> Iterator[list[Call]]:
    """The requests of this process within the block, as they are made; launches too."""
    calls: list[Call] = []
    request, launch = clients.Http.request, invoke.GcpInvoker.invoke

    def asked(self: Any, method: str, path: str, body: Any = None, *more: Any, **named: Any) -> Any:
        calls.append(Call(method, unquote(path.partition("?")[0]), body))
        return request(self, method, path, body, *more, **named)

    def launched(self: Any, function: str, payload: bytes) -> Any:
        calls.append(Call("LAUNCH", f"/v2/projects/-/locations/-/services/{self._url.path.rpartition('/')[2]}"))
        return launch(self, function, payload)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clients.Http, "request", asked)
        patch.setattr(invoke.GcpInvoker, "invoke", launched)
        from fsd_gcp import pubsub

        def wrapped(verb: str, name: str) -> None:
            real = getattr(pubsub.Pubsub, name)

            def call(self: Any, where: str, *more: Any, **named: Any) -> Any:
                calls.append(Call(verb, f"/v1/{where}"))
                return real(self, where, *more, **named)

            patch.setattr(pubsub.Pubsub, name, call)

        for verb, name in (("PUBLISH", "publish"), ("PULL", "pull"), ("ACK", "acknowledge")):
            wrapped(verb, name)
        yield calls
