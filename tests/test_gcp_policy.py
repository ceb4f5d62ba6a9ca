"""Each policy against the requests that are made: everything is allowed, and nothing is allowed that no request needs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Any

import pytest

from fsd_conformance import emulators
from fsd_core.driver import WORKER, Message, Resources
from fsd_core.providers.promises import Auditor
from fsd_gcp import PROVIDER, policy
from fsd_gcp.names import Names
from fsd_gcp.policy import Grant
from gcp_calls import Call, recorded

pytestmark = pytest.mark.emulator
APP = "policies"
# What Google's predefined roles hold of the permissions that matter here: cloud.google.com/iam/docs/roles-permissions, 2025-11.
ROLES = {
    "roles/pubsub.publisher": {"pubsub.topics.publish"},
    "roles/pubsub.subscriber": {"pubsub.subscriptions.consume", "pubsub.topics.attachSubscription"},
    "roles/storage.objectUser": {f"storage.objects.{verb}" for verb in ("create", "delete", "get", "list", "update")},
    "roles/run.invoker": {"run.routes.invoke"},
    "roles/cloudfunctions.viewer": {"cloudfunctions.functions.get", "cloudfunctions.operations.get"},
    "roles/iam.serviceAccountUser": {"iam.serviceAccounts.actAs", "iam.serviceAccounts.get"},
    "roles/iam.serviceAccountOpenIdTokenCreator": {"iam.serviceAccounts.getOpenIdToken"},
}


@pytest.fixture(scope="module")
def used() -> dict[str, Any]:
    """The requests of a deployer, a client and a worker, on one app."""
    with emulators.own(emulators.find("gcp")) as emulator:
        settings = dict(emulator.settings)
        provisioner = PROVIDER.provisioner(settings)
        with recorded() as deploying:
            made = provisioner.ensure(APP, 2, 1)
            PROVIDER.provisioner(settings | {"concurrency": 5, "lease_s": 20}).ensure(APP, 2, 1)
            made = provisioner.ensure(APP, 3, 2)
        with recorded() as running:
            assert PROVIDER.provisioner(settings).ensure(APP, 3, 2) == made
            _use(made, client=True)
        with recorded() as working:
            _use(made, client=False)
        with recorded() as looking:
            assert isinstance(provisioner, Auditor)
            assert provisioner.audit(APP)
        with recorded() as destroying:
            provisioner.destroy(APP)
    return {"resources": made, "deploy": deploying + destroying, "run": running, "work": working, "audit": looking}


def _use(resources: Resources, client: bool) -> None:
    """Every verb of the drivers that a client, or a worker, uses."""
    messages, objects, invoker = PROVIDER.messages(resources, 0), PROVIDER.objects(resources), PROVIDER.invoker(resources)
    assert not messages.publish([Message(1, b"\xff")])
    objects.put("probe/x", b"1")
    objects.put("probe/y", b"1", if_absent=True)
    objects.get("probe/x", 0, 1)
    invoker.invoke(WORKER, json.dumps({"app": resources.app, "probe": {"key": "probe/z"}}).encode())
    if client:
        objects.list("")
        objects.delete(["probe/x", "probe/y"])
    else:
        until = time.monotonic() + 60
        while not (got := messages.receive(1, 10, 1.0)):
            assert time.monotonic() < until
        messages.ack(1, [each.token for each in got])
    for driver in (messages, objects, invoker):
        driver.close()


def _grants(made: Resources) -> dict[str, list[Grant]]:
    names, pairs = Names.of(made), [(slot, rank) for slot in range(made.slots) for rank in range(made.ranks)]
    worker, person = f"serviceAccount:{made.names['service_account']}", "serviceAccount:me@x.iam.gserviceaccount.com"
    return {
        "work": [*policy.queues(names, pairs, worker, receives=True), *policy.worker(made.names)],
        "run": [*policy.queues(names, pairs, person, receives=False), *policy.client(made.names, person)],
        "deploy": policy.account(made.names, person),
    }


def _allowed(grants: Iterable[Grant], permission: str, resource: str) -> bool:
    on = resource.replace("projects/-/locations/-", "projects/fsd-emulator/locations/us-central1")  # of a launch, by its URL
    return any(permission in ROLES[each.role] and each.resource == on for each in grants)


@pytest.mark.parametrize("who", ["work", "run"])
def test_every_request_is_allowed(used: dict[str, Any], who: str) -> None:
    calls: list[Call] = used[who]
    grants = _grants(used["resources"])[who]
    needs = {need for call in calls for need in call.needs()}
    assert len(needs) > 3
    assert not {need for need in needs if not _allowed(grants, *need)}


@pytest.mark.parametrize("who", ["work", "run"])
def test_no_role_is_given_that_no_request_needs(used: dict[str, Any], who: str) -> None:
    needed = {permission for call in used[who] for permission, _ in call.needs()}
    for each in _grants(used["resources"])[who]:
        assert ROLES[each.role] & needed, each


def test_a_deployer_may_do_what_it_does_and_nothing_else(used: dict[str, Any]) -> None:
    calls: list[Call] = [*used["deploy"], *used["run"]]  # a deployer may also run
    needed = {permission for call in calls for permission, _ in call.needs()}
    given = {permission for each in _grants(used["resources"])["deploy"] for permission in ROLES[each.role]}
    assert "iam.serviceAccounts.actAs" in given  # on the function's account alone
    given_later = {"iam.serviceAccounts.actAs", "run.routes.invoke"}  # by `policy.account` and `policy.client`
    unseen = {"pubsub.topics.setIamPolicy", "pubsub.subscriptions.setIamPolicy"}  # Google's emulator answers 501 to the reading before
    assert needed - set(policy.DEPLOYER) == given_later
    assert set(policy.DEPLOYER) - needed == unseen
    assert list(policy.DEPLOYER) == sorted(policy.DEPLOYER)


def test_an_auditor_may_read_what_it_reads_and_nothing_else(used: dict[str, Any]) -> None:
    assert set(policy.AUDITOR) == {permission for call in used["audit"] for permission, _ in call.needs()}
    assert list(policy.AUDITOR) == sorted(policy.AUDITOR)


def test_every_resource_is_the_apps_own(used: dict[str, Any]) -> None:
    """No role on a project, a folder or everything, none of the basic ones, no member that is everybody."""
    for who, grants in _grants(used["resources"]).items():
        for each in grants:
            assert f"fsd-{APP}" in each.resource, (who, each)
            assert each.role not in ("roles/owner", "roles/editor", "roles/viewer")
            assert "all" not in each.member.partition(":")[0]


def test_another_app_is_out_of_reach(used: dict[str, Any]) -> None:
    made: Resources = used["resources"]
    other = Names("other", made.names["project"], "0" * 8)
    grants = _grants(made)["work"]
    for permission, resource in (
        ("pubsub.topics.publish", f"v1/{other.topic(0, 0)}"),
        ("pubsub.subscriptions.consume", f"v1/{other.subscription(0, 0)}"),
        ("storage.objects.get", "storage/v1/b/fsd-other-fsd-emulator"),
        ("run.routes.invoke", "v2/projects/fsd-emulator/locations/us-central1/services/fsd-other"),
    ):
        assert not _allowed(grants, permission, resource)


def test_a_person_gets_a_token_of_the_account_and_no_role_on_the_service(used: dict[str, Any]) -> None:
    names = used["resources"].names
    roles = {each.role for each in policy.client(names, "user:me@example.org")}
    assert roles == {"roles/cloudfunctions.viewer", "roles/storage.objectUser", "roles/iam.serviceAccountOpenIdTokenCreator"}
    assert {each.role for each in policy.account(names, "user:me@example.org")} == {
        "roles/iam.serviceAccountUser",
        "roles/iam.serviceAccountOpenIdTokenCreator",
    }
