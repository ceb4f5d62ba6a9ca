"""Who gets which role where: the roles of `fsd_azure.policy`, and what the provisioner asks of the Resource Manager against `ACTIONS`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

import pytest

from azure_calls import Call, recorded
from fsd_azure import PROVIDER, connection_strings, policy, provision, queues
from fsd_azure.provision import AzureProvisioner
from fsd_conformance import emulators
from fsd_core.storage.keys import AUDIT, PASSING

pytestmark = [pytest.mark.emulator, pytest.mark.timeout(240)]
ME, FUNCTION = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"
NAMES = {
    "subscription": "s",
    "resource_group": "g",
    "bus": "made",
    "namespaces": "one.servicebus.windows.net,two.servicebus.windows.net",
    "storage_account": "account",
    "container": "fsd-a",
    "function": "f",
}
SPACES = [f"/subscriptions/s/resourceGroups/g/providers/Microsoft.ServiceBus/namespaces/{name}" for name in ("one", "two")]
ACCOUNT = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/account"


@pytest.fixture(scope="module", autouse=True)
def _emulator() -> Iterator[None]:
    with emulators.own(emulators.find("azure")):
        yield


def test_a_worker_sends_receives_and_stores_and_makes_no_queues() -> None:
    given = {(each.scope, each.role) for each in policy.worker(NAMES, FUNCTION)}
    assert given == {(each, role) for each in SPACES for role in (policy.SENDER, policy.RECEIVER)} | {(ACCOUNT, policy.BLOBS_OWNER)}
    assert {(each.principal, each.kind) for each in policy.worker(NAMES, FUNCTION)} == {(FUNCTION, "ServicePrincipal")}


def test_a_deployer_makes_queues_and_a_client_only_sends() -> None:
    assert {each.role for each in policy.deployer(NAMES, ME, "User")} == {policy.OWNER, policy.BLOBS}
    client = policy.client(NAMES, ME, "User")
    assert {each.role for each in client} == {policy.SENDER, policy.BLOBS}
    assert f"{ACCOUNT}/blobServices/default/containers/fsd-a" in {each.scope for each in client}


def test_every_role_is_on_a_resource_of_the_app() -> None:
    for each in [*policy.worker(NAMES, FUNCTION), *policy.deployer(NAMES, ME, "User"), *policy.client(NAMES, ME, "User")]:
        assert each.scope.startswith("/subscriptions/s/resourceGroups/g/providers/")


def test_what_connection_strings_open_needs_no_role() -> None:
    given = NAMES | {"bus": "given", "storage_account": ""}
    assert policy.worker(given, FUNCTION) == policy.deployer(given, ME, "User") == []


def test_what_is_made_without_connection_strings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Namespaces, account, life cycle and roles are records in the emulator: what is asked for, and that all of it goes away."""
    for name in (connection_strings.SERVICE_BUS, connection_strings.ADMINISTRATION, connection_strings.STORAGE):
        monkeypatch.delenv(name)
    provisioner, app = AzureProvisioner({"package": False}, PROVIDER), "roles"
    with provisioner.requests() as api, recorded() as calls:
        api.within(120)
        names = provisioner._names(api, app, 20) | provisioner.wanted()
        assert names["namespaces"].count(",") == 6
        provision._make_group(api, app)
        provision._make_account(api, app, names)
        provision._make_bus(api, app, names)
        for _ in range(2):  # twice: what is held is held
            api.grant([*policy.deployer(names, ME, "User"), *policy.worker(names, FUNCTION)])
        space = api.call("GET", policy.namespace_id(names, names["namespaces"].split(",")[0]))
        assert space["sku"] == {"name": "Standard", "tier": "Standard"}
        assert space["properties"]["disableLocalAuth"] is True
        account = api.call("GET", policy.storage_id(names))
        assert account["properties"]["minimumTlsVersion"] == "TLS1_2"
        assert account["properties"]["allowBlobPublicAccess"] is account["properties"]["allowSharedKeyAccess"] is False
        rules = api.call("GET", f"{policy.storage_id(names)}/managementPolicies/default")["properties"]["policy"]["rules"]
        kept = {
            prefix: rule["definition"]["actions"]["baseBlob"]["delete"]["daysAfterModificationGreaterThan"]
            for rule in rules
            for prefix in rule["definition"]["filters"]["prefixMatch"]
        }
        assert kept == {**{f"fsd-roles/{prefix}": 7 for prefix in PASSING}, f"fsd-roles/{AUDIT}": 365}
        assert max(len(rule["definition"]["filters"]["prefixMatch"]) for rule in rules) <= 10
        assert sorted(queues.existing_hosts(api, app)) == sorted(names["namespaces"].split(","))
        assert len(provisioner.remove(api, app, None)) == 9
        assert api.owned(app) == ([], [])
        assert api.find(api.id(app)) is None
    _check(calls)


