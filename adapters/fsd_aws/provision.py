"""Makes and removes an app: queues, topics, bucket, function, role. The settings are those of `fsd_aws.settings`.

``ensure`` makes the function first, which decides the generation (`fsd_aws.function`), then the other resources. Last, it sends a test
message to every queue and starts the function once. Only then it writes into the function's environment that they are usable: so a later
``ensure`` completes an interrupted one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from botocore import exceptions as sdk

from fsd_aws import errors, function, package, policy, queues
from fsd_aws import names as naming
from fsd_aws.api import Api
from fsd_aws.clients import session
from fsd_aws.names import Names
from fsd_aws.objects import AwsObjects
from fsd_aws.settings import parse
from fsd_core.driver import Code, Provider, Resources
from fsd_core.errors import DriverError, InputError
from fsd_core.providers.advice import line
from fsd_core.providers.names import new_generation
from fsd_core.providers.probes import probe_function, probe_queues
from fsd_core.providers.provisioning import AppProvisioner
from fsd_core.storage.store import Store

__all__ = ["AwsProvisioner"]

KEPT_DAYS = 7
_FUNCTIONS = ("code", "runtime", "memory_mb", "role")  # a change of one of these needs a new test launch of the function


class AwsProvisioner(AppProvisioner[Api]):
    """Implements `fsd_core.driver.Provisioner`."""

    def __init__(self, table: Mapping[str, object], provider: Provider) -> None:
        self._provider = provider
        self._settings = parse(table)

    def remove(self, api: Api, app: str, had: Resources | None) -> list[str]:
        """Remove function, topics and queues, bucket, role and log group. Returns one line of text for each removed resource."""
        account = had.names["account"] if had else api.call("sts", "get_caller_identity")["Account"]
        bucket = had.names["bucket"] if had else self._settings.bucket or naming.bucket(app, account, api.region)
        removed = function.remove(api, naming.function(app))
        removed += queues.remove(api, app)
        removed += [f"bucket {bucket}"] if _remove_bucket(api, app, bucket) else []
        return removed + function.remove_around(api, app, naming.function(app), naming.role(app, api.region))

    def remove_queues(self, api: Api, app: str, keep: str | None) -> list[str]:
        """Remove the queues of all generations except ``keep``: see `fsd_aws.queues.remove`."""
        return queues.remove(api, app, keep)

    def read(self, api: Api, app: str) -> Resources | None:
        """The app's resources, which its function records: see `fsd_aws.function.read`."""
        return function.read(api, app, naming.function(app))

    def requests(self) -> Api:
        """An `Api` for the region of the settings, or of the SDK if they name none. Raises `InputError` where neither names a region."""
        self._provider.stand_in()  # checks the variables: botocore says only "invalid endpoint"
        try:
            region = self._settings.region or os.environ.get("AWS_REGION") or session().get_config_variable("region")
            if not region:
                raise InputError("no AWS region is set: expected [aws] region in fsd.toml, AWS_REGION, or 'aws configure set region NAME'")
            session().get_partition_for_region(region)
        except (sdk.UnknownRegionError, sdk.ProfileNotFound, sdk.ConfigParseError) as error:
            raise InputError(line(f"AWS settings: {error}", errors.advice(error))) from error
        return Api(region)

    def wanted(self) -> dict[str, str]:
        """The entries of `Resources.names` that follow from the settings."""
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

    def make(self, api: Api, app: str, ranks: int, slots: int, had: Resources | None, wanted: dict[str, str]) -> Resources:
        """Make role, log group, function (which decides the generation), bucket, topics, queues."""
        settings, name, role = self._settings, naming.function(app), naming.role(app, api.region)
        code = package.build(settings.runtime, within_s=api.left()) if settings.package else package.stub()
        if had is None:
            account = api.call("sts", "get_caller_identity")["Account"]
            new = {
                "region": api.region,
                "account": account,
                "partition": session().get_partition_for_region(api.region),
                "generation": new_generation(),
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
            queues.remove(api, app, keep=had.names["generation"])  # queues that an interrupted destroy left
        if had.ranks and wanted.get("bucket", had.names["bucket"]) != had.names["bucket"]:
            raise InputError(
                f"[aws] bucket = {wanted['bucket']!r}: app {app!r} uses {had.names['bucket']}: "
                "expected the same bucket: set that, or destroy the app first"
            )
        now = dict(had.names) | wanted | {"package": str(code) if settings.package else "none"}
        names = Names.of(Resources(app, 0, 0, now))
        if not settings.role:
            now["role"] = function.make_role(api, app, role)
            function.set_policy(api, names, now["bucket"], name, role)
        _make_bucket(api, app, now["bucket"])
        ranks, slots = max(ranks, had.ranks), max(slots, had.slots)
        same = had.names.get("message_kb") == now["message_kb"]  # else ranks may have other topics now, so every pair is checked
        pairs = [(s, r) for s in range(slots) for r in range(ranks) if not (same and s < had.slots and r < had.ranks)]
        now["queue_url_prefix"] = queues.make(api, names, pairs)
        now["body"] = now["body"] or ("binary" if queues.takes_binary(api, Resources(app, 0, 0, now), pairs[0]) else "text")
        probe_queues(self._provider, Resources(app, 0, 0, now), pairs, api)  # a filter policy may take 15 minutes to become active
        changed = any(had.names.get(key) != now[key] for key in _FUNCTIONS)
        if changed:  # "code" is written after the test launch
            unproven = Resources(app, had.ranks, had.slots, now | {"code": ""})
            function.update(api, unproven, None if had.names.get("code") == now["code"] else code)
        made = Resources(app, ranks, slots, now)
        function.guard(api, made)
        if changed or not had.ranks:
            probe_function(self._provider, made, api, f"log group {policy.log_group(name)}")
        function.update(api, made)
        return made


def _make_bucket(api: Api, app: str, bucket: str) -> None:
    """Make a private, encrypted bucket that deletes old objects.

    Raises `InputError` where the bucket is another account's, or holds objects that are not the app's.
    """
    made: Any = None
    where = {} if api.region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": api.region}}
    try:
        made = api.call_unless(Code.ALREADY_EXISTS, "s3", "create_bucket", Bucket=bucket, **where)
        if not _owned(api, app, bucket) and api.call("s3", "list_objects_v2", Bucket=bucket, MaxKeys=1).get("KeyCount"):
            raise InputError(
                f"bucket {bucket}: holds something that app {app!r} did not put there: expected an empty bucket: set [aws] bucket"
            )
    except DriverError as error:
        if error.code is Code.DENIED and made is None:
            raise InputError(
                f"bucket {bucket}: belongs to another AWS account: expected a new name, or your own bucket: set [aws] bucket"
            ) from error
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
    """Empty and remove the bucket if it is the app's; returns whether it was."""
    if not _owned(api, app, bucket):
        return False
    objects = AwsObjects(Resources(app, 0, 0, {"bucket": bucket, "region": api.region}))

    def request() -> None:
        Store(objects, api.retry).delete_prefix("")
        api.client("s3").delete_bucket(Bucket=bucket)  # 409 if a worker that still ran wrote an object: `repeat` then deletes again

    try:
        api.repeat(f"bucket {bucket}", request)
    finally:
        objects.close()
    return True
