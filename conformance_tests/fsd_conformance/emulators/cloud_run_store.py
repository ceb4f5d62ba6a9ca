"""The functions of the local Cloud Run: the control plane's data of each, and the service's rules for requests.

Rules as of 2026-11, at cloud.google.com: names of fields, functions/docs/reference/rest/v2; variables,
run/docs/configuring/services/overview-environment-variables; quotas of a region, run/docs/configuring/max-instances-limits. The
number of processors by memory is from run/docs/configuring/memory-limits, but was not checked again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from fsd_conformance.emulators.dispatcher import Revision

__all__ = ["Function", "ServiceError", "check", "cpus", "invalid", "masked", "memory_bytes", "now", "over_quota", "status"]

_CODES = {  # the number in google.rpc.Code and the HTTP status
    "INVALID_ARGUMENT": (3, 400),
    "NOT_FOUND": (5, 404),
    "ALREADY_EXISTS": (6, 409),
    "PERMISSION_DENIED": (7, 403),
    "RESOURCE_EXHAUSTED": (8, 429),
    "ABORTED": (10, 409),
    "UNIMPLEMENTED": (12, 501),
    "INTERNAL": (13, 500),
    "UNAUTHENTICATED": (16, 401),
}
_REGION_CPUS, _REGION_BYTES = 1000, 2000 << 30  # a region's quota of an established project; a new one's was 20 and 40 GiB in 2026
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Mi": 1 << 20, "Gi": 1 << 30}
_DEFAULT_CPU = (
    *((128 << 20, "0.083"), (256 << 20, "0.1666"), (512 << 20, "0.3333"), (1 << 30, "0.5833")),
    *((2 << 30, "1"), (8 << 30, "2"), (16 << 30, "4"), (32 << 30, "8")),
)
_MIN_CPU = ((24 << 30, 8), (16 << 30, 6), (8 << 30, 4), (4 << 30, 2), (1 << 30, 1), (512 << 20, 0.5))  # for memory above each size
_RESERVED = {"FUNCTION_TARGET", "FUNCTION_SIGNATURE_TYPE", "K_SERVICE", "K_REVISION", "K_CONFIGURATION", "PORT"}
_VARIABLES_BYTES = 32 << 10
_OUT, _KEPT, _ABSENT = "out", "kept", "absent"  # read-only; supported or stored; a field that only the service supports
_SOURCE = {"storageSource": {"bucket": _KEPT, "object": _KEPT, "generation": _KEPT, "sourceUploadUrl": _ABSENT}}
_FIELDS: Mapping[str, Any] = {
    **dict.fromkeys(("name", "description", "environment"), _KEPT),
    **dict.fromkeys(("state", "updateTime", "createTime", "stateMessages", "url", "satisfiesPzs", "satisfiesPzi", "upgradeInfo"), _OUT),
    "eventTrigger": _ABSENT,
    **dict.fromkeys(("labels", "kmsKeyName"), _KEPT),
    "buildConfig": {
        **dict.fromkeys(("runtime", "entryPoint", "serviceAccount", "dockerRegistry", "dockerRepository"), _KEPT),
        **dict.fromkeys(("build", "sourceProvenance"), _OUT),
        **dict.fromkeys(("workerPool", "sourceToken"), _ABSENT),
        "environmentVariables": _KEPT,
        "automaticUpdatePolicy": _KEPT,
        "onDeployUpdatePolicy": _KEPT,
        "source": {**_SOURCE, "repoSource": _ABSENT, "gitUri": _ABSENT},
    },
    "serviceConfig": {
        **dict.fromkeys(("timeoutSeconds", "availableMemory", "availableCpu", "maxInstanceCount", "minInstanceCount"), _KEPT),
        **dict.fromkeys(("ingressSettings", "serviceAccountEmail", "allTrafficOnLatestRevision", "maxInstanceRequestConcurrency"), _KEPT),
        **dict.fromkeys(("service", "uri", "revision"), _OUT),
        **dict.fromkeys(("vpcConnector", "vpcConnectorEgressSettings", "directVpcNetworkInterface", "directVpcEgress"), _ABSENT),
        **dict.fromkeys(("secretEnvironmentVariables", "secretVolumes", "binaryAuthorizationPolicy", "securityLevel"), _ABSENT),
        "environmentVariables": _KEPT,
    },
}
_DEFAULTS: Mapping[str, Any] = {
    "timeoutSeconds": 60,
    "availableMemory": "256M",
    "maxInstanceCount": 100,
    "maxInstanceRequestConcurrency": 1,
    "ingressSettings": "ALLOW_ALL",
    "allTrafficOnLatestRevision": True,
}
_INGRESS = ("ALLOW_ALL", "ALLOW_INTERNAL_ONLY", "ALLOW_INTERNAL_AND_GCLB")


class ServiceError(Exception):
    """An error of a Google API: the name of its code, its message, its details."""

    def __init__(self, code: str, message: str, *details: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.code = code
        self.http = _CODES[code][1]
        self.details = details

    def body(self) -> dict[str, Any]:
        """The body of the HTTP answer."""
        error = {"code": self.http, "message": str(self), "status": self.code}
        return {"error": error | ({"details": list(self.details)} if self.details else {})}


def status(error: ServiceError) -> dict[str, Any]:
    """The google.rpc.Status of an operation that failed."""
    return {"code": _CODES[error.code][0], "message": str(error)}


def invalid(message: str) -> ServiceError:
    """The error for an argument that the service refuses."""
    return ServiceError("INVALID_ARGUMENT", message)


def now() -> str:
    """The present time, in the service's format."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


