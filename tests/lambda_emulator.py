"""A local Lambda for tests."""

from __future__ import annotations

import json
import sys
from typing import Any

import boto3
from botocore.config import Config

from function_host import Host, package
from waiting import until

ROLE = "arn:aws:iam::123456789012:role/any"
CONFIG = Config(retries={"total_max_attempts": 1}, max_pool_connections=64, read_timeout=100, parameter_validation=False)
ACCESS: dict[str, Any] = {"region_name": "us-east-1", "aws_access_key_id": "a", "aws_secret_access_key": "b", "config": CONFIG}
ZIP = package({"handler.py": "def handler(event, context): return 'from the zip'"})


class Emulator(Host):
    """A running one, with a client of boto3."""

    module, hides, listed = "lambda_", ("AWS_",), "functions"

    def set_up(self) -> None:
        self.client = boto3.client("lambda", endpoint_url=self.ready["endpoint"], **ACCESS)

    def create(self, name: str | None = None, **settings: Any) -> str:
        """A function that is Active."""
        name = name or self.new_name()
        defaults = {"Runtime": f"python3.{sys.version_info.minor}", "Role": ROLE, "Handler": "lambda_functions.handler", "MemorySize": 512}
        self.client.create_function(**{"FunctionName": name, "Code": {"ZipFile": ZIP}, "Timeout": 60, **defaults, **settings})
        until(lambda: self.client.get_function_configuration(FunctionName=name)["State"] == "Active")
        return name

    def post(self, name: str, **event: Any) -> tuple[int, bytes]:
        """One synchronous call; what failed in the function is said with status 500."""
        answer = self.client.invoke(FunctionName=name, Payload=json.dumps(event))
        return 500 if "FunctionError" in answer else 200, answer["Payload"].read()

    def fails(self, name: str, **event: Any) -> Any:
        """The function error of a synchronous call."""
        answer = self.client.invoke(FunctionName=name, Payload=json.dumps(event))
        assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
        return json.load(answer["Payload"])

    def send(self, name: str, **event: Any) -> str:
        """The request id of an asynchronous call."""
        answer = self.client.invoke(FunctionName=name, InvocationType="Event", Payload=json.dumps(event))
        assert answer["StatusCode"] == 202
        return str(answer["ResponseMetadata"]["RequestId"])
