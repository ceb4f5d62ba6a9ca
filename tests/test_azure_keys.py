"""``[azure] kms_key``: what a key encrypts, and which keys are refused. Namespaces, account and identity are records of the emulator."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import fsd_core
from azure_calls import recorded
from fsd_azure import PROVIDER, audit, connection_strings, keys, policy, provision
from fsd_azure.api import Api
from fsd_azure.policy import Grant
from fsd_azure.provision import AzureProvisioner
from fsd_conformance import emulators
from fsd_core import InputError

pytestmark = [pytest.mark.emulator, pytest.mark.timeout(240)]
KEY = "https://vault.vault.azure.net/keys/mine"
SETTINGS = {"package": False, "tier": "premium", "kms_key": KEY}
OTHER = "/subscriptions/00000000-0000-0000-0000-00000000000a/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/x"


@pytest.fixture(scope="module")
def azure() -> Iterator[Api]:
    """The Resource Manager without connection strings, and the app's group."""
    with emulators.own(emulators.find("azure")), pytest.MonkeyPatch.context() as patch:
        for name in (connection_strings.SERVICE_BUS, connection_strings.ADMINISTRATION, connection_strings.STORAGE):
            patch.delenv(name)
        with AzureProvisioner({"package": False}, PROVIDER).requests() as api:
            api.within(120)
            provision._make_group(api, "keyed")
            yield api


def identity(api: Api, name: str, *scopes: str) -> str:
    """A user-assigned identity, with the role that uses keys on these scopes."""
    path = api.id("keyed", f"Microsoft.ManagedIdentity/userAssignedIdentities/{name}")
    made = api.put(path, {"location": "eastus2"})
    api.grant([Grant(scope, policy.CRYPTO, str(made["properties"]["principalId"]), "ServicePrincipal") for scope in scopes])
    return path


def test_a_key_encrypts_account_and_namespaces(azure: Api) -> None:
    vault = azure.id("keyed", "Microsoft.KeyVault/vaults/vault")
    provisioner = AzureProvisioner({**SETTINGS, "kms_identity": identity(azure, "mine", vault)}, PROVIDER)
    names = provisioner._names(azure, "keyed", 2) | provisioner.wanted()
    with recorded() as calls:
        keys.check(azure, names)
    assert len(calls) == 2
    provision._make_account(azure, "keyed", names)
    provision._make_bus(azure, "keyed", names)
    for path in (policy.storage_id(names), policy.namespace_id(names, names["namespaces"])):
        assert azure.call("GET", path)["identity"] == {"type": "UserAssigned", "userAssignedIdentities": {names["kms_identity"]: {}}}
    encrypted = [each for part in (audit._account, audit._spaces) for each in part(azure, names) if each.name.endswith("encrypted at rest")]
    assert [(each.holds, each.found) for each in encrypted] == 2 * [(True, KEY)]
    plain = {**names, "kms_key": ""}
    provision._make_account(azure, "keyed", plain)
    (broken,) = (each for each in audit._account(azure, names) if not each.holds)
    assert (broken.name, broken.expected) == ("storage account: encrypted at rest", KEY)


def test_an_identity_that_may_not_use_the_key_is_refused(azure: Api) -> None:
    elsewhere = azure.id("keyed", "Microsoft.KeyVault/vaults/vault2")
    for who, says in (
        (
            identity(azure, "nobody"),
            "identity nobody may not use Microsoft.KeyVault/vaults/keys/read, ",
        ),
        (identity(azure, "elsewhere", elsewhere), "expected the role Key Vault Crypto Service Encryption User on vault vault"),
        (
            azure.id("keyed", "Microsoft.ManagedIdentity/userAssignedIdentities/nothing"),
            "does not exist: expected the resource id",
        ),
    ):
        with recorded() as calls, pytest.raises(InputError) as raised:
            fsd_core.deploy("azure", "refused", {**SETTINGS, "kms_identity": who}, workers=1, slots=1)
        assert says in str(raised.value)
        assert not [call for call in calls if call.method == "PUT"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kms_key": KEY, "kms_identity": OTHER}, "in the tier standard Service Bus encrypts with keys of Microsoft only: expected"),
        ({"kms_key": KEY, "tier": "premium"}, "kms_key and kms_identity: expected both"),
        ({"kms_key": "mine", "kms_identity": OTHER}, "expected a key's URL"),
        ({"kms_key": KEY, "kms_identity": "mine", "tier": "premium"}, "expected the resource id of a user-assigned identity"),
    ],
)
def test_a_key_that_the_settings_cannot_have_is_refused(settings: dict[str, str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        PROVIDER.provisioner(settings)


def test_what_connection_strings_name_has_a_key_of_its_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        connection_strings.STORAGE, "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=a2V5;EndpointSuffix=core.windows.net"
    )
    with pytest.raises(InputError, match="kms_key: connection strings name namespaces or an account"):
        AzureProvisioner({**SETTINGS, "kms_identity": OTHER}, PROVIDER).wanted()
