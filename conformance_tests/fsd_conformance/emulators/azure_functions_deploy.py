"""Starts a function app in the local Functions host: its code, the environment of its instances, the index of its functions.

`Options.code` decides what runs: the installed package `Options.source` (its folder holds function_app.py and host.json), or the published
zip. A zip can import only its own modules, those in .python_packages/lib/site-packages, and azure-functions, which the platform has.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import io
import json
import math
import re
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from fsd_conformance.emulators import azure_functions_process, sandbox
from fsd_conformance.emulators.dispatcher import Dispatcher, Replica, Revision
from fsd_conformance.emulators.instances import Instances
from fsd_conformance.emulators.web import Request, exchange

__all__ = ["Broken", "Deployed", "Deployer", "Options", "Route", "Scale"]

_HEAVY = (
    "asyncio,concurrent.futures,http.server,azure.functions,azure.functions.http,azure.functions.decorators.function_app,fsd_core.worker,"
    "fsd_azure.messages,fsd_azure.objects,fsd_azure.invoke"
)
_TIMEOUT_S = 1800.0  # without a functionTimeout: the default of every plan except the old Consumption plan
_PLATFORM = ("azure/functions", "werkzeug", "markupsafe")  # packages of the platform's Python worker
_UNZIPPED_BYTES = 1 << 30
_ROUTE = re.compile(r"[^{}/]+|\{\*?[A-Za-z_]\w*\}")
_INDEX_BYTES = 1 << 20


class Broken(Exception):
    """The app's code cannot run; the text is one line."""


@dataclass(frozen=True, kw_only=True)
class Options(sandbox.Options):
    """The flags of the command.

    ``settle``: a number of requests that imitates the platform's delays. For the first ``settle`` requests a new resource does not exist;
    for the next ``settle`` requests it is not ready, its host has no keys and its identity has no roles; 0: all takes effect at once.
    ``min_instances``: the smallest maximumInstanceCount that a site may have; the platform accepts less than 40 in only a few regions.
    """

    subscription: str = "00000000-0000-0000-0000-000000000000"
    region: str = "eastus2"
    source: str = "fsd_azure.handler"
    preload: str = _HEAVY
    queue_s: float = 10.0
    answer_s: float = 230.0
    settle: int = 0
    min_instances: int = 1


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A site's instances: their memory in MiB, the largest number of instances, the version of Python."""

    memory_mb: int
    max_instances: int
    python: str


@dataclass(frozen=True)
class Route:
    """The route of a function. ``methods``: empty means all; ``level``: ANONYMOUS, FUNCTION or ADMIN."""

    name: str
    path: str  # with the prefix; it may hold {parameter}, and {*rest} at its end
    methods: frozenset[str]
    level: str
    config: Mapping[str, Any]

    def match(self, method: str, parts: Sequence[str]) -> dict[str, str] | None:
        """The route's parameters if it serves this method and path, else None."""
        found: dict[str, str] = {}
        wanted = self.path.split("/")
        if self.methods and method not in self.methods:
            return None
        for number, want in enumerate(wanted):
            if want.startswith("{*"):
                return found | {want[2:-1]: "/".join(parts[number:])}
            if number >= len(parts):
                return None
            if want.startswith("{"):
                found[want[1:-1]] = parts[number]
            elif want.lower() != parts[number].lower():
                return None
        return found if len(parts) == len(wanted) else None


@dataclass(frozen=True)
class Deployed:
    """A running app."""

    revision: Revision
    routes: Sequence[Route] = field(default_factory=tuple)


