"""What people set up for a cloud: settings, names, credentials. A wrong one is reported before anything is made, without an emulator."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import fsd_aws.settings
import fsd_azure.settings
import fsd_gcp.settings
from aws_server import KEYS, REGION
from canned import NOBODY, Answer, Request, said, serving
from fsd_azure import PROVIDER as AZURE
from fsd_azure.provision import AzureProvisioner
from fsd_conformance.emulators.emulator import pointed
from fsd_conformance.emulators.process import POINTERS
from fsd_core import providers
from fsd_core.driver import WORKER, Code, Resources
from fsd_core.errors import DriverError, InputError
from fsd_core.providers import requests as provider_requests
from fsd_core.providers.settings import read_settings
from fsd_gcp import PROVIDER as GCP
from fsd_gcp import api, invoke
from fsd_gcp.api import Api
from fsd_gcp.errors import Answered

SETTINGS: Mapping[str, Any] = {"aws": fsd_aws.settings, "azure": fsd_azure.settings, "gcp": fsd_gcp.settings}


def find(cloud: str, app: str = "x") -> Resources | None:
    return providers.find(cloud).provisioner({"package": False}).find(app)


@pytest.mark.parametrize(
    ("cloud", "table", "says"),
    [
        ("aws", {"regoin": "x"}, r"regoin: unknown key; did you mean region\?"),
        ("aws", {"zzz": 1}, r"zzz: unknown key; known are region, bucket"),
        ("aws", {"region": "Ireland"}, r"region = 'Ireland': expected a region's name"),
        ("aws", {"memory_mb": 64}, r"memory_mb = 64: expected a whole number from 128 to 10240"),
        ("aws", {"memory_mb": True}, r"memory_mb = True"),
        ("aws", {"timeout_s": 901}, r"timeout_s = 901: expected a whole number of seconds from 1 to 900"),
        ("aws", {"lease_s": 2.5}, r"lease_s = 2.5: expected a whole number of seconds"),
        ("aws", {"text": "yes"}, r"text = 'yes': expected \"auto\", true or false"),
        ("aws", {"message_kb": 2048}, r"message_kb = 2048: expected a whole number from 256 to 1024"),
        ("aws", {"runtime": "python3.9"}, r"runtime = 'python3.9': expected one of python3.12"),
        ("aws", {"bucket": "My_Bucket"}, r"bucket = 'My_Bucket': expected 3 to 63"),
        ("aws", {"role": "admin"}, r"role = 'admin': expected the ARN of a role"),
        ("aws", {"concurrency": 0}, r"concurrency = 0: expected a whole number from 1 to 1000000"),
        ("azure", {"zzz": 1}, r"zzz: unknown key; known are subscription, region, resource_group"),
        ("azure", {"subscription": "mine"}, r"subscription = 'mine': expected a subscription's id"),
        ("azure", {"region": "East US"}, r"region = 'East US': expected a region's short name"),
        ("azure", {"tier": "basic"}, r"tier = 'basic': expected one of standard, premium"),
        ("azure", {"memory_mb": 1024}, r"memory_mb = 1024: expected one of 512, 2048, 4096"),
        ("azure", {"memory_mb": True}, r"memory_mb = True"),
        ("azure", {"namespaces": 101}, r"namespaces = 101: expected a whole number from 0 to 100"),
        ("azure", {"timeout_s": 0}, r"timeout_s = 0: expected a whole number of seconds from 1 to 86399"),
        ("azure", {"lease_s": 301}, r"lease_s = 301: expected a whole number of seconds from 5 to 300"),
        ("azure", {"runtime": "python312"}, r"runtime = 'python312': expected one of 3.12"),
        ("azure", {"storage_account": "My_Account"}, r"storage_account = 'My_Account': expected 3 to 24"),
        ("azure", {"concurrency": 1001}, r"concurrency = 1001: expected a whole number from 1 to 1000"),
        ("azure", {"message_kb": 2048}, r"message_kb = 2048: expected 0 in the standard tier"),
        ("gcp", {"zzz": 1}, r"zzz: unknown key; known are project, region, bucket"),
        ("gcp", {"project": "X"}, r"project = 'X': expected a project's id"),
        ("gcp", {"region": "Iowa"}, r"region = 'Iowa': expected a region's name"),
        ("gcp", {"memory_mb": 128}, r"memory_mb = 128: expected a whole number from 512 to 32768"),
        ("gcp", {"memory_mb": True}, r"memory_mb = True"),
        ("gcp", {"timeout_s": 3601}, r"timeout_s = 3601: expected a whole number of seconds from 1 to 3600"),
        ("gcp", {"lease_s": 9}, r"lease_s = 9: expected a whole number of seconds from 10 to 600"),
        ("gcp", {"runtime": "python3.12"}, r"runtime = 'python3.12': expected one of python312"),
        ("gcp", {"bucket": "My_Bucket"}, r"bucket = 'My_Bucket': expected 3 to 63"),
        ("gcp", {"service_account": "me@example.org"}, r"service_account = 'me@example.org': expected an address"),
        ("gcp", {"concurrency": 0}, r"concurrency = 0: expected a whole number from 1 to 1000"),
    ],
)
def test_a_wrong_setting_is_named(cloud: str, table: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=rf"\[{cloud}\] {says}"):
        providers.find(cloud).provisioner(table)


@pytest.mark.parametrize("cloud", SETTINGS)
def test_settings_have_defaults_and_take_whole_floats(cloud: str) -> None:
    usual = SETTINGS[cloud].Settings()
    assert read_settings(SETTINGS[cloud].Settings, cloud, {"lease_s": float(usual.lease_s)}) == usual
    assert read_settings(SETTINGS[cloud].Settings, cloud, {}, {f"FSD_{cloud.upper()}_PACKAGE": "0"}).package is False


@pytest.mark.parametrize("cloud", SETTINGS)
def test_a_wrong_name_and_an_app_of_nothing_are_refused(cloud: str) -> None:
    """By each verb; `fsd_core.providers.provisioning` knows which names are wrong."""
    made = providers.find(cloud).provisioner({"package": False})
    for call in (made.find, made.destroy, made.sweep, lambda name: made.ensure(name, 1, 1)):
        with pytest.raises(InputError, match="expected a lower-case letter"):
            call("a_b")
    with pytest.raises(InputError, match="ranks 0"):
        made.ensure("x", 0, 1)


@pytest.mark.parametrize("cloud", SETTINGS)
def test_a_function_reads_its_app_from_its_environment(monkeypatch: pytest.MonkeyPatch, cloud: str) -> None:
    variable, provider = f"FSD_{cloud.upper()}_RESOURCES", providers.find(cloud)
    told = {"app": "mine", "ranks": 3, "slots": 2, "names": {"any": "name"}}
    monkeypatch.setenv(variable, json.dumps(told))
    assert provider.attach("mine") == Resources("mine", 3, 2, {"any": "name"})
    for text in ("{}", "no JSON", json.dumps(told | {"app": "other"}), "[1]"):
        monkeypatch.setenv(variable, text)
        with pytest.raises(InputError, match="mine"):
            provider.attach("mine")


AZ_CLI = {"AZURE_TOKEN_CREDENTIALS": "AzureCliCredential"}  # the chain of one: others would ask the network
NO_AZURE = {"PATH": "/nonexistent", "AZURE_SUBSCRIPTION_ID": "0" * 8 + "-0000-0000-0000-00000000000a", "IDENTITY_ENDPOINT": f"{NOBODY}/"}
NO_GOOGLE = {"NO_GCE_CHECK": "true", "CLOUDSDK_CONFIG": "/nonexistent", "PATH": "/nonexistent"}  # without gcloud, which knows a project
PROJECT = {"GOOGLE_CLOUD_PROJECT": "p"}
AWS = {**KEYS, "AWS_ENDPOINT_URL": NOBODY, "AWS_DEFAULT_REGION": REGION, "AWS_CONFIG_FILE": "/dev/null"}
AWS["AWS_SHARED_CREDENTIALS_FILE"] = "/dev/null"


@pytest.mark.parametrize(
    ("cloud", "environment", "says"),
    [
        ("aws", {**AWS, "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "aws configure"),
        ("aws", {**AWS, "AWS_DEFAULT_REGION": ""}, "no AWS region is set"),
        ("aws", {**AWS, "AWS_DEFAULT_REGION": "atlantis"}, "atlantis"),
        ("aws", {**AWS, "AWS_PROFILE": "nobody"}, "AWS_PROFILE names a profile|nobody"),
        # The chain of one: others would ask the network.
        (
            "azure",
            {**NO_AZURE, "AZURE_TOKEN_CREDENTIALS": "AzureCliCredential"},
            "no Azure credentials work: run 'az login'",
        ),
        ("azure", {}, r"no Azure subscription is set: expected \[azure\] subscription in fsd.toml"),
        ("gcp", {**NO_GOOGLE, **PROJECT}, "no Google Cloud credentials are found: run 'gcloud auth application-default login'"),
        ("gcp", NO_GOOGLE, "no Google Cloud credentials are found"),
        (
            "gcp",
            {**NO_GOOGLE, **PROJECT, "GOOGLE_APPLICATION_CREDENTIALS": "/nonexistent/key.json"},
            "File /nonexistent/key.json was not found",
        ),
    ],
)
def test_a_missing_set_up_says_what_helps(monkeypatch: pytest.MonkeyPatch, cloud: str, environment: dict[str, str], says: str) -> None:
    monkeypatch.setattr(provider_requests, "_FIRST_S", 2.0)
    there = {name: value for name, value in environment.items() if value}
    with pointed(there, (*POINTERS[cloud], "GCE_")), pytest.raises(InputError, match=says) as raised:
        find(cloud)
    assert "\n" not in str(raised.value)


def test_a_missing_permission_is_named() -> None:
    denied = "User: arn:aws:iam::123456789012:user/me is not authorized to perform: lambda:GetFunctionConfiguration"
    answer = said({"Message": denied}, 403, {"x-amzn-ErrorType": "AccessDeniedException"})
    with serving(lambda request: answer) as url, pointed({**AWS, "AWS_ENDPOINT_URL": url}, ("AWS_",)):
        with pytest.raises(DriverError, match="lambda:GetFunctionConfiguration") as raised:
            find("aws")
        assert raised.value.code is Code.DENIED
        assert "how-to-aws" in str(raised.value)


def token(**claims: object) -> str:
    """What no service signed."""
    return f"e30.{base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b'=').decode()}.c2ln"


def test_who_deploys_to_azure_is_read_from_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    at = {"AZURE_SUBSCRIPTION_ID": NO_AZURE["AZURE_SUBSCRIPTION_ID"], "FSD_AZURE_ENDPOINT": NOBODY}
    with pointed(at, POINTERS["azure"]), AzureProvisioner({}, AZURE).requests() as azure:
        for claims, member in (({"oid": "1", "upn": "me@x.org"}, ("1", "User")), ({"oid": "2", "idtyp": "app"}, ("2", "ServicePrincipal"))):
            monkeypatch.setenv("FSD_AZURE_TOKEN", token(**claims))
            assert azure.member() == member
            assert token(**claims) not in str(azure.__dict__)


# people who signed in with gcloud

ACCOUNT = "fsd-x-run@p.iam.gserviceaccount.com"
NAMES = {"service_account": ACCOUNT, "concurrency": "1", "memory_mb": "512", "timeout_s": "60"}
SIGNED_IN = said({"access_token": "person", "expires_in": 3600, "token_type": "Bearer"})


@pytest.fixture
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Within its block this process is somebody who signed in, at a server that answers for Google as the test says. Yields its address."""

    @contextmanager
    def signed_in(see: Callable[[Request], Answer]) -> Iterator[str]:
        login = {"type": "authorized_user", "client_id": "a", "client_secret": "b", "refresh_token": "c"}
        (tmp_path / "login.json").write_text(json.dumps(login))
        with serving(see) as url:
            monkeypatch.setattr("google.oauth2.credentials._GOOGLE_OAUTH2_TOKEN_ENDPOINT", f"{url}/token")
            monkeypatch.setattr(invoke, "TOKENS", url)
            monkeypatch.setattr(api, "_USERINFO", url)
            own = {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "login.json"), "NO_GCE_CHECK": "true", "NO_PROXY": "127.0.0.1"}
            with pointed({**own, **PROJECT, api.ENDPOINT: url}, POINTERS["gcp"]):
                yield url

    return signed_in


