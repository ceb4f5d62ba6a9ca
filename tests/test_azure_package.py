"""The zip that Azure runs the function from: what is in it, that it runs from it, and that the infrastructure code says the same."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import zipfile
from pathlib import Path

import pytest

from fsd_azure import PROVIDER, api, connection_strings, function, names, package, policy, provision, queues
from fsd_azure.settings import RUNTIMES, Settings
from fsd_azure.variables import KEY, RESOURCES
from fsd_conformance import emulators
from fsd_core import run
from fsd_core.driver import Resources
from fsd_core.model import radixnet
from fsd_core.model.inputs import open_inputs
from fsd_core.providers.package import files

HERE = "3.11"  # the emulator runs zips by its own Python


def content() -> dict[str, bytes]:
    return dict(package._recipe("3.12").files)


def test_the_entry_files_are_at_the_root() -> None:
    found = content()
    assert {name for name in found if "/" not in name} == {"function_app.py", "host.json", "requirements.txt"}
    assert found["function_app.py"].count(b"\n") < 30
    assert json.loads(found["host.json"])["version"] == "2.0"


def test_every_requirement_is_pinned_and_is_what_is_tested_here() -> None:
    from importlib.metadata import requires, version

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = [line for line in content()["requirements.txt"].decode().splitlines() if not line.startswith("#")]
    pinned = {canonicalize_name(name): said for name, said in (line.split("==") for line in lines)}
    assert {"numpy", "zstandard", "azure-servicebus", "azure-storage-blob"} <= pinned.keys()
    for name, said in pinned.items():
        if name not in ("numpy", "zstandard"):  # those two have wheels for every runtime that [azure] runtime may name
            assert said == version(name), f"{name}: `make .venv/all.stamp` installs what is pinned"
        for each in map(Requirement, requires(name) or ()):  # nothing is found out when it is installed
            needed = each.marker is None or each.marker.evaluate({"extra": "", "python_version": "3.12", "python_full_version": "3.12.0"})
            assert not needed or canonicalize_name(each.name) in pinned, f"{name} needs {each.name}"


def test_nothing_of_the_client_is_in_it() -> None:
    found = set(content())
    assert {
        "fsd_core/worker/program.py",
        "fsd_core/providers/http_invoke.py",
        "fsd_azure/__init__.py",
        "fsd_azure/links.py",
        "fsd_azure/invoke.py",
    } <= found
    assert not {f"fsd_azure/{each}.py" for each in ("api", "function", "package", "policy", "provision", "queues", "settings")} & found
    assert not [name for name in found if name.startswith(("fsd_core/cli/", "fsd_azure/handler/", "fsd_aws", "fsd_gcp", "fsd_local"))]


def test_each_runtime_has_a_digest_of_its_own() -> None:
    assert len({package.digest(runtime) for runtime in RUNTIMES}) == len(RUNTIMES)


@pytest.mark.emulator
@pytest.mark.timeout(300)
def test_a_run_from_the_zip(tmp_path: Path) -> None:
    """Deployed as on the platform: the zip alone has code and packages."""
    azure = emulators.find("azure")
    FromZip: type[emulators.Emulator] = type("FromZip", (azure,), {"arguments": ("--code", "zip")})
    settings = {"runtime": HERE}
    with emulators.own(FromZip):
        provisioner = PROVIDER.provisioner(settings)
        made = provisioner.ensure("zip", 2, 4)
        assert made.names["code"] == package.digest(HERE)
        built = package.build(HERE)
        assert "unzipped" in str(built)
        with zipfile.ZipFile(io.BytesIO(built.body)) as archive:
            assert ".python_packages/lib/site-packages/numpy/__init__.py" in archive.namelist()
        result = run(
            radixnet(1024, 6), open_inputs("random:20:0.3:1", 1024), provider="azure", settings=settings, workers=2, partition="block",
            app="zip", timeout=90, home=tmp_path,
        )  # fmt: skip
        assert result.output.nnz > 0
        assert provisioner.destroy("zip")


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
        f"daysAfterModificationGreaterThan: {provision.KEPT_DAYS}",
        f"name: '{RESOURCES}'",
    ):
        assert line in text
    roles = {policy.SENDER, policy.RECEIVER, policy.OWNER, policy.BLOBS, policy.BLOBS_OWNER}
    assert set(re.findall(r"^var \w+ = '([0-9a-f-]{36})'", text, re.M)) == roles
    assert re.search(r"resource workerStores [\s\S]*?roleDefinitions', blobsOwner\)[\s\S]*?resource deployerOwns", text)


def test_the_bicep_has_the_defaults_of_the_settings() -> None:
    text = bicep()
    defaults = {field.name: str(field.default) for field in dataclasses.fields(Settings)}
    for name in ("region", "tier", "memory_mb", "timeout_s", "concurrency", "lease_s", "runtime", "message_kb"):
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
    assert KEY not in text
    assert "listKeys" not in text
    assert {version for word, version in re.findall(r"'(Microsoft\.ServiceBus)[^@']*@([^']+)'", text)} == {
        dict(api._VERSIONS)["microsoft.servicebus"]
    }
