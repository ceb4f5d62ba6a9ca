"""The functions of the local Lambda: the control plane's data of each, and the service's rules for requests."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import platform
import re
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

__all__ = [
    "REQUEST_BYTES",
    "UNZIPPED_BYTES",
    "ZIPPED_BYTES",
    "Function",
    "ServiceError",
    "Store",
    "architectures",
    "check_code",
    "concurrency",
    "configuration",
    "event_invoke",
    "invalid",
    "tagged",
    "unimplemented",
]

REQUEST_BYTES = 70_167_211  # the limit of a CreateFunction or UpdateFunctionCode request
ZIPPED_BYTES = 52_428_800  # the limit of a zip in such a request
UNZIPPED_BYTES = 262_144_000
_TAGS = 50
_DESCRIPTION = 256
_ENVIRONMENT_BYTES = 4096
_NAME = re.compile(
    r"(?:arn:aws[a-z-]*:lambda:(?P<region>[a-z0-9-]+):)?(?:(?P<account>\d{12}):)?(?:function:)?(?P<name>[A-Za-z0-9_-]{1,64})"
    r"(?::(?P<qualifier>\$LATEST|[A-Za-z0-9_-]+))?"
)
_QUALIFIER = re.compile(r"\$LATEST|[A-Za-z0-9_-]{1,128}")
_DESTINATION = re.compile(r"arn:aws[a-zA-Z0-9-]*:[a-zA-Z0-9-]+:(?:[a-z]{2}(?:-gov)?-[a-z]+-\d)?:(?:\d{12})?:.*")
_RESERVED = re.compile(
    "_HANDLER|_X_AMZN_TRACE_ID|AWS_DEFAULT_REGION|AWS_REGION|AWS_EXECUTION_ENV|AWS_ACCESS_KEY|AWS_ACCESS_KEY_ID|AWS_SECRET_ACCESS_KEY"
    "|AWS_SESSION_TOKEN|LAMBDA_TASK_ROOT|LAMBDA_RUNTIME_DIR"
    "|AWS_LAMBDA_(FUNCTION_NAME|FUNCTION_MEMORY_SIZE|FUNCTION_VERSION|INITIALIZATION_TYPE|LOG_GROUP_NAME|LOG_STREAM_NAME|RUNTIME_API)"
)
_DEFAULTS: dict[str, Any] = {
    "Description": "",
    "Timeout": 3,
    "MemorySize": 128,
    "EphemeralStorage": {"Size": 512},
    "TracingConfig": {"Mode": "PassThrough"},
}
_CONFIGURED = ("Role", "Handler", "Runtime", "Description", "Timeout", "MemorySize", "Environment", "KMSKeyArn", "LoggingConfig")
_MACHINE = "arm64" if platform.machine() in ("aarch64", "arm64") else "x86_64"
_LARGE_NAMED = {
    "ResourceNotFoundException",
    "RecursiveInvocationException",
    "ServiceException",
}  # these use Message, not message


class ServiceError(Exception):
    """An error of the service: its HTTP status, code, message, and further fields of the body."""

    def __init__(self, status: int, code: str, message: str, **more: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.body = {"Type": "User", "Message" if code in _LARGE_NAMED else "message": message, **more}


def invalid(message: str) -> ServiceError:
    """The error for a parameter that the service refuses."""
    return ServiceError(400, "InvalidParameterValueException", message)


def unimplemented(what: str) -> ServiceError:
    """The error for a feature that the local Lambda lacks."""
    return ServiceError(501, "NotImplemented", f"{what} is not implemented by the local Lambda")


@dataclass(eq=False)
class Function:
    """One function. ``settings``: the fields of a FunctionConfiguration that a caller sets; ``ready``: by `time.monotonic`."""

    name: str
    region: str
    account: str
    settings: dict[str, Any]
    code: bytes
    tags: dict[str, str]
    ready: float
    updating: bool = False
    reserved: int | None = None
    events: dict[str, Any] | None = None
    recursion: str = "Terminate"
    statements: dict[str, dict[str, Any]] = field(default_factory=dict)  # of the function's policy, by their Sid
    revision: str = field(default_factory=lambda: str(uuid4()))
    modified: datetime = field(default_factory=lambda: datetime.now(UTC))
    deleted: bool = False

    @property
    def arn(self) -> str:
        """The ARN without a qualifier."""
        return f"arn:aws:lambda:{self.region}:{self.account}:function:{self.name}"

    def named(self, qualifier: str | None) -> str:
        """The ARN with the qualifier of the request, or without one if the request had none."""
        return f"{self.arn}:{qualifier}" if qualifier else self.arn

    @property
    def digest(self) -> str:
        """The SHA-256 of the function's code, in base64."""
        return base64.b64encode(hashlib.sha256(self.code).digest()).decode()

    @property
    def pending(self) -> bool:
        """Whether the creation of the function still runs; until it ends, the function cannot be invoked."""
        return not self.updating and time.monotonic() < self.ready

    def wire(self, qualifier: str | None = None) -> dict[str, Any]:
        """The FunctionConfiguration, for a request with this ``qualifier``."""
        busy = time.monotonic() < self.ready
        state: dict[str, Any] = {"State": "Active", "LastUpdateStatus": "Successful"}
        if busy and self.updating:
            state["LastUpdateStatus"] = "InProgress"
        elif busy:
            state = {"State": "Pending", "StateReason": "The function is being created.", "StateReasonCode": "Creating"}
        return {
            "FunctionName": self.name,
            "FunctionArn": self.named(qualifier),
            **self.settings,
            "CodeSize": len(self.code),
            "CodeSha256": self.digest,
            "LastModified": self.modified.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "+0000",
            "Version": "$LATEST",
            "RevisionId": self.revision,
            "PackageType": "Zip",
            "SnapStart": {"ApplyOn": "None", "OptimizationStatus": "Off"},
            **state,
        }

    def changed(self, ready: float) -> None:
        """Begin a new revision; the environments of the old revision get no more invocations."""
        self.revision = str(uuid4())
        self.modified = datetime.now(UTC)
        self.ready, self.updating = ready, True

    def change_allowed(self) -> None:
        """Raises `ServiceError` while an earlier change is in progress."""
        if time.monotonic() < self.ready:
            why = f"An update is in progress for resource: {self.arn}"
            if not self.updating:
                why = "The function is currently in the following state: Pending"
            raise ServiceError(409, "ResourceConflictException", f"The operation cannot be performed at this time. {why}")


