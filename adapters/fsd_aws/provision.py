"""Making an app and taking it away: queues, topics, bucket, function, role. The settings are `fsd_aws.settings`.

`AwsProvisioner.ensure` is one request where everything is there. Otherwise it makes the function first, which decides the generation
(`fsd_aws.function`), then the rest, tries out every queue and the function, and says so in the function's environment last: an
``ensure`` that was cut short is taken up by the next. ``destroy`` removes the function first, and finds the rest by name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from botocore import exceptions as sdk

from fsd_aws import function, package, policy, queues
from fsd_aws import names as naming
from fsd_aws.api import Api
from fsd_aws.clients import session
from fsd_aws.names import Names
from fsd_aws.objects import AwsObjects
from fsd_aws.settings import Settings
from fsd_core.driver import Code, Resources
from fsd_core.errors import DriverError, InputError
from fsd_core.store import Store

__all__ = ["AwsProvisioner"]

PROVISION_S = 1200.0  # a filter policy alone may take 15 minutes
KEPT_DAYS = 7
_FUNCTIONS = ("code", "runtime", "memory_mb", "role")  # what a function is tried out again for


class AwsProvisioner:
    """Implements `fsd_core.driver.Provisioner`."""

    def __init__(self, table: Mapping[str, object]) -> None:
        self._settings = Settings.parse(table)

    def ensure(self, app: str, ranks: int, slots: int) -> Resources:
        """Make what is missing for ``slots`` slots of ``ranks`` ranks; what there is may be more. Minutes the first time.

        Raises `InputError` where a setting, a name or the set-up of credentials is wrong, `DriverError` where a service refuses.
        """
        if ranks < 1 or slots < 1:
            raise InputError(f"ranks {ranks}, slots {slots}: both must be at least 1")
        with self._api(app) as api:
            had = function.read(api, app, naming.function(app))
            wanted = self._wanted()
            if had and had.ranks >= ranks and had.slots >= slots and wanted.items() <= had.names.items():
                return had
            api.within(PROVISION_S)
            return self._make(api, app, ranks, slots, had, wanted)

    def find(self, app: str) -> Resources | None:
        """What `ensure` made, if it ended."""
        with self._api(app) as api:
            found = function.read(api, app, naming.function(app))
            return found if found and found.ranks else None

    def destroy(self, app: str) -> Sequence[str]:
        """Remove everything of every generation of the app; a line for each thing."""
        with self._api(app) as api:
            had = function.read(api, app, naming.function(app))
            api.within(PROVISION_S)
            account = had.names["account"] if had else api.call("sts", "get_caller_identity")["Account"]
            buckets = {had.names["bucket"]} if had else {self._settings.bucket or naming.bucket(app, account, api.region)}
            removed = function.remove(api, naming.function(app))
            removed += queues.remove(api, app)
            removed += [f"bucket {bucket}" for bucket in buckets if _remove_bucket(api, app, bucket)]
            return removed + function.remove_around(api, app, naming.function(app), naming.role(app, api.region))

    def sweep(self, app: str) -> Sequence[str]:
        """Remove queues and topics that no `ensure` will take up: those of another generation than the function's; a line for each."""
        with self._api(app) as api:
            had = function.read(api, app, naming.function(app))
            api.within(PROVISION_S)
            return queues.remove(api, app, keep=had.names["generation"] if had else None)

    def _api(self, app: str) -> Api:
        if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", app):
            raise InputError(f"app {app!r}: must be a lower-case letter, then up to 39 of a-z, 0-9 and '-', not ending in '-'")
        try:
            region = self._settings.region or os.environ.get("AWS_REGION") or session().get_config_variable("region")
            if not region:
                raise InputError("no AWS region is set: [aws] region in fsd.toml, or AWS_REGION, or 'aws configure set region NAME'")
            session().get_partition_for_region(region)
        except (sdk.UnknownRegionError, sdk.ProfileNotFound, sdk.ConfigParseError) as error:
            raise InputError(f"AWS settings: {error}") from error
        return Api(region)

    def _wanted(self) -> dict[str, str]:
        """What the settings decide of `Resources.names`; the rest is as it was found or made."""
        settings = self._settings
        wanted = {
            "memory_mb": str(settings.memory_mb),
            "timeout_s": str(settings.timeout_s),
            "concurrency": str(settings.concurrency or ""),
            "lease_s": str(settings.lease_s),
            "message_kb": str(settings.message_kb),
            "runtime": settings.runtime,
            "code": package.digest(settings.runtime) if settings.package else "installed",
        }
        chosen = {"bucket": settings.bucket, "role": settings.role}
        if settings.text != "auto":
            chosen["body"] = "text" if settings.text else "binary"
        return wanted | {name: value for name, value in chosen.items() if value}

    def _make(self, api: Api, app: str, ranks: int, slots: int, had: Resources | None, wanted: dict[str, str]) -> Resources:
        settings, name, role = self._settings, naming.function(app), naming.role(app, api.region)
        code = package.build(settings.runtime) if settings.package else package.stub()
        if had is None:
            account = api.call("sts", "get_caller_identity")["Account"]
            new = {
                "region": api.region,
                "account": account,
                "partition": session().get_partition_for_region(api.region),
                "generation": naming.new_generation(),
                "queue_url_prefix": "",
                "function": name,
                "bucket": naming.bucket(app, account, api.region),
                "body": "",
                "package": str(code) if settings.package else "none",
            } | wanted
            new["role"] = settings.role or function.make_role(api, app, role)
            function.make_log_group(api, app, name)
            had = Resources(app, 0, 0, new)
            if not function.create(api, had, code):
                had = function.read(api, app, name) or had
            queues.remove(api, app, keep=had.names["generation"])  # of a destroy that was cut short
        if had.ranks and wanted.get("bucket", had.names["bucket"]) != had.names["bucket"]:
            raise InputError(f"[aws] bucket = {wanted['bucket']!r}: app {app!r} uses {had.names['bucket']}; destroy it first, or keep that")
        now = dict(had.names) | wanted | {"package": str(code) if settings.package else "none"}
        names = Names.of(Resources(app, 0, 0, now))
        if not settings.role:
            now["role"] = function.make_role(api, app, role)
            function.set_policy(api, names, now["bucket"], name, role)
        _make_bucket(api, app, now["bucket"])
        ranks, slots = max(ranks, had.ranks), max(slots, had.slots)
        same = had.names.get("message_kb") == now["message_kb"]  # else ranks may move to other topics: all are looked at again
        pairs = [(s, r) for s in range(slots) for r in range(ranks) if not (same and s < had.slots and r < had.ranks)]
        now["queue_url_prefix"] = queues.make(api, names, pairs)
        now["body"] = now["body"] or ("binary" if queues.takes_binary(api, Resources(app, 0, 0, now), pairs[0]) else "text")
        queues.probe(api, Resources(app, 0, 0, now), pairs)
        changed = any(had.names.get(key) != now[key] for key in _FUNCTIONS)
        if changed:  # "code" is said when it was tried out
            unproven = Resources(app, had.ranks, had.slots, now | {"code": ""})
            function.update(api, unproven, None if had.names.get("code") == now["code"] else code)
        made = Resources(app, ranks, slots, now)
        function.guard(api, made)
        if changed or not had.ranks:
            function.try_out(api, made)
        function.update(api, made)
        return made


