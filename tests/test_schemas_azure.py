"""What a deployment asks of Azure, what our stand-in answers, and main.bicep, against the models that the vendor publishes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from typing import Any

import pytest

from fsd_azure import PROVIDER, connection_strings, policy, provision
from fsd_azure.api import Api as Requests
from fsd_azure.provision import AzureProvisioner
from fsd_conformance import emulators
from fsd_conformance.emulators.azure_functions_arm import _RECORDS
from schemas import Api, Exchange, azure, bicep, breaches, problems, recording, wheels
from schemas.planting import Mistake, answer, body, first, status, target

pytestmark = [pytest.mark.emulator, pytest.mark.timeout(240)]
APP = "schemas"
ME, FUNCTION = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"
VERSIONS = {"roleAssignments": "2022-04-01", "userAssignedIdentities": "2024-11-30"}


@pytest.fixture(scope="module")
def api() -> Api:
    return azure.read(wheels.folder())


@pytest.fixture(scope="module")
def exchanges(api: Api) -> Iterator[list[Exchange]]:
    """Of a deployment, a second one, and what else the stand-in knows."""
    with emulators.own(emulators.find("azure")), recording.azure() as seen, pytest.MonkeyPatch.context() as patch:
        for slots, memory_mb in ((1, 512), (2, 2048)):
            given = PROVIDER.provisioner({"package": False, "lease_s": 5, "memory_mb": memory_mb})
            given.ensure(APP, 2, slots)
        assert given.find(APP)
        own = AzureProvisioner({"package": False}, PROVIDER)
        with own.requests() as requests:
            requests.within(120)
            _sites(requests, requests.id(APP, f"Microsoft.Web/sites/{given.find(APP).names['function']}"))  # type: ignore[union-attr]
        assert given.destroy(APP)
        for name in (connection_strings.SERVICE_BUS, connection_strings.ADMINISTRATION, connection_strings.STORAGE):
            patch.delenv(name)
        with own.requests() as requests:
            requests.within(120)
            _own(own, requests)
            _others(requests)
        yield seen


def _own(own: AzureProvisioner, requests: Requests) -> None:
    """What an app makes where no connection string names it."""
    names = own._names(requests, APP, 8) | own.wanted()
    for _ in range(2):
        provision._make_group(requests, APP)
        provision._make_account(requests, APP, names)
        provision._make_bus(requests, APP, names)
        granted = [*policy.deployer(names, ME, "User"), *policy.worker(names, FUNCTION), *policy.client(names, ME, "User")]
        requests.grant(granted)
    group, space = requests.id(APP), policy.namespace_id(names, names["namespaces"].partition(",")[0])
    _ask(requests, "GET", group.rpartition("/")[0])
    _ask(requests, "PATCH", group, {"tags": {policy.APP_TAG: APP}})
    for kind in (
        "Microsoft.ServiceBus/namespaces",
        "Microsoft.Storage/storageAccounts",
        "Microsoft.Web/serverfarms",
        "Microsoft.Web/sites",
    ):
        _ask(requests, "GET", f"{group}/providers/{kind}")
    _ask(requests, "GET", f"{space}/providers/Microsoft.Authorization/roleAssignments")
    _ask(requests, "PATCH", space, {"tags": {policy.APP_TAG: APP}})
    _ask(requests, "PATCH", policy.storage_id(names), {"properties": {"allowBlobPublicAccess": False}})
    assert own.remove(requests, APP, None)


def _others(requests: Requests) -> None:
    """The stand-in's other records, made, made again, read and removed; and what it says of what is not there."""
    requests.put(requests.id(APP), {"location": "eastus2"})
    account, space = (requests.id(APP, f"Microsoft.{kind}/schemas") for kind in ("Storage/storageAccounts", "ServiceBus/namespaces"))
    role = f"/subscriptions/{requests.subscription}/providers/Microsoft.Authorization/roleDefinitions/{policy.SENDER}"
    made: list[tuple[str, dict[str, Any]]] = [
        (account, {"location": "eastus2", "kind": "StorageV2", "sku": {"name": "Standard_LRS"}}),
        (f"{account}/blobServices/default/containers/one", {"properties": {"publicAccess": "None", "metadata": {"fsdapp": APP}}}),
        (f"{account}/managementPolicies/default", {"properties": {"policy": {"rules": []}}}),
        (space, {"location": "eastus2", "sku": {"name": "Standard"}, "properties": {}}),
        (requests.id(APP, "Microsoft.Web/serverfarms/schemas"), {"location": "eastus2", "sku": {"name": "FC1", "tier": "FlexConsumption"}}),
        (requests.id(APP, "Microsoft.ManagedIdentity/userAssignedIdentities/schemas"), {"location": "eastus2"}),
        (
            f"{space}/providers/Microsoft.Authorization/roleAssignments/{FUNCTION}",
            {"properties": {"roleDefinitionId": role, "principalId": ME, "principalType": "User"}},
        ),
    ]
    for path, told in made:
        for method in ("PUT", "PUT", "GET", "GET"):
            _ask(requests, method, path, told if method == "PUT" else None)
    for path, _ in reversed(made):
        _ask(requests, "DELETE", path)
        _ask(requests, "DELETE", path)
        _ask(requests, "GET", path, refused=True)
    requests.delete(requests.id(APP))
    _ask(requests, "GET", requests.id(APP), refused=True)


