"""``fsd audit`` on Azure: against the Service Bus stand-in, Azurite and the local Functions host.

The emulators' app has the namespaces and the account of connection strings. So that these are audited too, the cases add the records of a
namespace and an account to the app, made by the functions that make them on Azure.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from typing import Any

import attrs
import pytest

import fsd_core
from audit_cases import AuditCases, Audited, Fault
from fsd_azure import PROVIDER, audit, clients, connection_strings, function, policy, provision, queues
from fsd_azure.api import Api
from fsd_azure.names import Names
from fsd_azure.policy import Grant
from fsd_azure.provision import AzureProvisioner
from fsd_conformance import emulators
from fsd_core import Promise, Resources

pytestmark = [pytest.mark.emulator, pytest.mark.timeout(240)]
SETTINGS = {"package": False, "lease_s": 5}
CONTRIBUTOR = "b24988ac-6180-42a0-ab88-20f7382dd24c"


@contextmanager
def asking() -> Iterator[Api]:
    with AzureProvisioner(SETTINGS, PROVIDER).requests() as api:
        api.within(120)
        yield api


def changing(change: Callable[[Api, Resources], object]) -> Callable[[Resources], None]:
    def plant(made: Resources) -> None:
        with asking() as api:
            change(api, made)

    return plant


def account(**properties: Any) -> Callable[[Resources], None]:
    return changing(lambda api, made: api.call("PATCH", policy.storage_id(made.names), {"properties": properties}))


def space(**properties: Any) -> Callable[[Resources], None]:
    def change(api: Api, made: Resources) -> None:
        api.call("PATCH", policy.namespace_id(made.names, made.names["namespaces"].partition(",")[0]), {"properties": properties})

    return changing(change)


def site(made: Resources) -> str:
    names = made.names
    return (
        f"/subscriptions/{names['subscription']}/resourceGroups/{names['resource_group']}/providers/Microsoft.Web/sites/{names['function']}"
    )


def longer(api: Api, made: Resources) -> None:
    names = Names.of(made)
    with queues.administration(names.namespaces) as admins:
        found = admins[0].get_queue(names.queue(0, 0))
        found.default_message_time_to_live = timedelta(days=14)
        admins[0].update_queue(found)


def container(access: str | None) -> Callable[[Resources], None]:
    def change(made: Resources) -> None:
        with closing(clients.container(made.names["blob_url"], made.names["container"])) as client:
            client.set_container_access_policy({}, public_access=access)

    return change


def principal(api: Api, made: Resources) -> str:
    return str(api.call("GET", site(made))["identity"]["principalId"])


def contributor(held: bool) -> Callable[[Resources], None]:
    def change(api: Api, made: Resources) -> None:
        scope, who = f"/subscriptions/{api.subscription}", principal(api, made)
        if held:
            api.grant([Grant(scope, CONTRIBUTOR, who, "ServicePrincipal")])
        else:
            name = uuid.uuid5(uuid.NAMESPACE_URL, f"{scope}/{who}/{CONTRIBUTOR}")
            api.call("DELETE", f"{scope}/providers/Microsoft.Authorization/roleAssignments/{name}")

    return changing(change)


def without_role(api: Api, made: Resources) -> None:
    grant = policy.worker(made.names, principal(api, made))[0]
    name = uuid.uuid5(uuid.NAMESPACE_URL, f"{grant.scope.lower()}/{grant.principal}/{grant.role}")
    api.call("DELETE", f"{grant.scope}/providers/Microsoft.Authorization/roleAssignments/{name}")


def insights(given: bool) -> Callable[[Resources], None]:
    def change(api: Api, made: Resources) -> None:
        settings = function.settings(api, made.app) or {}
        settings.pop("APPLICATIONINSIGHTS_CONNECTION_STRING", None)
        more = {"APPLICATIONINSIGHTS_CONNECTION_STRING": "InstrumentationKey=0"} if given else {}
        api.call("PUT", f"{site(made)}/config/appsettings", {"properties": settings | more})

    return changing(change)


IDENTITIES = {
    "type": "SystemAssigned, UserAssigned",
    "userAssignedIdentities": {"/subscriptions/0/resourceGroups/x/providers/Microsoft.ManagedIdentity/userAssignedIdentities/powerful": {}},
}
ROLES = "identity: exactly the roles that workers use"
ACCESS, TLS = "storage account: no public access, no keys", "storage account: only by TLS"
FAULTS = {
    "a public account": Fault(account(allowBlobPublicAccess=True), ACCESS, "too many: allowBlobPublicAccess = true"),
    "keys of the account": Fault(account(allowSharedKeyAccess=True), ACCESS, "too many: .*allowSharedKeyAccess = true"),
    "an old TLS": Fault(account(minimumTlsVersion="TLS1_0"), TLS, 'minimumTlsVersion = "TLS1_0"'),
    "no TLS": Fault(account(supportsHttpsTrafficOnly=False), TLS, "supportsHttpsTrafficOnly = false"),
    "another key": Fault(
        account(encryption={"keySource": "Microsoft.Keyvault"}), "storage account: encrypted at rest", "Microsoft.Keyvault"
    ),
    "objects stay for ever": Fault(
        changing(
            lambda api, made: api.call(
                "PUT", f"{policy.storage_id(made.names)}/managementPolicies/default", {"properties": {"policy": {"rules": []}}}
            )
        ),
        "storage account: life cycle",
        "missing: .*daysAfterModificationGreaterThan",
    ),
    "a public container": Fault(container("blob"), "containers: no public access", "public access to each blob", container(None)),
    "an old TLS of the namespace": Fault(space(minimumTlsVersion="1.0"), "namespaces: only by TLS", "minimumTlsVersion = 1.0"),
    "keys of the namespace": Fault(space(disableLocalAuth=False), "namespaces: no keys", "disableLocalAuth = False"),
    "messages stay longer": Fault(changing(longer), "queues: retention", "-0-0: 1209600 s"),
    "a contributor": Fault(contributor(True), ROLES, rf"too many: {CONTRIBUTOR} on /subscriptions/[\w-]+($|;)", contributor(False)),
    "a role that is missing": Fault(changing(without_role), ROLES, "missing: Azure Service Bus Data Sender on "),
    "an identity that somebody added": Fault(
        changing(lambda api, made: api.call("PATCH", site(made), {"identity": IDENTITIES})),
        "identity: only the function app's own",
        "too many: powerful",
    ),
    "plain HTTP to the function": Fault(
        changing(lambda api, made: api.call("PATCH", site(made), {"properties": {"httpsOnly": False}})),
        "function app: only by TLS",
        "httpsOnly = false",
    ),
    "an old TLS of the function": Fault(
        changing(lambda api, made: api.call("PATCH", f"{site(made)}/config/web", {"properties": {"minTlsVersion": "1.0"}})),
        "function app: only by TLS",
        'minTlsVersion = "1.0"',
    ),
    "logs stay elsewhere": Fault(insights(True), "logs: retention", "APPLICATIONINSIGHTS_CONNECTION_STRING", insights(False)),
}


@contextmanager
def emulated() -> Iterator[None]:
    with emulators.own(emulators.find("azure")):
        yield


class TestAzure(AuditCases):
    cloud = Audited("azure", SETTINGS, emulated, FAULTS)

    @classmethod
    def deploy(cls, repair: bool = False) -> Resources:
        made = super().deploy(repair)
        given = made.names["namespaces"].count(",") + 1
        with pytest.MonkeyPatch.context() as patch:
            for name in (connection_strings.SERVICE_BUS, connection_strings.ADMINISTRATION, connection_strings.STORAGE):
                patch.delenv(name)
            provisioner = AzureProvisioner({**SETTINGS, "namespaces": given}, PROVIDER)
            with provisioner.requests() as api:
                api.within(120)
                own = provisioner._names(api, cls.APP, 2)
                names = {**made.names, **{name: own[name] for name in ("bus", "namespaces", "storage_account", "blob_url")}}
                provision._make_account(api, cls.APP, names)
                provision._make_bus(api, cls.APP, names)
                whole = attrs.evolve(made, names=names)
                api.grant(policy.worker(names, principal(api, whole)))
        return whole

    @classmethod
    def audit(cls) -> list[Promise]:
        with asking() as api:
            return AzureProvisioner(SETTINGS, PROVIDER).promises(api, whole(api))

    def test_what_connection_strings_name_is_not_audited(self, fresh: tuple[Resources, list[Promise]]) -> None:
        found = {each.name: each.found for each in fsd_core.audit("azure", self.APP, SETTINGS)}
        assert found["namespaces"] == "given by connection strings: not audited"
        assert found["storage account"] == "given by a connection string: not audited"
        assert "storage account: life cycle" not in found

    def test_what_the_credentials_may_not_read_does_not_hold(
        self, fresh: tuple[Resources, list[Promise]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        string = os.environ[connection_strings.STORAGE]
        monkeypatch.setenv(connection_strings.STORAGE, re.sub("AccountKey=[^;]*", "AccountKey=d3Jvbmc=", string))
        (found,) = (each for each in fsd_core.audit("azure", self.APP, SETTINGS) if each.name == "containers: no public access")
        assert (found.holds, found.verdict) == (False, "FAILS")
        assert found.found == "not read: these credentials lack the role Storage Blob Data Reader"
        assert (found.expected, found.advice) == ("private", "audit with credentials that have the role Storage Blob Data Reader")

    def test_a_function_app_without_an_identity_lacks_every_role(self, fresh: tuple[Resources, list[Promise]]) -> None:
        before: dict[str, Any] = {}

        def take(api: Api, made: Resources) -> None:
            before.update(api.call("GET", site(made))["identity"])
            api.call("PATCH", site(made), {"identity": None})

        changing(take)(fresh[0])
        try:
            found = {each.name: each for each in self.audit()}
            assert found["identity: only the function app's own"].found == "missing: its own"
            assert found[ROLES].found.startswith("missing: Azure Service Bus Data Receiver on ")
        finally:
            changing(lambda api, made: api.call("PATCH", site(made), {"identity": before}))(fresh[0])


def whole(api: Api) -> Resources:
    """The app with the records that `TestAzure.deploy` added."""
    found = function.read(api, TestAzure.APP)
    assert found is not None
    with pytest.MonkeyPatch.context() as patch:
        for name in (connection_strings.SERVICE_BUS, connection_strings.STORAGE):
            patch.delenv(name)
        own = AzureProvisioner({**SETTINGS, "namespaces": found.names["namespaces"].count(",") + 1}, PROVIDER)._names(api, TestAzure.APP, 2)
    return attrs.evolve(found, names={**found.names, **{name: own[name] for name in ("bus", "namespaces", "storage_account", "blob_url")}})


def test_days_are_compared_as_numbers() -> None:
    """Azure answers with 7.0 for 7."""
    rule = policy.life_cycle("fsd-x", 365)[0]
    read = {**rule, "definition": {**rule["definition"], "actions": {"baseBlob": {"delete": {"daysAfterModificationGreaterThan": 7.0}}}}}
    assert audit._rule(read) == audit._rule(rule)