class Store:
    """All functions of one account, by region."""

    def __init__(self, account: str, limit: int) -> None:
        self.account = account
        self.limit = limit
        self._functions: dict[tuple[str, str], Function] = {}

    def all(self, region: str | None = None) -> list[Function]:
        """The functions of a region, or of all, in the order of their names."""
        return [function for key, function in sorted(self._functions.items()) if region in (None, key[0])]

    def find(self, region: str, name: str, given: str | None = None) -> tuple[Function, str | None]:
        """A function by name, partial or whole ARN, and its qualifier, from the name or from ``given``. Raises `ServiceError`."""
        short, qualifier = self.named(region, name, given)
        found = self._functions.get((region, short))
        if found is None or qualifier not in (None, "$LATEST"):
            raise self._missing(region, f"{short}:{qualifier}" if qualifier else short)
        return found, qualifier

    def whole(self, region: str, name: str, what: str = "This operation") -> Function:
        """A function by a name without qualifier. ``what``: the subject of the request, for errors. Raises `ServiceError`."""
        short, qualifier = self.named(region, name)
        if qualifier:
            raise invalid(f"{what} is of a function, not of its versions and aliases: expected a name or an ARN without {qualifier!r}.")
        return self.find(region, short)[0]

    def named(self, region: str, name: str, given: str | None = None) -> tuple[str, str | None]:
        """The name and the qualifier in ``name``; ``given``: a second qualifier. Raises `ServiceError` where the two differ."""
        match = _NAME.fullmatch(name)
        if match is None:
            raise ServiceError(400, "ValidationException", f"Value '{name}' at 'functionName': expected a function's name or ARN")
        if given is not None and not _QUALIFIER.fullmatch(given):
            raise ServiceError(400, "ValidationException", f"Value '{given}' at 'qualifier': expected a version or an alias")
        if match["region"] not in (None, region):
            text = f"Functions from '{match['region']}' are not reachable in this region ('{region}')"
            raise ServiceError(404, "ResourceNotFoundException", text)
        if match["account"] not in (None, self.account):
            raise self._missing(region, match["name"], match["account"])
        if given is not None and match["qualifier"] not in (None, given):
            raise invalid(f"The qualifier in the name, {match['qualifier']}, does not match the specified qualifier, {given}.")
        return match["name"], given or match["qualifier"]

    def _missing(self, region: str, name: str, account: str | None = None) -> ServiceError:
        arn = f"arn:aws:lambda:{region}:{account or self.account}:function:{name}"
        return ServiceError(404, "ResourceNotFoundException", f"Function not found: {arn}")

    def add(self, function: Function) -> None:
        """Add a function. Raises `ServiceError` where the name exists."""
        if (function.region, function.name) in self._functions:
            raise ServiceError(409, "ResourceConflictException", f"Function already exist: {function.name}")
        self._functions[function.region, function.name] = function

    def remove(self, function: Function) -> None:
        """Remove a function; ``deleted`` ends its environments and queued events."""
        function.deleted = True
        del self._functions[function.region, function.name]

    def unreserved(self, region: str, without: Function | None = None) -> int:
        """The concurrency of all functions without reserved concurrency."""
        return self.limit - sum(function.reserved or 0 for function in self.all(region) if function is not without)