def _sites(requests: Requests, site: str) -> None:
    _ask(requests, "GET", f"{site}/functions")
    _ask(requests, "PATCH", site, {"properties": {"httpsOnly": True}})
    _ask(requests, "POST", f"{site}/host/default/listkeys")
    _ask(requests, "GET", f"{site}-not", refused=True)


def _ask(requests: Requests, method: str, path: str, body: Any = None, *, refused: bool = False) -> None:
    """One request, in a version of the API of which there are models."""
    version = next((each for kind, each in VERSIONS.items() if kind in path), "")
    whole = f"{requests._manager}{path}?api-version={version}" if version else path
    try:
        requests.request(method, whole, body)
    except Exception:
        assert refused
    else:
        assert not refused


def test_no_request_and_no_answer_breaks_the_models(api: Api, exchanges: list[Exchange]) -> None:
    assert len(exchanges) > 150
    found = "\n".join(each for exchange in exchanges for each in problems(api, exchange))
    assert not found, found


def test_every_record_of_the_stand_in_was_asked_for(exchanges: list[Exchange]) -> None:
    asked = {(each.method, _kind(each.path)) for each in exchanges}
    assert {(method, kind) for kind in _RECORDS for method in ("PUT", "GET", "DELETE")} <= asked


def _kind(path: str) -> str:
    namespace, *rest = path.lower().rpartition("/providers/")[2].split("/")
    return "/".join([namespace, *rest[::2]])


def scale(told: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = told["properties"]["functionAppConfig"]["scaleAndConcurrency"]
    return found


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        (body(lambda told: scale(told).update(instances=1)), "scaleAndConcurrency.instances: there is no such field"),
        (body(lambda told: told["identity"].update(type="Automatic")), "identity.type: is 'Automatic', expected one of None, SystemA"),
        (body(lambda told: told.pop("location")), "request.location: is missing"),
        (target("$", "&validate=true"), "query validate: there is no such parameter"),
        (body(lambda told: told["properties"].update(state="Running")), "properties.state: is for the service alone to say"),
        (body(lambda told: scale(told).update(instanceMemoryMB="2048")), 'instanceMemoryMB: is "2048", expected integer'),
        (target(r"\?.*", ""), "query api-version: is missing"),
        (target("=.*", "=2014-04-01"), "query api-version: is '2014-04-01'"),
        (target("/sites/", "/places/"), "there is no such operation"),
        (target("/fsd-schemas/", "/fsd schemas./"), "path resourceGroupName: is 'fsd schemas.'"),
        (lambda exchange: replace(exchange, method="POST"), "there is no such operation"),
        (lambda exchange: replace(exchange, body=b""), "request: has no body"),
        (status(206), "answer 206: expected 200, 202"),
        (answer(lambda told: told.update(mood="good")), "answer 200.mood: there is no such field"),
        (answer(lambda told: told["properties"].update(hostNames="one")), 'properties.hostNames: is "one", expected array'),
    ],
)
def test_a_planted_mistake_is_found(api: Api, exchanges: list[Exchange], mistake: Mistake, says: str) -> None:
    right = first(exchanges, "PUT Microsoft.Web/sites/[^/]+")
    assert problems(api, right) == []
    (found,) = problems(api, mistake(right))
    assert says in found


def test_the_bicep_keeps_the_models(api: Api) -> None:
    resources = list(bicep.resources(files("fsd_azure.handler").joinpath("main.bicep").read_text()))
    assert len({each.name for each in resources}) == 14
    for each in resources:
        found = api.find("PUT", each.path)
        assert found, each
        assert [*breaches(found[0].query["api-version"].schema(), each.version, each.name, sent=True)] == []
        assert found[0].body
        assert [*breaches(found[0].body.schema(), each.body, each.name, sent=True)] == []


def test_mistakes_in_bicep_are_found(api: Api) -> None:
    text = files("fsd_azure.handler").joinpath("main.bicep").read_text()
    for right, wrong in (
        ("httpsOnly: true", "httpsOnly: 'yes'"),
        ("minimumTlsVersion: '1.2', disable", "minimumTls: '1.2', disable"),
        ("kind: 'StorageV2'", "kind: 'StorageV3'"),
        ("name: 'Premium', tier", "name: 'Golden', tier"),
        ("{ maxMessageSizeInKilobytes: message_kb }", "{ maxMessageSize: message_kb }"),
        ("name: 'forget0'\n          enabled: true\n          type: 'Lifecycle'\n", "name: 'forget0'\n          enabled: true\n"),
    ):
        assert text.count(right) == 1
        text = text.replace(right, wrong)
    found = set()
    for each in bicep.resources(text):
        terms = api.find("PUT", each.path)
        assert terms
        assert terms[0].body
        found |= {line.partition(", expected")[0] for line in breaches(terms[0].body.schema(), each.body, each.name, sent=True)}
    assert found == {
        'site.properties.httpsOnly: is "yes"',
        "bus.properties.minimumTls: there is no such field",
        "storage.kind: is 'StorageV3'",
        "bus.sku.name: is 'Golden'",
        "queue.properties.maxMessageSize: there is no such field",
        "life.properties.policy.rules[0].type: is missing",
    }
