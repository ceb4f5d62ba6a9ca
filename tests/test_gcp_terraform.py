"""``handlers/google_cloud_run/main.tf``: well formed, and what it says is what `fsd_gcp.provision` makes.

Terraform's google provider plugin is on few machines, so nothing here plans or applies it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from fsd_core.driver import Resources
from fsd_gcp import PROVIDER, function, names, policy, provision, queues
from fsd_gcp.names import Names
from fsd_gcp.settings import Settings
from fsd_gcp.variables import RESOURCES

MAIN = Path(sys.modules["fsd_gcp"].__file__ or "").parents[2] / "handlers" / "google_cloud_run" / "main.tf"
TEXT = MAIN.read_text()
HOW_TO = (MAIN.parents[2] / "docs" / "how-to-gcp.md").read_text()
TERRAFORM = {"cloudresourcemanager", "serviceusage"}


def test_it_is_well_formed(tmp_path: Path) -> None:
    if shutil.which("terraform") is None:
        pytest.skip("terraform is not on this machine")
    shutil.copy(MAIN, tmp_path)
    done = subprocess.run(["terraform", "fmt", "-check", "-diff"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_uses_the_same_names() -> None:
    told = {"project": "p", "region": "r", "generation": "00000001", "service_account": "a@p", "bucket": "b", "function": "f"}
    own = Names.of(Resources("x", 1, 1, told))
    for made, line in (
        (names.function("x"), 'function = "fsd-${var.app}"'),
        (names.bucket("x", "p"), 'bucket   = "fsd-${var.app}-${var.project}"'),
        (names.service_account("x"), 'account  = "fsd-${var.app}-run"'),
        (own.queue(0, 1).removesuffix("-0-1"), 'prefix   = "fsd-${var.app}-${var.generation}"'),
    ):
        assert line in TEXT
        filled = line.partition('"')[2].rstrip('"').replace("${var.app}", "x").replace("${var.project}", "p")
        assert filled.replace("${var.generation}", "00000001") == made
    assert f"labels   = {{ {policy.APP_LABEL} = var.app }}" in TEXT
    (repository,) = re.findall(r'resource "google_artifact_registry_repository" "image" \{.*?\n\}', TEXT, re.S)
    assert "repository_id = local.function" in repository
    assert names.repository("x", "p", "r") == f"projects/p/locations/r/repositories/{names.function('x')}"
    assert function._description("${var.app}") in TEXT


def test_it_gives_the_same_roles_and_apis() -> None:
    told = {"project": "p", "region": "r", "generation": "0", "service_account": "a@p", "bucket": "b", "function": "f"}
    own = Names.of(Resources("x", 1, 1, told))
    member = "user:me@example.org"
    grants = [*policy.queues(own, [(0, 0)], "m", receives=True), *policy.worker(told), *policy.account(told, member)]
    assert set(re.findall(r'"(roles/[\w.]+)"', TEXT)) == {each.role for each in grants}
    (listed,) = re.findall(r"apis = \[(.*?)\]", TEXT, re.S)
    assert tuple(re.findall(r'"(\w+)"', listed)) == tuple(sorted({*policy.APIS, *TERRAFORM}))


def test_what_terraform_itself_asks_is_enabled_beforehand() -> None:
    """``google_project`` is read while it plans, and each ``google_project_service`` reads the project and asks about services."""
    assert 'data "google_project"' in TEXT
    assert 'resource "google_project_service"' in TEXT
    (command,) = re.findall(r"gcloud services enable (.*)", TEXT.partition("terraform apply")[0])
    assert {name.removesuffix(".googleapis.com") for name in command.split() if "." in name} == TERRAFORM
    (told,) = re.findall(r"gcloud services enable ([^`]*)`", HOW_TO.partition("Terraform:")[2].partition("## 4")[0])
    assert {name.removesuffix(".googleapis.com") for name in told.split()} == TERRAFORM


def test_the_how_to_enables_what_the_provider_uses_in_an_order_that_works() -> None:
    steps = HOW_TO.partition("## 1.")[2].partition("## 2.")[0]
    (enabled,) = re.findall(r"gcloud services enable ((?:.*\\\n)*.*)", steps)
    assert set(re.findall(r"(\w+)\.googleapis\.com", enabled)) == {*policy.APIS}
    order = ["config set project", "services enable", "application-default login", "application-default set-quota-project"]
    places = [steps.index(f"gcloud {each}" if each[0] != "a" else f"gcloud auth {each}") for each in order]
    assert places == sorted(places)


def test_its_defaults_and_the_record_are_those_of_the_settings() -> None:
    defaults = {field.name: str(field.default) for field in attrs.fields(Settings)}
    for name in ("region", "memory_mb", "timeout_s", "concurrency", "lease_s", "receive", "runtime", "audit_retention_days"):
        assert re.findall(rf'variable "{name}" \{{[^}}]*default\s*= "?([\w-]+)', TEXT) == [defaults[name]], name
    assert f"{RESOURCES} = jsonencode" in TEXT
    (record,) = re.findall(r"names = \{(.*?)\n\s*\}", TEXT, re.S)
    wanted = set(provision.GcpProvisioner({}, PROVIDER).wanted()) | {"project", "region", "generation", "function", "bucket", "url"}
    assert set(re.findall(r"^\s*(\w+)\s*=", record, re.M)) == wanted | {"service_account", "package", "kms_key"}
    assert f'message_retention_duration = "{queues.RETENTION_S}s"' in TEXT
    assert re.search(rf"age += {policy.KEPT_DAYS}\n", TEXT)
    assert re.search(rf'entry_point += "{function.ENTRY}"', TEXT)
    service = function._service(Resources("x", 1, 1, {**dict.fromkeys(wanted, "1"), "service_account": "a"}))["serviceConfig"]
    for key in (*service, *service["environmentVariables"]):
        snake = key if key.isupper() else re.sub("([A-Z])", lambda found: "_" + found[1].lower(), key)
        assert re.search(rf"^\s*{snake}\s*=", TEXT, re.M), key
