"""Makes and removes the app's bucket."""

from __future__ import annotations

import json
from typing import Any

from fsd_aws import policy
from fsd_aws.api import Api
from fsd_aws.errors import entry_code
from fsd_aws.names import Names
from fsd_aws.objects import AwsObjects
from fsd_core.driver import Code, Resources
from fsd_core.errors import DriverError, InputError
from fsd_core.providers.provisioning import remove_store
from fsd_core.storage.keys import AUDIT, PASSING

__all__ = ["CLOSED", "encryption", "life_cycle", "make", "owned", "remove"]

CLOSED = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)
KEPT_DAYS = 7


def encryption(key: str) -> dict[str, str]:
    """How S3 encrypts the objects: with ``key``, the ARN of a key; "": with keys of S3."""
    return {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key} if key else {"SSEAlgorithm": "AES256"}


def life_cycle(audit_days: int) -> list[dict[str, Any]]:
    """The rules by which S3 deletes objects. A rule covers one prefix, and cannot exclude another.

    ``audit_days``: after so many days it deletes an entry of the audit log.
    """
    days = dict.fromkeys(PASSING, KEPT_DAYS) | {AUDIT: audit_days}
    rules: list[dict[str, Any]] = [
        {"ID": f"fsd {prefix}", "Filter": {"Prefix": prefix}, "Expiration": {"Days": kept}} for prefix, kept in days.items()
    ]
    rules.append({"ID": "fsd", "Filter": {"Prefix": ""}, "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1}})
    return [{"Status": "Enabled", **rule} for rule in rules]


def make(api: Api, names: Names, bucket: str, audit_days: int) -> None:
    """Make a private, encrypted bucket that deletes old objects and refuses requests without TLS. ``audit_days``: see `life_cycle`.

    Raises `InputError` where the bucket belongs to another account, or holds objects that are not the app's.
    """
    made: Any = None
    where = {} if api.region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": api.region}}
    try:
        made = api.call_unless(Code.ALREADY_EXISTS, "s3", "create_bucket", Bucket=bucket, **where)
        if not owned(api, names.app, bucket) and api.call("s3", "list_objects_v2", Bucket=bucket, MaxKeys=1).get("KeyCount"):
            raise InputError(
                f"bucket {bucket}: holds something that app {names.app!r} did not put there: expected an empty one: set [aws] bucket"
            )
    except DriverError as error:
        if error.code is Code.DENIED and made is None:
            raise InputError(
                f"bucket {bucket}: belongs to another AWS account: expected a new name, or your own bucket: set [aws] bucket"
            ) from error
        raise
    api.call("s3", "put_bucket_tagging", Bucket=bucket, Tagging={"TagSet": [{"Key": policy.APP_TAG, "Value": names.app}]})
    rule: dict[str, Any] = {"ApplyServerSideEncryptionByDefault": encryption(names.kms_key)}
    if names.kms_key:
        rule["BucketKeyEnabled"] = True  # S3 then requests few keys from KMS instead of one for each object
    api.call("s3", "put_bucket_encryption", Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": [rule]})
    api.call("s3", "put_public_access_block", Bucket=bucket, PublicAccessBlockConfiguration=CLOSED)
    api.call("s3", "put_bucket_policy", Bucket=bucket, Policy=json.dumps(policy.bucket(names, bucket)))
    api.call("s3", "put_bucket_lifecycle_configuration", Bucket=bucket, LifecycleConfiguration={"Rules": life_cycle(audit_days)})


def owned(api: Api, app: str, bucket: str) -> bool:
    """Whether the bucket exists and is the app's."""
    tags = api.find("s3", "get_bucket_tagging", Bucket=bucket)
    return tags is not None and {"Key": policy.APP_TAG, "Value": app} in tags["TagSet"]


def remove(api: Api, app: str, bucket: str) -> bool:
    """Empty and remove the bucket if it is the app's. Returns whether it was.

    Also removes old versions of objects, which the bucket has if a person switched on versioning.
    """
    if not owned(api, app, bucket):
        return False
    objects = AwsObjects(Resources(app, 0, 0, {"bucket": bucket, "region": api.region}))
    remove_store(api, objects, f"bucket {bucket}", lambda: _delete(api, bucket))
    return True


def _delete(api: Api, bucket: str) -> None:
    """Remove a bucket without objects. S3 refuses this while old versions or delete markers exist, so these are removed first."""
    s3 = api.client("s3")
    while True:
        found = s3.list_object_versions(Bucket=bucket)
        kept = [*found.get("Versions", ()), *found.get("DeleteMarkers", ())]
        if not kept:
            break
        old = [{"Key": each["Key"], "VersionId": each["VersionId"]} for each in kept]
        answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": old, "Quiet": True})
        for refused in answer.get("Errors", ()):
            raise DriverError(entry_code(refused["Code"]), f"bucket {bucket}: version of {refused['Key']}: {refused.get('Message')}")
    s3.delete_bucket(Bucket=bucket)