@dataclass(eq=False)
class Function:
    """One function. ``fields``: written by the caller; ``revision``: the deployed one, or None."""

    name: str  # projects/P/locations/R/functions/F
    uri: str
    fields: dict[str, Any]
    revision: Revision | None = None
    number: int = 0
    state: str = "DEPLOYING"
    busy: bool = False  # an operation is in progress
    messages: list[dict[str, str]] = field(default_factory=list)
    created: str = field(default_factory=now)
    updated: str = field(default_factory=now)

    @property
    def service(self) -> str:
        """The resource name of the Cloud Run service that runs the function."""
        return self.name.replace("/functions/", "/services/").replace("_", "-")

    def wire(self) -> dict[str, Any]:
        """The resource as the service returns it."""
        own = {"service": self.service, "uri": self.uri, "revision": self.revision.name if self.revision else ""}
        shown = {
            **self.fields,
            "name": self.name,
            "serviceConfig": {**self.fields["serviceConfig"], **own},
            "state": self.state,
            "environment": "GEN_2",
            "createTime": self.created,
            "updateTime": self.updated,
            "url": self.uri,
        }
        return shown | ({"stateMessages": self.messages} if self.messages else {})


def check(body: Mapping[str, Any]) -> dict[str, Any]:
    """The caller's fields of a function, with defaults. Raises `ServiceError`."""
    fields: dict[str, Any] = _known(body, _FIELDS, "function")
    build, service = fields.setdefault("buildConfig", {}), {**_DEFAULTS, **fields.get("serviceConfig", {})}
    fields["serviceConfig"] = service
    source = build.get("source", {}).get("storageSource", {})
    if not source.get("bucket") or not source.get("object"):
        raise invalid("build_config.source.storage_source: bucket and object are required; nothing else is implemented")
    if not re.fullmatch(r"python3\d{1,2}", str(build.get("runtime"))):
        raise invalid(f"build_config.runtime {build.get('runtime')!r} is not a Python runtime, e.g. python312")
    if not re.fullmatch(r"[A-Za-z_]\w*", str(build.get("entryPoint"))):
        raise invalid(f"build_config.entry_point {build.get('entryPoint')!r}: expected a function's name")
    if service["ingressSettings"] not in _INGRESS:
        raise invalid(f"service_config.ingress_settings {service['ingressSettings']!r}: expected one of {', '.join(_INGRESS)}")
    _whole(service, "timeoutSeconds", 1, 3600)
    _whole(service, "maxInstanceCount", 1, 3000)
    _whole(service, "maxInstanceRequestConcurrency", 1, 1000)
    if service.get("minInstanceCount"):
        raise ServiceError("UNIMPLEMENTED", "service_config.min_instance_count is not implemented by the local Cloud Run")
    _resources(service)
    _variables(service.get("environmentVariables", {}))
    _labels(fields.get("labels", {}))
    return fields


def masked(old: Mapping[str, Any], body: Mapping[str, Any], mask: str) -> dict[str, Any]:
    """``old`` with the fields of ``body`` that ``mask`` lists (paths of lowerCamelCase or snake_case names), or with all."""
    if not mask:
        return dict(body)
    new: dict[str, Any] = _copied(old)
    for path in mask.split(","):
        names = [re.sub("_([a-z])", lambda found: found[1].upper(), name) for name in path.split(".")]
        known: Any = _FIELDS
        for name in names:
            if not isinstance(known, Mapping) or name not in known:
                raise invalid(f"Invalid update mask: {path!r} is no field of a function")
            known = known[name]
        into, value = new, dict(body)
        for name in names[:-1]:
            into, value = into.setdefault(name, {}), value.get(name, {})
        into.pop(names[-1], None)
        if names[-1] in value:
            into[names[-1]] = value[names[-1]]
    return new


