"""A local Cloud Run for tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from function_host import Host
from waiting import until

PROJECT = "test-project"
PLACE = f"/v2/projects/{PROJECT}/locations/us-central1"
FLAVOR = {"Metadata-Flavor": "Google"}
PRELOAD = "functions_framework._cli,functions_framework._http.gunicorn,gunicorn.workers.gthread,google.oauth2.id_token"


class Emulator(Host):
    """A running one; its requests of the control plane are the owner's."""

    module, hides = "cloud_run", ("_EMULATOR_HOST",)
    words = ("--project", PROJECT, "--source", "cloud_run_functions", "--pending-s", "0.02", "--preload", PRELOAD)

    def set_up(self) -> None:
        token = json.loads(self.ask("GET", "/computeMetadata/v1/instance/service-accounts/default/token", headers=FLAVOR)[1])
        self.access = {"Authorization": f"Bearer {token['access_token']}"}

    def control(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """One request of the control plane: status and JSON."""
        status, answer = self.ask(method, path, b"" if body is None else json.dumps(body).encode(), self.access)
        return status, json.loads(answer)

    def done(self, operation: Any) -> Any:
        """What becomes of a long-running operation."""
        return until(lambda: (now := self.control("GET", f"/v2/{operation['name']}")[1])["done"] and now)

    def create(self, name: str | None = None, **service: Any) -> str:
        """A function that is ACTIVE."""
        name = name or self.new_name()
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


def function(**service: Any) -> dict[str, Any]:
    """A function as a request to the control plane describes it."""
    return {
        "labels": {"fsd-app": "x"},
        "buildConfig": {
            "runtime": "python312",
            "entryPoint": "handle",
            "source": {"storageSource": {"bucket": "some-bucket", "object": "code.zip"}},
        },
        "serviceConfig": {"availableMemory": "512Mi", "availableCpu": "1", "timeoutSeconds": 60, **service},
    }
