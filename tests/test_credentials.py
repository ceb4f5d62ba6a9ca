"""Credentials and addresses that are missing, damaged, or of another kind: one line with the file or variable, and what the SDK said."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from fsd_conformance.emulators.emulator import pointed
from fsd_conformance.emulators.process import POINTERS
from fsd_core.errors import DriverError, FsdError, InputError
from fsd_core.providers import requests
from fsd_core.providers.addresses import address
from fsd_core.providers.advice import line
from fsd_core.providers.registry import find

SUBSCRIPTION = "00000000-0000-4000-8000-00000000000a"
PERSON = {"AZURE_TENANT_ID": SUBSCRIPTION, "AZURE_CLIENT_ID": SUBSCRIPTION}
ANYBODY: Mapping[str, Mapping[str, str]] = {  # nobody's credentials, and where no request gets through
    "aws": {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    },
    "gcp": {"NO_GCE_CHECK": "true", "CLOUDSDK_CONFIG": "/nonexistent", "GOOGLE_CLOUD_PROJECT": "my-project", "PATH": "/nonexistent"},
    "azure": {"AZURE_SUBSCRIPTION_ID": SUBSCRIPTION, "PATH": "/nonexistent", "HTTPS_PROXY": "http://127.0.0.1:9"},
}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(requests, "_FIRST_S", 2.0)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return


def _look(cloud: str) -> None:
    find(cloud).stand_in()  # as a run does first
    find(cloud).provisioner({"package": False}).find("x")


def said(cloud: str, kind: type[FsdError] = InputError, **variables: str) -> str:
    """The one line that a look for an app prints."""
    clears = (*POINTERS[cloud], "PATH", "HTTPS_PROXY")
    with pointed({"PATH": os.environ["PATH"], **ANYBODY[cloud], **variables}, clears), pytest.raises(kind) as caught:
        _look(cloud)
    text = str(caught.value)
    assert "\n" not in text
    assert "hush" not in text
    return text


# Google Cloud


FILES: Mapping[str, str] = {
    "empty": "{}",
    "zero": "",
    "cut": '{"type": "serv',
    "list": "[]",
    "mark": '\ufeff{"type": "authorized_user"}',
    "account": '{"type": "service_account"}',
    "key": json.dumps({"type": "service_account", "client_email": "a@b", "token_uri": "https://x", "private_key": "hush"}),
    "impersonated": '{"type": "impersonated_service_account"}',
    "client": '{"installed": {"client_id": "x"}}',
}


@pytest.mark.parametrize("kind", ["missing", "folder", *FILES])
def test_a_file_of_google_cloud_is_named(kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"{kind}.json"
    if kind == "folder":
        file.mkdir()
    elif kind != "missing":
        file.write_text(FILES[kind], encoding="utf-8")
    text = said("gcp", GOOGLE_APPLICATION_CREDENTIALS=str(file))
    assert str(file) in text
    assert "the file of credentials cannot be used: set GOOGLE_APPLICATION_CREDENTIALS" in text
    assert "no Google Cloud credentials are found" not in text  # there is a file: what the SDK said of it is not contradicted


def test_what_gcloud_left_is_named_too(tmp_path: Path) -> None:
    (tmp_path / "application_default_credentials.json").write_text("{")
    assert f"{tmp_path}/application_default_credentials.json" in said("gcp", CLOUDSDK_CONFIG=str(tmp_path))


def test_nobody_on_google_cloud_is_told_so() -> None:
    assert "no Google Cloud credentials are found: run 'gcloud auth" in said("gcp")


def test_a_file_that_a_file_names_is_named(tmp_path: Path) -> None:
    told = {
        "type": "external_account",
        "audience": "x",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": "https://sts.googleapis.com/v1/token",
        "credential_source": {"file": "/no/token"},
    }
    (tmp_path / "c.json").write_text(json.dumps(told))
    text = said("gcp", DriverError, GOOGLE_APPLICATION_CREDENTIALS=str(tmp_path / "c.json"))
    assert "File '/no/token' was not found" in text
    assert "expired" not in text


# AWS


@pytest.mark.parametrize(
    ("profile", "parts"),
    [
        ("rubbish", ["Unable to parse config file: {file}", "repair the file of AWS_CONFIG_FILE"]),
        ("[default]\ncredential_process = /no/such/helper\n", ["default of {file}", "/no/such/helper", "gives none: repair it"]),
        ('[default]\ncredential_process = sh -c "echo cannot unlock >&2; exit 3"\n', ["custom-process: cannot unlock", "repair it"]),
        ("[default]\ncredential_process = echo hello\n", ["default of {file}", "Expecting value", "repair it"]),
        ("[default]\ncredential_process = echo {{}}\n", ["Unsupported version", "repair it"]),
        (
            "[default]\nrole_arn = arn:aws:iam::123456789012:role/x\nsource_profile = gone\n",
            ['source_profile "gone"', "repair the file of AWS_CONFIG_FILE"],
        ),
        (
            "[default]\nsso_session = s\nsso_account_id = 1\nsso_role_name = x\n"
            "[sso-session s]\nsso_region = eu-west-1\nsso_start_url = https://x.awsapps.com/start\n",
            ["Token for s does not exist", "no SSO session is active: run 'aws sso login'"],
        ),
        ("[default]\nendpoint_url = localhost:4566\n", ["Invalid endpoint: localhost:4566", "default of {file}"]),
    ],
)
def test_a_profile_of_aws_is_named(profile: str, parts: list[str], tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text(profile.replace("{{", "{").replace("}}", "}"))
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"} if "endpoint" in profile else {}
    text = said("aws", AWS_CONFIG_FILE=str(file), AWS_ENDPOINT_URL="" if keys else "http://127.0.0.1:9", **keys)
    for part in parts:
        assert part.format(file=file) in text, text
    assert "no AWS credentials are found" not in text
    assert "expired" not in text


def test_other_sources_of_aws_are_named(tmp_path: Path) -> None:
    assert "profile (nope) could not be found: AWS_PROFILE names" in said("aws", AWS_PROFILE="nope")
    role = {"AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/x"}
    assert "AWS_WEB_IDENTITY_TOKEN_FILE: [Errno 2]" in said("aws", AWS_WEB_IDENTITY_TOKEN_FILE="/no/token", **role)
    (tmp_path / "keys").write_text("[default]\naws_access_key_id = a\n")
    assert "missing: aws_secret_access_key" in said("aws", AWS_SHARED_CREDENTIALS_FILE=str(tmp_path / "keys"))
    assert "Unable to locate credentials: no AWS credentials are found: run 'aws configure'" in said("aws")


# Azure


def test_files_and_ids_of_azure_are_named(tmp_path: Path) -> None:
    (tmp_path / "rubbish.pem").write_text("rubbish")
    missing = said("azure", **PERSON, AZURE_CLIENT_CERTIFICATE_PATH="/no/such.pem")
    assert missing == "AZURE_CLIENT_CERTIFICATE_PATH=/no/such.pem: No such file or directory"
    assert f"AZURE_CLIENT_CERTIFICATE_PATH={tmp_path}/rubbish.pem" in said(
        "azure", **PERSON, AZURE_CLIENT_CERTIFICATE_PATH=f"{tmp_path}/rubbish.pem"
    )
    assert said("azure", AZURE_TENANT_ID="bad one", AZURE_CLIENT_ID="x", AZURE_CLIENT_SECRET="hush").startswith("AZURE_TENANT_ID=bad one")


def test_what_the_command_of_azure_said_is_told(tmp_path: Path) -> None:
    chain = {"AZURE_TOKEN_CREDENTIALS": "AzureCliCredential"}
    assert "Azure CLI not found on path: no Azure credentials work" in said("azure", **chain)
    az = tmp_path / "az"
    az.write_text("#!/bin/sh\necho 'ImportError: broken' >&2\nexit 3\n")
    az.chmod(0o755)
    assert said("azure", **chain, PATH=f"{tmp_path}:{os.environ['PATH']}").startswith("AzureCliCredential: ImportError: broken: ")


def test_half_of_an_application_of_azure_is_named() -> None:
    text = said("azure", AZURE_CLIENT_ID="x", AZURE_CLIENT_SECRET="hush", AZURE_TOKEN_CREDENTIALS="EnvironmentCredential")
    assert text.startswith("EnvironmentCredential: AZURE_CLIENT_ID and AZURE_CLIENT_SECRET without AZURE_TENANT_ID: ")


@pytest.mark.parametrize("word", ["AADSTS7000215", "AADSTS700016", "AADSTS90002"])
def test_a_wrong_application_is_not_called_expired(word: str) -> None:
    tip = find("azure").advice(f"ClientAuthenticationError: {word}: Invalid client secret provided.")
    assert tip is not None
    assert "do not belong together" in tip


# addresses


@pytest.mark.parametrize(
    ("cloud", "variable", "value", "shown"),
    [
        ("aws", "AWS_ENDPOINT_URL", "localhost:4566", "localhost:4566"),
        ("aws", "AWS_ENDPOINT_URL_SQS", "http://", "http://"),
        ("aws", "AWS_ENDPOINT_URL_STS", "http://me:hush@host:x", "http://host:x"),
        ("aws", "AWS_ENDPOINT_URL_S3", "http://local host:1", "http://local host:1"),
        ("gcp", "STORAGE_EMULATOR_HOST", "ftp://localhost:1", "ftp://localhost:1"),
        ("gcp", "PUBSUB_EMULATOR_HOST", "localhost:port", "localhost:port"),
        ("gcp", "FSD_GCP_ENDPOINT", "http://[::1", "http://[::1"),
        ("azure", "FSD_AZURE_ENDPOINT", "localhost:1", "localhost:1"),
        ("azure", "FSD_AZURE_ENDPOINT", "https://me:hush@:1", "https://:1"),
    ],
)
def test_an_address_that_is_none_is_named(cloud: str, variable: str, value: str, shown: str) -> None:
    assert said(cloud, **{variable: value}).startswith(f"{variable}={shown}: expected http://HOST:PORT")


@pytest.mark.parametrize(
    ("string", "says"),
    [
        ("BlobEndpoint=127.0.0.1:10000/a;AccountName=a;AccountKey=a2V5", "BlobEndpoint is '127.0.0.1:10000/a'"),
        ("BlobEndpoint=https://me:hush@/;AccountName=a;AccountKey=a2V5", "BlobEndpoint is 'https:///'"),
        ("rubbish", "part 1: expected NAME=VALUE"),
    ],
)
def test_a_connection_string_that_is_none_is_named(string: str, says: str) -> None:
    assert said("azure", AZURE_STORAGE_CONNECTION_STRING=string).startswith(f"AZURE_STORAGE_CONNECTION_STRING: {says}")


def test_hosts_of_emulators_need_no_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", " localhost:4443 ")
    monkeypatch.delenv("PUBSUB_EMULATOR_HOST", raising=False)
    monkeypatch.delenv("FSD_GCP_ENDPOINT", raising=False)
    assert address("STORAGE_EMULATOR_HOST", bare=True) == "http://localhost:4443"
    assert find("gcp").stand_in() == "localhost:4443"
    assert address("PUBSUB_EMULATOR_HOST", bare=True) == ""


def test_what_an_sdk_said_is_one_line_of_bounded_length() -> None:
    assert line("two\nlines.", None) == "two lines"
    assert line(ValueError("x" * 1000), "do this") == f"{'x' * 400} ...: do this"
    began = time.monotonic()
    assert line("x " * 10**6, "") == f"{'x ' * 200} ..."
    assert time.monotonic() - began < 30
