"""A local Cloud Run for tests."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lambda_emulator import PATIENCE_S
from waiting import until

PROJECT = "test-project"
PLACE = f"/v2/projects/{PROJECT}/locations/us-central1"
FLAVOR = {"Metadata-Flavor": "Google"}
PRELOAD = "functions_framework._cli,functions_framework._http.gunicorn,gunicorn.workers.gthread,google.oauth2.id_token"


def ask(port: int, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
    """One request to a server of this machine: status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request(method, path, body, dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class Emulator:
    """A running one."""

    def __init__(self, *flags: str, **variables: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.endswith("_EMULATOR_HOST")}
        words = [
            "--until-stdin-closes",
            "--project",
            PROJECT,
            "--source",
            "cloud_run_functions",
            "--pending-s",
            "0.02",
            "--preload",
            PRELOAD,
        ]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fsd_conformance.emulators.cloud_run", *words, "--preload", PRELOAD, *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**environment, "PYTHONPATH": str(Path(__file__).parent), "EMULATOR_ONLY": "1", **variables},
        )
        assert self.process.stdout is not None
        self.ready = json.loads(self.process.stdout.readline())
        self.names = 0
        token = json.loads(self.ask("GET", "/computeMetadata/v1/instance/service-accounts/default/token", headers=FLAVOR)[1])
        self.access = {"Authorization": f"Bearer {token['access_token']}"}

    def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
        """One request: status and body."""
        return ask(self.ready["port"], method, path, body, headers)

    def control(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """One request of the control plane, as the owner: status and JSON."""
        status, answer = self.ask(method, path, b"" if body is None else json.dumps(body).encode(), self.access)
        return status, json.loads(answer)

    def look(self, what: str) -> Any:
        return json.loads(self.ask("GET", f"/_fsd/{what}")[1])

    def plan(self, **fault: Any) -> None:
        assert self.ask("POST", "/_fsd/faults", json.dumps(fault).encode())[0] == 204

    def done(self, operation: Any) -> Any:
        """What becomes of a long-running operation."""
        return until(lambda: (now := self.control("GET", f"/v2/{operation['name']}")[1])["done"] and now)

    def create(self, name: str | None = None, **service: Any) -> str:
        """A function that is ACTIVE."""
        self.names += 1
        name = name or f"function-{self.names}"
        status, operation = self.control("POST", f"{PLACE}/functions?functionId={name}", function(**service))
        assert status == 200, operation
        ended = self.done(operation)
        assert "error" not in ended, ended
        return name

    def update(self, name: str, mask: str, **service: Any) -> Any:
        """The ended operation of a change."""
        status, operation = self.control("PATCH", f"{PLACE}/functions/{name}?updateMask={mask}", {"serviceConfig": service})
        assert status == 200, operation
        return self.done(operation)

    def url(self, name: str) -> str:
        return f"{self.ready['endpoint']}/run/{name}"

    def identity(self, audience: str) -> dict[str, str]:
        """The header that the owner calls a function with."""
        path = f"/computeMetadata/v1/instance/service-accounts/default/identity?audience={audience}&format=full"
        status, token = self.ask("GET", path, headers=FLAVOR)
        assert status == 200
        return {"Authorization": f"Bearer {token.decode()}"}

    def post(self, name: str, headers: Mapping[str, str] | None = None, path: str = "", **event: Any) -> tuple[int, bytes]:
        """One call."""
        sent = {**self.identity(self.url(name)), **(headers or {})}
        return self.ask("POST", f"/run/{name}{path}", json.dumps(event).encode(), sent)

    def call(self, name: str, **event: Any) -> Any:
        """The result of a call that must succeed."""
        status, body = self.post(name, **event)
        assert status == 200, body
        return json.loads(body)

    def instances(self, name: str) -> Any:
        return self.look("instances")[name]

    def stop(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(PATIENCE_S)


def function(**service: Any) -> dict[str, Any]:
    """A function as the control plane is told of it."""
    return {
        "labels": {"fsd-app": "x"},
        "buildConfig": {
            "runtime": "python312",
            "entryPoint": "handle",
            "source": {"storageSource": {"bucket": "some-bucket", "object": "code.zip"}},
        },
        "serviceConfig": {"availableMemory": "512Mi", "availableCpu": "1", "timeoutSeconds": 60, **service},
    }


@contextmanager
def running(*flags: str, **variables: str) -> Iterator[Emulator]:
    """Within the block it runs."""
    emulator = Emulator(*flags, **variables)
    try:
        yield emulator
    finally:
        emulator.stop()