def test_a_deployer_asks_for_nothing_else() -> None:
    provisioner = PROVIDER.provisioner({"package": False})
    with recorded() as calls:
        provisioner.ensure("asked", 1, 1)
        provisioner.sweep("asked")
        provisioner.destroy("asked")
    _check([each for each in calls if each.method != "LAUNCH"])


def test_a_client_reads_settings_and_key_and_no_more() -> None:
    provisioner = PROVIDER.provisioner({"package": False})
    made = provisioner.ensure("asked", 1, 1)
    with recorded() as calls:
        assert provisioner.find("asked") == provisioner.ensure("asked", 1, 1) == made
        with closing(PROVIDER.invoker(made)) as invoker:
            assert invoker._headers_of()  # type: ignore[attr-defined]
    assert len(calls) == 3
    _check(calls, policy.CLIENT_ACTIONS)
    assert not [each for each in policy.CLIENT_ACTIONS if each.endswith(("/write", "/delete"))]
    provisioner.destroy("asked")


def test_an_auditor_reads_what_it_names_and_no_more() -> None:
    provisioner = AzureProvisioner({"package": False}, PROVIDER)
    provisioner.ensure("asked", 1, 1)
    with recorded() as calls:
        assert provisioner.audit("asked")
    _check(calls, policy.AUDIT_ACTIONS)
    records = {f"Microsoft.{each}/read" for each in ("Storage/storageAccounts", "Storage/storageAccounts/managementPolicies")}
    records.add("Microsoft.ServiceBus/namespaces/read")  # of what connection strings do not name
    assert {each.lower() for each in policy.AUDIT_ACTIONS} - {_action(call).lower() for call in calls} == {each.lower() for each in records}
    provisioner.destroy("asked")


def _check(calls: list[Call], actions: Sequence[str] = policy.ACTIONS) -> None:
    assert calls
    allowed = {each.lower() for each in actions}
    assert {call for call in calls if _action(call).lower() not in allowed} == set()


def _action(call: Call) -> str:
    """The action that a request needs, as Azure names it."""
    verb = {"GET": "read", "PUT": "write", "PATCH": "write", "DELETE": "delete", "POST": "action"}[call.method]
    if call.path.startswith("resourceGroups/"):
        inside = "/resources" if call.path.endswith("/resources") else ""
        return f"Microsoft.Resources/subscriptions/resourceGroups{inside}/{verb}"
    if call.path.startswith("operationresults/"):
        return f"Microsoft.Resources/subscriptions/operationresults/{verb}"
    if "Microsoft.Insights/" in call.path:
        return f"Microsoft.Insights/eventtypes/values/{verb}"
    if "roleAssignments" in call.path:
        return f"Microsoft.Authorization/roleAssignments/{verb}"
    provider, *parts = call.path.split("/")
    if parts[2:] == ["config", "appsettings", "list"]:
        return f"{provider}/sites/config/list/action"
    if parts[2:] == ["host", "default", "listkeys"]:
        return f"{provider}/sites/host/listkeys/action"
    return "/".join([provider, *parts[::2], verb])
