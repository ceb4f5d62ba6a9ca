"""Objects in a bucket of an S3-compatible store: the driver that fsd has for Amazon S3, at the address in AWS_ENDPOINT_URL_S3."""

from collections.abc import Mapping
from contextlib import closing, suppress

from fsd_aws.objects import AwsObjects
from fsd_core.driver import Code, Resources


class BucketObjects(AwsObjects):
    """Implements `fsd_core.driver.ObjectDriver` over ``names["bucket"]``. The credentials are those of the SDK's own chain."""

    service = "the S3-compatible store"


def make(names: Mapping[str, str], app: str) -> None:
    """Make the bucket, unless it is there. Raises the SDK's errors."""
    with closing(BucketObjects(Resources(app, 1, 1, names))) as objects, suppress(objects.native().exceptions.BucketAlreadyOwnedByYou):
        objects.native().create_bucket(Bucket=names["bucket"])


def remove(had: Resources) -> str:
    """Empty and remove the bucket. Returns a line for people."""
    with closing(BucketObjects(had)) as objects:
        try:
            while keys := objects.list("").keys:
                objects.delete(keys)
            objects.native().delete_bucket(Bucket=had.names["bucket"])
        except Exception as error:
            if objects.classify(error) is not Code.NOT_FOUND:  # an earlier call removed it
                raise
    return f"bucket {had.names['bucket']}"