class Deployer:
    """Starts apps."""

    def __init__(self, options: Options, instances: Instances[Replica], dispatcher: Dispatcher) -> None:
        self._options = options
        self._instances = instances
        self._dispatcher = dispatcher

    async def deploy(self, name: str, host: str, scale: Scale, settings: Mapping[str, str], package: bytes | None) -> Deployed:
        """Start one instance of the app with this code and these settings, and read its functions. Raises `Broken`."""
        folder = await asyncio.to_thread(self._source, package)
        zipped = self._options.code == "zip"
        here = f"{sys.version_info.major}.{sys.version_info.minor}"
        if zipped and scale.python != here:
            raise Broken(f"runtime version {scale.python}: this emulator runs published zips by its own Python {here} only")
        prefix, timeout_s = _host(folder, settings)
        env = {
            **sandbox.passed(self._options),
            "HOME": str(self._options.home),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            **settings,
            "AZURE_FUNCTIONS_ENVIRONMENT": "Production",
            "AzureWebJobsScriptRoot": str(folder),
            "FUNCTIONS_EXTENSION_VERSION": "~4",
            "FUNCTIONS_WORKER_RUNTIME": "python",
            "FUNCTIONS_WORKER_RUNTIME_VERSION": scale.python,
            "REGION_NAME": self._options.region,
            "WEBSITE_HOSTNAME": host,
            "WEBSITE_SITE_NAME": name,
            "WEBSITE_SKU": "FlexConsumption",
        }

        async def begin(replica: Replica) -> None:
            path: tuple[Sequence[str], Sequence[str]] = ([], [str(self._platform())] if zipped else [])
            own = {**env, "WEBSITE_INSTANCE_ID": replica.id}
            script, task = azure_functions_process.__file__, folder if zipped else None
            self._instances.start(replica, script, [str(folder)], own, task=task, path=path, listen=True)

        revision = Revision(
            service=name,
            name=uuid4().hex[:12],
            memory_bytes=scale.memory_mb << 20,
            max_instances=scale.max_instances,
            queue_s=self._options.queue_s,
            answer_s=self._options.answer_s,
            limit_s=timeout_s,
            begin=begin,
        )
        replica = await self._dispatcher.start(revision)
        if replica is None:
            raise Broken(f"the functions could not be indexed: {self._log_end(name)}")
        try:
            answer = await exchange(replica.port, Request("GET", "/index", {}, {}, b""), _INDEX_BYTES)
            return Deployed(revision, tuple(_route(prefix, each) for each in json.loads(answer.body)))
        except BaseException:
            revision.retired = True
            raise

    def _log_end(self, name: str) -> str:
        """The last line of the newest log."""
        logs = max((self._options.home / "logs" / name).glob("*.log"), key=lambda file: file.stat().st_mtime_ns, default=None)
        lines = logs.read_text(errors="replace").splitlines() if logs else []
        return next((line.strip() for line in reversed(lines) if line.strip()), "its log is empty")

    def check(self, package: bytes) -> None:
        """Raise `Broken` where the package is not a zip of a function app."""
        try:
            with zipfile.ZipFile(io.BytesIO(package)) as archive:
                if sum(each.file_size for each in archive.infolist()) > _UNZIPPED_BYTES:
                    raise Broken(f"the package is over {_UNZIPPED_BYTES >> 20} MiB unpacked")
                if missing := {"function_app.py", "host.json"} - set(archive.namelist()):
                    raise Broken(f"the package: expected {' and '.join(sorted(missing))} at its root")
        except zipfile.BadZipFile as error:
            raise Broken(f"the package: expected a zip: {error}") from None

    def _source(self, package: bytes | None) -> Path:
        """The folder of function_app.py and host.json."""
        if self._options.code == "zip":
            assert package is not None
            return sandbox.unpack(self._options.home, hashlib.sha256(package).hexdigest(), package)
        try:
            spec = importlib.util.find_spec(self._options.source)
        except ImportError:
            spec = None
        if spec is None or not spec.submodule_search_locations:
            raise Broken(f"package {self._options.source} is not installed")
        return Path(next(iter(spec.submodule_search_locations)))

    def _platform(self) -> Path:
        """A folder with the packages of the platform's worker, and no others."""
        folder = self._options.home / "platform"
        for name in _PLATFORM:
            link = folder / name
            spec = importlib.util.find_spec(name.replace("/", "."))
            if spec and spec.submodule_search_locations and not link.exists():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(next(iter(spec.submodule_search_locations)))
        return folder


def _host(folder: Path, settings: Mapping[str, str]) -> tuple[str, float | None]:
    """The prefix of routes, and the time limit of functions in seconds (None: no limit). Raises `Broken`."""
    try:
        host = json.loads((folder / "host.json").read_text())
    except FileNotFoundError:
        raise Broken("host.json: missing beside function_app.py") from None
    except ValueError as error:
        raise Broken(f"host.json: {error}") from None
    if not isinstance(host, dict) or host.get("version") != "2.0":
        raise Broken('host.json: version: expected "2.0"')
    prefix = host.get("extensions", {}).get("http", {}).get("routePrefix", "api")
    text = settings.get("AzureFunctionsJobHost__functionTimeout") or host.get("functionTimeout")
    return str(prefix).strip("/"), _seconds(text)


def _seconds(text: str | None) -> float | None:
    """The seconds of "[days.]hours:minutes:seconds"; None for "-1"."""
    if text is None:
        return _TIMEOUT_S
    if text == "-1":
        return None
    match = re.fullmatch(r"(?:(\d+)\.)?(\d\d):([0-5]\d):([0-5]\d)", text)
    if not match:
        raise Broken(f'functionTimeout is {text!r}: expected "hh:mm:ss", or "-1" for no limit')
    days, hours, minutes, seconds = (int(each or 0) for each in match.groups())
    found = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if not 0 < found < math.inf:
        raise Broken(f"functionTimeout is {text!r}: expected more than 0")
    return float(found)


def _route(prefix: str, described: Mapping[str, Any]) -> Route:
    path = "/".join(filter(None, (prefix, described["route"].strip("/"))))
    if not all(_ROUTE.fullmatch(part) for part in path.split("/")) or "{*" in path.rpartition("/")[0]:
        raise Broken(
            f"function {described['name']}: route {described['route']!r}: only words, {{name}} and a last {{*name}} are implemented here"
        )
    return Route(described["name"], path, frozenset(described["methods"]), described["level"], described["config"])
