"""moto's server with four changes.

- Conditional creates are atomic: moto checks and writes in two steps, so two creates of one key could both succeed.
- A statement of a bucket's policy about requests without TLS refuses nothing: moto ignores the condition and would refuse every request.
  The emulator's HTTP stands for the cloud's HTTPS.
- CloudTrail has LookupEvents, and answers that it recorded no event.
- CloudWatch Logs has AssociateKmsKey, of a log group; the key is stored and returned.
"""

from __future__ import annotations

import json
import threading
from typing import Any

from moto.cloudtrail.responses import CloudTrailResponse
from moto.logs.exceptions import ResourceNotFoundException
from moto.logs.responses import LogsResponse
from moto.s3.models import FakeBucket
from moto.s3.responses import S3Response
from moto.server import main

_plain, _writing = S3Response.put_object, threading.Lock()
_bucket: Any = FakeBucket
_permission = _bucket.get_permission


def _put_object(response: Any) -> Any:
    with _writing:
        return _plain(response)


def _get_permission(bucket: Any, action: str, resource: str) -> Any:
    shown = _bucket.__new__(_bucket)  # moto reads only the policy of the bucket that it asks
    shown.policy = bucket.policy
    if bucket.policy is not None:
        document = json.loads(bucket.policy)
        stated = document["Statement"] if isinstance(document["Statement"], list) else [document["Statement"]]
        applies = [each for each in stated if each.get("Condition", {}).get("Bool", {}).get("aws:SecureTransport") not in ("false", False)]
        shown.policy = json.dumps({**document, "Statement": applies}).encode()
    return _permission(shown, action, resource)


def _associate_kms_key(response: Any) -> str:
    name, groups = response._get_param("logGroupName"), response.logs_backend.groups
    if name not in groups:
        raise ResourceNotFoundException
    groups[name].kms_key_id = response._get_param("kmsKeyId")
    return "{}"


if __name__ == "__main__":
    S3Response.put_object = _put_object  # type: ignore[method-assign, assignment]
    _bucket.get_permission = _get_permission
    trail: Any = CloudTrailResponse
    trail.lookup_events = lambda self: json.dumps({"Events": []})
    logs: Any = LogsResponse
    logs.associate_kms_key = _associate_kms_key
    main()
