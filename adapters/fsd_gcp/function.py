"""The function and the account that it runs as: making, updating, removing them.

The function is also the record of the app. Its environment says what there is (`RESOURCES`, the same that its workers read), and
creating it is conditional on the service's side: of two clients that deploy at once, one decides the generation, and both use it.
Google builds it from a zip, which lies in the app's bucket for as long as that takes.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from fsd_core.driver import Code, Resources
from fsd_core.errors import DriverError, InputError
from fsd_core.providers.environment import from_record, to_environment
from fsd_core.providers.package import Package
from fsd_gcp import names as naming
from fsd_gcp import policy
from fsd_gcp.api import Api
from fsd_gcp.objects import GcpObjects
from fsd_gcp.variables import RESOURCES

__all__ = ["account", "create", "make_account", "read", "remove", "remove_account", "settle", "update", "url"]

ENTRY = "handle"
_CPUS = ((4096, "1"), (8192, "2"), (16384, "4"), (32768, "8"))  # the least that Cloud Run gives so many MiB


def _functions(api: Api) -> str:
    return f"v2/projects/{api.project}/locations/{api.region}/functions"


def _find(api: Api, app: str) -> dict[str, Any] | None:
    return api.find("cloudfunctions", f"{_functions(api)}/{naming.function(app)}")


def read(api: Api, app: str) -> Resources | None:
    """What the function says of its app; None where there is no function. `InputError`: it is somebody else's."""
    found = _find(api, app)
    if found is None:
        return None
    said = found.get("serviceConfig", {}).get("environmentVariables", {}).get(RESOURCES)
    return from_record(said, app, f"a function {naming.function(app)}")


def account(api: Api, app: str) -> str:
    """The address of the account that fsd makes for an app's function."""
    domain = ".".join([*reversed(api.project.split(":")), "iam.gserviceaccount.com"])
    return f"{naming.service_account(app)}@{domain}"


def _description(app: str) -> str:
    return f"The workers of app {app}, by fsd"  # an account takes no labels: this says whose it is


def make_account(api: Api, app: str) -> str:
    """The address of the function's account. `InputError`: an account of this name is somebody else's."""
    accounts, address = f"v1/projects/{api.project}/serviceAccounts", account(api, app)
    new = {"accountId": naming.service_account(app), "serviceAccount": {"displayName": address[:100], "description": _description(app)}}
    if api.make("iam", "POST", accounts, new) is not None:
        api.settling()
        return address
    if api.call("iam", "GET", f"{accounts}/{address}").get("description") != _description(app):
        raise InputError(
            f"app {app!r}: an account {address} is there that fsd did not make; choose another app, or name one in [gcp] service_account"
        )
    return address


@contextmanager
def _uploaded(api: Api, bucket: str, package: Package) -> Iterator[dict[str, Any]]:
    """Within the block the zip is in the bucket; where, as a function's source."""
    name = f"source/{package.digest}-{secrets.token_hex(8)}.zip"
    with closing(GcpObjects(Resources("", 0, 0, {"bucket": bucket}))) as objects:
        api.repeat(f"upload of {name}", lambda: objects.put(name, package.body))
        try:
            yield {"storageSource": {"bucket": bucket, "object": name}}
        finally:
            api.repeat(f"removing {name}", lambda: objects.delete([name]))


def create(api: Api, resources: Resources, package: Package) -> Resources:
    """Create the function and return when it is built; what it says of the app, which is another's where another client was first."""
    path, name = _functions(api), resources.names["function"]
    with _uploaded(api, resources.names["bucket"], package) as source:
        wanted = _service(resources) | _build(resources, source) | {"labels": {policy.APP_LABEL: resources.app}}
        begun = api.make("cloudfunctions", "POST", path, wanted, functionId=name)
        if begun is not None:
            try:
                api.finished(f"building function {name}", begun)
                return resources
            except DriverError as error:
                if error.code is not Code.ALREADY_EXISTS:
                    raise
    return settle(api, resources.app)


def settle(api: Api, app: str) -> Resources:
    """Return when another's building of the function is done; what the function says of the app."""
    name = naming.function(app)

    def check() -> Resources | None:
        found = _find(api, app) or {}
        return read(api, app) if found.get("state", "ACTIVE") not in ("DEPLOYING", "DELETING") else None

    return api.until(f"function {name} built by another client", check)


def update(api: Api, resources: Resources, package: Package) -> None:
    """Give the function the configuration that ``resources`` says; return when it is in force.

    The code goes along, changed or not: Google builds anew for every change, from a source that must be there.
    """
    name = resources.names["function"]
    with _uploaded(api, resources.names["bucket"], package) as source:
        wanted, mask = _service(resources) | _build(resources, source), "serviceConfig,buildConfig"
        begun = api.call("cloudfunctions", "PATCH", f"{_functions(api)}/{name}", wanted, updateMask=mask)
        api.finished(f"changing function {name}", begun)


def url(api: Api, app: str) -> str:
    """Where the function's service listens."""
    found = _find(api, app) or {}
    return str(found["serviceConfig"]["uri"])


def _build(resources: Resources, source: dict[str, Any]) -> dict[str, Any]:
    return {"buildConfig": {"runtime": resources.names["runtime"], "entryPoint": ENTRY, "source": source}}


def _service(resources: Resources) -> dict[str, Any]:
    names = resources.names
    config = {
        "availableMemory": f"{names['memory_mb']}Mi",
        "availableCpu": next(cpus for most, cpus in _CPUS if int(names["memory_mb"]) <= most),
        "timeoutSeconds": int(names["timeout_s"]),
        "maxInstanceCount": int(names["concurrency"]),
        "maxInstanceRequestConcurrency": 1,  # one worker has its memory and its CPU for itself
        "serviceAccountEmail": names["service_account"],
        "ingressSettings": "ALLOW_ALL",  # from anywhere, with a token: clients are outside
        "environmentVariables": {
            RESOURCES: to_environment(resources),
            "THREADS": "1",  # so that the server ends a request that is over its time; several threads would only be left behind
        },
    }
    return {"serviceConfig": config}


def remove(api: Api, app: str) -> list[str]:
    """Remove the function, its service and its builds."""
    name = naming.function(app)
    begun = api.delete("cloudfunctions", f"{_functions(api)}/{name}")
    if begun is None:
        return []
    api.finished(f"removing function {name}", begun)
    return [f"function {name}"]


def remove_account(api: Api, app: str) -> list[str]:
    """Remove the function's account if fsd made it."""
    address = account(api, app)
    path = f"v1/projects/{api.project}/serviceAccounts/{address}"
    found = api.find("iam", path)
    if found is None or found.get("description") != _description(app) or api.delete("iam", path) is None:
        return []
    return [f"service account {address}"]
