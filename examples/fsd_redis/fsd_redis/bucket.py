"""Objects in a bucket of an S3-compatible store: the driver that fsd has for Amazon S3, at the address in AWS_ENDPOINT_URL_S3."""

from collections.abc import Mapping

from fsd_aws.api import Api
from fsd_aws.objects import AwsObjects
from fsd_core.driver import Code, Resources
from fsd_core.providers.provisioning import remove_store


class BucketObjects(AwsObjects):
    """Implements `fsd_core.driver.ObjectDriver` over ``names["bucket"]``. The credentials are those of the SDK's own chain."""

    service = "the S3-compatible store"


def make(names: Mapping[str, str]) -> None:
    """Make the bucket, unless it is there. Raises `DriverError` if it belongs to somebody else."""
    with Api(names["region"]) as api:
        api.call_unless(Code.ALREADY_EXISTS, "s3", "create_bucket", Bucket=names["bucket"])
        api.call("s3", "head_bucket", Bucket=names["bucket"])


def remove(had: Resources) -> str:
    """Empty and remove the bucket. Returns a line for people."""
    bucket = had.names["bucket"]
    with Api(had.names["region"]) as api:
        remove_store(api, BucketObjects(had), f"bucket {bucket}", lambda: api.client("s3").delete_bucket(Bucket=bucket))
    return f"bucket {bucket}"
