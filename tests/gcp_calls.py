"""What was asked of Google Cloud within a block: every request of the adapter, with what IAM would ask of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from fsd_gcp import clients, invoke, pubsub

# Method (of Pub/Sub, the request's type) and path -> permissions, and the resource on which they are asked for: the path's named part, as
# `fsd_gcp.policy` writes it.
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
    ("POST", r"/v1/projects/[^/:]+:getIamPolicy", "resourcemanager.projects.getIamPolicy"),
    ("GET", r"/v2/projects/[^/]+/locations/global/buckets/_Default", "logging.buckets.get"),
    ("POST", r"/v2/entries:list", "logging.logEntries.list"),
    ("GET", r"/v1/projects/[^/:]+", "resourcemanager.projects.get"),
    ("GET", r"/v1/(?P<on>.+/cryptoKeys/[^/:]+)", "cloudkms.cryptoKeys.get"),
    ("GET", r"/v1/(?P<on>.+/cryptoKeys/[^/:]+):getIamPolicy", "cloudkms.cryptoKeys.getIamPolicy"),
    ("GET", r"/v1/(?P<on>.+/keyRings/[^/:]+):getIamPolicy", "cloudkms.keyRings.getIamPolicy"),
    ("POST", r"/v1/projects/[^/]+/locations/[^/]+/repositories", "artifactregistry.repositories.create"),
    ("GET", r"/v1/(?P<on>projects/[^/]+/locations/[^/]+/repositories/[^/:]+)", "artifactregistry.repositories.get"),
    ("DELETE", r"/v1/(?P<on>projects/[^/]+/locations/[^/]+/repositories/[^/:]+)", "artifactregistry.repositories.delete"),
    ("GET", r"/v1/projects/[^/]+/locations/[^/]+/operations/.+", ""),  # of Artifact Registry: asks for no permission
    ("GetTopicRequest", rf"(?P<on>{_T})", "pubsub.topics.get"),
    ("GetSubscriptionRequest", rf"(?P<on>{_Q})", "pubsub.subscriptions.get"),
    ("Topic", rf"(?P<on>{_T})", "pubsub.topics.create"),
    ("Subscription", rf"(?P<on>{_Q})", "pubsub.subscriptions.create pubsub.topics.attachSubscription"),
    ("UpdateSubscriptionRequest", rf"(?P<on>{_Q})", "pubsub.subscriptions.update"),
    ("DeleteTopicRequest", rf"(?P<on>{_T})", "pubsub.topics.delete"),
    ("DeleteSubscriptionRequest", rf"(?P<on>{_Q})", "pubsub.subscriptions.delete"),
    ("ListTopicsRequest", r"/v1/projects/[^/]+", "pubsub.topics.list"),
    ("ListSubscriptionsRequest", r"/v1/projects/[^/]+", "pubsub.subscriptions.list"),
    ("GetIamPolicyRequest", rf"(?P<on>{_T})", "pubsub.topics.getIamPolicy"),
    ("GetIamPolicyRequest", rf"(?P<on>{_Q})", "pubsub.subscriptions.getIamPolicy"),
    ("SetIamPolicyRequest", rf"(?P<on>{_T})", "pubsub.topics.setIamPolicy"),
    ("SetIamPolicyRequest", rf"(?P<on>{_Q})", "pubsub.subscriptions.setIamPolicy"),
    ("PublishRequest", rf"(?P<on>{_T})", "pubsub.topics.publish"),
    ("PullRequest", rf"(?P<on>{_Q})", "pubsub.subscriptions.consume"),
    ("AcknowledgeRequest", rf"(?P<on>{_Q})", "pubsub.subscriptions.consume"),
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
            inner = re.findall(r"^(DELETE) (\S+) HTTP", self.body, re.M)
            return {need for method, url in inner for need in Call(method, unquote(urlsplit(url).path)).needs()}
        for method, pattern, permissions in _RULES:
            if method == self.method and (match := re.fullmatch(pattern, self.path)):
                return {(each, (match.groupdict().get("on") or "").lstrip("/")) for each in permissions.split()}
        raise AssertionError(f"{self.method} {self.path}: what it needs is not known")


@contextmanager
def recorded() -> Iterator[list[Call]]:
    """The requests of this process within the block, as they are made; launches too."""
    calls: list[Call] = []
    request, ask, launch = clients.Session.request, pubsub.Pubsub.ask, invoke.GcpInvoker.invoke

    def requested(self: Any, method: str, url: str, **named: Any) -> Any:
        calls.append(Call(method, unquote(urlsplit(url).path), named.get("data")))
        return request(self, method, url, **named)

    def asked(self: Any, method: Any, asking: Any, to: str, *more: Any) -> Any:
        calls.append(Call(type(asking).__name__, f"/v1/{attrgetter(to)(asking)}", asking))
        return ask(self, method, asking, to, *more)

    def launched(self: Any, function: str, payload: bytes) -> Any:
        calls.append(Call("LAUNCH", f"/v2/projects/-/locations/-/services/{self._places[0][0].path.rpartition('/')[2]}"))
        return launch(self, function, payload)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clients.Session, "request", requested)
        patch.setattr(pubsub.Pubsub, "ask", asked)
        patch.setattr(invoke.GcpInvoker, "invoke", launched)
        yield calls