def _make_bucket(api: Api, app: str, bucket: str) -> None:
    """A private, encrypted bucket that forgets. `InputError`: it is somebody else's, or holds something of another's."""
    made: Any = None
    where = {} if api.region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": api.region}}
    try:
        made = api.unless(Code.ALREADY_EXISTS, "s3", "create_bucket", Bucket=bucket, **where)
        if not _owned(api, app, bucket) and api.call("s3", "list_objects_v2", Bucket=bucket, MaxKeys=1).get("KeyCount"):
            raise InputError(f"bucket {bucket}: holds something that fsd did not put there for app {app!r}; choose another in [aws] bucket")
    except DriverError as error:
        if error.code is Code.DENIED and made is None:
            raise InputError(f"bucket {bucket}: is another account's; choose another in [aws] bucket") from error
        raise
    api.call("s3", "put_bucket_tagging", Bucket=bucket, Tagging={"TagSet": [{"Key": policy.APP_TAG, "Value": app}]})
    rule = {"ServerSideEncryptionConfiguration": {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]}}
    api.call("s3", "put_bucket_encryption", Bucket=bucket, **rule)
    closed = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)
    api.call("s3", "put_public_access_block", Bucket=bucket, PublicAccessBlockConfiguration=closed)
    forget: dict[str, Any] = {
        "ID": "fsd",
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "Expiration": {"Days": KEPT_DAYS},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
    }
    api.call("s3", "put_bucket_lifecycle_configuration", Bucket=bucket, LifecycleConfiguration={"Rules": [forget]})


def _owned(api: Api, app: str, bucket: str) -> bool:
    tags = api.find("s3", "get_bucket_tagging", Bucket=bucket)
    return tags is not None and {"Key": policy.APP_TAG, "Value": app} in tags["TagSet"]


def _remove_bucket(api: Api, app: str, bucket: str) -> bool:
    """Empty it and remove it, if it is the app's."""
    if not _owned(api, app, bucket):
        return False
    objects = AwsObjects(Resources(app, 0, 0, {"bucket": bucket, "region": api.region}))

    def request() -> None:
        Store(objects, api.retry).delete_prefix("")
        api.client("s3").delete_bucket(Bucket=bucket)  # a worker that was not told yet may have written: 409, so both again

    try:
        api.repeat(f"bucket {bucket}", request)
    finally:
        objects.close()
    return True
