"""``fsd audit`` on Google Cloud: against Google's Pub/Sub emulator, our Cloud Storage and our Cloud Run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from google.cloud import storage
from google.pubsub_v1 import types

from audit_cases import AuditCases, Audited, Fault
from fsd_conformance import emulators
from fsd_core import Resources
from fsd_core.providers.package import stub
from fsd_gcp import function, policy
from fsd_gcp.api import Api
from fsd_gcp.audit import deleted
from fsd_gcp.names import Names
from fsd_gcp.policy import Grant

pytestmark = pytest.mark.emulator
PROJECT, REGION = "fsd-emulator", "us-central1"
STRANGER = f"stranger@{PROJECT}.iam.gserviceaccount.com"


def asking(change: Callable[[Api, Resources], object]) -> Callable[[Resources], None]:
    def plant(made: Resources) -> None:
        with Api(PROJECT, REGION) as api:
            api.within(120)
            change(api, made)

    return plant


def bucket(change: Callable[[Any], object]) -> Callable[[Resources], None]:
    def plant(api: Api, made: Resources) -> None:
        found = api.storage.get_bucket(made.names["bucket"])
        change(found)
        found.patch(retry=None)

    return asking(plant)


def retention(api: Api, made: Resources) -> None:
    subscription = types.Subscription.pb()(
        name=Names.of(made).subscription(0, 0), topic=Names.of(made).topic(0, 0), message_retention_duration={"seconds": 7200}
    )
    asked = types.UpdateSubscriptionRequest.pb()(subscription=subscription, update_mask={"paths": ["message_retention_duration"]})
    api.ask(api.pubsub.subscriber.update_subscription, asked, "subscription.name")


def role(service: str, role: str, member: str, on: str, held: bool = True) -> Callable[[Resources], None]:
    """Give or take a role. ``on``: the resource, with names of `Resources.names`; member "worker" is the function's account."""

    def change(api: Api, made: Resources) -> None:
        who = f"serviceAccount:{made.names['service_account']}" if member == "worker" else member
        resource = on.format(**made.names)
        if held and service != "cloudresourcemanager":
            api.grant([Grant(service, resource, role, who)])
            return
        if service == "cloudresourcemanager":
            found = api.call(service, "POST", f"{resource}:getIamPolicy")
        else:
            found = api.policy(service, resource)
        kept = [
            {"role": each["role"], "members": [one for one in each["members"] if (each["role"], one) != (role, who)]}
            for each in found.get("bindings", [])
        ]
        more = [{"role": role, "members": [who]}] if held else []
        new = {**found, "bindings": [each for each in kept if each["members"]] + more}
        if service == "cloudresourcemanager":
            api.call(service, "POST", f"{resource}:setIamPolicy", {"policy": new})
        else:
            api._set_policy(service, resource, new)

    return asking(change)


def given(service: str, name: str, member: str, on: str, breaks: str, says: str) -> Fault:
    """A role that somebody gave, and that a repair leaves."""
    return Fault(role(service, name, member, on), breaks, says, role(service, name, member, on, held=False))


def logs(days: int) -> Callable[[Resources], None]:
    path = f"v2/projects/{PROJECT}/locations/global/buckets/_Default"
    return asking(lambda api, made: api.call("logging", "PATCH", path, {"retentionDays": days}, updateMask="retentionDays"))


def other_account(api: Api, made: Resources) -> None:
    path = f"v2/projects/{PROJECT}/locations/{REGION}/functions/{made.names['function']}"
    api.make("iam", "POST", f"v1/projects/{PROJECT}/serviceAccounts", {"accountId": "stranger"})
    found = api.call("cloudfunctions", "GET", path)
    if found["serviceConfig"]["serviceAccountEmail"] != STRANGER:
        with function._uploaded(api, made.names["bucket"], stub("gcp")) as source:
            body = {"serviceConfig": {"serviceAccountEmail": STRANGER}, "buildConfig": {"source": source}}
            mask = "serviceConfig.serviceAccountEmail,buildConfig.source"
            api.finished("change", api.call("cloudfunctions", "PATCH", path, body, updateMask=mask))


ROLES, ALL = "account: exactly the roles that workers use", "roles: no public access"
SERVICE = "v2/projects/{project}/locations/{region}/services/{function}"
FAULTS = {
    "a bucket without prevention": Fault(
        bucket(lambda found: setattr(found.iam_configuration, "public_access_prevention", "inherited")),
        "bucket: no public access",
        "public access prevention: no",
    ),
    "objects stay for ever": Fault(bucket(lambda found: found.clear_lifecycle_rules()), "bucket: life cycle", 'missing: .*"age": 7'),
    "messages stay longer": Fault(asking(retention), "subscriptions: retention", "-0-0: 7200 s"),
    "a public bucket": given(
        "storage", "roles/storage.legacyObjectReader", "allAuthenticatedUsers", "storage/v1/b/{bucket}", ALL, "to allAuthenticatedUsers"
    ),
    "a public function": given("run", "roles/run.invoker", "allUsers", SERVICE, ALL, "roles/run.invoker on .* to allUsers"),
    "an editor of the project": given(
        "cloudresourcemanager", "roles/editor", "worker", "v1/projects/{project}", ROLES, f"too many: roles/editor on v1/projects/{PROJECT}"
    ),
    "an administrator of the bucket": given(
        "storage", "roles/storage.admin", "worker", "storage/v1/b/{bucket}", ROLES, "too many: .*roles/storage.admin on storage"
    ),
    "a role that is missing": Fault(
        role("run", "roles/run.invoker", "worker", SERVICE, held=False), ROLES, "missing: roles/run.invoker on v2/projects"
    ),
    "a function of another account": Fault(asking(other_account), "function: runs as the app's account", STRANGER),
    "logs stay for years": Fault(logs(3650), "logs: retention", "3650 days", logs(30)),
}


@contextmanager
def emulated() -> Iterator[None]:
    with emulators.own(emulators.find("gcp")):
        yield


class TestGoogle(AuditCases):
    cloud = Audited("gcp", {"package": False, "memory_mb": 512}, emulated, FAULTS)


@pytest.mark.parametrize(
    ("properties", "says"),
    [
        ({}, "kept for 0 s"),
        ({"softDeletePolicy": {"retentionDurationSeconds": "604800"}}, "kept for 604800 s"),
        ({"softDeletePolicy": {"retentionDurationSeconds": "0"}, "versioning": {"enabled": True}}, "kept as versions"),
    ],
)
def test_what_becomes_of_deleted_objects(properties: dict[str, Any], says: str) -> None:
    """The local Cloud Storage keeps none, so these are the properties that Google documents."""
    found = storage.Bucket(None, "b")
    found._properties.update(properties)
    assert deleted(found) == says


def test_an_auditor_has_no_permission_to_write() -> None:
    assert not [each for each in policy.AUDITOR if not each.rpartition(".")[2].startswith(("get", "list"))]
