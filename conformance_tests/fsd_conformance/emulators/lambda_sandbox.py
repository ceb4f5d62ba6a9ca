"""The environment of a function's process in the local Lambda: its variables, its code, the platform's modules."""

from __future__ import annotations

import importlib
import importlib.util
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsd_conformance.emulators import sandbox
from fsd_conformance.emulators.lambda_store import Function

__all__ = ["Options", "sdk", "unpack", "variables"]

_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_SESSION_TOKEN": ""}
_PLATFORM = (  # modules of the platform's image: the runtime client and boto3
    *("awslambdaric", "runtime_client", "simplejson", "snapshot_restore_py"),
    *("boto3", "botocore", "s3transfer", "jmespath", "urllib3", "dateutil", "six"),
)
_HEAVY = (
    "fsd_core.worker,fsd_aws.messages,fsd_aws.objects,fsd_aws.invoke,simplejson,snapshot_restore_py,http.client,"
    "fsd_conformance.emulators.lambda_process:warm"
)


@dataclass(frozen=True, kw_only=True)
class Options(sandbox.Options):
    """The flags of the command."""

    region: str = "us-east-1"
    account: str = "123456789012"
    concurrency: int = 1000
    shipped: str = "fsd_aws.handler"
    preload: str = _HEAVY
    freeze: bool = True
    retry_scale: float = 1.0


def variables(options: Options, function: Function, endpoint: str, api: str, task: str, stream: str) -> dict[str, str]:
    """The variables of a process: the emulators' addresses, the function's own variables, the platform's.

    ``endpoint``: the local Lambda's URL; ``api``: HOST:PORT of the Runtime API; ``task``: the folder of the code; ``stream``: the log's.
    """
    return {
        **sandbox.passed(options),
        "AWS_ENDPOINT_URL_LAMBDA": endpoint,
        **{name: value for name, value in os.environ.items() if name.startswith("AWS_ENDPOINT_URL")},
        **_credentials(),
        **function.settings.get("Environment", {}).get("Variables", {}),
        "LANG": "en_US.UTF-8",
        "TZ": ":UTC",
        "PYTHONUTF8": "1",
        "HOME": str(options.home),  # not the user's: a function must not see the user's AWS profiles
        "_HANDLER": function.settings["Handler"],
        "LAMBDA_TASK_ROOT": task,
        "AWS_LAMBDA_RUNTIME_API": api,
        "AWS_LAMBDA_FUNCTION_NAME": function.name,
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.settings["MemorySize"]),
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{function.name}",
        "AWS_LAMBDA_LOG_STREAM_NAME": stream,
        "AWS_EXECUTION_ENV": f"AWS_Lambda_{function.settings['Runtime']}",
        "AWS_REGION": function.region,
        "AWS_DEFAULT_REGION": function.region,
    }


def _credentials() -> dict[str, str]:
    """The emulator's credentials, also for its functions."""
    return {name: os.environ.get(name, value) for name, value in _CREDENTIALS.items() if os.environ.get(name, value)}


def sdk(service: str, region: str) -> Any:
    """A client of another emulated service, for this emulator. Raises `OSError` where the client would use the real service."""
    if not os.environ.get("AWS_ENDPOINT_URL") and not os.environ.get(f"AWS_ENDPOINT_URL_{service.upper()}"):
        raise OSError(f"no emulator of {service}: start the local Lambda with AWS_ENDPOINT_URL in its environment")
    credentials = {name.lower(): value for name, value in _credentials().items()}
    return importlib.import_module("boto3.session").Session(region_name=region, **credentials).client(service)


def unpack(options: Options, function: Function) -> tuple[Path, tuple[list[str], list[str]]]:
    """The folder of the uploaded code, and the entries for the start and the end of ``sys.path``: that folder, the platform's modules."""
    runtime = options.home / "runtime"
    runtime.mkdir(parents=True, exist_ok=True)
    for name in _PLATFORM:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise FileNotFoundError(f"the module {name} is not installed")
        source = Path(spec.submodule_search_locations[0] if spec.submodule_search_locations else spec.origin)
        with suppress(FileExistsError):
            (runtime / source.name).symlink_to(source)
    task = sandbox.unpack(options.home, function.digest, function.code)
    return task, ([str(task)], [str(runtime)])
