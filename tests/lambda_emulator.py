"""A local Lambda for tests, and looks at its processes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from waiting import until

PATIENCE_S = 60.0
PROC = Path("/proc/self").exists()
needs_proc = pytest.mark.skipif(not PROC, reason="looks at processes through /proc")
ROLE = "arn:aws:iam::123456789012:role/any"
CONFIG = Config(retries={"total_max_attempts": 1}, max_pool_connections=64, read_timeout=100, parameter_validation=False)
ACCESS: dict[str, Any] = {"region_name": "us-east-1", "aws_access_key_id": "a", "aws_secret_access_key": "b", "config": CONFIG}


def package(files: dict[str, str]) -> bytes:
    """A deployment package."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return data.getvalue()


ZIP = package({"handler.py": "def handler(event, context): return 'from the zip'"})


def state(pid: int) -> str:
    """R: runs, S: sleeps, T: is stopped, Z: has ended."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def ended(pid: int) -> bool:
    """Whether the process is gone, or waits only for its parent to notice."""
    try:
        os.kill(pid, 0)
        return PROC and state(pid) == "Z"
    except (ProcessLookupError, FileNotFoundError):
        return True


class Emulator:
    """A running one."""

    def __init__(self, *flags: str, **variables: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fsd_conformance.emulators.lambda_", "--until-stdin-closes", *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**environment, "PYTHONPATH": str(Path(__file__).parent), "EMULATOR_ONLY": "1", **variables},
        )
        assert self.process.stdout is not None
        self.ready = json.loads(self.process.stdout.readline())
        self.client = boto3.client("lambda", endpoint_url=self.ready["endpoint"], **ACCESS)
        self.names = 0

    def look(self, path: str) -> Any:
        with urllib.request.urlopen(self.ready["endpoint"] + path, timeout=PATIENCE_S) as answer:
            return json.load(answer)

    def create(self, name: str | None = None, **settings: Any) -> str:
        """A function that is Active."""
        self.names += 1
        name = name or f"function-{self.names}"
        defaults = {"Runtime": f"python3.{sys.version_info.minor}", "Role": ROLE, "Handler": "lambda_functions.handler", "MemorySize": 512}
        self.client.create_function(**{"FunctionName": name, "Code": {"ZipFile": ZIP}, "Timeout": 60, **defaults, **settings})
        until(lambda: self.client.get_function_configuration(FunctionName=name)["State"] == "Active")
        return name

    def invoke(self, name: str, **event: Any) -> Any:
        """The result of a synchronous call."""
        answer = self.client.invoke(FunctionName=name, Payload=json.dumps(event))
        body = json.load(answer["Payload"])
        assert "FunctionError" not in answer, body
        return body

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

    def pids(self) -> list[int]:
        return [entry["pid"] for entries in self.look("/_fsd/functions").values() for entry in entries]

    def stop(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(PATIENCE_S)


@contextmanager
def running(*flags: str, **variables: str) -> Iterator[Emulator]:
    """Within the block it runs."""
    emulator = Emulator(*flags, **variables)
    try:
        yield emulator
    finally:
        emulator.stop()
