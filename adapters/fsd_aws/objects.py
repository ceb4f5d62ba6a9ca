"""One S3 bucket as the object store: one call is one request.

Why botocore and not obstore (Rust, Arrow's object_store)? Both were measured by benchmarks/object_clients.py on two cores. obstore is
lighter: import and client take 10 instead of 180 ms alone, or 170 instead of 205 ms with the SNS and SQS clients of a queue channel's
worker. A request of 1 KB costs 0.25 instead of 1.2 ms of processor time, one of 1 MB 0.9 instead of 2 to 2.5 ms. But obstore breaks the
contract: it reports a 409 to a conditional create (another create is running: try again) as "already exists", so a rank could stay
unclaimed; only the text of its error shows whether the status was 503 SlowDown or 500; its prefixes match whole segments ("a" does not list
"ab"); and it supports neither profiles nor SSO, so a client would need botocore for its credentials.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from fsd_aws.clients import client
from fsd_aws.errors import classify, entry_code, status
from fsd_aws.limits import OBJECTS
from fsd_core.driver import Code, Page, Rejected, Resources
from fsd_core.providers.checks import check_delete, check_put
from fsd_core.providers.http_objects import HttpObjects

__all__ = ["AwsObjects"]


class AwsObjects(HttpObjects):
    """Implements `fsd_core.driver.ObjectDriver` over ``names["bucket"]``."""

    service = "Amazon S3"

    def __init__(self, resources: Resources) -> None:
        self.limits = OBJECTS
        self._bucket = resources.names["bucket"]
        self._s3 = client("s3", resources.names["region"], read_s=20.0)

    def put(self, key: str, body: bytes | bytearray | memoryview, *, if_absent: bool = False) -> None:
        """Write the object. With ``if_absent``, S3 answers 412 if the object exists, and 409 while another create runs, which fsd_core
        retries.
        """
        check_put(self.limits, key, body)
        condition = {"IfNoneMatch": "*"} if if_absent else {}
        self._s3.put_object(Bucket=self._bucket, Key=key, Body=body if isinstance(body, bytes | bytearray) else bytes(body), **condition)

    def read(self, key: str, first: int, last: int | None) -> bytes:
        """One GetObject, without a range for a whole object."""
        asked = {} if first == 0 and last is None else {"Range": f"bytes={first}-{'' if last is None else last}"}
        body: bytes = self._s3.get_object(Bucket=self._bucket, Key=key, **asked)["Body"].read()
        return body

    def status(self, error: Exception) -> int:
        """The HTTP status of an error of S3: see `fsd_aws.errors.status`."""
        return status(error)

    def list(self, prefix: str, page: str | None = None) -> Page:
        """One page of the keys with ``prefix``, in ascending order. ``page`` is S3's continuation token."""
        after = {} if page is None else {"ContinuationToken": page}
        answer = self._s3.list_objects_v2(Bucket=self._bucket, Prefix=prefix, MaxKeys=self.limits.page_keys, **after)
        return Page([entry["Key"] for entry in answer.get("Contents", ())], answer.get("NextContinuationToken"))

    def delete(self, keys: Sequence[str]) -> Sequence[Rejected]:
        """Remove the objects. Returns one `Rejected` for each object that S3 could not remove."""
        check_delete(self.limits, keys)
        answer = self._s3.delete_objects(Bucket=self._bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True})
        places = defaultdict(list)
        for index, key in enumerate(keys):
            places[key].append(index)
        return [
            Rejected(index, entry_code(error["Code"]), f"{error['Key']}: {error['Code']}: {error.get('Message', '')}")
            for error in answer.get("Errors", ())
            for index in places[error["Key"]]
        ]

    def classify(self, error: BaseException) -> Code:
        """The `Code` of an error of this driver: see `fsd_aws.errors.classify`."""
        return classify(error)

    def native(self) -> Any:
        """The SDK's client of S3."""
        return self._s3

    def close(self) -> None:
        """Close the connections."""
        self._s3.close()
