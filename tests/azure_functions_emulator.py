"""A local Functions host for tests."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from function_host import Host, package
from waiting import until

APP = Path(__file__).parent / "azure_functions_app"
SUBSCRIPTION = "11111111-2222-3333-4444-555555555555"
S = f"/subscriptions/{SUBSCRIPTION}"
G = f"{S}/resourceGroups/fsd-x"
WEB = f"{G}/providers/Microsoft.Web"
BEARER = {"Authorization": "Bearer any"}
JSON = {"Content-Type": "application/json"}


class Emulator(Host):
    """A running one, with a resource group."""

    module, hides = "azure_functions", ("FSD_AZURE_",)
    words = ("--subscription", SUBSCRIPTION, "--source", "azure_functions_app", "--pending-s", "0.02", "--preload", "azure.functions")

    def set_up(self) -> None:
        assert self.control("PUT", G, {"location": "eastus2"})[0] == 201

    def control(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """One request of the control plane: status and JSON."""
        data = b"" if body is None else json.dumps(body).encode()
        status, answer = self.ask(method, f"{path}?api-version=2024-04-01", data, {**BEARER, **JSON})
        return status, json.loads(answer or b"null")

    def create(self, name: str | None = None, settings: Mapping[str, str] | None = None, **scale: Any) -> str:
        """A site that runs."""
        name = name or self.new_name()
        status, said = self.control("PUT", f"{WEB}/sites/{name}", site(settings, **scale))
        assert status == 200, said
        return name

    def keys(self, name: str) -> Any:
        return self.control("POST", f"{WEB}/sites/{name}/host/default/listkeys")[1]

    def post(self, name: str, **event: Any) -> tuple[int, bytes]:
        """One call of the worker, with a key."""
        key = {"x-functions-key": self.keys(name)["functionKeys"]["default"]}
        return self.ask("POST", f"/sites/{name}/api/worker", json.dumps(event).encode(), {**key, **JSON})

    def publish(self, name: str, data: bytes) -> Any:
        """The deployment of a zip, when it is complete."""
        status, said = self.ask("POST", f"/scm/{name}/api/publish?RemoteBuild=false", data, {**BEARER, "Content-Type": "application/zip"})
        assert status == 202
        path = f"/scm/{name}/api/deployments/{json.loads(said)}"

        def there() -> Any:
            now = json.loads(self.ask("GET", path, headers=BEARER)[1])
            return now if now["complete"] else None

        return until(there)


def site(settings: Mapping[str, str] | None = None, **scale: Any) -> dict[str, Any]:
    """A site as a request to the control plane describes it."""
    told = {"maximumInstanceCount": 100, "instanceMemoryMB": 512, "triggers": {"http": {"perInstanceConcurrency": 1}}, **scale}
    config = {
        "deployment": {"storage": {"type": "blobContainer", "value": "http://127.0.0.1:1/account/code"}},
        "scaleAndConcurrency": told,
        "runtime": {"name": "python", "version": f"{sys.version_info.major}.{sys.version_info.minor}"},
    }
    given = [{"name": name, "value": value} for name, value in (settings or {}).items()]
    return {
        "location": "eastus2",
        "kind": "functionapp,linux",
        "tags": {"fsd-app": "x"},
        "identity": {"type": "SystemAssigned"},
        "properties": {"serverFarmId": f"{WEB}/serverfarms/plan", "functionAppConfig": config, "siteConfig": {"appSettings": given}},
    }


def zipped(**files: str) -> bytes:
    """The app as it is published; ``files`` by name, with _ for the point, instead of its own."""
    own = {name: (APP / name).read_text() for name in ("function_app.py", "host.json")}
    return package({name: text for name, text in {**own, **files}.items() if text})
