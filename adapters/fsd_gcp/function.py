"""Makes, updates and removes the function and the service account that it runs as.

The function is also the record of the app: its environment variable `RESOURCES`, which its workers read, names the app's resources. If two
clients create the function at the same time, only one of them succeeds. Its generation (see `fsd_gcp.names`) becomes the app's, and both
clients use that. Google builds the function from a zip, which stays in the app's bucket until the build has ended.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from fsd_core.driver import Code, Resources
from fsd_core.errors import DriverError
from fsd_core.providers.environment import foreign, from_record, to_environment
from fsd_core.providers.package import Package
from fsd_gcp import names as naming
from fsd_gcp import policy
from fsd_gcp.api import Api
from fsd_gcp.limits import cpus
from fsd_gcp.objects import GcpObjects
from fsd_gcp.variables import RESOURCES

__all__ = ["account", "create", "make_account", "read", "remove", "remove_account", "settle", "update", "url"]

ENTRY = "handle"


def _functions(api: Api) -> str:
    return f"v2/projects/{api.project}/locations/{api.region}/functions"


def _find(api: Api, app: str) -> dict[str, Any] | None:
    return api.find("cloudfunctions", f"{_functions(api)}/{naming.function(app)}")


def read(api: Api, app: str) -> Resources | None:
    """The resources that the function's environment names; None where the function does not exist.

    Raises `InputError` where fsd did not make the function.
    """
    found = _find(api, app)
    if found is None:
        return None
    said = found.get("serviceConfig", {}).get("environmentVariables", {}).get(RESOURCES)
    return from_record(said, app, f"a function {naming.function(app)}")


def account(api: Api, app: str) -> str:
    """The address of the service account that fsd makes for an app's function."""
    domain = ".".join([*reversed(api.project.split(":")), "iam.gserviceaccount.com"])
    return f"{naming.service_account(app)}@{domain}"


def _description(app: str) -> str:
    return f"The workers of app {app}, by fsd"  # an account cannot have labels, so its description names the app


def make_account(api: Api, app: str) -> str:
    """Make the function's account and return its address. Raises `InputError` where an account of this name is not the app's."""
    accounts, address = f"v1/projects/{api.project}/serviceAccounts", account(api, app)
    new = {"accountId": naming.service_account(app), "serviceAccount": {"displayName": address[:100], "description": _description(app)}}
    if api.make("iam", "POST", accounts, new) is not None:
        api.settling()
        return address
    if api.call("iam", "GET", f"{accounts}/{address}").get("description") != _description(app):
        raise foreign(app, f"an account {address}", "name one in [gcp] service_account")
    return address


@contextmanager
def _uploaded(api: Api, bucket: str, package: Package) -> Iterator[dict[str, Any]]:
    """Within the block the zip is in the bucket. The block gets the ``source`` of a function, which names the zip's object."""
    name = f"source/{package.digest}-{secrets.token_hex(8)}.zip"
    with closing(GcpObjects(Resources("", 0, 0, {"bucket": bucket}))) as objects:
        api.repeat(f"upload of {name}", lambda: objects.put(name, package.body))
        try:
            yield {"storageSource": {"bucket": bucket, "object": name}}
        finally:
            api.repeat(f"removing {name}", lambda: objects.delete([name]))


def create(api: Api, resources: Resources, package: Package) -> Resources:
    """Create the function, wait until Google has built it, and return the resources that its environment names.

    Where another client created the function first, these are the resources of the other client. Raises `DriverError` where the build
    failed.
    """
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
    """Wait until the function that another client makes is built, and return the resources that its environment names."""
    name = naming.function(app)

    def check() -> Resources | None:
        found = _find(api, app) or {}
        return read(api, app) if found.get("state", "ACTIVE") not in ("DEPLOYING", "DELETING") else None

    return api.until(f"function {name} built by another client", check)


def update(api: Api, resources: Resources, package: Package) -> None:
    """Send the function its code, and its configuration with ``resources``; return when both are active.

    Every update sends the code, also if it did not change: Google builds the function again for each change, and needs the source.
    """
    name = resources.names["function"]
    with _uploaded(api, resources.names["bucket"], package) as source:
        wanted = _service(resources) | _build(resources, source)
        mask = ",".join(wanted)
        begun = api.call("cloudfunctions", "PATCH", f"{_functions(api)}/{name}", wanted, updateMask=mask)
        api.finished(f"changing function {name}", begun)


def url(api: Api, app: str) -> str:
    """The URL of the function's service."""
    found = _find(api, app) or {}
    return str(found["serviceConfig"]["uri"])


def _build(resources: Resources, source: dict[str, Any]) -> dict[str, Any]:
    """What is built, and the key of the image that results: Google takes a key only with a repository that has the same key."""
    names = resources.names
    config = {"runtime": names["runtime"], "entryPoint": ENTRY, "source": source}
    if not (key := names.get("kms_key")):
        return {"buildConfig": config}
    repository = naming.repository(resources.app, names["project"], names["region"])
    return {"buildConfig": config | {"dockerRepository": repository}, "kmsKeyName": key}


def _service(resources: Resources) -> dict[str, Any]:
    names = resources.names
    config = {
        "availableMemory": f"{names['memory_mb']}Mi",
        "availableCpu": str(cpus(int(names["memory_mb"]))),
        "timeoutSeconds": int(names["timeout_s"]),
        "maxInstanceCount": int(names["concurrency"]),
        "maxInstanceRequestConcurrency": 1,  # a worker needs the whole memory and CPU of an instance
        "serviceAccountEmail": names["service_account"],
        "ingressSettings": "ALLOW_ALL",  # clients are outside Google's network; the service still asks for a token
        "environmentVariables": {
            RESOURCES: to_environment(resources),
            "THREADS": "1",  # with one thread the server ends a request at its time limit; with several the thread would continue
        },
    }
    return {"serviceConfig": config}


def remove(api: Api, app: str) -> list[str]:
    """Remove the function, its service and its builds.

    Returns one line of text that names the function; an empty list where it did not exist.
    """
    name = naming.function(app)
    begun = api.delete("cloudfunctions", f"{_functions(api)}/{name}")
    if begun is None:
        return []
    api.finished(f"removing function {name}", begun)
    return [f"function {name}"]


def remove_account(api: Api, app: str) -> list[str]:
    """Remove the function's account if fsd made it. Returns one line of text that names it; otherwise an empty list."""
    address = account(api, app)
    path = f"v1/projects/{api.project}/serviceAccounts/{address}"
    found = api.find("iam", path)
    if found is None or found.get("description") != _description(app) or api.delete("iam", path) is None:
        return []
    return [f"service account {address}"]
