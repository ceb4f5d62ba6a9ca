"""Makes and removes an app: account, bucket, function, topics, subscriptions, roles. The settings are those of `fsd_gcp.settings`.

``ensure`` makes the function early, since that decides the generation (`fsd_gcp.function`), then the topics, subscriptions and roles. Last,
it sends a test message to every queue and starts the function once. Only then it writes into the function's environment that they are
usable: so a later ``ensure`` completes an interrupted one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from google.auth import exceptions

from fsd_core.driver import Code, Provider, Resources
from fsd_core.errors import DriverError, InputError
from fsd_core.providers.advice import line
from fsd_core.providers.names import new_generation
from fsd_core.providers.probes import probe_function, probe_queues
from fsd_core.providers.provisioning import AppProvisioner
from fsd_core.storage.store import Store
from fsd_gcp import errors, function, package, policy, queues
from fsd_gcp import names as naming
from fsd_gcp.api import Api
from fsd_gcp.clients import default
from fsd_gcp.names import Names
from fsd_gcp.objects import GcpObjects
from fsd_gcp.settings import parse

__all__ = ["GcpProvisioner"]

KEPT_DAYS = 7
_FUNCTIONS = ("code", "runtime", "memory_mb", "service_account")  # a change of one of these needs a new test launch


class GcpProvisioner(AppProvisioner[Api]):
    """Implements `fsd_core.driver.Provisioner`."""

    def __init__(self, table: Mapping[str, object], provider: Provider) -> None:
        self._provider = provider
        self._settings = parse(table)

    def remove(self, api: Api, app: str, had: Resources | None) -> list[str]:
        """Remove function, topics and subscriptions, bucket and account. Returns one line of text for each removed resource."""
        bucket = had.names["bucket"] if had else self._settings.bucket or naming.bucket(app, api.project)
        removed = function.remove(api, app)
        removed += queues.remove(api, app)
        removed += [f"bucket {bucket}"] if _remove_bucket(api, app, bucket) else []
        return removed + function.remove_account(api, app)

    def remove_queues(self, api: Api, app: str, keep: str | None) -> list[str]:
        """Remove the topics and subscriptions of all generations except ``keep``: see `fsd_gcp.queues.remove`."""
        return queues.remove(api, app, keep)

    def read(self, api: Api, app: str) -> Resources | None:
        """The app's resources, which its function records: see `fsd_gcp.function.read`.

        Where the API of Cloud Functions is off, raises `InputError` that lists all APIs that are off.
        """
        try:
            return function.read(api, app)
        except DriverError as error:
            if error.code is Code.DENIED and ("SERVICE_DISABLED" in str(error) or "has not been used" in str(error)):
                _check_apis(api)
            raise

    def requests(self) -> Api:
        """An `Api` for the project of the settings, or of the SDK if they name none. Raises `InputError` where neither names a project."""
        try:
            project = self._settings.project or os.environ.get("GOOGLE_CLOUD_PROJECT") or default()[1]
        except exceptions.GoogleAuthError as error:
            raise InputError(line(error, errors.advice(error))) from error
        if not project:
            raise InputError("no Google Cloud project is set: [gcp] project in fsd.toml, or GOOGLE_CLOUD_PROJECT")
        return Api(str(project), self._settings.region)

    def wanted(self) -> dict[str, str]:
        """The entries of `Resources.names` that follow from the settings."""
        settings = self._settings
        wanted = {
            "memory_mb": str(settings.memory_mb),
            "timeout_s": str(settings.timeout_s),
            "concurrency": str(settings.concurrency),
            "lease_s": str(settings.lease_s),
            "receive": settings.receive,
            "runtime": settings.runtime,
            "code": package.digest(settings.runtime) if settings.package else "installed",
        }
        chosen = {"bucket": settings.bucket, "service_account": settings.service_account}
        return wanted | {name: value for name, value in chosen.items() if value}

    def make(self, api: Api, app: str, ranks: int, slots: int, had: Resources | None, wanted: dict[str, str]) -> Resources:
        """Make account, bucket, function (which decides the generation), topics, subscriptions, roles."""
        settings = self._settings
        if had is None:
            _check_apis(api)
        code = package.build(settings.runtime, within_s=api.left()) if settings.package else package.stub()
        if had and had.ranks and wanted.get("bucket", had.names["bucket"]) != had.names["bucket"]:
            raise InputError(f"[gcp] bucket = {wanted['bucket']!r}: app {app!r} uses {had.names['bucket']}; destroy it first, or keep that")
        start = dict(had.names) if had else {
            "project": api.project,
            "region": api.region,
            "generation": new_generation(),
            "function": naming.function(app),
            "bucket": naming.bucket(app, api.project),
            "url": "",
        }  # fmt: skip
        now = start | wanted | {"package": str(code) if settings.package else "none"}
        now["service_account"] = settings.service_account or function.make_account(api, app)
        _make_bucket(api, app, now["bucket"])
        if me := api.member():
            api.grant(policy.account(now, me))
            api.settling()
        new = Resources(app, 0, 0, now | {"code": ""})  # "code" is written after the test launch
        if had is None:
            had = function.create(api, new, code)
            now["generation"] = had.names["generation"]
            queues.remove(api, app, keep=now["generation"])  # those that an interrupted destroy left
        ranks, slots = max(ranks, had.ranks), max(slots, had.slots)
        same = had.names["lease_s"] == now["lease_s"] and had.names["service_account"] == now["service_account"]
        pairs = [(s, r) for s in range(slots) for r in range(ranks) if not (same and s < had.slots and r < had.ranks)]
        worker = f"serviceAccount:{now['service_account']}"
        queues.make(api, Names.of(Resources(app, 0, 0, now)), pairs, settings.lease_s, worker)
        changed = any(had.names.get(key) != now[key] for key in _FUNCTIONS)
        if changed and had is not new:
            function.update(api, Resources(app, had.ranks, had.slots, now | {"code": ""}), code)
        now["url"] = function.url(api, app)
        mine = [each for each in policy.client(now, me) if each.service == "run"] if me else []
        api.grant([*policy.worker(now), *mine])  # not earlier: a function has no service until its first build succeeds
        made = Resources(app, ranks, slots, now)
        probe_queues(self._provider, Resources(app, ranks, slots, now | {"receive": "pull"}), pairs, api)  # a stream closes slowly
        if changed or not had.ranks:
            probe_function(self._provider, made, api, f"Cloud Logging of service {now['function']}")
        function.update(api, made, code)
        return made


def _check_apis(api: Api) -> None:
    """Raise `InputError` where APIs of the project are off.

    Credentials that may not list APIs pass this check: the first request to an API that is off then raises its error.
    """

    def off(name: str) -> bool:
        what, path = f"whether {name} is on", f"v1/projects/{api.project}/services/{name}"
        found = api.unless(Code.DENIED, what, lambda: api.request("serviceusage", "GET", path))
        return bool(found and found.get("state") == "DISABLED")

    names = [f"{name}.googleapis.com" for name in policy.APIS]
    if missing := [name for name, is_off in zip(names, api.each(off, names), strict=True) if is_off]:
        command = f"gcloud services enable {' '.join(missing)} --project {api.project}"
        raise InputError(f"project {api.project}: APIs are off: '{command}', wait a minute")


def _make_bucket(api: Api, app: str, name: str) -> None:
    """Make a private bucket that deletes old objects.

    Raises `InputError` where the bucket is another project's, holds objects that are not the app's, or is in another region.
    """
    bucket = api.storage.bucket(name)
    _set(bucket, app)
    what = f"bucket {name}"
    if api.unless(Code.ALREADY_EXISTS, what, lambda: bucket.create(project=api.project, location=api.region, retry=None) or True):
        return
    if (owner := _owner(api, bucket)) is None:
        raise InputError(f"bucket {name}: is another project's; choose another in [gcp] bucket")
    if owner != app and api.repeat(what, lambda: list(bucket.list_blobs(max_results=1, retry=None))):
        raise InputError(f"bucket {name}: holds something that fsd did not put there for app {app!r}; choose another in [gcp] bucket")
    if (place := str(bucket.location).lower()) != api.region:
        raise InputError(f"bucket {name}: is in {place}, [gcp] region is {api.region}; choose another in [gcp] bucket, or that region")
    _set(bucket, app)
    api.repeat(what, lambda: bucket.patch(retry=None))


def _set(bucket: Any, app: str) -> None:
    bucket.labels = {**bucket.labels, policy.APP_LABEL: app}  # a label that is left out would be removed
    bucket.iam_configuration.uniform_bucket_level_access_enabled = True
    bucket.iam_configuration.public_access_prevention = "enforced"
    kept = bucket.soft_delete_policy
    kept.pop("effectiveTime", None)  # google-cloud-storage would send it as null
    kept.retention_duration_seconds = "0"  # JSON needs a string; by default deleted objects are kept and billed for a week
    bucket.clear_lifecycle_rules()
    bucket.add_lifecycle_delete_rule(age=KEPT_DAYS)
    bucket.add_lifecycle_abort_incomplete_multipart_upload_rule(age=1)


def _owner(api: Api, bucket: Any) -> str | None:
    """The app that the bucket's label names, "" where it has no such label, None where the bucket is another project's.

    A bucket's name is unique in the world, so another project may have it.
    """
    try:
        api.repeat(f"bucket {bucket.name}", lambda: bucket.reload(retry=None))
    except DriverError as error:
        if error.code in (Code.DENIED, Code.NOT_FOUND):
            return None
        raise
    return str(bucket.labels.get(policy.APP_LABEL, ""))


def _remove_bucket(api: Api, app: str, name: str) -> bool:
    """Empty and remove the bucket if it is the app's; returns whether it was."""
    bucket = api.storage.bucket(name)
    if _owner(api, bucket) != app:
        return False
    with closing(GcpObjects(Resources(app, 0, 0, {"bucket": name}))) as objects:

        def empty() -> bool | None:
            Store(objects, api.retry).delete_prefix("")
            # None: the bucket is not empty, because a worker that still ran wrote an object
            return api.unless(Code.ALREADY_EXISTS, f"removing bucket {name}", lambda: bucket.delete(retry=None) or True)

        return api.until(f"bucket {name} empty", empty)
