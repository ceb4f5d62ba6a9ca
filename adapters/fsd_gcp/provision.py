"""Makes and removes an app: account, bucket, repository, function, topics, subscriptions, roles. `fsd_gcp.settings` has the settings.

`fsd_core.providers.provisioning` has the course of ``ensure``. The function comes early, since that decides the generation
(`fsd_gcp.function`), then come topics, subscriptions and roles.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from google.auth import exceptions

from fsd_core.driver import Code, Resources
from fsd_core.errors import DriverError, InputError
from fsd_core.providers.advice import line
from fsd_core.providers.names import new_generation
from fsd_core.providers.package import Package
from fsd_core.providers.probes import Pair
from fsd_core.providers.promises import Promise
from fsd_core.providers.provisioning import AppProvisioner, remove_store
from fsd_core.providers.settings import RETENTION
from fsd_core.storage.keys import AUDIT, PASSING
from fsd_gcp import audit, errors, function, images, keys, package, policy, queues
from fsd_gcp import names as naming
from fsd_gcp.api import Api
from fsd_gcp.clients import default
from fsd_gcp.names import Names
from fsd_gcp.objects import GcpObjects
from fsd_gcp.settings import Settings

__all__ = ["GcpProvisioner"]


class GcpProvisioner(AppProvisioner[Api, Settings]):
    """Implements `fsd_core.driver.Provisioner`."""

    kind = Settings
    recorded = ("receive", RETENTION)
    chosen = ("bucket", "kms_key", "service_account")
    exclusive = ("bucket",)
    fixed: ClassVar = {"bucket": "[gcp] bucket", "kms_key": "[gcp] kms_key"}  # a topic keeps its key
    queued = ("lease_s", "service_account")
    tried = (*AppProvisioner.tried, "service_account")
    probing: ClassVar = {"receive": "pull"}  # a stream closes slowly
    recipe = staticmethod(package.recipe)

    def remove(self, api: Api, app: str, had: Resources | None) -> list[str]:
        """Remove function, repository, topics and subscriptions, bucket and account. Returns one line of text for each removed resource."""
        bucket = self._bucket(api, app, had)
        key = had.names.get("kms_key") if had else self.settings.kms_key or _key(api, app, bucket)
        removed = function.remove(api, app)
        if key:  # else the app needs no right to look for a repository
            removed += images.remove(api, app)
        removed += queues.remove(api, app)
        removed += [f"bucket {bucket}"] if _remove_bucket(api, app, bucket) else []
        return removed + function.remove_account(api, app)

    def stored(self, api: Api, app: str, had: Resources | None) -> dict[str, str] | None:
        """The app's bucket."""
        name = self._bucket(api, app, had)
        return {"bucket": name} if _owner(api, api.storage.bucket(name)) == app else None

    def _bucket(self, api: Api, app: str, had: Resources | None) -> str:
        return had.names["bucket"] if had else self.settings.bucket or naming.bucket(app, api.project)

    def promises(self, api: Api, had: Resources) -> list[Promise]:
        """The promises about the deployed app: see `fsd_gcp.audit`."""
        return audit.promises(api, had)

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
            project = self.settings.project or os.environ.get("GOOGLE_CLOUD_PROJECT") or default()[1]
        except exceptions.GoogleAuthError as error:
            raise InputError(line(error, errors.advice(error))) from error
        if not project:
            raise InputError("no Google Cloud project is set: expected [gcp] project in fsd.toml, or GOOGLE_CLOUD_PROJECT")
        if self.settings.receive == "stream":
            from fsd_gcp.pubsub import check_stream

            check_stream()
        return Api(str(project), self.settings.region)

    def begin(
        self, api: Api, had: Resources, wanted: dict[str, str], code: Package, ranks: int, slots: int
    ) -> tuple[Resources, dict[str, str]]:
        """Make account, bucket and function, which decides the generation."""
        app, new = had.app, not had.names
        if new:
            _check_apis(api)
        start = {
            "project": api.project,
            "region": api.region,
            "generation": new_generation(),
            "function": naming.function(app),
            "bucket": naming.bucket(app, api.project),
            "url": "",
            "kms_key": "",
        }
        names = start | dict(had.names) | wanted
        keys.check(api, names["kms_key"])
        names["service_account"] = self.settings.service_account or function.make_account(api, app)
        _make_bucket(api, app, names)
        if names["kms_key"]:
            images.make(api, app, names["kms_key"])
        if api.member:
            api.grant(policy.account(names, api.member))
            api.settling()
        if new:
            unproven = Resources(app, 0, 0, names | {"code": ""})
            had = function.create(api, unproven, code)
            if had is unproven:  # this client made it, with the code and the settings that it needs
                had = Resources(app, 0, 0, dict(names))
            names["generation"] = had.names["generation"]
            queues.remove(api, app, keep=names["generation"])  # those that an interrupted destroy left
        return had, names

    def make_queues(self, api: Api, resources: Resources, pairs: Sequence[Pair]) -> dict[str, str]:
        """Make topics and subscriptions, and give the function's account its roles on them."""
        names = resources.names
        worker = f"serviceAccount:{names['service_account']}"
        queues.make(api, Names.of(resources), pairs, self.settings.lease_s, worker, names.get("kms_key", ""))
        return {}

    def deploy(self, api: Api, had: Resources, unproven: Resources, code: Package, changed: bool) -> dict[str, str]:
        """Send the function code and settings where they changed, and give roles on its service.

        Not earlier, since a function has no service until its first build succeeds.
        """
        if changed:
            function.update(api, unproven, code)
        mine = [each for each in policy.client(unproven.names, api.member) if each.service == "run"] if api.member else []
        api.grant([*policy.worker(unproven.names), *mine])
        return {"url": function.url(api, had.app)}

    def logs(self, names: Mapping[str, str]) -> str:
        """The logs of the function's service."""
        return f"Cloud Logging of service {names['function']}"

    def record(self, api: Api, made: Resources, code: Package) -> None:
        """Write the function's environment."""
        function.update(api, made, code)


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
        raise InputError(f"project {api.project}: APIs are off: expected them on: run '{command}', and wait a minute")