def configuration(body: Mapping[str, Any], old: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The settings of a function after CreateFunction (``old`` is None) or UpdateFunctionConfiguration. Raises `ServiceError`."""
    settings = {**_DEFAULTS, "Architectures": architectures(body, ["x86_64"])} if old is None else dict(old)
    settings.update({name: body[name] for name in _CONFIGURED if name in body})
    if old is None:
        for name in ("FunctionName", "Role", "Handler", "Runtime", "Code"):
            if not body.get(name):
                raise invalid(f"{name} is mandatory for functions created with deployment packages")
    _number("Timeout", settings["Timeout"], 1, 900)
    _number("MemorySize", settings["MemorySize"], 128, 10240)
    if not re.fullmatch(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+", str(settings["Role"])):
        raise ServiceError(400, "ValidationException", f"Value '{settings['Role']}' at 'role': expected the ARN of a role")
    if not re.fullmatch(r"\S{1,128}", str(settings["Handler"])):
        raise ServiceError(400, "ValidationException", f"Value '{settings['Handler']}' at 'handler': expected a handler's name")
    if len(str(settings["Description"])) > _DESCRIPTION:
        text = f"Value at 'description' of {len(settings['Description'])} characters: expected at most {_DESCRIPTION}"
        raise ServiceError(400, "ValidationException", text)
    if not re.fullmatch(r"python3\.\d+", str(settings["Runtime"])):
        raise invalid(f"Runtime {settings['Runtime']!r}: expected a Python, e.g. python3.11: the local Lambda runs no other runtime")
    _environment(settings.get("Environment", {}).get("Variables", {}))
    return settings


def architectures(body: Mapping[str, Any], now: list[str]) -> list[str]:
    """The architectures of a request, by default the present ones. Raises `ServiceError`."""
    asked: list[str] = body.get("Architectures") or now
    if asked not in (["x86_64"], ["arm64"]):
        raise ServiceError(400, "ValidationException", f"Value {asked} at 'architectures': expected one of x86_64 and arm64")
    if asked not in (["x86_64"], [_MACHINE]):
        raise unimplemented(f"Architectures {asked} on a machine that is {_MACHINE}")
    return asked


def tagged(old: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """A function's tags with ``more``. Raises `ServiceError` where they are too many, or malformed."""
    for key, value in more.items():
        if not 1 <= len(key) <= 128 or key.lower().startswith("aws:") or len(value) > 256:
            raise invalid(f"tag {key:.128}={value:.256}: expected a key of 1 to 128 characters, without aws:, and a value of at most 256")
    new = {**old, **more}
    if len(new) > _TAGS:
        raise invalid(f"{len(new)} tags: expected at most {_TAGS}")
    return new


def _number(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise invalid(f"'{name}' value {value!r} failed to satisfy constraint: a number from {low} to {high}")


def _environment(variables: Mapping[str, str]) -> None:
    taken = sorted(filter(_RESERVED.fullmatch, variables))
    if taken:
        raise invalid(
            "Lambda was unable to configure your environment variables because the environment variables you have provided contains "
            f"reserved keys that are currently not supported for modification. Reserved keys used in this request: {', '.join(taken)}"
        )
    for name in variables:
        if not re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_]+", name):
            raise invalid(f"environment variable {name!r} failed to satisfy constraint: [a-zA-Z]([a-zA-Z0-9_])+")
    if len(json.dumps(variables, separators=(",", ":")).encode()) > _ENVIRONMENT_BYTES:
        raise invalid(
            "Lambda was unable to configure your environment variables because the environment variables you have provided exceeded "
            "the 4KB limit."
        )


def check_code(code: bytes, *, sent: bool) -> bytes:
    """``code``, if the service accepts it as a deployment package. ``sent``: it is in the request. Raises `ServiceError`."""
    if sent and len(code) > ZIPPED_BYTES:
        raise ServiceError(413, "RequestEntityTooLargeException", f"A zip of {len(code)} bytes: expected at most {ZIPPED_BYTES}")
    try:
        with zipfile.ZipFile(io.BytesIO(code)) as package:
            files = package.infolist()
            size = sum(info.file_size for info in files)
    except zipfile.BadZipFile:
        raise invalid("Could not unzip uploaded file. Please check your file, then try to upload again.") from None
    if not files:
        raise invalid("Uploaded file must be a non-empty zip")
    if size >= UNZIPPED_BYTES:
        raise invalid(f"Unzipped size must be smaller than {UNZIPPED_BYTES} bytes")
    return code


def concurrency(store: Store, function: Function, body: Mapping[str, Any]) -> int:
    """The reserved concurrency of PutFunctionConcurrency. Raises `ServiceError` where fewer than 100 concurrent executions would remain for
    other functions.
    """
    value = body.get("ReservedConcurrentExecutions")
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise invalid(f"ReservedConcurrentExecutions {value!r} failed to satisfy constraint: a number from 0")
    floor = min(100, store.limit)
    if store.unreserved(function.region, without=function) - value < floor:
        raise invalid(
            "Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution below its "
            f"minimum value of [{floor}]."
        )
    return value


def event_invoke(body: Mapping[str, Any], old: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The settings of asynchronous calls after Put (``old`` is None) or UpdateFunctionEventInvokeConfig. Raises `ServiceError`."""
    settings = dict(old or {})
    for name, value in body.items():
        if name == "MaximumRetryAttempts":
            _number(name, value, 0, 2)
        elif name == "MaximumEventAgeInSeconds":
            _number(name, value, 60, 21600)
        elif name == "DestinationConfig":
            _check_destinations(value)
        settings[name] = value
    if not settings:
        raise invalid("You must specify at least one of MaximumRetryAttempts, MaximumEventAgeInSeconds, DestinationConfig")
    return settings


def _check_destinations(config: Mapping[str, Mapping[str, str]]) -> None:
    for which, inner in config.items():
        arn = inner.get("Destination", "")
        if other := sorted({which, *inner} - {"OnFailure", "OnSuccess", "Destination"}):
            raise unimplemented(f"DestinationConfig.{other[0]}")
        if arn and not _DESTINATION.fullmatch(arn):
            raise ServiceError(400, "ValidationException", f"Value '{arn}' at 'destinationConfig.{which}.destination': expected an ARN")
        if arn and which == "OnSuccess":
            raise unimplemented("DestinationConfig.OnSuccess")
        if arn and not re.fullmatch(r"arn:aws[a-z-]*:(sqs|sns):[a-z0-9-]+:\d{12}:[\w-]+", arn):
            raise unimplemented(f"destination {arn}, since it is neither a standard SQS queue nor a standard SNS topic,")