def test_an_expired_login_says_what_helps(person: Callable[..., Any]) -> None:
    gone = said({"error": "invalid_grant", "error_description": "Token has been expired or revoked."}, 400)
    with person(lambda request: gone), pytest.raises(DriverError, match="expired, or were revoked: run 'gcloud auth") as raised:
        find("gcp")
    assert raised.value.code is Code.DENIED


def test_a_person_launches_with_a_token_of_the_apps_account(person: Callable[..., Any]) -> None:
    minted: list[object] = []

    def answer(request: Request) -> Answer:
        if request.path == "/token":
            return SIGNED_IN
        if request.path == "/v1/userinfo":
            return said({"email": "me@example.org"})
        assert request.path == f"/v1/projects/-/serviceAccounts/{ACCOUNT}:generateIdToken"
        minted.append(json.loads(request.body))
        left_s = 200 if len(minted) == 1 else 3600  # the first is too old to be kept
        return said({"token": token(email="app", exp=int(time.time() + left_s), aud="x")})

    with person(answer):
        tokens = invoke.IdTokens("https://service", ACCOUNT)
        first = tokens.headers()
        second = tokens.headers()
        assert tokens.headers() == second
        assert first != second
        with Api("p", "us-central1") as requests:
            assert requests.member == "user:me@example.org"
    assert minted == 2 * [{"audience": "https://service", "includeEmail": True}]


def test_a_person_without_the_role_hears_which(person: Callable[..., Any]) -> None:
    refusal = "Permission 'iam.serviceAccounts.getOpenIdToken' denied on resource (or it may not exist)."
    denied = said({"error": {"code": 403, "status": "PERMISSION_DENIED", "message": refusal}}, 403)
    with person(lambda request: SIGNED_IN if request.path == "/token" else denied) as url:
        invoker = invoke.GcpInvoker(Resources("x", 1, 1, {**NAMES, "url": f"{url}/run"}))
        with pytest.raises(Answered) as raised:
            invoker.invoke(WORKER, b"{}")
        invoker.close()
    assert invoker.classify(raised.value) is Code.DENIED
    assert "roles/iam.serviceAccountOpenIdTokenCreator" in str(GCP.advice(raised.value))


def test_no_room_at_google_is_throttled_whatever_the_status() -> None:
    assert invoke._code_of(500, "The request was aborted because there was no available instance.") is Code.THROTTLED
    assert invoke._code_of(429, "Rate exceeded.") is Code.THROTTLED
    assert invoke._code_of(500, "boom") is Code.UNAVAILABLE
    assert invoke._code_of(200, "{}") is None