def _make_bucket(api: Api, app: str, names: Mapping[str, str]) -> None:
    """Make a private bucket that deletes old objects, encrypted with the key in ``names``, or with keys of Google.

    Raises `InputError` where the bucket belongs to another project, holds objects that are not the app's, or is in another region.
    """
    name, audit_days = names["bucket"], int(names[RETENTION])
    bucket = api.storage.bucket(name)
    _set(bucket, app, names["kms_key"], audit_days)
    what = f"bucket {name}"
    if api.unless(Code.ALREADY_EXISTS, what, lambda: bucket.create(project=api.project, location=api.region, retry=None) or True):
        return
    if (owner := _owner(api, bucket)) is None:
        raise InputError(f"bucket {name}: belongs to another project: expected a new name, or your own bucket: set [gcp] bucket")
    if owner != app and api.repeat(what, lambda: list(bucket.list_blobs(max_results=1, retry=None))):
        raise InputError(f"bucket {name}: holds something that app {app!r} did not put there: expected an empty one: set [gcp] bucket")
    if (place := str(bucket.location).lower()) != api.region:
        raise InputError(f"bucket {name}: is in {place}: expected one in {api.region}, the [gcp] region: set [gcp] bucket or region")
    _set(bucket, app, names["kms_key"], audit_days)
    api.repeat(what, lambda: bucket.patch(retry=None))


def _set(bucket: Any, app: str, key: str, audit_days: int) -> None:
    if key:
        bucket.default_kms_key_name = key
    bucket.labels = {**bucket.labels, policy.APP_LABEL: app}  # a label that is left out would be removed
    bucket.iam_configuration.uniform_bucket_level_access_enabled = True
    bucket.iam_configuration.public_access_prevention = "enforced"
    bucket.versioning_enabled = False  # old versions would never be removed
    kept = bucket.soft_delete_policy
    kept.pop("effectiveTime", None)  # google-cloud-storage would send it as null
    kept.retention_duration_seconds = "0"  # JSON needs a string; by default deleted objects are kept and billed for a week
    bucket.clear_lifecycle_rules()
    bucket.add_lifecycle_delete_rule(age=policy.KEPT_DAYS, matches_prefix=list(PASSING))
    bucket.add_lifecycle_delete_rule(age=audit_days, matches_prefix=[AUDIT])
    bucket.add_lifecycle_abort_incomplete_multipart_upload_rule(age=1)


def _owner(api: Api, bucket: Any) -> str | None:
    """The app that the bucket's label names, "" where it has no such label, None where the bucket belongs to another project.

    A bucket's name is unique in the world, so another project may have it.
    """
    try:
        api.repeat(f"bucket {bucket.name}", lambda: bucket.reload(retry=None))
    except DriverError as error:
        if error.code in (Code.DENIED, Code.NOT_FOUND):
            return None
        raise
    return str(bucket.labels.get(policy.APP_LABEL, ""))


def _key(api: Api, app: str, name: str) -> str:
    """The key of the app's bucket, which is also that of the rest; "" without one."""
    bucket = api.storage.bucket(name)
    return str(bucket.default_kms_key_name or "") if _owner(api, bucket) == app else ""


def _remove_bucket(api: Api, app: str, name: str) -> bool:
    """Empty and remove the bucket if it is the app's; returns whether it was."""
    bucket = api.storage.bucket(name)
    if _owner(api, bucket) != app:
        return False
    remove_store(api, GcpObjects(Resources(app, 0, 0, {"bucket": name})), f"bucket {name}", lambda: bucket.delete(retry=None))
    return True
