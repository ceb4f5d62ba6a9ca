"""How the local Functions host makes a function app run: its code, its instances' surroundings, the indexing of its functions.

What runs is, by `Options.code`, the package `Options.source` as it is installed here (its folder holds function_app.py and host.json),
or the published zip: then nothing is importable but what the zip holds, there and in .python_packages/lib/site-packages, and
azure-functions, which the platform has.
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
_TIMEOUT_S = 1800.0  # host.json names none: of every plan but the old Consumption one
_PLATFORM = ("azure/functions", "werkzeug", "markupsafe")  # the platform's own worker brings them
_UNZIPPED_BYTES = 1 << 30
_ROUTE = re.compile(r"[^{}/]+|\{\*?[A-Za-z_]\w*\}")
_INDEX_BYTES = 1 << 20


class Broken(Exception):
    """The app's code is not such that its functions could run: one line."""


@dataclass(frozen=True, kw_only=True)
class Options(sandbox.Options):
    """How the emulator behaves: the flags of the command. ``settle``: for how many looks what was just made is not there, then not
    ready, its host without keys and its identity without roles, as for some time on the platform; 0: all is done when it is answered.
    ``least_instances``: the least that a site may have as its most; the platform takes less than 40 in some regions only, if at all."""

    subscription: str = "00000000-0000-0000-0000-000000000000"
    region: str = "eastus2"
    source: str = "fsd_azure.handler"
    preload: str = _HEAVY
    queue_s: float = 10.0
    answer_s: float = 230.0
    settle: int = 0
    least_instances: int = 1


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What a site says of its instances: MiB of each, how many at most, Python's version."""

    memory_mb: int
    most: int
    python: str


@dataclass(frozen=True)
class Route:
    """One function: who may call it where. ``methods``: none means all; ``level``: ANONYMOUS, FUNCTION, ADMIN."""

    name: str
    path: str  # with the prefix, {parameter} and, at its end, {*rest}
    methods: frozenset[str]
    level: str
    config: Mapping[str, Any]

    def match(self, method: str, parts: Sequence[str]) -> dict[str, str] | None:
        """The route's parameters if it serves this path."""
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
    """An app that runs."""

    revision: Revision
    routes: Sequence[Route] = field(default_factory=tuple)


class Deployer:
    """Makes apps run."""

    def __init__(self, options: Options, instances: Instances[Replica], dispatcher: Dispatcher) -> None:
        self._options = options
        self._instances = instances
        self._dispatcher = dispatcher

    async def deploy(self, name: str, host: str, scale: Scale, settings: Mapping[str, str], package: bytes | None) -> Deployed:
        """The app with this code and these settings, one instance of which has started and told its functions. Raises `Broken`."""
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
            most=scale.most,
            queue_s=self._options.queue_s,
            answer_s=self._options.answer_s,
            limit_s=timeout_s,
            begin=begin,
        )
        replica = await self._dispatcher.start(revision)
        if replica is None:
            raise Broken(f"the functions could not be indexed: {self._said(name)}")
        try:
            answer = await exchange(replica.port, Request("GET", "/index", {}, {}, b""), _INDEX_BYTES)
            return Deployed(revision, tuple(_route(prefix, each) for each in json.loads(answer.body)))
        except BaseException:
            revision.retired = True
            raise

    def _said(self, name: str) -> str:
        """The end of the newest log."""
        logs = max((self._options.home / "logs" / name).glob("*.log"), key=lambda file: file.stat().st_mtime_ns, default=None)
        lines = logs.read_text(errors="replace").splitlines() if logs else []
        return next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")

    def check(self, package: bytes) -> None:
        """Raises `Broken`: no zip of a function app."""
        try:
            with zipfile.ZipFile(io.BytesIO(package)) as archive:
                if sum(each.file_size for each in archive.infolist()) > _UNZIPPED_BYTES:
                    raise Broken(f"the package is over {_UNZIPPED_BYTES >> 20} MiB unpacked")
                if missing := {"function_app.py", "host.json"} - set(archive.namelist()):
                    raise Broken(f"the package has no {' and no '.join(sorted(missing))} at its root")
        except zipfile.BadZipFile as error:
            raise Broken(f"the package is no zip: {error}") from None

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
            raise Broken(f"no package {self._options.source} is installed")
        return Path(next(iter(spec.submodule_search_locations)))

    def _platform(self) -> Path:
        """A folder with what the platform's worker brings, and nothing else of what is installed here."""
        folder = self._options.home / "platform"
        for name in _PLATFORM:
            link = folder / name
            spec = importlib.util.find_spec(name.replace("/", "."))
            if spec and spec.submodule_search_locations and not link.exists():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(next(iter(spec.submodule_search_locations)))
        return folder


def _host(folder: Path, settings: Mapping[str, str]) -> tuple[str, float | None]:
    """The prefix of routes, and after how many seconds a function ends; None: never. Raises `Broken`."""
    try:
        told = json.loads((folder / "host.json").read_text())
    except FileNotFoundError:
        raise Broken("there is no host.json beside function_app.py") from None
    except ValueError as error:
        raise Broken(f"host.json: {error}") from None
    if not isinstance(told, dict) or told.get("version") != "2.0":
        raise Broken('host.json: "version" must be "2.0"')
    prefix = told.get("extensions", {}).get("http", {}).get("routePrefix", "api")
    text = settings.get("AzureFunctionsJobHost__functionTimeout") or told.get("functionTimeout")
    return str(prefix).strip("/"), _seconds(text)


def _seconds(text: str | None) -> float | None:
    """Of "[days.]hours:minutes:seconds", or of "-1"."""
    if text is None:
        return _TIMEOUT_S
    if text == "-1":
        return None
    match = re.fullmatch(r"(?:(\d+)\.)?(\d\d):([0-5]\d):([0-5]\d)", text)
    if not match:
        raise Broken(f'functionTimeout is {text!r}: must be "hh:mm:ss", or "-1" for no limit')
    days, hours, minutes, seconds = (int(each or 0) for each in match.groups())
    found = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if not 0 < found < math.inf:
        raise Broken(f"functionTimeout is {text!r}: must be more than nothing")
    return float(found)


def _route(prefix: str, told: Mapping[str, Any]) -> Route:
    path = "/".join(filter(None, (prefix, told["route"].strip("/"))))
    if not all(_ROUTE.fullmatch(part) for part in path.split("/")) or "{*" in path.rpartition("/")[0]:
        raise Broken(f"function {told['name']}: route {told['route']!r}: only words, {{name}} and a last {{*name}} are implemented here")
    return Route(told["name"], path, frozenset(told["methods"]), told["level"], told["config"])