def memory_bytes(text: str) -> int:
    """The bytes of a size like "2Gi" or "512M". Raises `ServiceError`."""
    match = re.fullmatch(r"(\d+)(k|M|G|Mi|Gi)?", text)
    if match is None:
        raise invalid(f"service_config.available_memory {text!r}: expected a whole number with k, M, G, Mi or Gi, e.g. 512M or 2Gi")
    return int(match[1]) * _UNITS[match[2] or ""]


def cpus(service: Mapping[str, Any]) -> float:
    """The processors of an instance."""
    return float(service["availableCpu"])


def over_quota(service: Mapping[str, Any], scale: float) -> str | None:
    """The error text where a function's maximum of instances exceeds the region's quota, multiplied by ``scale``; else None."""
    for what, each, allowed in (
        ("CPU", cpus(service), _REGION_CPUS * scale),
        ("memory", memory_bytes(service["availableMemory"]), _REGION_BYTES * scale),
    ):
        if service["maxInstanceCount"] * each > allowed:
            return (
                "spec.template.metadata.annotations[autoscaling.knative.dev/maxScale]: Max instances must be set to "
                f"{int(allowed / each)} or fewer in order to set the requested total {what}."
            )
    return None


def _known(value: Any, known: Any, path: str) -> Any:
    """A copy of ``value`` without read-only fields. Raises `ServiceError` for unknown or unsupported fields."""
    if known == _KEPT:
        return _copied(value)
    if not isinstance(value, Mapping):
        raise invalid(f"Invalid value at '{path}': an object is expected")
    fields = {}
    for name, part in value.items():
        if name not in known:
            where = re.sub("([A-Z])", lambda found: "_" + found[1].lower(), path)
            raise invalid(f"Invalid JSON payload received. Unknown name \"{name}\" at '{where}': Cannot find field.")
        if known[name] == _ABSENT and part not in ("", None, {}, []):
            raise ServiceError("UNIMPLEMENTED", f"{path}.{name} is not implemented by the local Cloud Run")
        if known[name] not in (_ABSENT, _OUT):
            fields[name] = _known(part, known[name], f"{path}.{name}")
    return fields


def _copied(value: Any) -> Any:
    return {name: _copied(part) for name, part in value.items()} if isinstance(value, Mapping) else value


def _whole(service: Mapping[str, Any], name: str, low: int, high: int) -> None:
    value = service[name]
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise invalid(f"service_config.{name} {value!r}: expected a whole number from {low} to {high}")


def _resources(service: dict[str, Any]) -> None:
    """Check that memory and processors fit, and set the service's default of processors by memory."""
    memory = memory_bytes(str(service["availableMemory"]))
    if not 128 * 10**6 <= memory <= 32 << 30:
        raise invalid(f"service_config.available_memory {service['availableMemory']}: expected 128M to 32Gi")
    given = service.setdefault("availableCpu", next(cpu for most, cpu in _DEFAULT_CPU if memory <= most))
    if not isinstance(given, str) or not re.fullmatch(r"0?\.\d{1,4}|[12468]", given) or float(given) < 0.08:
        raise invalid(f"service_config.available_cpu {given!r}: expected text: 1, 2, 4, 6, 8, or a fraction from 0.08")
    if service["maxInstanceRequestConcurrency"] > 1 and float(given) < 1:
        raise invalid(f"service_config.max_instance_request_concurrency: more than 1 needs available_cpu of at least 1, not {given}")
    least = next((cpu for more, cpu in _MIN_CPU if memory > more), 0)
    if float(given) < least:
        raise invalid(f"service_config.available_cpu {given}: available_memory {service['availableMemory']} needs at least {least}")
    if float(given) >= 4 and memory < (2 << 30 if float(given) == 4 else 4 << 30):
        raise invalid(f"service_config.available_memory {service['availableMemory']}: is too little for available_cpu {given}")


def _variables(variables: Any) -> None:
    if not isinstance(variables, dict) or not all(isinstance(value, str) for value in variables.values()):
        raise invalid("service_config.environment_variables: expected an object of text")
    for name in variables:
        if not name or "=" in name or name.startswith("X_GOOGLE_") or name in _RESERVED:
            raise invalid(f"service_config.environment_variables: the name {name!r} is reserved or not allowed")
    if sum(len(f"{name}{value}".encode()) for name, value in variables.items()) > _VARIABLES_BYTES:
        raise invalid(f"service_config.environment_variables: more than {_VARIABLES_BYTES} bytes")


def _labels(labels: Any) -> None:
    if not isinstance(labels, dict) or len(labels) > 64:
        raise invalid("labels: expected an object of at most 64")
    for name, value in labels.items():
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", name) or not re.fullmatch(r"[a-z0-9_-]{0,63}", str(value)):
            raise invalid(f"labels: {name}={value!r}: lower-case letters, digits, _ and - only, up to 63, names beginning with a letter")
