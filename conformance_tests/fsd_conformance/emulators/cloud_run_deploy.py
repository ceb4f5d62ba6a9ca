"""Makes a revision of a function: its source, the environment of its instances, and a test whether an instance starts.

A build only checks the uploaded zip, which must be in the bucket and hold main.py. `Options.code` decides what runs: the installed module
`Options.source`, or the zip's main.py with the installed packages (in place of those that the platform's build installs from
requirements.txt), but without this checkout.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import io
import os
import secrets
import sysconfig
import urllib.error
import urllib.request
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fsd_conformance.emulators import cloud_run_process, sandbox
from fsd_conformance.emulators.cloud_run_iam import Iam
from fsd_conformance.emulators.cloud_run_metadata import Issuer, metadata, variables
from fsd_conformance.emulators.cloud_run_store import Function, ServiceError, invalid, memory_bytes, over_quota
from fsd_conformance.emulators.dispatcher import Dispatcher, Replica, Revision
from fsd_conformance.emulators.instances import Instances
from fsd_conformance.emulators.web import HttpServer, Request, Response

__all__ = ["Deployer", "Options"]

_HEAVY = (
    "functions_framework._cli,functions_framework._http.gunicorn,gunicorn.workers.gthread,gunicorn.workers.sync,google.oauth2.id_token,"
    "google.auth.compute_engine,fsd_core.worker,fsd_gcp.messages,fsd_gcp.objects,fsd_gcp.invoke"
)
_SOURCE_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Options(sandbox.Options):
    """The flags of the command."""

    project: str = "fsd-local"
    source: str = "fsd_gcp.handler.main"
    preload: str = _HEAVY
    disabled: str = ""
    quota_scale: float = 1.0
    queue_s: float = 10.0
    after_timeout: str = "run"


class Deployer:
    """Makes revisions."""

    def __init__(self, options: Options, instances: Instances[Replica], dispatcher: Dispatcher, iam: Iam, issuer: Issuer) -> None:
        self._options = options
        self._instances = instances
        self._dispatcher = dispatcher
        self._iam = iam
        self._issuer = issuer

    async def deploy(self, function: Function, fields: dict[str, Any]) -> Revision:
        """Make a revision of the function with these fields, and start one instance. Raises `ServiceError`."""
        service, name = fields["serviceConfig"], function.service.rpartition("/")[2]
        email = service.setdefault("serviceAccountEmail", self._iam.default)
        if not self._iam.exists(email):
            text = f"Permission 'iam.serviceaccounts.actAs' denied on service account {email} (or it may not exist)."
            raise ServiceError("PERMISSION_DENIED", f"Could not create or update Cloud Run service {name}, {text}")
        if over := over_quota(service, self._options.quota_scale):
            raise invalid(f"Could not create or update Cloud Run service {name}, {over}")
        source, task = await asyncio.to_thread(self._source, fields["buildConfig"]["source"]["storageSource"])
        function.number += 1
        revision_name = f"{name}-{function.number:05d}-{secrets.token_hex(2)[:3]}"
        region = function.name.split("/")[3]
        own = {
            **service.get("environmentVariables", {}),
            "FUNCTION_TARGET": fields["buildConfig"]["entryPoint"],
            "FUNCTION_SIGNATURE_TYPE": "http",
            "K_SERVICE": name,
            "K_CONFIGURATION": name,
            "K_REVISION": revision_name,
            "CLOUD_RUN_TIMEOUT_SECONDS": str(service["timeoutSeconds"]),  # with THREADS=1 gunicorn ends a worker over this limit
        }

        async def begin(replica: Replica) -> None:
            await self._begin(replica, source, task, own, email, region)

        revision = Revision(
            service=name,
            name=revision_name,
            memory_bytes=memory_bytes(service["availableMemory"]),
            max_instances=service["maxInstanceCount"],
            queue_s=self._options.queue_s,
            answer_s=service["timeoutSeconds"],
            limit_s=service["timeoutSeconds"] if self._options.after_timeout == "kill" else None,
            begin=begin,
        )
        if await self._dispatcher.start(revision) is None:
            raise invalid(
                f"Could not create or update Cloud Run service {name}, Container Healthcheck failed. The user-provided container failed "
                "to start and listen on the port defined provided by the PORT environment variable within the allocated timeout. Logs "
                f"for this revision: {self._options.home / 'logs' / name}"
            )
        return revision

    async def _begin(self, replica: Replica, source: str, task: Path | None, own: dict[str, str], email: str, region: str) -> None:
        """Start its metadata server, which knows its service account, and its process."""

        async def route(request: Request) -> Response:
            return metadata(request, self._issuer, self._options.project, region, email)

        server = HttpServer(route, 1 << 16)
        await server.start()
        replica.ends.append(server.close)
        env = {
            **sandbox.passed(self._options),
            **{name: value for name, value in os.environ.items() if name.endswith("_EMULATOR_HOST")},
            **own,
            **variables(server.port),
            "HOME": str(self._options.home),  # not the user's: a function must not see the user's credentials
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
        }
        path: tuple[Sequence[str], Sequence[str]] = ((), ())
        if task is not None:
            path = ([str(task)], sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
        target = own["FUNCTION_TARGET"]
        self._instances.start(replica, cloud_run_process.__file__, [source, target], env, task=task, path=path, listen=True)

    def _source(self, where: dict[str, str]) -> tuple[str, Path | None]:
        """The file for functions-framework, and the folder of the unpacked zip, if that runs."""
        code = self._fetched(where) if os.environ.get("STORAGE_EMULATOR_HOST") else None
        if self._options.code == "zip":
            if code is None:
                raise invalid("Build failed: no emulator of Cloud Storage: start the local Cloud Run with STORAGE_EMULATOR_HOST set")
            task = sandbox.unpack(self._options.home, hashlib.sha256(code).hexdigest(), code)
            return str(task / "main.py"), task
        try:
            spec = importlib.util.find_spec(self._options.source)
        except ImportError:
            spec = None
        if spec is None or spec.origin is None:
            raise invalid(f"Build failed: module {self._options.source} is not installed")
        return spec.origin, None

    def _fetched(self, where: dict[str, str]) -> bytes:
        """The uploaded zip. Raises `ServiceError` where it is missing, no zip, or without main.py."""
        host, named = os.environ["STORAGE_EMULATOR_HOST"].rstrip("/"), f"gs://{where['bucket']}/{where['object']}"
        url = f"{host if '://' in host else 'http://' + host}/storage/v1/b/{quote(where['bucket'], '')}/o/{quote(where['object'], '')}"
        url += "?alt=media" + (f"&generation={where['generation']}" if where.get("generation") else "")
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=60) as answer:
                code: bytes = answer.read(_SOURCE_BYTES)
            with zipfile.ZipFile(io.BytesIO(code)) as package:
                if "main.py" not in package.namelist():
                    raise invalid(f"Build failed: {named}: missing main.py and GOOGLE_FUNCTION_SOURCE not specified")
        except urllib.error.HTTPError as error:
            raise invalid(f"Failed to retrieve function source from Cloud Storage: {named}: HTTP {error.code}") from None
        except (OSError, zipfile.BadZipFile) as error:
            raise invalid(f"Build failed: {named}: {error}") from None
        return code
