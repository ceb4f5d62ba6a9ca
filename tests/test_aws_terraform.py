"""``handlers/aws_lambda/main.tf``: valid, and what it makes is the app that `fsd_aws.provision` would make."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from canned import Answer, Request, said
from fsd_aws import PROVIDER, policy
from fsd_aws.clients import client
from fsd_aws.function import HANDLER
from fsd_aws.names import Names
from fsd_conformance import emulators
from fsd_conformance.emulators.emulator import pointed
from fsd_conformance.emulators.proxy import Proxy
from fsd_core.driver import Message

MAIN = Path(sys.modules["fsd_aws"].__file__ or "").parents[2] / "handlers" / "aws_lambda" / "main.tf"
VARIABLES = {"app": "tf", "region": "us-east-1", "ranks": 2, "slots": 1}


def terraform(folder: Path, *words: str, timeout_s: float = 300) -> str:
    environ = {name: value for name, value in os.environ.items() if name != "TF_CLI_CONFIG_FILE" or Path(value).exists()}
    done = subprocess.run(["terraform", *words], cwd=folder, capture_output=True, text=True, timeout=timeout_s, env=environ)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with main.tf, initialised from a plugin that is on this machine."""
    if shutil.which("terraform") is None:
        pytest.skip("terraform is not on this machine")
    roots = [Path.home() / ".terraform.d" / "plugins", *Path("/usr/share/terraform").glob("plugins"), *Path("/opt").glob("*")]
    plugins = [root for root in roots if list(root.glob("*/hashicorp/aws/*"))]
    if not plugins:
        pytest.skip("Terraform's provider plugin hashicorp/aws is not on this machine")
    folder = tmp_path_factory.mktemp("tf")
    shutil.copy(MAIN, folder)
    terraform(folder, "init", "-input=false", f"-plugin-dir={plugins[0]}")
    return folder


def test_it_is_valid(folder: Path) -> None:
    terraform(folder, "validate")
    terraform(folder, "fmt", "-check")


def test_it_says_the_same_as_provision() -> None:
    """Without terraform: names and numbers that both write."""
    text = MAIN.read_text()
    assert f'"{HANDLER}"' in text
    actions = set(re.findall(r'"((?:sns|sqs|s3|lambda|logs):[A-Z]\w+)"', text))
    worker = policy.worker(Names("a", "r", "1", "0" * 8), "b", "f")
    assert actions == {action for statement in worker["Statement"] for action in statement["Action"]}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_it_makes_is_an_app(folder: Path, tmp_path: Path) -> None:
    """Applied to an emulator: `find` finds it, `ensure` has nothing to do, messages arrive, the role is the same; then it is all gone."""
    command, environ = [sys.executable, "-m", "fsd_aws.package", "function.zip"], {**os.environ, "FSD_HOME": str(tmp_path)}
    made = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, env=environ)
    (folder / "package.auto.tfvars.json").write_text(made.stdout)
    (folder / "variables.auto.tfvars.json").write_text(json.dumps(VARIABLES))
    (folder / "emulator_override.tf").write_text('provider "aws" {\n  s3_use_path_style = true\n}\n')
    with (
        emulators.own(emulators.find("aws", "moto")) as emulator,
        _completed(emulator.env["AWS_ENDPOINT_URL_LAMBDA"]) as url,
        pointed({**emulator.env, "AWS_ENDPOINT_URL_LAMBDA": url}, ("AWS_",)),
    ):
        terraform(folder, "apply", "-auto-approve", "-input=false", "-no-color")
        provisioner = PROVIDER.provisioner({})
        found = provisioner.find("tf")
        assert found is not None
        assert provisioner.ensure("tf", 2, 1) == found
        role = client("iam", "us-east-1").get_role_policy(RoleName="fsd-tf-us-east-1", PolicyName="fsd")
        assert role["PolicyDocument"] == policy.worker(Names.of(found), found.names["bucket"], found.names["function"])
        driver = PROVIDER.messages(type(found)("tf", 2, 1, {**found.names, "body": "text"}), 0)  # moto: no binary attributes
        assert driver.publish([Message(1, b"arrives")]) == []
        assert [each.body for each in driver.receive(1, 10, 10.0)] == [b"arrives"]
        terraform(folder, "destroy", "-auto-approve", "-input=false", "-no-color")
        assert provisioner.destroy("tf") == []


@contextmanager
def _completed(lambda_url: str) -> Iterator[str]:
    """The local Lambda with two answers more: Terraform asks every function for its versions and its code signing."""

    def see(request: Request) -> Answer | None:
        name = request.path.partition("/functions/")[2].partition("/")[0]
        if request.path.endswith("/code-signing-config"):
            return said({})
        if "/versions" not in request.path:
            return None
        try:
            with urlopen(f"{lambda_url}/2015-03-31/functions/{name}", timeout=60) as answer:
                return said({"Versions": [json.load(answer)["Configuration"]]})
        except HTTPError as error:
            return Answer(error.code, error.read(), dict(error.headers))

    with closing(Proxy(lambda_url, see)) as proxy:
        yield proxy.url
