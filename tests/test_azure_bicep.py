"""``handlers/azure_functions/main.bicep``: what it says is what `fsd_azure.provision` makes."""

from __future__ import annotations

import re

import attrs
import pytest

from fsd_azure import PROVIDER, RESOURCES, api, connection_strings, function, names, policy, provision, queues, variables
from fsd_azure.settings import Settings
from fsd_core.driver import Resources
from fsd_core.providers.package import files


def bicep() -> str:
    return files("fsd_azure.handler")["main.bicep"].read_text()


def test_the_bicep_uses_the_same_names_and_roles() -> None:
    text, mark = bicep(), names.function("x", "s", "g")[-6:]
    assert names.function("x", "s", "g") == f"fsd-x-{mark}"
    assert names.namespace("x", "s", "g", 3) == f"fsd-x-{mark}-3"
    assert names.storage_account("x", "s", "g") == f"fsdx{mark}"
    assert names.container("x") == "fsd-x"
    for line in (
        "var function = 'fsd-${app}-${mark}'",
        "var account = 'fsd${replace(app, '-', '')}${mark}'",
        ": 'fsd-${app}'",
        "name: '${function}-${i}'",
        "name: 'fsd-${app}-${generation}-${i / ranks}-${i % ranks}'",
        f"var tags = {{ '{policy.APP_TAG}': app }}",
        f"maxDeliveryCount: {queues.DELIVERIES}, defaultMessageTimeToLive: 'PT{queues.TTL_S}S'",
        f"daysAfterModificationGreaterThan: {policy.KEPT_DAYS}",
        f"name: '{RESOURCES}'",
    ):
        assert line in text
    roles = {policy.SENDER, policy.RECEIVER, policy.OWNER, policy.BLOBS, policy.BLOBS_OWNER}
    assert set(re.findall(r"^var \w+ = '([0-9a-f-]{36})'", text, re.M)) == roles
    assert re.search(r"resource workerStores [\s\S]*?roleDefinitions', blobsOwner\)[\s\S]*?resource deployerOwns", text)


def test_the_bicep_has_the_defaults_of_the_settings() -> None:
    text = bicep()
    defaults = {field.name: str(field.default) for field in attrs.fields(Settings)}
    for name in ("region", "tier", "memory_mb", "timeout_s", "concurrency", "lease_s", "runtime", "message_kb", "audit_retention_days"):
        assert re.findall(rf"^param {name} \w+ = '?([\w.]+)", text, re.M) == [defaults[name]], name
    assert text.count("{") == text.count("}")


def test_the_bicep_records_an_app_that_is_to_be_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `fsd deploy` does it: settings when the site is made, storage among them; no ranks, code or key before all is there."""
    for variable in (connection_strings.SERVICE_BUS, connection_strings.STORAGE):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AZURE_SUBSCRIPTION_ID", "00000000-0000-0000-0000-000000000000")
    text, provisioner = bicep(), provision.AzureProvisioner({"package": False}, PROVIDER)
    with provisioner.requests() as requests:
        told = provisioner._names(requests, "x", 8) | provisioner.wanted() | {"generation": "", "package": ""}
    site = text[text.index("resource site") : text.index("// --- roles")]
    assert set(re.findall(r"^ {14}(\w+): ", site, re.M)) == set(told)
    assert re.search(r"ranks: 0\s+slots: 0\s", site)
    assert re.search(r"code: ''\s", site)
    assert set(re.findall(r"name: '(\w+)'", site)) == {"python", *function._own(Resources("x", 0, 0, told))}
    assert variables.KEY not in text
    assert "listKeys" not in text
    assert {version for word, version in re.findall(r"'(Microsoft\.ServiceBus)[^@']*@([^']+)'", text)} == {
        dict(api._VERSIONS)["microsoft.servicebus"]
    }
